"""The objective after every possible deletion, exactly."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from greedy_prune_jax.models.decoder import Decoder
from greedy_prune_jax.scoring.objectives import Objective
from greedy_prune_jax.scoring.packing import (
  Text,
  filled_rows,
  num_rows,
  paired_rows,
  plan_slots,
  suffix_length,
  unit_spans,
)
from greedy_prune_jax.scoring.scorer import (
  BASE_AXES,
  Attention,
  Base,
  Prompt,
  score_slots,
  segment_sums,
)

# Segments that a row may hold where suffixes have any lengths.
FILLED_SEGMENTS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
  """Static sizes of one compiled program: a length bucket."""

  width: int  # W, slots of a row: at least `row_width` of every text
  text: int  # C, capacity for reasoning and answer
  prefix: int  # S, capacity for prompt and text
  answer: int  # most answer tokens of any chain; read for the objective `answer` alone
  block_rows: int  # R, rows that go through the model at once
  max_length: int | None = None  # longest whole chain; see `Decoder.run_layers`
  token_units: bool = True  # every unit is one token
  attention: Attention = "xla"  # how packed rows attend


def distinct_candidates(text: Text) -> Bool[Array, " C"]:
  """True for each unit whose deletion leaves a text that no lower unit's deletion leaves.

  Deleting either of two equal neighbouring tokens leaves the same text; the lower one stands for
  both. Longer units are compared only by the token where units are tokens.
  """
  index = jnp.arange(text.token_ids.shape[0])
  starts, _ = unit_spans(text)
  repeated = (text.token_ids == jnp.roll(text.token_ids, 1)) & (index > 0)
  previous = jnp.roll(text.unit_sizes, 1)
  single = (text.unit_sizes == 1) & (previous == 1)
  return (index < text.num_units) & ~(repeated[starts] & single & (index > 0))


def _plan(text: Text, sizes: Sizes):
  """Which candidates share a row: a function of row numbers [R] to [R, M], and the rows in use."""
  if sizes.token_units:
    return lambda rows: paired_rows(rows, text.num_units), num_rows(text.num_units)
  _, stops = unit_spans(text)
  lengths = jnp.where(distinct_candidates(text), suffix_length(stops, text), -1)
  table, used = filled_rows(lengths, sizes.width, FILLED_SEGMENTS)
  return lambda rows: table.at[rows].get(mode="fill", fill_value=-1), used


def score_deletions(
  decoder: Decoder,
  prompts: Prompt,
  texts: Text,
  bases: Base,
  active: Bool[Array, " B"],
  *,
  sizes: Sizes,
  objective: Objective,
) -> Float[Array, "B C"]:
  """Objective of each chain of a batch after the deletion of each of its units.

  Args:
    decoder: the scoring model.
    prompts: cached prompts; keys and values are [L, B, S, K, H], other fields lead with B.
    texts: current texts.
    bases: `run_base` of the texts; keys and values as in `prompts`.
    active: chains to score; the others cost nothing once the active ones are done.
    sizes: static sizes.
    objective: `joint` or `answer`.

  Returns:
    Mean NLL in nats per token; infinity for what is no candidate.
  """
  answer_only = objective == "answer"
  segments = 2 if sizes.token_units else FILLED_SEGMENTS
  scored_of_row = min(sizes.width, segments * sizes.answer) if answer_only else sizes.width

  def score_block(prompt_length, text, base, block):
    candidates_of_row, _ = _plan(text, sizes)
    candidates = candidates_of_row(block * sizes.block_rows + jnp.arange(sizes.block_rows))
    starts, stops = unit_spans(text)
    stops = jnp.where(candidates >= 0, stops[candidates], -1)
    slots = plan_slots(starts[candidates], stops, text, sizes.width)
    scored = slots.valid
    if answer_only:
      scored &= slots.source + 1 >= text.num_reasoning
    log_probs = score_slots(
      decoder,
      prompt_length,
      text,
      base.prefix,
      slots,
      scored,
      max_scored=sizes.block_rows * scored_of_row,
      max_length=sizes.max_length,
      attention=sizes.attention,
    )
    return candidates, segment_sums(log_probs, slots.segment, segments)

  def add_block(block, sums):
    candidates, block_sums = jax.vmap(score_block, in_axes=(0, 0, BASE_AXES, None))(
      prompts.length, texts, bases, block
    )
    place = jnp.where(candidates >= 0, candidates, sums.shape[1])
    return jax.vmap(lambda s, at, x: s.at[at].set(x, mode="drop"))(sums, place, block_sums)

  rows_used = jax.vmap(lambda text: _plan(text, sizes)[1])(texts)
  blocks = -(-jnp.where(active, rows_used, 0).max() // sizes.block_rows)
  sums = jnp.zeros((texts.token_ids.shape[0], sizes.text))
  sums = jax.lax.fori_loop(0, blocks, add_block, sums)
  after = partial(_nll_after_deletion, answer_only=answer_only)
  return jax.vmap(after, in_axes=(0, BASE_AXES, 0))(texts, bases, sums)


def _nll_after_deletion(
  text: Text, base: Base, suffix_sums: Float[Array, " C"], *, answer_only: bool
) -> Float[Array, " C"]:
  """Mean NLL after each deletion: shared prefix, the first token behind the gap, and the suffix."""
  starts, stops = unit_spans(text)
  behind_gap = base.skip_log_probs[starts]
  if answer_only:
    total = suffix_sums + jnp.where(stops == text.num_reasoning, behind_gap, 0.0)
    count = text.num_answer
  else:
    before = jnp.cumsum(base.log_probs) - base.log_probs
    total = before[starts] + behind_gap + suffix_sums
    count = text.num_reasoning - text.unit_sizes + text.num_answer
  return jnp.where(distinct_candidates(text), -total / count, jnp.inf)
