"""A search step's work as one stream of slots: index arithmetic, on the device.

Deleting the reasoning tokens [start, stop) leaves everything before `start` untouched, so a
candidate needs a forward pass over its suffix only: the later reasoning tokens, and the answer
without its last token, whose output nobody reads. The suffixes of all candidates of all chains
stand one behind the other in a stream, which goes through the model in blocks of one size:

    | chain 0: candidate 0, candidate 1, ... | (rest of a tile) | chain 1: candidate 0, ... |

A *sequence* is a candidate's text, or (number 0) the text as it stands. A *span* is a run of its
*columns*, the tokens from where it leaves the text as it stands. A suffix may begin in one block
and end in the next: keys and values of the columns that were run are kept (see
`scorer.ChainState`), and so are those of an earlier step, as far as they still hold. The slots of a
*tile* are of one chain, so that they meet one prefix.

Letters beside those of `models.decoder`: B chains, S places of a text (prompt, reasoning, answer),
U units (one deletion removes one, or a run of them), T slots of a block, Z columns that a chain has
kept.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

RUN_STARTS = 64  # places within the width of a run at which runs of that width begin


class Text(NamedTuple):
  """One chain as it now stands, or several with an axis B in front of each field."""

  token_ids: Int[Array, " S"]  # prompt, reasoning, answer, padding
  num_prompt: Int[Array, ""]  # at least 1
  num_reasoning: Int[Array, ""]
  num_answer: Int[Array, ""]
  unit_sizes: Int[Array, " U"]  # tokens of each unit, in order; 0 behind the last unit
  num_units: Int[Array, ""]
  width: Int[Array, ""]  # tokens that one deletion removes at least, in whole units

  @property
  def answer_start(self) -> Int[Array, "..."]:
    """Place of the first answer token."""
    return self.num_prompt + self.num_reasoning

  @property
  def last(self) -> Int[Array, "..."]:
    """Place of the last token, which is never run."""
    return self.answer_start + self.num_answer - 1


def deletion_spans(text: Text) -> tuple[Int[Array, " U"], Int[Array, " U"]]:
  """Places [start, stop) that go when each unit is deleted, and with it the next up to the width.

  Spans end with the reasoning; behind the last unit they are empty.
  """
  ends = text.num_prompt + jnp.cumsum(text.unit_sizes)
  return ends - text.unit_sizes, ends[_last_units(text)]


def units_deleted(text: Text) -> Int[Array, " U"]:
  """Number of units that go when each is deleted."""
  return _last_units(text) - jnp.arange(text.unit_sizes.shape[0]) + 1


def last_to_begin(text: Text) -> Int[Array, ""]:
  """The last unit with which, or behind which, there are `width` tokens of reasoning."""
  behind = text.num_reasoning - jnp.cumsum(text.unit_sizes) + text.unit_sizes
  return ((behind >= text.width) & (text.unit_sizes > 0)).sum() - 1


def _last_units(text: Text) -> Int[Array, " U"]:
  """The last of the units that go with each."""
  ends = jnp.cumsum(text.unit_sizes)
  last = jnp.searchsorted(ends, ends - text.unit_sizes + text.width)
  return jnp.minimum(last, text.unit_sizes.shape[0] - 1)


def distinct_candidates(text: Text) -> Bool[Array, " U"]:
  """True for each unit whose deletion leaves a text that no lower unit's deletion leaves.

  Long runs begin with the first unit of each 64th of their width alone, and at the last place that
  they have. Deleting either of two equal neighbouring tokens leaves the same text; the lower one
  stands for both. So it is with two runs of which one has a token in front and the other the same
  one at its end. Longer units are not compared.
  """
  index = jnp.arange(text.unit_sizes.shape[0])
  starts, stops = deletion_spans(text)
  apart = jnp.maximum(text.width // RUN_STARTS, 1)
  part = (starts - text.num_prompt) // apart
  first = (index == 0) | (part != jnp.roll(part, 1))
  last = last_to_begin(text)
  begins = (index <= last) & (first | (index == last))
  repeated = text.token_ids[stops - 1] == text.token_ids[starts - 1]
  moved = (jnp.roll(stops, 1) == stops - 1) & (jnp.roll(starts, 1) == starts - 1)
  return begins & ~(repeated & moved & (index > 0) & (apart == 1))


class Spans(NamedTuple):
  """Columns to run of each sequence; every field is [B, 1 + U]."""

  first: Array  # column at which the run begins; those before it are kept from earlier
  length: Array
  skipped: Array  # columns that are left out behind the first `window`; see `window_lengths`


class StreamLayout(NamedTuple):
  """Places of the spans in a stream."""

  starts: Int[Array, "B 1+U"]
  ends: Int[Array, "B 1+U"]
  total: Int[Array, ""]  # slots up to the end of the last span


def lay_out(spans: Spans, tile: int) -> StreamLayout:
  """Puts spans one behind the other; each chain begins with a tile."""
  ends = jnp.cumsum(spans.length, axis=1)
  of_chains = -(-ends[:, -1] // tile) * tile
  ends += (jnp.cumsum(of_chains) - of_chains)[:, None]
  return StreamLayout(ends - spans.length, ends, ends[-1, -1])


class Slots(NamedTuple):
  """Token, place and view of each slot of a block; every field is [T].

  A slot sees places [0, visible) and [resume, answer_start - 1) of its chain's text as it stands,
  kept columns [kept_start, kept_stop) of its chain, and slots [begin, itself] of the block.
  """

  number: Array  # of the slot in its block
  valid: Array  # False in slots that hold nothing
  chain: Array
  sequence: Array
  column: Array
  source: Array  # place in the text as it stands of the token that the slot feeds to the model
  position: Array  # that token's place once the deletion is closed up
  visible: Array
  resume: Array
  kept_start: Array
  kept_stop: Array
  tail: Array  # column of its sequence behind which positions are `jump` further on
  jump: Array
  begin: Array
  is_last: Array  # of its span


def block_slots(
  texts: Text,
  spans: Spans,
  layout: StreamLayout,
  kept_offsets: Int[Array, "B U"],
  first_slot: Int[Array, ""],
  size: int,
  window: int | Int[Array, ""] = 0,
) -> Slots:
  """The slots [first_slot, first_slot + size) of a stream.

  Args:
    texts: the chains, each field with an axis B in front.
    kept_offsets: place of each candidate's kept columns.
    first_slot: first slot of the block.
    size: T, static.
    window: w, columns of a window behind which `spans.skipped` columns are left out.
  """
  number = jnp.arange(size)
  slot = first_slot + number
  count = spans.first.shape[1]
  flat = jnp.searchsorted(layout.ends.reshape(-1), slot, side="right")
  flat = jnp.minimum(flat, spans.first.size - 1)
  chain, sequence = flat // count, flat % count
  begin = layout.starts[chain, sequence]
  valid = (slot >= begin) & (slot < layout.ends[chain, sequence])
  first = spans.first[chain, sequence]
  column = first + slot - begin
  begin_here = jnp.maximum(begin - first_slot, 0)
  ran_before = first + begin_here + first_slot - begin  # columns of the sequence before the block

  starts, stops = jax.vmap(deletion_spans)(texts)
  unit = jnp.maximum(sequence - 1, 0)
  is_text = sequence == 0
  start = jnp.where(is_text, 0, starts[chain, unit])
  stop = jnp.where(is_text, 0, stops[chain, unit])
  skipped = spans.skipped[chain, sequence]
  in_tail = (skipped > 0) & (column >= window)
  jump = jnp.where(skipped > 0, skipped + stop - start, 0)
  nothing = texts.answer_start[chain]
  kept_start = jnp.where(is_text, 0, kept_offsets[chain, unit])
  return Slots(
    number=number,
    valid=valid,
    chain=chain,
    sequence=sequence,
    column=column,
    source=jnp.where(valid, stop + column + jnp.where(in_tail, skipped, 0), 0),
    position=jnp.where(valid, start + column + jnp.where(in_tail, jump, 0), 0),
    # Of the text as it stands, what ran before the block is in the cache.
    visible=jnp.where(valid, jnp.where(is_text, ran_before, start), 0),
    resume=jnp.where(valid & in_tail, stop + window, nothing),
    kept_start=jnp.where(valid, kept_start, 0),
    kept_stop=jnp.where(valid, kept_start + jnp.where(is_text, 0, ran_before), 0),
    tail=jnp.full_like(column, window),
    jump=jump,
    begin=jnp.where(valid, begin_here, number),
    is_last=valid & (slot == layout.ends[chain, sequence] - 1),
  )


def spans_of(
  texts: tuple[Int[Array, " B"], Int[Array, " B"]],
  candidates: tuple[Int[Array, "B U"], Int[Array, "B U"]],
  skipped: Int[Array, "B U"] | None = None,
) -> Spans:
  """One stream of texts as they stand and of candidates.

  Args:
    texts: first place and length of each text's run.
    candidates: first column and length of each candidate's run.
    skipped: see `Spans`; None for nothing.
  """
  first, length = (
    jnp.concatenate([text[:, None], columns], axis=1)
    for text, columns in zip(texts, candidates, strict=True)
  )
  skipped = jnp.zeros_like(length) if skipped is None else jnp.pad(skipped, ((0, 0), (1, 0)))
  return Spans(first, length, skipped)


def suffix_lengths(texts: Text) -> Int[Array, "B U"]:
  """Columns of each candidate."""
  _, stops = jax.vmap(deletion_spans)(texts)
  return texts.last[:, None] - stops


def window_lengths(
  texts: Text, window: int, *, tail: bool
) -> tuple[Int[Array, "B U"], Int[Array, "B U"]]:
  """Columns that an estimate runs of each candidate: a window, and perhaps a tail.

  The tail is what predicts the answer: the last reasoning token and the answer. Between window and
  tail stands the *middle*, which does not run again: the tail sees it as it was before the
  deletion. Positions tell the tail the same story, that the middle has not moved; where there is
  no middle all is exact.

  Args:
    window: w, columns right behind the deletion.
    tail: True where the answer is run behind them.

  Returns:
    Columns of each run, and those between window and tail that are left out.
  """
  columns = suffix_lengths(texts)
  if not tail:
    return jnp.minimum(columns, window), jnp.zeros_like(columns)
  _, stops = jax.vmap(deletion_spans)(texts)
  skipped = jnp.maximum(texts.answer_start[:, None] - 1 - (stops + window), 0)
  return columns - skipped, skipped
