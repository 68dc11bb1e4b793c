"""Choice of the unit to delete, from cheap estimates of all and exact scores of a shortlist.

A deletion changes the likelihood of the tokens right behind it most. The estimate for a unit is the
sum of

- what one pass over the current text tells exactly: its own tokens are no longer to be predicted,
  and the next one is, right behind what stands before the gap;
- *window change*: the change in the next w targets, from running a window behind the deletion
  again; for `answer`, the change in the answer, from running the window and then the answer, which
  sees the untouched middle between the two (see `stream.window_spans`);
- *rest change*: the change behind the window in the unit's last exact score, at a weight that
  falls with its age; the remaining weight goes to the mean of recent exact scores.

The window change is estimated again where the last deletions could have changed it, and elsewhere
the oldest estimates first. The units of lowest estimate are then scored exactly, a shortlist at a
time, until the next estimate is so far behind the best exact score that the error seen so far
cannot bridge it. So the deleted unit always has an exact score, and so have others deleted from
the same scoring, unless `ShortlistPlan.by_estimate` lets estimates choose these.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from greedy_prune_jax.scoring.exact import nll_after_deletions, score_deletions
from greedy_prune_jax.scoring.scorer import ChainState, Scorer, run_spans
from greedy_prune_jax.scoring.stream import Text, unit_spans, window_spans

STALE = 2**30  # the age of an estimate that must be made again
_MEMORY = 0.9  # of the running mean of squared errors: what a shortlist leaves of it
_FADE = 0.9  # of the weight of `rest_change`, a deletion: the text has changed since
_MEAN_MEMORY = 0.7  # of `mean_rest`: what a shortlist leaves of it


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShortlistPlan:
  """Sizes of estimates and shortlists, and the trust in estimates.

  Attributes:
    window: w, tokens behind a deletion that are run again for its estimate.
    shortlist: k, units that are scored exactly at a time.
    rounds: most shortlists of one step.
    doubt: another shortlist is scored while the next estimate is less than so many standard
      deviations of its error above the best exact score.
    refreshed: estimates of a step that are made again, the oldest first.
    by_estimate: True if units without an exact score may be deleted.
  """

  window: int
  shortlist: int
  rounds: int
  doubt: float
  refreshed: int
  by_estimate: bool = False


class Estimates(NamedTuple):
  """Estimated changes behind the deletion of each unit of a chain, and how far they are trusted."""

  window_change: Array  # [U], nats, a sum over the window
  rest_change: Array  # [U], nats, a sum behind it, from the unit's last exact score
  weight: Array  # [U], of the unit's own rest_change against the mean, 0 to 1
  age: Array  # [U], deletions since window_change was estimated, or STALE
  mean_rest: Array  # [], nats: running mean of rest_change on shortlists
  error: Array  # [], running standard deviation of estimate - exact on them, nats per token


class ShortlistScores(NamedTuple):
  """Scores of one step of a screened search, for each chain of a batch."""

  nll: Float[Array, "B U"]  # after the deletion of each unit that was scored exactly; else infinity
  estimates: Estimates
  positions: Int[Array, " B"]  # token positions that went through the model
  num_scored: Int[Array, " B"]  # units that were scored exactly
  squared_error: Float[Array, " B"]  # summed over these: (estimate - exact)^2, nats per token


def no_estimates(shape: tuple[int, int]) -> dict[str, np.ndarray]:
  """The fields of `Estimates` for chains [B, C] of which nothing is known, on the host."""
  return {
    "window_change": np.zeros(shape, np.float32),
    "rest_change": np.zeros(shape, np.float32),
    "weight": np.zeros(shape, np.float32),
    "age": np.full(shape, STALE, np.int32),
    "mean_rest": np.zeros(shape[0], np.float32),
    "error": np.zeros(shape[0], np.float32),
  }


def screen_deletions(
  scorer: Scorer,
  state: ChainState,
  estimates: Estimates,
  candidates: Bool[Array, "B U"],
  plan: ShortlistPlan,
) -> tuple[ChainState, ShortlistScores]:
  """Exact scores of each chain's most promising deletions.

  Args:
    scorer: model and program.
    state: the chains; `exact.run_texts` has run.
    estimates: estimates of each chain; from `no_estimates` or the step before.
    candidates: units to choose from.
    plan: sizes of windows and shortlists.
  """
  state, estimates, positions = _estimate(scorer, state, estimates, candidates, plan)
  state, scores = _score_shortlists(scorer, state, estimates, candidates, plan)
  return state, scores._replace(positions=scores.positions + positions)


def estimates_after_deletion(
  text: Text, estimates: Estimates, unit: Int[Array, ""], start: Int[Array, ""], reach: int
) -> Estimates:
  """Estimates of the remaining units when one was deleted.

  Args:
    text: the text that is left.
    estimates: estimates of the text before the deletion.
    unit: unit that was deleted.
    start: place at which it began.
    reach: tokens before and behind the gap within which estimates no longer hold.
  """
  index = jnp.arange(estimates.age.shape[0])
  source = jnp.where(index >= unit, index + 1, index)
  window_change, rest_change, weight = (
    x.at[source].get(mode="fill", fill_value=0.0)
    for x in (estimates.window_change, estimates.rest_change, _FADE * estimates.weight)
  )
  age = estimates.age.at[source].get(mode="fill", fill_value=STALE)
  starts, stops = unit_spans(text)
  close = (stops + reach >= start) & (starts < start + reach)
  age = jnp.where(close, STALE, jnp.minimum(age + 1, STALE))
  return estimates._replace(
    window_change=window_change, rest_change=rest_change, weight=weight, age=age
  )


def _estimate(
  scorer: Scorer,
  state: ChainState,
  estimates: Estimates,
  candidates: Bool[Array, "B U"],
  plan: ShortlistPlan,
) -> tuple[ChainState, Estimates, Int[Array, " B"]]:
  """Makes all estimates that are stale, and some of the oldest; and the positions it took."""
  count = min(plan.refreshed, candidates.shape[1])
  age = jnp.where(candidates, estimates.age, -1)
  oldest, _ = jax.lax.top_k(age, count)
  # Of units of one age the lower ones, so that no more are made than were asked for.
  beyond = age > oldest[:, -1:]
  same = age == oldest[:, -1:]
  room = count - beyond.sum(axis=1, keepdims=True)
  wanted = beyond | (same & (jnp.cumsum(same, axis=1) <= room)) | (age >= STALE)
  spans = window_spans(state.texts, wanted & candidates, plan.window, tail=scorer.answer_only)
  state, sums = run_spans(
    scorer,
    state,
    spans,
    (scorer.program.rest,),
    window=plan.window,
    counted_columns=scorer.program.places,
  )
  made = wanted & candidates
  estimates = estimates._replace(
    window_change=jnp.where(made, sums.change, estimates.window_change),
    age=jnp.where(made, 0, estimates.age),
  )
  return state, estimates, spans.length.sum(axis=1)


def estimated_nlls(
  scorer: Scorer, state: ChainState, estimates: Estimates, candidates: Bool[Array, "B U"]
) -> Float[Array, "B U"]:
  """Estimated mean NLL after the deletion of each unit, nats per token; infinity for no candidate.

  Args:
    scorer: model and program.
    state: the chains.
    estimates: estimates of the chains' units, none of them stale.
    candidates: units to choose from.
  """
  mean_rest = estimates.mean_rest[:, None]
  rest_change = mean_rest + estimates.weight * (estimates.rest_change - mean_rest)
  sums = _unchanged_sums(scorer, state) + estimates.window_change + rest_change
  return jnp.where(candidates, nll_after_deletions(scorer, state, sums), jnp.inf)


def with_estimates(
  scorer: Scorer, state: ChainState, scores: ShortlistScores, candidates: Bool[Array, "B U"]
) -> Float[Array, "B U"]:
  """Scores that units are deleted by, lowest first: exact ones where known, else estimates.

  Args:
    scorer: model and program.
    state: the chains.
    scores: exact scores of their shortlists.
    candidates: units to choose from.

  Returns:
    Mean NLL in nats per token, infinity for what is no candidate. The unit of the best exact score
    is put below all others, so that the first deletion is not by an estimate.
  """
  estimates = estimated_nlls(scorer, state, scores.estimates, candidates)
  nll = jnp.where(jnp.isinf(scores.nll), estimates, scores.nll)
  best = jnp.arange(nll.shape[1])[None] == scores.nll.argmin(axis=1, keepdims=True)
  return jnp.where(best, nll.min(axis=1, keepdims=True) - 1, nll)


def _unchanged_sums(scorer: Scorer, state: ChainState) -> Float[Array, "B U"]:
  """`Sums.total` as it would be if no deletion changed the tokens behind it."""

  def sums(text: Text, log_probs: Float[Array, " S"]) -> Float[Array, " U"]:
    _, stops = unit_spans(text)
    place = jnp.arange(log_probs.shape[0])
    counted = place <= text.last
    if scorer.answer_only:
      counted &= place >= text.answer_start
    up_to = jnp.cumsum(jnp.where(counted, log_probs, 0.0))  # item j: tokens 0 to j
    return up_to[-1] - up_to[stops]

  return jax.vmap(sums)(state.texts, state.log_probs)


def _score_shortlists(
  scorer: Scorer,
  state: ChainState,
  estimates: Estimates,
  candidates: Bool[Array, "B U"],
  plan: ShortlistPlan,
) -> tuple[ChainState, ShortlistScores]:
  """Scores shortlists until no estimate behind them is in doubt."""
  unchanged = _unchanged_sums(scorer, state)
  active = candidates.any(axis=1)
  count = min(plan.shortlist, candidates.shape[1])

  def unscored_estimates(state: ChainState, found: ShortlistScores) -> Float[Array, "B U"]:
    nll = estimated_nlls(scorer, state, found.estimates, candidates)
    return jnp.where(jnp.isinf(found.nll), nll, jnp.inf)

  def in_doubt(state: ChainState, found: ShortlistScores) -> Bool[Array, " B"]:
    margin = plan.doubt * found.estimates.error
    ahead = unscored_estimates(state, found).min(axis=1) - margin < found.nll.min(axis=1)
    return active & ahead

  def one_round(carried):
    index, state, found = carried
    expected = unscored_estimates(state, found)
    lowest, listed = jax.lax.top_k(-expected, count)
    wanted = jnp.isfinite(lowest) & (active & ((index == 0) | in_doubt(state, found)))[:, None]
    is_new = jax.vmap(_marked)(jnp.where(wanted, listed, expected.shape[1]), expected)
    window = 0 if scorer.answer_only else plan.window
    state, nll, sums, positions = score_deletions(scorer, state, is_new, window)
    old = found.estimates
    window_change = old.window_change
    if not scorer.answer_only:
      window_change = jnp.where(is_new, sums.change, window_change)
    rest_change = jnp.where(is_new, sums.total - unchanged - window_change, old.rest_change)
    num_new = is_new.sum(axis=1)
    off = jnp.where(is_new, expected - nll, 0.0)
    squares = (off**2).sum(axis=1)
    # The error that all share is in `mean_rest` from now on, and leaves no doubt about the winner.
    alike = jnp.where(num_new > 1, off.sum(axis=1) ** 2 / jnp.maximum(num_new, 1), 0.0)
    error = jnp.sqrt((squares - alike).clip(0) / jnp.maximum(num_new - 1, 1))
    mixed = jnp.sqrt(_MEMORY * old.error**2 + (1 - _MEMORY) * error**2)
    mixed = jnp.where(num_new > 0, jnp.where(old.error > 0, mixed, error), old.error)
    mean = jnp.where(is_new, rest_change, 0.0).sum(axis=1) / jnp.maximum(num_new, 1)
    mean_rest = _MEAN_MEMORY * old.mean_rest + (1 - _MEAN_MEMORY) * mean
    mean_rest = jnp.where(old.error > 0, mean_rest, mean)  # the first counts in full
    scores = ShortlistScores(
      nll=jnp.where(is_new, nll, found.nll),
      estimates=old._replace(
        window_change=window_change,
        rest_change=rest_change,
        weight=jnp.where(is_new, 1.0, old.weight),
        mean_rest=jnp.where(num_new > 0, mean_rest, old.mean_rest),
        error=mixed,
      ),
      positions=found.positions + positions,
      num_scored=found.num_scored + num_new,
      squared_error=found.squared_error + squares,
    )
    return index + 1, state, scores

  def go_on(carried):
    index, state, found = carried
    return (index < plan.rounds) & ((index == 0) | in_doubt(state, found).any())

  zero = jnp.zeros(active.shape, jnp.int32)
  found = ShortlistScores(
    nll=jnp.full(unchanged.shape, jnp.inf),
    estimates=estimates,
    positions=zero,
    num_scored=zero,
    squared_error=jnp.zeros(active.shape),
  )
  _, state, found = jax.lax.while_loop(go_on, one_round, (jnp.int32(0), state, found))
  return state, found


def _marked(listed: Int[Array, " I"], like: Float[Array, " U"]) -> Bool[Array, " U"]:
  """True at the indices that are listed; one beyond the end is none."""
  return jnp.zeros(like.shape, bool).at[listed].set(True, mode="drop")
