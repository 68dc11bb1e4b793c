"""The objective after every possible deletion, exactly.

A step of a search sends its work through the model in *passes*. Each belongs to a `Phase`, which
says what the pass runs, and what follows from it. A program holds the layers of the model once for
all phases (and once more for small blocks): they take most of the time to compile.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from greedy_prune_jax.scoring.objectives import Objective
from greedy_prune_jax.scoring.scorer import ChainState, Scorer, run_spans, with_borders
from greedy_prune_jax.scoring.stream import (
  Spans,
  Text,
  deletion_spans,
  distinct_candidates,
  spans_of,
  suffix_lengths,
  units_deleted,
)


class Scored(NamedTuple):
  """Findings of a step about the deletions from each chain of a batch."""

  nll: Float[Array, "B U"]  # after each deletion that is scored exactly; infinity for the others
  positions: Int[Array, " B"]  # token positions that went through the model
  num_scored: Int[Array, " B"]  # units that were scored exactly; of a race, after an estimate
  squared_error: Float[Array, " B"]  # sum over these of (estimate - exact)^2, nats per token
  upsets: Int[Array, " B"]  # number of these whose estimate was too high by more than the margin
  lost: Float[Array, " B"]  # of checked steps: lowest NLL found - lowest of all, nats per token


class Turn(NamedTuple):
  """The next pass of a step, and the findings of those before."""

  phase: Int[Array, ""]  # index of the phase that the pass belongs to
  spans: Spans
  window: Int[Array, ""]  # see `stream.window_lengths`
  remembers: Bool[Array, ""]  # False: `ChainState.changes` stay as they are
  candidates: Bool[Array, "B U"]  # units that may be deleted
  chosen: Bool[Array, "B U"]  # candidates that the pass takes further
  front: Int[Array, "B U"]  # columns up to which each has come in a race
  estimates: Float[Array, "B U"]  # of their NLLs when the race began, nats per token
  scored: Scored


class Phase(NamedTuple):
  """Functions of passes of one kind.

  The states have no caches; of their fields those of `greedy.Validity` may be changed.
  """

  # Fills in the turn of the first such pass of a step.
  prepare: Callable[[ChainState, Turn], tuple[ChainState, Turn]]
  # Draws the conclusions from a pass; its last argument is what `run_spans` returned.
  finish: Callable[[ChainState, Turn, Float[Array, "B U"]], tuple[ChainState, Turn]]
  # Fills in the turn of one more pass, in which nothing is `chosen` where none is wanted; None:
  # there is one pass.
  repeat: Callable[[ChainState, Turn], tuple[ChainState, Turn]] | None = None


def first_turn(state: ChainState, pending: Bool[Array, " B"]) -> Turn:
  """The turn that begins a step: it runs the texts of the pending chains."""
  batch, units = state.columns_known.shape
  none, zeros = jnp.zeros((batch, units), bool), jnp.zeros((batch, units))
  no, nothing = jnp.zeros(batch, jnp.int32), jnp.zeros(batch)
  return Turn(
    phase=jnp.int32(0),
    spans=text_spans(state, pending),
    window=jnp.int32(0),
    remembers=jnp.array(True),
    candidates=none,
    chosen=none,
    front=none.astype(jnp.int32),
    estimates=zeros,
    scored=Scored(zeros + jnp.inf, no, no, nothing, no, nothing),
  )


def exact_phase(scorer: Scorer) -> Phase:
  """The phase of a search that scores every candidate."""

  def prepare(state: ChainState, turn: Turn) -> tuple[ChainState, Turn]:
    spans = suffix_spans(state, turn.candidates)
    return state, turn._replace(spans=spans, chosen=turn.candidates)

  def finish(state: ChainState, turn: Turn, sums: Float[Array, "B U"]) -> tuple[ChainState, Turn]:
    state, turn = ran_to_ends(scorer, state, turn, sums)
    running = turn.candidates.any(axis=1)
    num_scored = jnp.where(running, state.texts.num_units, 0)
    return state, turn._replace(scored=turn.scored._replace(num_scored=num_scored))

  return Phase(prepare, finish)


def ran_to_ends(
  scorer: Scorer, state: ChainState, turn: Turn, sums: Float[Array, "B U"]
) -> tuple[ChainState, Turn]:
  """The state and turn with the NLLs of the chosen candidates, which have run to their ends."""
  state = after_run(scorer, state, turn.chosen, suffix_lengths(state.texts))
  nll = jnp.where(turn.chosen, nll_after_deletions(scorer, state, sums), turn.scored.nll)
  return state, ran(turn, nll)


def ran(turn: Turn, nll: Float[Array, "B U"]) -> Turn:
  """The turn with the NLLs known after a pass, and the positions that it took."""
  positions = turn.scored.positions + turn.spans.length.sum(axis=1)
  return turn._replace(scored=turn.scored._replace(nll=nll, positions=positions))


def run_texts(scorer: Scorer, state: ChainState, pending: Bool[Array, " B"]) -> ChainState:
  """Runs the texts as they stand where a deletion has not shown them."""
  spans = text_spans(state, pending)
  state, _ = run_spans(scorer, state, spans)
  return after_texts(state, spans)


def text_spans(state: ChainState, pending: Bool[Array, " B"]) -> Spans:
  """Spans of the pending chains' texts that are not known, each from its first old place."""
  last = state.texts.last
  unknown = pending & (state.text_known < last)
  first = jnp.minimum(state.text_known, state.old_skips[:, 0])
  nothing = jnp.zeros_like(state.columns_known)
  return spans_of((first, jnp.where(unknown, last - first, 0)), (nothing, nothing))


