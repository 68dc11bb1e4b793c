"""The objective after every possible deletion, exactly."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

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


class SuffixSums(NamedTuple):
  """Summed log-probabilities of what stands behind each deletion, nats; 0 for what was not run."""

  total: Float[Array, "B C"]  # of the targets that the objective counts
  near: Float[Array, "B C"]  # of the first of them, less what they had before the deletion


# Row numbers of a block [R] -> the candidates that share each row [R, M]; -1: none.
CandidatesOfRows = Callable[[Int[Array, " R"]], Int[Array, "R M"]]


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

  def plan(text: Text) -> tuple[CandidatesOfRows, Int[Array, ""]]:
    if sizes.token_units:
      return lambda rows: paired_rows(rows, text.num_units), num_rows(text.num_units)
    _, stops = unit_spans(text)
    lengths = jnp.where(distinct_candidates(text), suffix_length(stops, text), -1)
    table, used = filled_rows(lengths, sizes.width, FILLED_SEGMENTS)
    return lambda rows: table.at[rows].get(mode="fill", fill_value=-1), used

  sums = _run_suffixes(
    decoder,
    prompts,
    texts,
    bases,
    active,
    lambda text, _: plan(text),
    None,
    sizes=sizes,
    objective=objective,
    block_rows=sizes.block_rows,
    segments=2 if sizes.token_units else FILLED_SEGMENTS,
  )
  after = partial(nll_after_deletion, objective=objective)
  nll = jax.vmap(after, in_axes=(0, BASE_AXES, 0))(texts, bases, sums.total)
  return jnp.where(jax.vmap(distinct_candidates)(texts), nll, jnp.inf)


def score_listed(
  decoder: Decoder,
  prompts: Prompt,
  texts: Text,
  bases: Base,
  listed: Int[Array, "B I"],
  *,
  sizes: Sizes,
  objective: Objective,
  block_rows: int,
  near: int,
) -> tuple[Float[Array, "B C"], SuffixSums]:
  """As `score_deletions`, of some candidates alone, whose rows are packed as they come.

  Args:
    decoder: the scoring model.
    prompts: cached prompts.
    texts: current texts.
    bases: `run_base` of the texts.
    listed: units of each chain; -1 for none.
    sizes: static sizes.
    objective: `joint` or `answer`.
    block_rows: rows that go through the model at once.
    near: w, how many targets behind a deletion `SuffixSums.near` is about.

  Returns:
    Mean NLL in nats per token, infinity for what is not listed; and the sums that it is made of.
  """

  def plan(text: Text, listed: Int[Array, " I"]) -> tuple[CandidatesOfRows, Int[Array, ""]]:
    _, stops = unit_spans(text)
    lengths = jnp.where(listed >= 0, suffix_length(stops[listed], text), -1)
    table, used = filled_rows(lengths, sizes.width, FILLED_SEGMENTS)
    table = jnp.where(table >= 0, listed[table], -1)
    return lambda rows: table.at[rows].get(mode="fill", fill_value=-1), used

  sums = _run_suffixes(
    decoder,
    prompts,
    texts,
    bases,
    (listed >= 0).any(axis=1),
    plan,
    listed,
    sizes=sizes,
    objective=objective,
    block_rows=block_rows,
    segments=FILLED_SEGMENTS,
    near=near,
  )
  after = partial(nll_after_deletion, objective=objective)
  nll = jax.vmap(after, in_axes=(0, BASE_AXES, 0))(texts, bases, sums.total)
  return jnp.where(jax.vmap(_is_listed)(listed, nll), nll, jnp.inf), sums


def _is_listed(listed: Int[Array, " I"], like: Float[Array, " C"]) -> Bool[Array, " C"]:
  at = jnp.where(listed >= 0, listed, like.shape[0])
  return jnp.zeros(like.shape, bool).at[at].set(True, mode="drop")


def _run_suffixes(
  decoder: Decoder,
  prompts: Prompt,
  texts: Text,
  bases: Base,
  active: Bool[Array, " B"],
  plan: Callable[[Text, Any], tuple[CandidatesOfRows, Int[Array, ""]]],
  plan_inputs: Any,
  *,
  sizes: Sizes,
  objective: Objective,
  block_rows: int,
  segments: int,
  near: int = 0,
) -> SuffixSums:
  """Runs the rows of a plan, a block after the other.

  `plan` gives the candidates of a chain's rows, and the number of its rows; it is called with the
  chain's text and its item of `plan_inputs`.
  """
  answer_only = objective == "answer"
  scored_of_row = min(sizes.width, segments * sizes.answer) if answer_only else sizes.width

  def score_block(prompt_length, text, base, plan_input, block):
    candidates_of_rows, _ = plan(text, plan_input)
    candidates = candidates_of_rows(block * block_rows + jnp.arange(block_rows))
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
      max_scored=block_rows * scored_of_row,
      max_length=sizes.max_length,
      attention=sizes.attention,
    )
    behind = slots.source - jnp.take_along_axis(stops, slots.segment, axis=1)
    changes = jnp.where(scored & (behind < near), log_probs - base.log_probs[slots.source + 1], 0.0)
    sums = (segment_sums(x, slots.segment, segments) for x in (log_probs, changes))
    return candidates, SuffixSums(*sums)

  def add_block(block, sums):
    candidates, block_sums = jax.vmap(score_block, in_axes=(0, 0, BASE_AXES, 0, None))(
      prompts.length, texts, bases, plan_inputs, block
    )
    place = jnp.where(candidates >= 0, candidates, sizes.text)
    put = jax.vmap(lambda old, at, x: old.at[at].set(x, mode="drop"))
    return jax.tree.map(lambda old, new: put(old, place, new), sums, block_sums)

  rows_used = jax.vmap(lambda text, given: plan(text, given)[1])(texts, plan_inputs)
  blocks = -(-jnp.where(active, rows_used, 0).max() // block_rows)
  nothing = jnp.zeros((texts.token_ids.shape[0], sizes.text))
  return jax.lax.fori_loop(0, blocks, add_block, SuffixSums(nothing, nothing))


def nll_after_deletion(
  text: Text, base: Base, suffix_sums: Float[Array, " C"], *, objective: Objective
) -> Float[Array, " C"]:
  """Mean NLL after each deletion: shared prefix, the first token behind the gap, and the suffix.

  Args:
    text: the current text.
    base: `run_base` of it.
    suffix_sums: summed log-probabilities of what stands further behind each deletion, as far as
      the objective counts it.
    objective: `joint` or `answer`.
  """
  starts, stops = unit_spans(text)
  behind_gap = base.skip_log_probs[starts]
  if objective == "answer":
    total = suffix_sums + jnp.where(stops == text.num_reasoning, behind_gap, 0.0)
    return -total / text.num_answer
  before = jnp.cumsum(base.log_probs) - base.log_probs
  total = before[starts] + behind_gap + suffix_sums
  return -total / (text.num_reasoning - text.unit_sizes + text.num_answer)
