"""Which unit to delete, from cheap estimates of all and exact scores of a shortlist.

A deletion changes the likelihood of the tokens right behind it most. The estimate for a unit is the
sum of

- what one pass over the current text tells exactly: its own tokens are no longer to be predicted,
  and the next one is, right behind what stands before the gap;
- *near*: the change in the next w targets, from running a window behind the deletion again; for
  `answer`, the change in the answer, from running the window and then the answer, which sees the
  untouched middle between the two (see `packing.plan_windows`);
- *far*: what the last exact score of the unit found beyond that, which counts for less the longer
  ago it was; for the rest, what exact scores of others found of late.

Near is estimated again where the last deletions could have changed it, and, for the rest, the
oldest estimates first. The units of lowest estimate are then scored exactly, a shortlist at a time,
until the next estimate is so far behind the best exact score that the error seen so far cannot
bridge it. So the deleted unit always has an exact score, and so have others that are deleted from
the same scoring, unless `Screening.by_estimate` lets estimates choose these.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from greedy_prune_jax.models.decoder import Decoder
from greedy_prune_jax.scoring.exact import (
  Sizes,
  distinct_candidates,
  nll_after_deletion,
  score_listed,
)
from greedy_prune_jax.scoring.objectives import Objective
from greedy_prune_jax.scoring.packing import Text, plan_windows, suffix_length, unit_spans
from greedy_prune_jax.scoring.scorer import BASE_AXES, Base, Prompt, score_slots

STALE = 2**30  # the age of an estimate that must be made again
_MEMORY = 0.9  # of the running mean of squared errors: what a shortlist leaves of it
_FADE = 0.9  # of the weight of `far`, a deletion: the text that it was found in is left behind
_TYPICAL = 0.7  # of `typical`: what a shortlist leaves of it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Screening:
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


class Screen(NamedTuple):
  """What is known of the units of a chain without scoring them all, by unit."""

  near: Array  # [C], nats, a sum
  far: Array  # [C], nats, a sum
  weight: Array  # [C], 0 to 1: how far the unit's own far counts, and not the typical one
  age: Array  # [C], deletions since near was estimated, or STALE
  typical: Array  # [], nats: running mean of far on shortlists
  error: Array  # [], running standard deviation of estimate - exact on them, nats per token


class Screened(NamedTuple):
  """What one step found, for each chain of a batch."""

  nll: Float[Array, "B C"]  # after the deletion of each unit that was scored exactly; else infinity
  screen: Screen
  positions: Int[Array, " B"]  # token positions that went through the model
  num_scored: Int[Array, " B"]  # units that were scored exactly
  squared_error: Float[Array, " B"]  # summed over these: (estimate - exact)^2, nats per token


def fresh_screen(shape: tuple[int, int]) -> dict[str, np.ndarray]:
  """The fields of `Screen` for chains [B, C] of which nothing is known, on the host."""
  return {
    "near": np.zeros(shape, np.float32),
    "far": np.zeros(shape, np.float32),
    "weight": np.zeros(shape, np.float32),
    "age": np.full(shape, STALE, np.int32),
    "typical": np.zeros(shape[0], np.float32),
    "error": np.zeros(shape[0], np.float32),
  }


def screen_deletions(
  decoder: Decoder,
  prompts: Prompt,
  texts: Text,
  bases: Base,
  screens: Screen,
  active: Bool[Array, " B"],
  *,
  sizes: Sizes,
  screening: Screening,
  objective: Objective,
) -> Screened:
  """Exact scores of each chain's most promising deletions.

  Args:
    decoder: the scoring model.
    prompts: cached prompts; keys and values are [L, B, S, K, H], other fields lead with B.
    texts: current texts.
    bases: `run_base` of the texts.
    screens: what is known of each chain; from `fresh_screen` or the step before.
    active: chains to score.
    sizes: static sizes.
    screening: how.
    objective: `joint` or `answer`.
  """
  told = (decoder, prompts, texts, bases)
  static = {"sizes": sizes, "screening": screening, "objective": objective}
  screens, positions = _estimate(*told, screens, active, **static)
  found = _score_shortlists(*told, screens, active, **static)
  return found._replace(positions=found.positions + positions)


def after_deletion(
  text: Text, screen: Screen, unit: Int[Array, ""], start: Int[Array, ""], reach: int
) -> Screen:
  """What is known of the units that are left when one was deleted.

  Args:
    text: the text that is left.
    screen: of the text before.
    unit: that was deleted.
    start: text index at which it began.
    reach: tokens before and behind the gap within which estimates no longer hold.
  """
  index = jnp.arange(screen.near.shape[0])
  source = jnp.where(index >= unit, index + 1, index)
  near, far, weight = (
    x.at[source].get(mode="fill", fill_value=0.0)
    for x in (screen.near, screen.far, _FADE * screen.weight)
  )
  age = screen.age.at[source].get(mode="fill", fill_value=STALE)
  starts, stops = unit_spans(text)
  close = (stops + reach >= start) & (starts < start + reach)
  age = jnp.where(close, STALE, jnp.minimum(age + 1, STALE))
  return screen._replace(near=near, far=far, weight=weight, age=age)


def _estimate(
  decoder: Decoder,
  prompts: Prompt,
  texts: Text,
  bases: Base,
  screens: Screen,
  active: Bool[Array, " B"],
  *,
  sizes: Sizes,
  screening: Screening,
  objective: Objective,
) -> tuple[Screen, Int[Array, " B"]]:
  """Makes all estimates that are stale, and some of the oldest; and the positions it took."""
  candidates = jax.vmap(distinct_candidates)(texts) & active[:, None]
  count = min(screening.window_block, sizes.text)

  def is_stale(screens: Screen) -> Bool[Array, "B C"]:
    return candidates & (screens.age >= STALE)

  def run_block(state):
    screens, positions, first = state
    # The first block has room for some of the oldest; later ones are for chains that need them.
    wanted = candidates & (first | is_stale(screens).any(axis=1, keepdims=True))
    age, units = jax.lax.top_k(jnp.where(wanted, screens.age, -1), count)
    units = jnp.where(age >= 0, units, -1)
    windows = partial(
      _run_windows, decoder, sizes=sizes, window=screening.window, objective=objective
    )
    near, ran = jax.vmap(windows, in_axes=(0, 0, BASE_AXES, 0))(prompts.length, texts, bases, units)
    at = jnp.where(units >= 0, units, sizes.text)
    put = jax.vmap(lambda old, at, new: old.at[at].set(new, mode="drop"))
    screens = screens._replace(
      near=put(screens.near, at, near), age=put(screens.age, at, jnp.zeros_like(at))
    )
    return screens, positions + ran, jnp.bool_(False)

  def go_on(state) -> Bool[Array, ""]:
    screens, _, first = state
    return active.any() & (first | is_stale(screens).any())

  state = (screens, jnp.zeros(active.shape, jnp.int32), jnp.bool_(True))
  screens, positions, _ = jax.lax.while_loop(go_on, run_block, state)
  return screens, positions


def _run_windows(
  decoder: Decoder,
  prompt_length: Int[Array, ""],
  text: Text,
  base: Base,
  units: Int[Array, " I"],
  *,
  sizes: Sizes,
  window: int,
  objective: Objective,
) -> tuple[Float[Array, " I"], Int[Array, ""]]:
  """`Screen.near` of some units of one chain, and the positions it took."""
  answer_only = objective == "answer"
  tail = sizes.answer if answer_only else 0
  starts, stops = unit_spans(text)
  stops = jnp.where(units >= 0, stops[units], -1)
  slots = plan_windows(starts[units], stops, text, window, tail)
  scored = slots.valid
  scored_of_row = window + tail
  if answer_only:
    scored &= slots.source + 1 >= text.num_reasoning
    scored_of_row = tail
  log_probs = score_slots(
    decoder,
    prompt_length,
    text,
    base.prefix,
    slots,
    scored,
    max_scored=units.shape[0] * scored_of_row,
    max_length=sizes.max_length,
    attention="xla" if answer_only else sizes.attention,  # the kernel knows no middle
  )
  changes = jnp.where(scored, log_probs - base.log_probs[slots.source + 1], 0.0)
  return changes.sum(axis=1), slots.valid.sum()


def estimated_nll(
  text: Text, base: Base, screen: Screen, *, objective: Objective
) -> Float[Array, " C"]:
  """Estimated mean NLL after the deletion of each unit, nats per token; infinity for no candidate.

  Args:
    text: the current text.
    base: `run_base` of it.
    screen: with no stale estimates.
    objective: `joint` or `answer`.
  """
  far = screen.typical + screen.weight * (screen.far - screen.typical)
  sums = _unchanged_sums(text, base, objective=objective) + screen.near + far
  nll = nll_after_deletion(text, base, sums, objective=objective)
  return jnp.where(distinct_candidates(text), nll, jnp.inf)


def with_estimates(
  texts: Text, bases: Base, found: Screened, *, objective: Objective
) -> Float[Array, "B C"]:
  """What units are deleted by, lowest first: exact scores where they are known, else estimates.

  Args:
    texts: current texts.
    bases: `run_base` of the texts.
    found: of them.
    objective: `joint` or `answer`.

  Returns:
    Mean NLL in nats per token, infinity for what is no candidate. The unit of the best exact score
    is put below all others, so that the first deletion is not by an estimate.
  """
  estimate = jax.vmap(partial(estimated_nll, objective=objective), in_axes=(0, BASE_AXES, 0))
  scores = jnp.where(jnp.isinf(found.nll), estimate(texts, bases, found.screen), found.nll)
  best = jnp.arange(scores.shape[1])[None] == found.nll.argmin(axis=1, keepdims=True)
  return jnp.where(best, scores.min(axis=1, keepdims=True) - 1, scores)


def _unchanged_sums(text: Text, base: Base, *, objective: Objective) -> Float[Array, " C"]:
  """What `SuffixSums.total` would be if no deletion changed what stands behind it."""
  _, stops = unit_spans(text)
  index = jnp.arange(text.token_ids.shape[0])
  counted = index < text.num_reasoning + text.num_answer
  if objective == "answer":
    counted &= index >= text.num_reasoning
  up_to = jnp.cumsum(jnp.where(counted, base.log_probs, 0.0))  # item j: tokens 0 to j
  return up_to[-1] - up_to[stops]


def _score_shortlists(
  decoder: Decoder,
  prompts: Prompt,
  texts: Text,
  bases: Base,
  screens: Screen,
  active: Bool[Array, " B"],
  *,
  sizes: Sizes,
  screening: Screening,
  objective: Objective,
) -> Screened:
  """Scores shortlists until no estimate behind them is in doubt."""
  of_objective = {"objective": objective}
  unchanged = jax.vmap(partial(_unchanged_sums, **of_objective), in_axes=(0, BASE_AXES))(
    texts, bases
  )
  lengths = jax.vmap(lambda text: suffix_length(unit_spans(text)[1], text))(texts)
  estimate = jax.vmap(partial(estimated_nll, **of_objective), in_axes=(0, BASE_AXES, 0))
  count = min(screening.shortlist, sizes.text)

  def unscored_estimates(found: Screened) -> Float[Array, "B C"]:
    estimates = estimate(texts, bases, found.screen)
    return jnp.where(jnp.isinf(found.nll), estimates, jnp.inf)

  def in_doubt(found: Screened) -> Bool[Array, " B"]:
    margin = screening.doubt * found.screen.error
    ahead = unscored_estimates(found).min(axis=1) - margin < found.nll.min(axis=1)
    return active & ahead

  def one_round(state):
    index, found = state
    estimates = unscored_estimates(found)
    lowest, listed = jax.lax.top_k(-estimates, count)
    wanted = jnp.isfinite(lowest) & (active & ((index == 0) | in_doubt(found)))[:, None]
    listed = jnp.where(wanted, listed, -1)
    nll, sums = score_listed(
      decoder,
      prompts,
      texts,
      bases,
      listed,
      sizes=sizes,
      objective=objective,
      block_rows=screening.block_rows,
      near=0 if objective == "answer" else screening.window,
    )
    is_new = nll != jnp.inf  # NaN too: it must not go unseen
    near = sums.near if objective == "joint" else found.screen.near
    near = jnp.where(is_new, near, found.screen.near)
    far = jnp.where(is_new, sums.total - unchanged - near, found.screen.far)
    num_new = is_new.sum(axis=1)
    off = jnp.where(is_new, estimates - nll, 0.0)
    squares = (off**2).sum(axis=1)
    # What all were off by alike is in `typical` from now on, and leaves no doubt about the winner.
    alike = jnp.where(num_new > 1, off.sum(axis=1) ** 2 / jnp.maximum(num_new, 1), 0.0)
    error = jnp.sqrt((squares - alike).clip(0) / jnp.maximum(num_new - 1, 1))
    known = found.screen.error
    mixed = jnp.sqrt(_MEMORY * known**2 + (1 - _MEMORY) * error**2)
    known = jnp.where(num_new > 0, jnp.where(known > 0, mixed, error), known)
    mean_far = jnp.where(is_new, far, 0.0).sum(axis=1) / jnp.maximum(num_new, 1)
    typical = _TYPICAL * found.screen.typical + (1 - _TYPICAL) * mean_far
    typical = jnp.where(found.screen.error > 0, typical, mean_far)  # the first counts in full
    return index + 1, Screened(
      nll=jnp.where(is_new, nll, found.nll),
      screen=found.screen._replace(
        near=near,
        far=far,
        weight=jnp.where(is_new, 1.0, found.screen.weight),
        typical=jnp.where(num_new > 0, typical, found.screen.typical),
        error=known,
      ),
      positions=found.positions + jnp.where(is_new, lengths, 0).sum(axis=1),
      num_scored=found.num_scored + num_new,
      squared_error=found.squared_error + squares,
    )

  def go_on(state):
    index, found = state
    return (index < screening.rounds) & ((index == 0) | in_doubt(found).any())

  zero = jnp.zeros(active.shape, jnp.int32)
  found = Screened(
    nll=jnp.full(unchanged.shape, jnp.inf),
    screen=screens,
    positions=zero,
    num_scored=zero,
    squared_error=jnp.zeros(active.shape),
  )
  return jax.lax.while_loop(go_on, one_round, (jnp.int32(0), found))[1]