def after_texts(state: ChainState, spans: Spans) -> ChainState:
  """The state when `text_spans` have run."""
  ran, last = spans.length[:, 0] > 0, state.texts.last
  return state._replace(
    text_known=jnp.where(ran, last, state.text_known),
    old_skips=choose(ran, jnp.stack([last, last], axis=1), state.old_skips),
  )


def suffix_spans(state: ChainState, wanted: Bool[Array, "B U"]) -> Spans:
  """Suffixes of the wanted candidates, each from its first column that is not known."""
  columns = suffix_lengths(state.texts)
  length = jnp.where(wanted, columns - state.columns_known, 0)
  return with_old_skips(state, wanted, state.columns_known, length)


def with_old_skips(
  state: ChainState,
  wanted: Bool[Array, "B U"],
  first: Int[Array, "B U"],
  length: Int[Array, "B U"],
  skipped: Int[Array, "B U"] | None = None,
) -> Spans:
  """Spans of candidates, and of the text where its skips are old: no run needs them, scores do."""
  begin, end = state.old_skips.T
  return spans_of((begin, jnp.where(wanted.any(axis=1), end - begin, 0)), (first, length), skipped)


def after_run(
  scorer: Scorer, state: ChainState, ran: Bool[Array, "B U"], columns: Int[Array, "B U"]
) -> ChainState:
  """The state when candidates have run up to some of their columns, and the old skips with them."""
  stored = state.kept_offsets < scorer.program.kept
  return state._replace(
    columns_known=jnp.where(ran & stored, columns, state.columns_known),
    old_skips=jnp.where(ran.any(axis=1)[:, None], state.old_skips[:, 1:], state.old_skips),
  )


def without_caches(state: ChainState) -> ChainState:
  """The chains without their caches, which XLA might copy where branches take them."""
  return state._replace(text_cache={}, borders=None, kept_cache={})


def candidates(texts: Text, running: Bool[Array, " B"]) -> Bool[Array, "B U"]:
  """Units of the running chains whose deletion an exact search scores."""
  return jax.vmap(distinct_candidates)(texts) & running[:, None]


def nll_after_deletions(
  scorer: Scorer, state: ChainState, suffix_sums: Float[Array, "B U"]
) -> Float[Array, "B U"]:
  """Mean NLL after each deletion: shared prefix, the first token behind the gap, and the suffix.

  Args:
    suffix_sums: summed log-probabilities further behind each deletion, as far as the objective
      counts them.
  """
  after = partial(_nll_after_deletion, objective=scorer.program.objective)
  return jax.vmap(after)(state.texts, state.log_probs, state.skip_log_probs, suffix_sums)


def _nll_after_deletion(
  text: Text,
  log_probs: Float[Array, " S"],
  skip_log_probs: Float[Array, " S"],
  suffix_sums: Float[Array, " U"],
  *,
  objective: Objective,
) -> Float[Array, " U"]:
  starts, stops = deletion_spans(text)
  behind_gap = skip_log_probs[starts]
  if objective == "answer":
    total = suffix_sums + jnp.where(stops == text.answer_start, behind_gap, 0.0)
  else:
    total = (jnp.cumsum(log_probs) - log_probs)[starts] + behind_gap + suffix_sums
  return -total / scored_tokens(text, objective)


def scored_tokens(text: Text, objective: Objective) -> Int[Array, " U"]:
  """Tokens that the objective counts after each deletion."""
  starts, stops = deletion_spans(text)
  if objective == "answer":
    return jnp.broadcast_to(text.num_answer, starts.shape)
  return text.num_reasoning - (stops - starts) + text.num_answer


def delete_units(
  scorer: Scorer, state: ChainState, unit: Int[Array, " B"], chosen: Bool[Array, " B"]
) -> ChainState:
  """Deletes one unit of each chosen chain, and what goes with it.

  Where all columns of its candidate are kept, and their log-probabilities with them (for `joint`),
  they become the text's, and nothing has to run again. Else the text behind the gap does.

  Args:
    unit: the unit to delete, of each chain.
    chosen: chains of which one is deleted.
  """
  starts, stops = jax.vmap(deletion_spans)(state.texts)
  start, stop, offset, known = (
    jnp.take_along_axis(x, unit[:, None], axis=1)[:, 0]
    for x in (starts, stops, state.kept_offsets, state.columns_known)
  )
  shown = chosen & (state.text_known >= state.texts.last) & (known >= state.texts.last - stop)
  if scorer.answer_only:
    shown = jnp.zeros_like(shown)
  moved = partial(_from_kept, start=start, offset=offset, shown=shown)
  text_cache = jax.tree.map(moved, state.text_cache, state.kept_cache)
  small = without_caches(state)
  found = jax.vmap(partial(_delete_unit, scorer))(small, unit, offset, shown)
  found = jax.tree.map(partial(choose, chosen), found, small)
  found = found._replace(borders=state.borders, kept_cache=state.kept_cache)
  return with_borders(found, text_cache, start, jnp.where(shown, found.texts.last, 0))


