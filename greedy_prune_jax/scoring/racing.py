"""Races between deletions: exact scores for the few candidates that may be the best.

A deletion changes the log probability of each later token. `ChainState.changes` remembers these
changes from the last time that they were computed. A candidate's estimate adds them to the log
probabilities of the present text, as if they still held. Each deletion

- removes tokens, whose changes no longer count;
- makes the estimates of units next to it stale. The first few tokens behind such a unit, its
  *window*, run again, and for `answer` also the answer (see `stream.window_lengths`);
- changes all other estimates only a little.

The candidates with the lowest estimates then run to the end of the text, a few at a time. The race
ends when the next estimate, even if it were too high by a margin, could not beat the best score. So
the deleted unit always has an exact score.

A window is too short to judge a run of a hundred tokens or more. Such candidates get a second look:
the best estimates get a wider window, and the best of these run to the end of the text.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from greedy_prune_jax.scoring.exact import (
  after_run,
  nll_after_deletions,
  scored_tokens,
  suffix_spans,
  with_old_skips,
)
from greedy_prune_jax.scoring.scorer import ChainState, Scorer, run_spans
from greedy_prune_jax.scoring.stream import (
  Text,
  deletion_spans,
  last_to_begin,
  suffix_lengths,
  window_lengths,
)

ROUNDS = 4  # most rounds of a step
_AT_A_TIME = 4  # candidates that run to their ends in a round, and one for each further deletion
LONG_RUN = 128  # tokens of a long run; no margin would end a race of these, so they get one round
SECOND_LOOK = 32  # columns of the second look at a long run
LOOKED_AT = 32  # candidates that get a second look
ENDED_OF_LONG = 2  # candidates of these that run to their ends
_FIRST_OF_ALL = 1e6  # nats per token, above the NLL of any text: subtracted, it puts a unit first


@dataclasses.dataclass(frozen=True, kw_only=True)
class RacePlan:
  """Size of a race.

  Attributes:
    margin: nats by which estimates may be too high.
    deletions: number of units that are deleted after one scoring.
    runs: True where a deletion removes a run of units, as wide as `Text.width` says.
  """

  margin: float
  deletions: int = 1
  runs: bool = False


class Raced(NamedTuple):
  """Results of one step's race, for each chain of a batch."""

  nll: Float[Array, "B U"]  # after each deletion that ran to its end; infinity for the others
  positions: Int[Array, " B"]  # token positions that went through the model
  num_scored: Int[Array, " B"]  # units that were estimated and then ran to their ends
  squared_error: Float[Array, " B"]  # sum over these of (estimate - exact)^2, nats per token
  upsets: Int[Array, " B"]  # number of these whose estimate was too high by more than the margin


def race_deletions(
  scorer: Scorer,
  state: ChainState,
  candidates: Bool[Array, "B U"],
  ends: Bool[Array, " B"],
  plan: RacePlan,
) -> tuple[ChainState, Raced]:
  """Computes exact scores of each chain's most promising deletions.

  Args:
    scorer: model and program.
    state: the chains, after `exact.run_texts`.
    candidates: units to choose from.
    ends: chains whose long runs at the text's beginning and end are scored whatever their
      estimates. Short runs there always are.
    plan: size of the race.
  """
  state, raced = _first_round(scorer, state, candidates, plan)
  # Each chain's own width decides: results must not depend on the other chains of the batch.
  long = plan.runs & (state.texts.width >= LONG_RUN)
  must = _are_ends(state.texts) & (plan.runs & (ends | ~long))[:, None]
  if plan.runs:
    state, raced = _look_again(scorer, state, raced, candidates & long[:, None], must)
  estimates = estimated_nlls(scorer, state, candidates)
  margin = plan.margin / _counted(scorer, state)
  wanted = jnp.where(must, estimates - _FIRST_OF_ALL, estimates)
  most = _AT_A_TIME + plan.deletions - 1 + 2 * plan.runs
  at_a_time = jnp.where(long, ENDED_OF_LONG + 2 * ends, most)
  rounds = jnp.where(long, 1, ROUNDS)[:, None]

  worst = min(plan.deletions, candidates.shape[1]) - 1  # index of the last to be deleted

  def in_race(index: Int[Array, ""], nll: Float[Array, "B U"]) -> Bool[Array, "B U"]:
    to_beat = jnp.sort(nll, axis=1)[:, worst, None]
    ahead = (wanted - margin < to_beat) | jnp.isinf(to_beat)
    return candidates & jnp.isinf(nll) & ahead & (index < rounds)

  def one_round(carried):
    index, state, raced = carried
    chosen = _lowest(wanted, in_race(index, raced.nll), most, at_a_time)
    state, raced = _run_to_ends(scorer, state, raced, chosen, estimates, plan)
    return index + 1, state, raced

  def go_on(carried):
    index, _, raced = carried
    return (index < ROUNDS) & in_race(index, raced.nll).any()

  _, state, raced = jax.lax.while_loop(go_on, one_round, (jnp.int32(0), state, raced))
  return state, raced


def _look_again(
  scorer: Scorer,
  state: ChainState,
  raced: Raced,
  candidates: Bool[Array, "B U"],
  must: Bool[Array, "B U"],
) -> tuple[ChainState, Raced]:
  """Runs a wider window of the candidates with the lowest estimates."""
  estimates = estimated_nlls(scorer, state, candidates)
  chosen = _lowest(jnp.where(must, estimates - _FIRST_OF_ALL, estimates), candidates, LOOKED_AT)
  lengths, skipped = window_lengths(state.texts, SECOND_LOOK, tail=scorer.answer_only)
  length, skipped = jnp.where(chosen, lengths, 0), jnp.where(chosen, skipped, 0)
  spans = with_old_skips(state, chosen, jnp.zeros_like(length), length, skipped)
  state, _ = run_spans(scorer, state, spans, _sizes(scorer), SECOND_LOOK)
  return state, raced._replace(positions=raced.positions + spans.length.sum(axis=1))


