"""Which unit to delete, from cheap estimates of all and exact scores of a shortlist.

A deletion changes the likelihood of the tokens right behind it most. The estimate for a unit is the
sum of

- what one pass over the current text tells exactly: its own tokens are no longer to be predicted,
  and the next one is, right behind what stands before the gap;
- *window change*: the change in the next w targets, from running a window behind the deletion
  again; for `answer`, the change in the answer, from running the window and then the answer, which
  sees the untouched middle between the two (see `packing.plan_windows`);
- *rest change*: the change behind the window in the unit's last exact score, at a weight that
  falls with its age; the remaining weight goes to the mean of recent exact scores.

The window change is estimated again where the last deletions could have changed it, and elsewhere
the oldest estimates first. The units of lowest estimate are then scored exactly, a shortlist at a
time, until the next estimate is so far behind the best exact score that the error seen so far
cannot bridge it. So the deleted unit always has an exact score, and so have others deleted from
the same scoring, unless `ShortlistPlan.by_estimate` lets estimates choose these.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from greedy_prune_jax.scoring.exact import (
  distinct_candidates,
  nll_after_deletion,
  score_listed,
)
from greedy_prune_jax.scoring.objectives import Objective
from greedy_prune_jax.scoring.packing import Text, plan_windows, suffix_length, unit_spans
from greedy_prune_jax.scoring.scorer import CHAIN_AXES, ChainState, Scorer, score_slots

STALE = 2**30  # the age of an estimate that must be made again
_MEMORY = 0.9  # of the running mean of squared errors: what a shortlist leaves of it
_FADE = 0.9  # of the weight of `rest_change`, a deletion: the text has changed since
_MEAN_MEMORY = 0.7  # of `mean_rest`: what a shortlist leaves of it


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShortlistPlan:
  """How estimates are made, and how far they are trusted.

  Attributes:
    window: w, tokens behind a deletion that are run again for its estimate.
    shortlist: k, units that are scored exactly at a time.
    rounds: most shortlists of one step.
    doubt: another shortlist is scored while the next estimate is less than so many standard
      deviations of its error above the best exact score.
    window_block: estimates that are made at a time.
    block_rows: rows of shortlisted suffixes that go through the model at a time.
    by_estimate: whether units without an exact score may be deleted.
  """

  window: int
  shortlist: int
  rounds: int
  doubt: float
  window_block: int
  block_rows: int
  by_estimate: bool = False


class Estimates(NamedTuple):
  """Estimated changes behind the deletion of each unit of a chain, and how far they are trusted."""

  window_change: Array  # [C], nats, a sum over the window
  rest_change: Array  # [C], nats, a sum behind it, from the unit's last exact score
  weight: Array  # [C], of the unit's own rest_change against the mean, 0 to 1
  age: Array  # [C], deletions since window_change was estimated, or STALE
  mean_rest: Array  # [], nats: running mean of rest_change on shortlists
  error: Array  # [], running standard deviation of estimate - exact on them, nats per token


class ShortlistScores(NamedTuple):
  """Scores of one step of a screened search, for each chain of a batch."""

  nll: Float[Array, "B C"]  # after the deletion of each unit that was scored exactly; else infinity
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
  chains: ChainState,
  estimates: Estimates,
  active: Bool[Array, " B"],
  plan: ShortlistPlan,
) -> ShortlistScores:
  """Exact scores of each chain's most promising deletions.

  Args:
    scorer: model and program.
    chains: the batch.
    estimates: of each chain; from `no_estimates` or the step before.
    active: chains to score.
    plan: sizes of windows and shortlists.
  """
  estimates, positions = _estimate(scorer, chains, estimates, active, plan)
  scores = _score_shortlists(scorer, chains, estimates, active, plan)
  return scores._replace(positions=scores.positions + positions)


def after_deletion(
  text: Text, estimates: Estimates, unit: Int[Array, ""], start: Int[Array, ""], reach: int
) -> Estimates:
  """Estimates of the remaining units when one was deleted.

  Args:
    text: the text that is left.
    estimates: of the text before.
    unit: that was deleted.
    start: text index at which it began.
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
  chains: ChainState,
  estimates: Estimates,
  active: Bool[Array, " B"],
  plan: ShortlistPlan,
) -> tuple[Estimates, Int[Array, " B"]]:
  """Makes all estimates that are stale, and some of the oldest; and the positions it took."""
  candidates = jax.vmap(distinct_candidates)(chains.text) & active[:, None]
  capacity = scorer.program.text
  count = min(plan.window_block, capacity)

  def is_stale(estimates: Estimates) -> Bool[Array, "B C"]:
    return candidates & (estimates.age >= STALE)

  def run_block(state):
    estimates, positions, first = state
    # The first block has room for some of the oldest; later ones are for chains that need them.
    wanted = candidates & (first | is_stale(estimates).any(axis=1, keepdims=True))
    age, units = jax.lax.top_k(jnp.where(wanted, estimates.age, -1), count)
    units = jnp.where(age >= 0, units, -1)
    windows = partial(_run_windows, scorer, window=plan.window)
    changes, ran = jax.vmap(windows, in_axes=(CHAIN_AXES, 0))(chains, units)
    at = jnp.where(units >= 0, units, capacity)
    put = jax.vmap(lambda old, at, new: old.at[at].set(new, mode="drop"))
    estimates = estimates._replace(
      window_change=put(estimates.window_change, at, changes),
      age=put(estimates.age, at, jnp.zeros_like(at)),
    )
    return estimates, positions + ran, jnp.bool_(False)

  def go_on(state) -> Bool[Array, ""]:
    estimates, _, first = state
    return active.any() & (first | is_stale(estimates).any())

  state = (estimates, jnp.zeros(active.shape, jnp.int32), jnp.bool_(True))
  estimates, positions, _ = jax.lax.while_loop(go_on, run_block, state)
  return estimates, positions