def _from_kept(
  text: Shaped[Array, "L B S *R"],
  kept: Shaped[Array, "L B Z *R"],
  start: Int[Array, " B"],
  offset: Int[Array, " B"],
  shown: Bool[Array, " B"],
) -> Shaped[Array, "L B S *R"]:
  """The texts' items, from the start on those that are kept at the offset, if they are shown."""
  layers, chains, size = kept.shape[:3]
  place = jnp.arange(text.shape[2])[None, :]
  at = jnp.clip(place - start[:, None] + offset[:, None], 0, size - 1)
  # Found by one index: by three, XLA would transpose what is kept for a TPU.
  rows = jnp.arange(layers * chains).reshape(layers, chains, 1) * size + at[None]
  taken = shown[:, None] & (place >= start[:, None])
  taken = taken.reshape(1, *taken.shape, *[1] * (text.ndim - 3))
  return jnp.where(taken, kept.reshape(-1, *kept.shape[3:])[rows], text)


def _delete_unit(
  scorer: Scorer,
  state: ChainState,
  unit: Int[Array, ""],
  offset: Int[Array, ""],
  shown: Bool[Array, ""],
) -> ChainState:
  """Does the rest of `delete_units` to one chain."""
  text = state.texts
  starts, stops = deletion_spans(text)
  start, stop = starts[unit], stops[unit]
  # What would follow the units before, were they deleted, is another token now; so is what follows
  # the last token before the gap.
  first_old = starts[jnp.searchsorted(stops, start)] - 1
  none_old = state.old_skips[0] >= state.old_skips[1]
  old_skips = jnp.stack(
    [
      jnp.where(none_old, first_old, jnp.minimum(first_old, state.old_skips[0])),
      jnp.where(none_old, start, jnp.maximum(start, state.old_skips[1])),
    ]
  )
  count = units_deleted(text)[unit]
  left = _without(text, unit, count)
  index = jnp.arange(starts.shape[0])
  # Kept columns must hold the skips of a text that they may become.
  held = start - 1 if scorer.answer_only else first_old
  columns_known = jnp.minimum(state.columns_known, jnp.maximum(held - stops, 0))
  new = jnp.stack([state.log_probs, state.skip_log_probs], axis=-1)
  moved = _from_kept(
    new[None, None],
    state.kept_log_probs[None, None, :, 1:],
    *(x[None] for x in (start + 1, offset, shown)),
  )
  log_probs, skips = moved[0, 0].T
  log_probs = log_probs.at[start].set(jnp.where(shown, state.skip_log_probs[start], 0.0))
  return state._replace(
    texts=left,
    log_probs=jnp.where(shown, log_probs, state.log_probs),
    skip_log_probs=skips,
    text_known=jnp.where(shown, left.last, jnp.minimum(state.text_known, first_old)),
    old_skips=jnp.minimum(old_skips, left.last),
    columns_known=jnp.where(index < unit, columns_known, 0),
    stale=_closed(state.stale, unit, count) | _close_to(left, start, scorer.program.window),
    changes=_closed(_closed(state.changes, unit, count).T, start, stop - start).T,
  )


def _close_to(text: Text, gap: Int[Array, ""], window: int) -> Bool[Array, " U"]:
  """True for units with less than a window of tokens between them and a gap."""
  starts, stops = deletion_spans(text)
  return (stops + window > gap) & (starts < gap + window)


def _closed(x: Shaped[Array, "I *R"], at: Int[Array, ""], size: int | Int[Array, ""]) -> Array:
  """The items without those in [at, at + size); zeros behind the last."""
  index = jnp.arange(x.shape[0])
  source = jnp.where(index >= at, index + size, index)
  return x.at[source].get(mode="fill", fill_value=0)


def _without(text: Text, unit: Int[Array, ""], count: Int[Array, ""]) -> Text:
  """Closes the gap that deleting a unit leaves, and the next up to `count`."""
  start, stop = (x[unit] for x in deletion_spans(text))
  return text._replace(
    token_ids=_closed(text.token_ids, start, stop - start),
    num_reasoning=text.num_reasoning - (stop - start),
    unit_sizes=_closed(text.unit_sizes, unit, count),
    num_units=text.num_units - count,
  )


def choose(where: Bool[Array, " B"], new: Array, old: Array) -> Array:
  """The new of chains where it is wanted, else the old; both have an axis B in front."""
  return jnp.where(where.reshape(where.shape + (1,) * (new.ndim - 1)), new, old)
