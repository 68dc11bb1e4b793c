"""The objective after every possible deletion, exactly."""

from functools import partial

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


def run_texts(
  scorer: Scorer, state: ChainState, pending: Bool[Array, " B"]
) -> tuple[ChainState, Int[Array, " B"]]:
  """Runs the texts as they stand where a deletion has not shown them; and the positions it took."""
  last = state.texts.last
  unknown = pending & (state.text_known < last)
  first = jnp.minimum(state.text_known, state.old_skips[:, 0])
  length = jnp.where(unknown, last - first, 0)
  nothing = jnp.zeros_like(state.columns_known)
  spans = spans_of((first, length), (nothing, nothing))
  state, _ = run_spans(scorer, state, spans, (scorer.program.rest,))
  known = choose(unknown, last, state.text_known)
  old_skips = choose(unknown, jnp.stack([last, last], axis=1), state.old_skips)
  return state._replace(text_known=known, old_skips=old_skips), length


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


def score_deletions(
  scorer: Scorer, state: ChainState, wanted: Bool[Array, "B U"]
) -> tuple[ChainState, Float[Array, "B U"], Int[Array, " B"]]:
  """Objective of each chain after the deletion of each wanted unit.

  Args:
    scorer: model and program.
    state: the chains; `run_texts` has run.
    wanted: units to score, all of them `distinct_candidates`.

  Returns:
    The state; mean NLL in nats per token, infinity for units that are not wanted; and the token
    positions that went through the model.
  """
  spans = suffix_spans(state, wanted)
  state, sums = run_spans(scorer, state, spans, (scorer.program.block, scorer.program.rest))
  state = after_run(scorer, state, wanted, suffix_lengths(state.texts))
  nll = jnp.where(wanted, nll_after_deletions(scorer, state, sums), jnp.inf)
  return state, nll, spans.length.sum(axis=1)


def after_run(
  scorer: Scorer, state: ChainState, ran: Bool[Array, "B U"], columns: Int[Array, "B U"]
) -> ChainState:
  """The state when candidates have run up to some of their columns, and the old skips with them."""
  stored = state.kept_offsets < scorer.program.kept
  return state._replace(
    columns_known=jnp.where(ran & stored, columns, state.columns_known),
    old_skips=jnp.where(ran.any(axis=1)[:, None], state.old_skips[:, 1:], state.old_skips),
  )


def candidates(texts: Text, running: Bool[Array, " B"]) -> Bool[Array, "B U"]:
  """Units of the running chains whose deletion an exact search scores."""
  return jax.vmap(distinct_candidates)(texts) & running[:, None]


def nll_after_deletions(
  scorer: Scorer, state: ChainState, suffix_sums: Float[Array, "B U"]
) -> Float[Array, "B U"]:
  """Mean NLL after each deletion: shared prefix, the first token behind the gap, and the suffix.

  Args:
    scorer: model and program.
    state: the chains.
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
    scorer: model and program.
    state: the chains.
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
  small = state._replace(text_cache={}, borders=None, kept_cache={})
  found = jax.vmap(partial(_delete_unit, scorer))(small, unit, offset, shown)
  found = jax.tree.map(partial(choose, chosen), found, small)
  found = found._replace(text_cache=text_cache, borders=state.borders, kept_cache=state.kept_cache)
  if state.borders is None:
    return found
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