def _run_windows(
  scorer: Scorer, chain: ChainState, units: Int[Array, " I"], *, window: int
) -> tuple[Float[Array, " I"], Int[Array, ""]]:
  """`Estimates.window_change` of some units of one chain, and the positions it took."""
  program, text = scorer.program, chain.text
  tail = program.answer if scorer.answer_only else 0
  starts, stops = unit_spans(text)
  stops = jnp.where(units >= 0, stops[units], -1)
  slots = plan_windows(starts[units], stops, text, window, tail)
  scored = slots.valid
  scored_of_row = window + tail
  if scorer.answer_only:
    scored &= slots.source + 1 >= text.num_reasoning
    scored_of_row = tail
  log_probs = score_slots(
    scorer,
    chain,
    slots,
    scored,
    max_scored=units.shape[0] * scored_of_row,
    attention="xla" if scorer.answer_only else program.attention,  # the kernel knows no middle
  )
  before = chain.text_pass.log_probs[slots.source + 1]
  return jnp.where(scored, log_probs - before, 0.0).sum(axis=1), slots.valid.sum()


def estimated_nll(
  chain: ChainState, estimates: Estimates, *, objective: Objective
) -> Float[Array, " C"]:
  """Estimated mean NLL after the deletion of each unit, nats per token; infinity for no candidate.

  Args:
    chain: one chain.
    estimates: of its units, none of them stale.
    objective: `joint` or `answer`.
  """
  own = estimates.rest_change - estimates.mean_rest
  rest_change = estimates.mean_rest + estimates.weight * own
  unchanged = _unchanged_sums(chain, objective=objective)
  sums = unchanged + estimates.window_change + rest_change
  nll = nll_after_deletion(chain, sums, objective=objective)
  return jnp.where(distinct_candidates(chain.text), nll, jnp.inf)


def _estimated_nlls(
  scorer: Scorer, chains: ChainState, estimates: Estimates
) -> Float[Array, "B C"]:
  """`estimated_nll` for a batch of chains."""
  estimate = partial(estimated_nll, objective=scorer.program.objective)
  return jax.vmap(estimate, in_axes=(CHAIN_AXES, 0))(chains, estimates)


