"""Greedy search on the device: again and again, delete the unit that leaves the lowest NLL.

One call of `prune_steps` runs a batch of chains down through one length bucket without meeting the
host. Source: Algorithm 1 of arXiv 2601.03066.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from greedy_prune_jax.models.decoder import merge_decoder
from greedy_prune_jax.scoring.exact import score_deletions
from greedy_prune_jax.scoring.objectives import ChainNLL, chain_nll
from greedy_prune_jax.scoring.packing import Text, suffix_length, unit_spans
from greedy_prune_jax.scoring.scorer import (
  PROMPT_AXES,
  CachedPrompt,
  ChainState,
  Program,
  Scorer,
  start_chain,
  with_room,
)
from greedy_prune_jax.scoring.shortlist import (
  Estimates,
  ShortlistPlan,
  after_deletion,
  screen_deletions,
  with_estimates,
)


class Tally(NamedTuple):
  """What the steps of one call took, and how far estimates were from exact scores.

  Where there is an item for each step, it stands at the number of deletions before the step, and is
  0 elsewhere: the host adds them up in one order, however a search was cut into calls.
  """

  positions: Int[Array, " B"]  # token positions that went through the model
  steps: Int[Array, " B"]  # scorings, each of which deletes one unit or a few
  num_scored: Int[Array, " B"]  # units that were scored exactly
  squared_error: Float[Array, "B C"]  # (estimate - exact)^2, nats per token, summed over these
  missed: Int[Array, " B"]  # checked steps whose best unit beats all scored by over `_SAME_NLL`
  lost: Float[Array, "B C"]  # of checked steps: best found - best, nats per token


class Steps(NamedTuple):
  """What one call found; chain b made `num_deleted[b]` deletions."""

  text: Text  # the texts that are left
  estimates: Estimates  # of their units, for a screened search
  num_deleted: Int[Array, " B"]
  deleted: Int[Array, "B C"]  # unit deleted at each step, numbered among the units left then
  nll: ChainNLL  # [B, C]: item k after k deletions of this call; NaN where no step began there
  finite: Bool[Array, " B"]  # False: a NLL was NaN or infinite, and the chain stopped there
  done: Bool[Array, " B"]  # stopped, and the NLL of the text that is left is recorded
  tally: Tally


def delete_unit(text: Text, unit: Int[Array, ""]) -> Text:
  """Closes the gap that deleting one unit leaves."""
  starts, _ = unit_spans(text)
  size = text.unit_sizes[unit]
  index = jnp.arange(text.token_ids.shape[0])
  source = jnp.where(index >= starts[unit], index + size, index)
  unit_source = jnp.where(index >= unit, index + 1, index)
  return Text(
    token_ids=text.token_ids.at[source].get(mode="fill", fill_value=0),
    num_reasoning=text.num_reasoning - size,
    num_answer=text.num_answer,
    unit_sizes=text.unit_sizes.at[unit_source].get(mode="fill", fill_value=0),
    num_units=text.num_units - 1,
  )


@partial(jax.jit, static_argnames="graph")
def start_chains(
  graph: nnx.GraphDef,
  params: nnx.State,
  prompt_ids: Int[Array, "B T"],
  lengths: Int[Array, " B"],
) -> CachedPrompt:
  """`start_chain` for a batch of right-padded prompts."""
  decoder = merge_decoder(graph, params)
  return jax.vmap(partial(start_chain, decoder), out_axes=PROMPT_AXES)(prompt_ids, lengths)


@partial(jax.jit, static_argnames=("graph", "program", "shortlist", "check", "most_deletions"))
def prune_steps(
  graph: nnx.GraphDef,
  params: nnx.State,
  prompts: CachedPrompt,
  texts: Text,
  estimates: Estimates,
  floors: Int[Array, " B"],
  pauses: Int[Array, " B"],
  *,
  program: Program,
  shortlist: ShortlistPlan | None = None,
  check: bool = False,
  most_deletions: int = 1,
) -> Steps:
  """Deletes units of each chain while it has more than `floors[b]` reasoning tokens.

  Args:
    graph: of the scoring model.
    params: of the scoring model.
    prompts: from `start_chains`.
    texts: the chains as they stand, [B, C] with C = `program.text`.
    estimates: of their units; read by a screened search alone.
    floors: number of reasoning tokens at or under which a chain stops.
    pauses: at or under which no further step begins.
    program: static sizes; every text with more tokens than its floor must fit them.
    shortlist: how a screened search finds its shortlists; None: every candidate is scored.
    check: score every candidate beside a screened search, and count what it missed.
    most_deletions: units that are deleted from one scoring, none of them next to another.
  """
  scorer = Scorer(merge_decoder(graph, params), program)
  prompts = with_room(prompts, program.prefix)

  def score(state: Steps, chains: ChainState, running: Bool[Array, " B"]):
    """Scores that units are deleted by, lowest first; the new estimates; and the tally."""
    if shortlist is None:
      nll = score_deletions(scorer, chains, running)
      positions, num_scored = jax.vmap(_exact_counts)(chains.text)
      tally = _add(
        state.tally,
        positions=jnp.where(running, positions, 0),
        num_scored=jnp.where(running, num_scored, 0),
      )
      return nll, state.estimates, tally
    scores = screen_deletions(scorer, chains, state.estimates, running, shortlist)
    tally = _add(state.tally, positions=scores.positions, num_scored=scores.num_scored)
    error = _put(tally.squared_error, state.num_deleted, scores.squared_error, running)
    tally = tally._replace(squared_error=error)
    if check:
      nll = score_deletions(scorer, chains, running)
      # Both of one scoring: rows are packed differently in the other, and rounded differently.
      of_chosen = jnp.take_along_axis(nll, scores.nll.argmin(axis=1)[:, None], axis=1)[:, 0]
      lost = jnp.where(running, of_chosen - nll.min(axis=1), 0.0)
      tally = _add(tally, missed=(lost > _SAME_NLL).astype(jnp.int32))
      tally = tally._replace(lost=_put(tally.lost, state.num_deleted, lost, running))
    nll = with_estimates(scorer, chains, scores) if shortlist.by_estimate else scores.nll
    return nll, scores.estimates, tally

  def step(state: Steps) -> Steps:
    chains = scorer.run_texts(prompts, state.text)
    log_probs = chains.text_pass.log_probs
    nll = jax.vmap(chain_nll)(log_probs, state.text.num_reasoning, state.text.num_answer)
    pending = ~state.done
    recorded = jax.tree.map(
      lambda old, new: _put(old, state.num_deleted, new, pending), state.nll, nll
    )
    running = pending & (state.text.num_reasoning > jnp.maximum(floors, pauses))
    running &= jnp.isfinite(nll.joint)
    # Where no chain is running (the last pass, for its NLL alone) this runs no rows.
    scores, estimates, tally = score(state, chains, running)
    sound = jnp.isfinite(nll.joint) & (~running | jnp.isfinite(scores.min(axis=1)))
    chosen = running & sound
    ran = jnp.where(pending, state.text.num_reasoning + state.text.num_answer - 1, 0)
    state = state._replace(
      estimates=estimates,
      nll=recorded,
      finite=state.finite & (sound | ~pending),
      done=~chosen,
      tally=_add(tally, positions=ran, steps=running.astype(jnp.int32)),
    )
    delete = partial(_delete_best, floors=floors, reach=shortlist.window if shortlist else 0)
    scores = jnp.where(chosen[:, None], scores, jnp.inf)
    return jax.lax.fori_loop(0, most_deletions, lambda _, x: delete(*x), (state, scores))[0]

  state = _nothing_done(texts, estimates)
  return jax.lax.while_loop(lambda state: ~state.done.all(), step, state)


# Scores of the same text differ by so much where rows are packed in another way, nats per token.
_SAME_NLL = 1e-5


def _nothing_done(texts: Text, estimates: Estimates) -> Steps:
  batch, capacity = texts.token_ids.shape
  empty = jnp.full((batch, capacity), jnp.nan)
  zero, zeros = jnp.zeros(batch, jnp.int32), jnp.zeros((batch, capacity))
  return Steps(
    text=texts,
    estimates=estimates,
    num_deleted=zero,
    deleted=jnp.full((batch, capacity), -1),
    nll=ChainNLL(empty, empty, empty),
    finite=jnp.ones(batch, bool),
    done=jnp.zeros(batch, bool),
    tally=Tally(zero, zero, zero, zeros, zero, zeros),
  )


def _exact_counts(text: Text) -> tuple[Int[Array, ""], Int[Array, ""]]:
  """Positions of the suffixes behind all deletions, and the number of deletions."""
  _, stops = unit_spans(text)
  index = jnp.arange(text.token_ids.shape[0])
  lengths = jnp.where(index < text.num_units, suffix_length(stops, text), 0)
  return lengths.sum(), text.num_units


def _add(tally: Tally, **more: Array) -> Tally:
  return tally._replace(**{name: getattr(tally, name) + x for name, x in more.items()})


def _put(rows: Array, at: Int[Array, " B"], x: Array, where: Bool[Array, " B"]) -> Array:
  """Sets one item of each row [B, C]."""
  place = jnp.where(where, at, rows.shape[1])
  return jax.vmap(lambda row, at, x: row.at[at].set(x, mode="drop"))(rows, place, x)


def _delete_best(
  state: Steps, scores: Float[Array, "B C"], *, floors: Int[Array, " B"], reach: int
) -> tuple[Steps, Float[Array, "B C"]]:
  """Deletes the unit of lowest score of each chain above its floor; its neighbours lose theirs.

  Their scores assumed that the deleted unit was present.
  """
  best = jnp.argmin(scores, axis=1)  # the lowest index of equal scores
  lowest = jnp.take_along_axis(scores, best[:, None], axis=1)[:, 0]
  chosen = jnp.isfinite(lowest) & (state.text.num_reasoning > floors)
  starts, _ = jax.vmap(unit_spans)(state.text)
  start = jnp.take_along_axis(starts, best[:, None], axis=1)[:, 0]
  text = jax.vmap(delete_unit)(state.text, best)
  move = jax.vmap(partial(after_deletion, reach=reach))
  estimates = move(text, state.estimates, best, start)

  def choose(new, old):
    return jnp.where(chosen.reshape(chosen.shape + (1,) * (new.ndim - 1)), new, old)

  index = jnp.arange(scores.shape[1])[None, :]
  beside = jnp.abs(index - best[:, None]) == 1
  moved = jnp.where(index >= best[:, None], index + 1, index)
  left = jnp.take_along_axis(
    jnp.where(beside, jnp.inf, scores), jnp.minimum(moved, scores.shape[1] - 1), axis=1
  )
  state = state._replace(
    text=jax.tree.map(choose, text, state.text),
    estimates=jax.tree.map(choose, estimates, state.estimates),
    num_deleted=state.num_deleted + chosen,
    deleted=_put(state.deleted, state.num_deleted, best, chosen),
  )
  return state, choose(left, scores)
