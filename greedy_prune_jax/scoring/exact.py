"""The objective after every possible deletion, exactly."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from greedy_prune_jax.scoring.objectives import Objective
from greedy_prune_jax.scoring.scorer import ChainState, Scorer, Sums, run_spans
from greedy_prune_jax.scoring.stream import (
  Text,
  distinct_candidates,
  suffix_lengths,
  suffix_spans,
  text_spans,
  unit_spans,
)


def run_texts(
  scorer: Scorer, state: ChainState, pending: Bool[Array, " B"]
) -> tuple[ChainState, Int[Array, " B"]]:
  """Brings what is known of the texts as they stand up to date; and the positions it took."""
  spans = text_spans(state.texts, state.text_known, pending)
  state, _ = run_spans(scorer, state, spans, (scorer.program.rest,), of_texts=True)
  known = jnp.where(pending, state.texts.last, state.text_known)
  return state._replace(text_known=known), spans.length.sum(axis=1)


def score_deletions(
  scorer: Scorer,
  state: ChainState,
  wanted: Bool[Array, "B U"],
  counted_columns: int = 0,
) -> tuple[ChainState, Float[Array, "B U"], Sums, Int[Array, " B"]]:
  """Objective of each chain after the deletion of each wanted unit.

  Args:
    scorer: model and program.
    state: the chains; `run_texts` has run.
    wanted: units to score, all of them `distinct_candidates`.
    counted_columns: see `run_spans`.

  Returns:
    The state; mean NLL in nats per token, infinity for units that are not wanted; the sums that
    they are made of; and the token positions that went through the model.
  """
  spans = suffix_spans(state.texts, state.columns_known, wanted)
  sizes = (scorer.program.block, scorer.program.rest)
  state, sums = run_spans(scorer, state, spans, sizes, counted_columns=counted_columns)
  stored = state.kept_offsets < scorer.program.kept
  known = jnp.where(wanted & stored, suffix_lengths(state.texts), state.columns_known)
  state = state._replace(columns_known=known)
  nll = jnp.where(wanted, nll_after_deletions(scorer, state, sums.total), jnp.inf)
  return state, nll, sums, spans.length.sum(axis=1)


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
  starts, stops = unit_spans(text)
  behind_gap = skip_log_probs[starts]
  if objective == "answer":
    total = suffix_sums + jnp.where(stops == text.answer_start, behind_gap, 0.0)
    return -total / text.num_answer
  before = jnp.cumsum(log_probs) - log_probs
  total = before[starts] + behind_gap + suffix_sums
  return -total / (text.num_reasoning - text.unit_sizes + text.num_answer)


def delete_units(
  state: ChainState, unit: Int[Array, " B"], chosen: Bool[Array, " B"]
) -> ChainState:
  """Deletes one unit of each chosen chain; what is known behind it holds no longer."""

  def delete(text: Text, text_known, columns_known, unit):
    starts, stops = unit_spans(text)
    start, stop = starts[unit], stops[unit]
    before = starts[jnp.maximum(unit - 1, 0)]
    # What would follow the unit before, were it deleted, is another token now; so is what follows
    # the last token before the gap.
    first_new = jnp.where(unit > 0, before, start) - 1
    index = jnp.arange(starts.shape[0])
    columns_known = jnp.minimum(columns_known, jnp.maximum(start - 1 - stops, 0))
    columns_known = jnp.where(index < unit, columns_known, 0)
    return _without(text, unit, start, stop), jnp.minimum(text_known, first_new), columns_known

  texts, text_known, columns_known = jax.vmap(delete)(
    state.texts, state.text_known, state.columns_known, unit
  )
  return state._replace(
    texts=jax.tree.map(partial(choose, chosen), texts, state.texts),
    text_known=choose(chosen, text_known, state.text_known),
    columns_known=choose(chosen, columns_known, state.columns_known),
  )


def _without(text: Text, unit, start, stop) -> Text:
  """Closes the gap that deleting a unit leaves."""
  place = jnp.arange(text.token_ids.shape[0])
  source = jnp.where(place >= start, place + stop - start, place)
  index = jnp.arange(text.unit_sizes.shape[0])
  unit_source = jnp.where(index >= unit, index + 1, index)
  return text._replace(
    token_ids=text.token_ids.at[source].get(mode="fill", fill_value=0),
    num_reasoning=text.num_reasoning - (stop - start),
    unit_sizes=text.unit_sizes.at[unit_source].get(mode="fill", fill_value=0),
    num_units=text.num_units - 1,
  )


def choose(where: Bool[Array, " B"], new: Array, old: Array) -> Array:
  """The new of chains where it is wanted, else the old; both have an axis B in front."""
  return jnp.where(where.reshape(where.shape + (1,) * (new.ndim - 1)), new, old)