def with_estimates(
  scorer: Scorer, chains: ChainState, scores: ShortlistScores
) -> Float[Array, "B C"]:
  """Scores that units are deleted by, lowest first: exact ones where known, else estimates.

  Args:
    scorer: model and program.
    chains: the batch.
    scores: of its shortlists.

  Returns:
    Mean NLL in nats per token, infinity for what is no candidate. The unit of the best exact score
    is put below all others, so that the first deletion is not by an estimate.
  """
  estimates = _estimated_nlls(scorer, chains, scores.estimates)
  nll = jnp.where(jnp.isinf(scores.nll), estimates, scores.nll)
  best = jnp.arange(nll.shape[1])[None] == scores.nll.argmin(axis=1, keepdims=True)
  return jnp.where(best, nll.min(axis=1, keepdims=True) - 1, nll)


def _unchanged_sums(chain: ChainState, *, objective: Objective) -> Float[Array, " C"]:
  """`SuffixSums.total` as it would be if no deletion changed the tokens behind it."""
  text, log_probs = chain.text, chain.text_pass.log_probs
  _, stops = unit_spans(text)
  index = jnp.arange(text.token_ids.shape[0])
  counted = index < text.num_reasoning + text.num_answer
  if objective == "answer":
    counted &= index >= text.num_reasoning
  up_to = jnp.cumsum(jnp.where(counted, log_probs, 0.0))  # item j: tokens 0 to j
  return up_to[-1] - up_to[stops]


def _score_shortlists(
  scorer: Scorer,
  chains: ChainState,
  estimates: Estimates,
  active: Bool[Array, " B"],
  plan: ShortlistPlan,
) -> ShortlistScores:
  """Scores shortlists until no estimate behind them is in doubt."""
  unchanged_sums = partial(_unchanged_sums, objective=scorer.program.objective)
  unchanged = jax.vmap(unchanged_sums, in_axes=(CHAIN_AXES,))(chains)
  lengths = jax.vmap(lambda text: suffix_length(unit_spans(text)[1], text))(chains.text)
  count = min(plan.shortlist, scorer.program.text)

  def unscored_estimates(found: ShortlistScores) -> Float[Array, "B C"]:
    nll = _estimated_nlls(scorer, chains, found.estimates)
    return jnp.where(jnp.isinf(found.nll), nll, jnp.inf)

  def in_doubt(found: ShortlistScores) -> Bool[Array, " B"]:
    margin = plan.doubt * found.estimates.error
    ahead = unscored_estimates(found).min(axis=1) - margin < found.nll.min(axis=1)
    return active & ahead

  def one_round(state):
    index, found = state
    expected = unscored_estimates(found)
    lowest, listed = jax.lax.top_k(-expected, count)
    wanted = jnp.isfinite(lowest) & (active & ((index == 0) | in_doubt(found)))[:, None]
    listed = jnp.where(wanted, listed, -1)
    nll, sums = score_listed(
      scorer,
      chains,
      listed,
      block_rows=plan.block_rows,
      window=0 if scorer.answer_only else plan.window,
    )
    is_new = nll != jnp.inf  # NaN too: it must not go unseen
    old = found.estimates
    window_change = old.window_change
    if not scorer.answer_only:
      window_change = jnp.where(is_new, sums.window_change, window_change)
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
    return index + 1, ShortlistScores(
      nll=jnp.where(is_new, nll, found.nll),
      estimates=old._replace(
        window_change=window_change,
        rest_change=rest_change,
        weight=jnp.where(is_new, 1.0, old.weight),
        mean_rest=jnp.where(num_new > 0, mean_rest, old.mean_rest),
        error=mixed,
      ),
      positions=found.positions + jnp.where(is_new, lengths, 0).sum(axis=1),
      num_scored=found.num_scored + num_new,
      squared_error=found.squared_error + squares,
    )

  def go_on(state):
    index, found = state
    return (index < plan.rounds) & ((index == 0) | in_doubt(found).any())

  zero = jnp.zeros(active.shape, jnp.int32)
  found = ShortlistScores(
    nll=jnp.full(unchanged.shape, jnp.inf),
    estimates=estimates,
    positions=zero,
    num_scored=zero,
    squared_error=jnp.zeros(active.shape),
  )
  return jax.lax.while_loop(go_on, one_round, (jnp.int32(0), found))[1]
