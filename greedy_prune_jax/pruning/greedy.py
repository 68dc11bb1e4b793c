"""Greedy search on the device: again and again, delete the unit that leaves the lowest NLL.

One call of `prune_steps` runs a batch of chains down through one length bucket without meeting the
host. Source: Algorithm 1 of arXiv 2601.03066.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Int

from greedy_prune_jax.scoring.exact import Sizes, score_deletions
from greedy_prune_jax.scoring.objectives import ChainNLL, Objective, chain_nll
from greedy_prune_jax.scoring.packing import Text, unit_spans
from greedy_prune_jax.scoring.scorer import (
  BASE_AXES,
  PROMPT_AXES,
  Prompt,
  run_base,
  start_chain,
  with_room,
)


class Steps(NamedTuple):
  """What one call found; chain b made `num_deleted[b]` deletions."""

  text: Text  # the texts that are left
  num_deleted: Int[Array, " B"]
  deleted: Int[Array, "B C"]  # unit deleted at each step, numbered among the units left then
  nll: ChainNLL  # [B, C]: item k after k deletions of this call; `num_deleted` + 1 of them hold
  finite: Bool[Array, " B"]  # False: a NLL was NaN or infinite, and the chain stopped there
  done: Bool[Array, " B"]  # stopped, and the NLL of the text that is left is recorded


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


@partial(jax.jit, static_argnames=("graph", "max_length"))
def start_chains(
  graph: nnx.GraphDef,
  params: nnx.State,
  prompt_ids: Int[Array, "B T"],
  lengths: Int[Array, " B"],
  *,
  max_length: int | None = None,
) -> Prompt:
  """`start_chain` for a batch of right-padded prompts."""
  decoder = nnx.merge(graph, params)
  start = partial(start_chain, decoder, max_length=max_length)
  return jax.vmap(start, out_axes=PROMPT_AXES)(prompt_ids, lengths)


@partial(jax.jit, static_argnames=("graph", "sizes", "objective"))
def prune_steps(
  graph: nnx.GraphDef,
  params: nnx.State,
  prompts: Prompt,
  texts: Text,
  floors: Int[Array, " B"],
  *,
  sizes: Sizes,
  objective: Objective,
) -> Steps:
  """Deletes units of each chain while it has more than `floors[b]` reasoning tokens.

  Args:
    graph: of the scoring model.
    params: of the scoring model.
    prompts: from `start_chains`.
    texts: the chains as they stand, [B, C] with C = `sizes.text`.
    floors: number of reasoning tokens at or under which a chain stops.
    sizes: static sizes; every text with more tokens than its floor must fit them.
    objective: `joint` or `answer`.
  """
  decoder = nnx.merge(graph, params)
  batch, capacity = texts.token_ids.shape
  prompts = with_room(prompts, sizes.prefix)

  def step(state: Steps):
    run = partial(run_base, decoder, max_length=sizes.max_length)
    bases = jax.vmap(run, in_axes=(PROMPT_AXES, 0), out_axes=BASE_AXES)(prompts, state.text)
    nll = jax.vmap(chain_nll)(bases.log_probs, state.text.num_reasoning, state.text.num_answer)
    pending = ~state.done
    put = jax.vmap(lambda row, at, x, on: row.at[jnp.where(on, at, capacity)].set(x, mode="drop"))
    recorded = jax.tree.map(
      lambda old, new: put(old, state.num_deleted, new, pending), state.nll, nll
    )

    running = pending & (state.text.num_reasoning > floors) & jnp.isfinite(nll.joint)
    # Where no chain is running (the last pass, for its NLL alone) this runs no rows.
    scores = score_deletions(
      decoder, prompts, state.text, bases, running, sizes=sizes, objective=objective
    )
    best = jnp.argmin(scores, axis=1)  # the lowest index of equal scores; NaN wins and is caught
    sound = jnp.isfinite(nll.joint) & (~running | jnp.isfinite(scores.min(axis=1)))
    chosen = running & sound

    def choose(new, old):
      return jnp.where(chosen.reshape((batch,) + (1,) * (new.ndim - 1)), new, old)

    return Steps(
      text=jax.tree.map(choose, jax.vmap(delete_unit)(state.text, best), state.text),
      num_deleted=state.num_deleted + chosen,
      deleted=put(state.deleted, state.num_deleted, best, chosen),
      nll=recorded,
      finite=state.finite & (sound | ~pending),
      done=~chosen,
    )

  empty = jnp.full((batch, capacity), jnp.nan)
  state = Steps(
    text=texts,
    num_deleted=jnp.zeros(batch, jnp.int32),
    deleted=jnp.full((batch, capacity), -1),
    nll=ChainNLL(empty, empty, empty),
    finite=jnp.ones(batch, bool),
    done=jnp.zeros(batch, bool),
  )
  return jax.lax.while_loop(lambda state: ~state.done.all(), step, state)