def _are_ends(texts: Text) -> Bool[Array, "B U"]:
  """True for the first and the last unit at which a deletion may begin."""
  index = jnp.arange(texts.unit_sizes.shape[1])[None, :]
  return (index == 0) | (index == jax.vmap(last_to_begin)(texts)[:, None])


def estimated_nlls(
  scorer: Scorer, state: ChainState, candidates: Bool[Array, "B U"]
) -> Float[Array, "B U"]:
  """Estimated mean NLL after the deletion of each unit, nats per token, from remembered changes.

  Args:
    scorer: model and program.
    state: the chains.
    candidates: units to estimate; all others get infinity.
  """

  def sums(text: Text, log_probs: Float[Array, " S"], changes: Float[Array, "U S"]):
    _, stops = deletion_spans(text)
    place = jnp.arange(log_probs.shape[0])[None, :]
    counted = (place > stops[:, None]) & (place <= text.last)
    if scorer.answer_only:
      counted &= place >= text.answer_start
    after = log_probs[None, :] + changes.astype(jnp.float32)
    return jnp.where(counted, after, 0.0).sum(axis=1)

  found = jax.vmap(sums)(state.texts, state.log_probs, state.changes)
  return jnp.where(candidates, nll_after_deletions(scorer, state, found), jnp.inf)


def _first_round(
  scorer: Scorer, state: ChainState, candidates: Bool[Array, "B U"], plan: RacePlan
) -> tuple[ChainState, Raced]:
  """Runs the windows of stale candidates, and to its end the best estimate among the others."""
  estimates = estimated_nlls(scorer, state, candidates)
  stale = candidates & state.stale
  leaders = _lowest(estimates, candidates & ~stale, plan.deletions)
  window, columns = scorer.program.window, suffix_lengths(state.texts)
  lengths, skipped = window_lengths(state.texts, window, tail=scorer.answer_only)
  # Of a stale candidate's kept columns, only those of its window can be used.
  first = jnp.where(stale, jnp.minimum(state.columns_known, lengths), state.columns_known)
  first = jnp.where(stale & (skipped > 0), jnp.minimum(first, window), first)
  length = jnp.where(stale, lengths - first, jnp.where(leaders, columns - first, 0))
  spans = with_old_skips(state, stale | leaders, first, length, jnp.where(stale, skipped, 0))
  state, sums = run_spans(scorer, state, spans, _sizes(scorer), window)
  ended = leaders | (stale & (first + length >= columns))
  held = jnp.where(ended, columns, jnp.minimum(columns, window))
  state = after_run(scorer, state, stale | leaders, jnp.maximum(held, state.columns_known))
  state = state._replace(stale=state.stale & ~stale)
  nll = jnp.where(ended, nll_after_deletions(scorer, state, sums), jnp.inf)
  nothing = jnp.zeros(candidates.shape[0], jnp.int32)
  raced = Raced(nll, spans.length.sum(axis=1), nothing, nothing.astype(jnp.float32), nothing)
  return state, _tallied(scorer, state, raced, leaders, estimates, plan)


def _run_to_ends(
  scorer: Scorer,
  state: ChainState,
  raced: Raced,
  chosen: Bool[Array, "B U"],
  estimates: Float[Array, "B U"],
  plan: RacePlan,
) -> tuple[ChainState, Raced]:
  """Runs the chosen candidates from where they stand to their ends."""
  spans = suffix_spans(state, chosen)
  state, sums = run_spans(scorer, state, spans, _sizes(scorer))
  state = after_run(scorer, state, chosen, suffix_lengths(state.texts))
  nll = jnp.where(chosen, nll_after_deletions(scorer, state, sums), raced.nll)
  raced = raced._replace(nll=nll, positions=raced.positions + spans.length.sum(axis=1))
  return state, _tallied(scorer, state, raced, chosen, estimates, plan)


def _tallied(
  scorer: Scorer,
  state: ChainState,
  raced: Raced,
  new: Bool[Array, "B U"],
  estimates: Float[Array, "B U"],
  plan: RacePlan,
) -> Raced:
  """Adds the units that have just run to their ends to the tally."""
  off = jnp.where(new, estimates - raced.nll, 0.0)
  too_high = off * _counted(scorer, state) > plan.margin
  return raced._replace(
    num_scored=raced.num_scored + new.sum(axis=1),
    squared_error=raced.squared_error + (off**2).sum(axis=1),
    upsets=raced.upsets + too_high.sum(axis=1),
  )


def _counted(scorer: Scorer, state: ChainState) -> Int[Array, "B U"]:
  """Tokens that the objective counts after each deletion."""
  return jax.vmap(lambda text: scored_tokens(text, scorer.program.objective))(state.texts)


def _lowest(
  values: Float[Array, "B U"],
  among: Bool[Array, "B U"],
  most: int,
  count: Int[Array, " B"] | None = None,
) -> Bool[Array, "B U"]:
  """True at each row's lowest values among those allowed: `count` of them, or `most`."""
  most = min(most, values.shape[1])
  lowest, listed = jax.lax.top_k(jnp.where(among, -values, -jnp.inf), most)
  wanted = jnp.isfinite(lowest)
  if count is not None:
    wanted &= jnp.arange(most)[None, :] < count[:, None]
  row = jnp.arange(values.shape[0])[:, None]
  return jnp.zeros_like(among).at[row, listed].set(wanted)


def _sizes(scorer: Scorer) -> tuple[int, int]:
  return scorer.program.block, scorer.program.rest
