"""Races between deletions: exact scores for the few candidates that may be the best.

A deletion changes the log probability of each later token. `ChainState.changes` remembers these
changes from the last time that they were computed. A candidate's estimate adds them to the log
probabilities of the present text, as if they still held. Each deletion

- removes tokens, whose changes no longer count;
- makes the estimates of units next to it stale. The first few tokens behind such a unit, its
  *window*, run again, and for `answer` also the answer (see `stream.window_lengths`);
- changes all other estimates only a little.

The candidates with the lowest estimates then run on, two at a time, in parts: 32 tokens, 64, and
so on to the end of the text. What has run of a candidate replaces what was remembered. The race
ends when no estimate, even if it were too high by a margin, could beat the best score. The margin
shrinks as less of a candidate is left to estimate. So the deleted unit always has an exact score,
and most of those that lose never run to their ends. Under `answer` nothing shows before the end;
there, and where runs of tokens are deleted, candidates run to their ends at once.

A window is too short to judge a run of a hundred tokens or more. Such candidates get a second look:
the best estimates get a wider window, and the best of these run to the end of the text.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from greedy_prune_jax.scoring.exact import (
  Phase,
  Turn,
  after_run,
  nll_after_deletions,
  ran,
  scored_tokens,
  suffix_spans,
  with_old_skips,
)
from greedy_prune_jax.scoring.scorer import ChainState, Scorer
from greedy_prune_jax.scoring.stream import (
  Text,
  deletion_spans,
  last_to_begin,
  suffix_lengths,
  window_lengths,
)

ROUNDS = 4  # most rounds of a step, if candidates run to their ends at once; else as many may enter
_AT_A_TIME = 4  # candidates that run to their ends in a round, and one for each further deletion
_PARTS_AT_A_TIME = 2  # the same where candidates run in parts
_FIRST_PART = 32  # columns of a candidate's first part; each further one doubles them
LONG_RUN = 128  # tokens of a long run; no margin would end a race of these, so they get one round
SECOND_LOOK = 32  # columns of the second look at a long run
LOOKED_AT = 32  # candidates that get a second look
ENDED_OF_LONG = 2  # candidates of these that run to their ends
_FIRST_OF_ALL = 1e6  # nats per token, above the NLL of any text: subtracted, it puts a unit first


@dataclasses.dataclass(frozen=True, kw_only=True)
class RacePlan:
  """Size of a race."""

  margin: float  # nats by which an estimate of a candidate's whole suffix may be too high
  deletions: int = 1  # number of units that are deleted after one scoring
  runs: bool = False  # True where a deletion removes a run of units, as wide as `Text.width` says


def most_in_race(deletions: int, *, runs: bool) -> int:
  """Number of candidates that may run further than their windows in a step."""
  return deletions + ROUNDS * _of_round(deletions, runs)


def _of_round(deletions: int, runs: bool) -> int:
  return _AT_A_TIME + deletions - 1 + 2 * runs


def race_phases(
  scorer: Scorer, plan: RacePlan, ends: Bool[Array, " B"], *, check: bool = False
) -> tuple[Phase, ...]:
  """Phases of a search that scores the most promising candidates.

  Args:
    plan: size of the race.
    ends: chains whose long runs at the text's beginning and end are scored whatever their
      estimates. Short runs there always are.
    check: score every candidate behind the race, and count what it missed.
  """
  rounds = Phase(
    partial(_first_round, scorer, plan, ends),
    partial(_after_round, scorer, plan),
    partial(_next_round, scorer, plan, ends),
  )
  phases = [Phase(partial(_windows, scorer, plan), partial(_after_windows, scorer, plan)), rounds]
  if plan.runs:
    look = Phase(partial(_second_look, scorer, plan, ends), _after_second_look)
    phases.insert(1, look)
  if check:
    phases.append(Phase(_every_candidate, partial(_after_check, scorer)))
  return tuple(phases)


def _windows(
  scorer: Scorer, plan: RacePlan, state: ChainState, turn: Turn
) -> tuple[ChainState, Turn]:
  """Next come the windows of stale candidates, and all of the best estimate among the others."""
  estimates = estimated_nlls(scorer, state, turn.candidates)
  stale = turn.candidates & state.stale
  leaders = _lowest(estimates, turn.candidates & ~stale, plan.deletions)
  if scorer.program.pooled:
    nowhere = jnp.full_like(state.kept_offsets, scorer.program.kept)
    nothing = jnp.zeros_like(state.columns_known)
    state = state._replace(kept_offsets=nowhere, columns_known=nothing)
    state = _given_places(scorer, state, leaders)
  window, columns = scorer.program.window, suffix_lengths(state.texts)
  lengths, skipped = window_lengths(state.texts, window, tail=scorer.answer_only)
  # Of a stale candidate's kept columns, only those of its window can be used.
  first = jnp.where(stale, jnp.minimum(state.columns_known, lengths), state.columns_known)
  first = jnp.where(stale & (skipped > 0), jnp.minimum(first, window), first)
  length = jnp.where(stale, lengths - first, jnp.where(leaders, columns - first, 0))
  spans = with_old_skips(state, stale | leaders, first, length, jnp.where(stale, skipped, 0))
  turn = turn._replace(spans=spans, window=jnp.int32(window), chosen=leaders, estimates=estimates)
  return state, turn


def _given_places(scorer: Scorer, state: ChainState, new: Bool[Array, "B U"]) -> ChainState:
  """The state where candidates that are new to the race have places to keep their columns in.

  Those for whom no place is left run again from their first column in every round.
  """
  if not scorer.program.pooled:
    return state
  given = (state.kept_offsets < scorer.program.kept).sum(axis=1)[:, None]
  offsets = (given + jnp.cumsum(new, axis=1) - 1) * scorer.program.places
  there_is = new & (offsets < scorer.program.kept)
  return state._replace(kept_offsets=jnp.where(there_is, offsets, state.kept_offsets))


def _after_windows(
  scorer: Scorer, plan: RacePlan, state: ChainState, turn: Turn, sums: Float[Array, "B U"]
) -> tuple[ChainState, Turn]:
  stale, leaders = turn.candidates & state.stale, turn.chosen
  columns = suffix_lengths(state.texts)
  end = (turn.spans.first + turn.spans.length)[:, 1:]
  ended = leaders | (stale & (end >= columns))
  held = jnp.where(ended, columns, jnp.minimum(columns, scorer.program.window))
  state = after_run(scorer, state, stale | leaders, jnp.maximum(held, state.columns_known))
  state = state._replace(stale=state.stale & ~stale)
  turn = ran(turn, jnp.where(ended, nll_after_deletions(scorer, state, sums), jnp.inf))
  return state, _tallied(scorer, state, turn, leaders, plan)


def _second_look(
  scorer: Scorer, plan: RacePlan, ends: Bool[Array, " B"], state: ChainState, turn: Turn
) -> tuple[ChainState, Turn]:
  """Next come wider windows of the long runs with the lowest estimates."""
  estimates = estimated_nlls(scorer, state, turn.candidates)
  wanted = _ends_first(estimates, state.texts, plan, ends)
  chosen = _lowest(wanted, turn.candidates & _long(state.texts, plan)[:, None], LOOKED_AT)
  lengths, skipped = window_lengths(state.texts, SECOND_LOOK, tail=scorer.answer_only)
  length, skipped = jnp.where(chosen, lengths, 0), jnp.where(chosen, skipped, 0)
  spans = with_old_skips(state, chosen, jnp.zeros_like(length), length, skipped)
  return state, turn._replace(spans=spans, window=jnp.int32(SECOND_LOOK))


def _after_second_look(
  state: ChainState, turn: Turn, sums: Float[Array, "B U"]
) -> tuple[ChainState, Turn]:
  del sums
  return state, ran(turn, turn.scored.nll)


def _first_round(
  scorer: Scorer, plan: RacePlan, ends: Bool[Array, " B"], state: ChainState, turn: Turn
) -> tuple[ChainState, Turn]:
  """Next come the first columns of the candidates with the lowest estimates."""
  turn = turn._replace(estimates=estimated_nlls(scorer, state, turn.candidates))
  return _next_round(scorer, plan, ends, state, turn)


def _next_round(
  scorer: Scorer, plan: RacePlan, ends: Bool[Array, " B"], state: ChainState, turn: Turn
) -> tuple[ChainState, Turn]:
  """Next come further columns of those that may still be the best; nothing where none may."""
  # Each chain's own width decides: results must not depend on the other chains of the batch.
  long = _long(state.texts, plan)
  columns = suffix_lengths(state.texts)
  estimates = estimated_nlls(scorer, state, turn.candidates)
  wanted = _ends_first(estimates, state.texts, plan, ends)
  unseen = 1 - turn.front / jnp.maximum(columns, 1)
  margin = plan.margin * unseen / _counted(scorer, state)
  worst = min(plan.deletions, wanted.shape[1]) - 1  # index of the last to be deleted
  to_beat = jnp.sort(turn.scored.nll, axis=1)[:, worst, None]
  ahead = (wanted - margin < to_beat) | jnp.isinf(to_beat)
  in_parts = not (plan.runs or scorer.answer_only)
  most = _of_round(plan.deletions, plan.runs)
  most_in_all = ROUNDS * most
  if in_parts:
    most += _PARTS_AT_A_TIME - _AT_A_TIME
  at_a_time = jnp.where(long, ENDED_OF_LONG + 2 * ends, most)
  begun = turn.front > 0
  more = begun.sum(axis=1) < jnp.where(long, at_a_time, most_in_all)
  not_ended = jnp.isinf(turn.scored.nll) & ~(begun & (turn.front >= columns))
  in_race = turn.candidates & not_ended & ahead & (begun | more[:, None])
  chosen = _lowest(wanted, in_race, most, at_a_time)
  state = _given_places(scorer, state, chosen & ~begun)
  front = columns
  if in_parts:
    front = jnp.minimum(columns, jnp.maximum(2 * turn.front, _FIRST_PART))
  # How far a candidate has come must not depend on what was kept of it: a run that goes on after an
  # interruption has kept nothing.
  length = jnp.where(chosen, jnp.maximum(front - state.columns_known, 0), 0)
  spans = with_old_skips(state, chosen, state.columns_known, length)
  turn = turn._replace(
    spans=spans,
    window=jnp.int32(0),
    chosen=chosen,
    front=jnp.where(chosen, jnp.maximum(front, 1), turn.front),
  )
  return state, turn


def _after_round(
  scorer: Scorer, plan: RacePlan, state: ChainState, turn: Turn, sums: Float[Array, "B U"]
) -> tuple[ChainState, Turn]:
  columns = suffix_lengths(state.texts)
  ended = turn.chosen & (turn.front >= columns)
  known = jnp.maximum(jnp.minimum(turn.front, columns), state.columns_known)
  state = after_run(scorer, state, turn.chosen, known)
  turn = ran(turn, jnp.where(ended, nll_after_deletions(scorer, state, sums), turn.scored.nll))
  return state, _tallied(scorer, state, turn, ended, plan)


def _every_candidate(state: ChainState, turn: Turn) -> tuple[ChainState, Turn]:
  """Next come the ends of all; the race goes on as if nobody had checked."""
  spans = suffix_spans(state, turn.candidates)
  turn = turn._replace(spans=spans, window=jnp.int32(0), remembers=jnp.array(False))
  return state, turn


def _after_check(
  scorer: Scorer, state: ChainState, turn: Turn, sums: Float[Array, "B U"]
) -> tuple[ChainState, Turn]:
  checked = after_run(scorer, state, turn.candidates, suffix_lengths(state.texts))
  nll = jnp.where(turn.candidates, nll_after_deletions(scorer, checked, sums), jnp.inf)
  best = turn.scored.nll.argmin(axis=1)[:, None]
  lost = jnp.take_along_axis(nll, best, axis=1)[:, 0] - nll.min(axis=1)
  lost = jnp.where(turn.candidates.any(axis=1), lost, 0.0)
  state = state._replace(old_skips=checked.old_skips)
  return state, turn._replace(scored=turn.scored._replace(lost=lost))


def _long(texts: Text, plan: RacePlan) -> Bool[Array, " B"]:
  """True for chains of which long runs are deleted."""
  return plan.runs & (texts.width >= LONG_RUN)


def _ends_first(
  estimates: Float[Array, "B U"], texts: Text, plan: RacePlan, ends: Bool[Array, " B"]
) -> Float[Array, "B U"]:
  """The estimates, those of runs at a text's ends lowered until they are the lowest."""
  must = _are_ends(texts) & (plan.runs & (ends | ~_long(texts, plan)))[:, None]
  return jnp.where(must, estimates - _FIRST_OF_ALL, estimates)


def _are_ends(texts: Text) -> Bool[Array, "B U"]:
  """True for the first and the last unit at which a deletion may begin."""
  index = jnp.arange(texts.unit_sizes.shape[1])[None, :]
  return (index == 0) | (index == jax.vmap(last_to_begin)(texts)[:, None])


def estimated_nlls(
  scorer: Scorer, state: ChainState, candidates: Bool[Array, "B U"]
) -> Float[Array, "B U"]:
  """Estimated mean NLL after the deletion of each unit, nats per token, from remembered changes.

  Args:
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


def _tallied(
  scorer: Scorer, state: ChainState, turn: Turn, ended: Bool[Array, "B U"], plan: RacePlan
) -> Turn:
  """Adds the units that have just run to their ends to the tally."""
  off = jnp.where(ended, turn.estimates - turn.scored.nll, 0.0)
  too_high = off * _counted(scorer, state) > plan.margin
  scored = turn.scored._replace(
    num_scored=turn.scored.num_scored + ended.sum(axis=1),
    squared_error=turn.scored.squared_error + (off**2).sum(axis=1),
    upsets=turn.scored.upsets + too_high.sum(axis=1),
  )
  return turn._replace(scored=scored)


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
