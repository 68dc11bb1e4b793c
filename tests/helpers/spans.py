"""Spans of one kind, as the steps of a search mix them."""

import jax.numpy as jnp

from greedy_prune_jax.scoring.stream import Spans, Text, spans_of, suffix_lengths, window_lengths


def text_spans(texts: Text, first, wanted) -> Spans:
  """The wanted texts, from a place on."""
  none = jnp.zeros_like(texts.unit_sizes)
  return spans_of((first, jnp.where(wanted, texts.last - first, 0)), (none, none))


def candidate_spans(texts: Text, first, wanted) -> Spans:
  """The wanted candidates, from a column on."""
  none = jnp.zeros_like(texts.num_prompt)
  length = jnp.where(wanted, suffix_lengths(texts) - first, 0)
  return spans_of((none, none), (first, length))


def window_spans(texts: Text, wanted, window: int, *, tail: bool) -> Spans:
  """The windows of the wanted candidates."""
  lengths, skipped = (jnp.where(wanted, x, 0) for x in window_lengths(texts, window, tail=tail))
  none = jnp.zeros_like(texts.num_prompt)
  return spans_of((none, none), (jnp.zeros_like(lengths), lengths), skipped)
