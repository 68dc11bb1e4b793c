"""The objective after every possible deletion, exactly."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

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
  CHAIN_AXES,
  ChainState,
  Scorer,
  score_slots,
  segment_sums,
)

# Segments that a row may hold where suffixes have any lengths.
FILLED_SEGMENTS = 4


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
  """Summed log-probabilities behind each deletion, nats; 0 for candidates that were not run."""

  total: Float[Array, "B C"]  # of the targets that the objective counts
  window_change: Float[Array, "B C"]  # of the first of them, less the same before the deletion


# Row numbers of a block [R] -> the candidates that share each row [R, M]; -1: none.
CandidatesOfRows = Callable[[Int[Array, " R"]], Int[Array, "R M"]]


def score_deletions(
  scorer: Scorer, chains: ChainState, active: Bool[Array, " B"]
) -> Float[Array, "B C"]:
  """Objective of each chain of a batch after the deletion of each of its units.

  Args:
    scorer: model and program.
    chains: the batch, from `Scorer.run_texts`.
    active: chains to score; the others cost nothing once the active ones are done.

  Returns:
    Mean NLL in nats per token; infinity for what is no candidate.
  """
  program = scorer.program

  def plan(text: Text) -> tuple[CandidatesOfRows, Int[Array, ""]]:
    if program.token_units:
      return lambda rows: paired_rows(rows, text.num_units), num_rows(text.num_units)
    _, stops = unit_spans(text)
    lengths = jnp.where(distinct_candidates(text), suffix_length(stops, text), -1)
    table, used = filled_rows(lengths, program.width, FILLED_SEGMENTS)
    return lambda rows: table.at[rows].get(mode="fill", fill_value=-1), used

  sums = _run_suffixes(
    scorer,
    chains,
    active,
    lambda text, _: plan(text),
    None,
    block_rows=program.block_rows,
    segments=2 if program.token_units else FILLED_SEGMENTS,
  )
  nll = nll_after_deletions(scorer, chains, sums.total)
  return jnp.where(jax.vmap(distinct_candidates)(chains.text), nll, jnp.inf)


def score_listed(
  scorer: Scorer, chains: ChainState, listed: Int[Array, "B I"], *, block_rows: int, window: int
) -> tuple[Float[Array, "B C"], SuffixSums]:
  """As `score_deletions`, of some candidates alone, whose rows are packed as they come.

  Args:
    scorer: model and program.
    chains: the batch.
    listed: units of each chain; -1 for none.
    block_rows: rows that go through the model at once.
    window: w, targets behind a deletion that `SuffixSums.window_change` counts.

  Returns:
    Mean NLL in nats per token, infinity for what is not listed; and the sums that it is made of.
  """

  def plan(text: Text, listed: Int[Array, " I"]) -> tuple[CandidatesOfRows, Int[Array, ""]]:
    _, stops = unit_spans(text)
    lengths = jnp.where(listed >= 0, suffix_length(stops[listed], text), -1)
    table, used = filled_rows(lengths, scorer.program.width, FILLED_SEGMENTS)
    table = jnp.where(table >= 0, listed[table], -1)
    return lambda rows: table.at[rows].get(mode="fill", fill_value=-1), used

  active = (listed >= 0).any(axis=1)
  sums = _run_suffixes(
    scorer,
    chains,
    active,
    plan,
    listed,
    block_rows=block_rows,
    segments=FILLED_SEGMENTS,
    window=window,
  )
  nll = nll_after_deletions(scorer, chains, sums.total)
  return jnp.where(jax.vmap(_is_listed)(listed, nll), nll, jnp.inf), sums


def _is_listed(listed: Int[Array, " I"], like: Float[Array, " C"]) -> Bool[Array, " C"]:
  at = jnp.where(listed >= 0, listed, like.shape[0])
  return jnp.zeros(like.shape, bool).at[at].set(True, mode="drop")


def _run_suffixes(
  scorer: Scorer,
  chains: ChainState,
  active: Bool[Array, " B"],
  plan: Callable[[Text, Any], tuple[CandidatesOfRows, Int[Array, ""]]],
  plan_inputs: Any,
  *,
  block_rows: int,
  segments: int,
  window: int = 0,
) -> SuffixSums:
  """Runs the rows of a plan, a block after the other.

  `plan` gives the candidates of a chain's rows, and the number of its rows; it is called with the
  chain's text and its item of `plan_inputs`.
  """
  program = scorer.program
  scored_of_row = program.width
  if scorer.answer_only:
    scored_of_row = min(program.width, segments * program.answer)

  def score_block(chain, plan_input, block):
    text = chain.text
    candidates_of_rows, _ = plan(text, plan_input)
    candidates = candidates_of_rows(block * block_rows + jnp.arange(block_rows))
    starts, stops = unit_spans(text)
    stops = jnp.where(candidates >= 0, stops[candidates], -1)
    slots = plan_slots(starts[candidates], stops, text, program.width)
    scored = slots.valid
    if scorer.answer_only:
      scored &= slots.source + 1 >= text.num_reasoning
    log_probs = score_slots(
      scorer,
      chain,
      slots,
      scored,
      max_scored=block_rows * scored_of_row,
      attention=program.attention,
    )
    behind = slots.source - jnp.take_along_axis(stops, slots.segment, axis=1)
    before = chain.text_pass.log_probs[slots.source + 1]
    changes = jnp.where(scored & (behind < window), log_probs - before, 0.0)
    sums = (segment_sums(x, slots.segment, segments) for x in (log_probs, changes))
    return candidates, SuffixSums(*sums)

  def add_block(block, sums):
    candidates, block_sums = jax.vmap(score_block, in_axes=(CHAIN_AXES, 0, None))(
      chains, plan_inputs, block
    )
    place = jnp.where(candidates >= 0, candidates, program.text)
    put = jax.vmap(lambda old, at, x: old.at[at].set(x, mode="drop"))
    return jax.tree.map(lambda old, new: put(old, place, new), sums, block_sums)

  rows_used = jax.vmap(lambda text, given: plan(text, given)[1])(chains.text, plan_inputs)
  blocks = -(-jnp.where(active, rows_used, 0).max() // block_rows)
  nothing = jnp.zeros((active.shape[0], program.text))
  return jax.lax.fori_loop(0, blocks, add_block, SuffixSums(nothing, nothing))


def nll_after_deletions(
  scorer: Scorer, chains: ChainState, suffix_sums: Float[Array, "B C"]
) -> Float[Array, "B C"]:
  """`nll_after_deletion` for a batch of chains."""
  after = partial(nll_after_deletion, objective=scorer.program.objective)
  return jax.vmap(after, in_axes=(CHAIN_AXES, 0))(chains, suffix_sums)


def nll_after_deletion(
  chain: ChainState, suffix_sums: Float[Array, " C"], *, objective: Objective
) -> Float[Array, " C"]:
  """Mean NLL after each deletion: shared prefix, the first token behind the gap, and the suffix.

  Args:
    chain: one chain.
    suffix_sums: summed log-probabilities further behind each deletion, as far as the objective
      counts them.
    objective: `joint` or `answer`.
  """
  text, log_probs = chain.text, chain.text_pass.log_probs
  starts, stops = unit_spans(text)
  behind_gap = chain.text_pass.skip_log_probs[starts]
  if objective == "answer":
    total = suffix_sums + jnp.where(stops == text.num_reasoning, behind_gap, 0.0)
    return -total / text.num_answer
  before = jnp.cumsum(log_probs) - log_probs
  total = before[starts] + behind_gap + suffix_sums
  return -total / (text.num_reasoning - text.unit_sizes + text.num_answer)
