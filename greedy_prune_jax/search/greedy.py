"""Greedy search on the device: again and again, delete the unit that leaves the lowest NLL.

One call of `prune_steps` takes a batch of chains some way down without meeting the host.
Source: Algorithm 1 of arXiv 2601.03066.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from greedy_prune_jax.models.decoder import merge_decoder
from greedy_prune_jax.parallel import DATA, MODEL, SEQUENCE, on_mesh
from greedy_prune_jax.scoring import exact
from greedy_prune_jax.scoring.exact import Phase, Turn, choose
from greedy_prune_jax.scoring.objectives import ChainNLL, chain_nll
from greedy_prune_jax.scoring.racing import RacePlan, race_phases
from greedy_prune_jax.scoring.scorer import ChainState, Program, Scorer, run_spans, start_state
from greedy_prune_jax.scoring.stream import Text, deletion_spans, units_deleted


class Tally(NamedTuple):
  """Work of the steps of one call, and the distance of estimates from exact scores.

  Where there is an item for each step, it stands at the number of deletions before the step, and is
  0 elsewhere: the host adds them up in one order, however a search was cut into calls.
  """

  positions: Int[Array, " B"]  # token positions that went through the model
  steps: Int[Array, " B"]  # scorings, each of which deletes one unit or a few
  num_scored: Int[Array, " B"]  # units that were scored exactly; of a race, after an estimate
  squared_error: Float[Array, "B U"]  # (estimate - exact)^2, nats per token, summed over these
  upsets: Int[Array, " B"]  # of these, those whose estimate was too high by more than the margin
  missed: Int[Array, " B"]  # checked steps whose best unit beats all scored by over `SAME_NLL`
  lost: Float[Array, "B U"]  # of checked steps: best found - best, nats per token


class Steps(NamedTuple):
  """Deletions and scores of one call; chain b made `num_deleted[b]` deletions."""

  num_deleted: Int[Array, " B"]
  deleted: Int[Array, "B U"]  # unit deleted at each step, numbered among the units left then
  nll: ChainNLL  # [B, U]: item k after k deletions of this call; NaN where no step began there
  finite: Bool[Array, " B"]  # False: a NLL was NaN or infinite, and the chain stopped there
  done: Bool[Array, " B"]  # stopped, and the NLL of the text that is left is recorded
  tally: Tally


class Known(NamedTuple):
  """Fields of `ChainState` that a race goes on from, when all else is run again."""

  changes: Float[Array | np.ndarray, "B U S"]
  stale: Bool[Array | np.ndarray, "B U"]


# How chains lie on a mesh.
_OF_LAYERS = ("text_cache", "borders", "kept_cache")  # fields whose first axis is that of layers
_CHAINS: Any = ChainState._make([P(DATA)] * len(ChainState._fields))
_CHAINS = _CHAINS._replace(**dict.fromkeys(_OF_LAYERS, P(None, DATA)))
# Devices along `sequence` hold the same of everything, and share the slots of blocks.
_AXES = DATA, SEQUENCE


@partial(jax.jit, static_argnames=("graph", "program", "mesh", "run_texts"))
def start_search(
  graph: nnx.GraphDef,
  params: nnx.State,
  texts: Text,
  known: Known | None = None,
  *,
  program: Program,
  mesh: Mesh | None,
  run_texts: bool = False,
) -> ChainState:
  """Chains of which nothing is known yet but what a race remembers; else as `prune_steps`.

  With `run_texts`, their texts have been run.
  """

  def start(params, texts, known):
    decoder = merge_decoder(graph, params)
    state = start_state(decoder, program, texts)
    if run_texts:
      everyone = jnp.ones(texts.num_prompt.shape[0], bool)
      state = exact.run_texts(Scorer(decoder, program), state, everyone)
    return state if known is None else state._replace(**known._asdict())

  run = on_mesh(start, mesh, (P(), P(DATA), P(DATA)), _CHAINS, _AXES)
  return _placed(run(params, texts, known), mesh)


@jax.jit
def with_widths(chains: ChainState, widths: Int[Array, " B"]) -> ChainState:
  """A copy of chains of which a deletion is to remove so many tokens; of the texts all is kept."""
  texts = chains.texts._replace(width=widths)
  state = chains._replace(
    texts=texts,
    columns_known=jnp.zeros_like(chains.columns_known),
    old_skips=jnp.stack([texts.num_prompt - 1, texts.last], axis=1),
    changes=jnp.zeros_like(chains.changes),
    stale=jnp.ones_like(chains.stale),
  )
  return jax.tree.map(jnp.copy, state)


@partial(
  jax.jit,
  static_argnames=("graph", "program", "mesh", "plan", "check", "most_deletions"),
  donate_argnames=("chains",),
)
def prune_steps(
  graph: nnx.GraphDef,
  params: nnx.State,
  chains: ChainState,
  active: Bool[Array, " B"],
  floors: Int[Array, " B"],
  ends: Bool[Array, " B"],
  budget: Float[Array, ""],
  *,
  program: Program,
  mesh: Mesh | None = None,
  plan: RacePlan | None = None,
  check: bool = False,
  most_deletions: int = 1,
) -> tuple[ChainState, Steps]:
  """Deletes units of each chain while it has more than `floors[b]` reasoning tokens.

  Args:
    chains: state from `start_search` or the call before.
    active: chains that are not finished; nothing is found of the others.
    floors: number of reasoning tokens at or under which a chain stops.
    budget: token positions on each device of `data` after which no further step begins.
    mesh: mesh on which the model lies; None for one device.
    plan: margin and size of a race for the best candidates; None: every candidate is scored.
    check: score every candidate beside a race, and count what it missed.
    most_deletions: units that are deleted from one scoring, none of them next to another.
  """

  def steps(params, chains, active, floors, ends, budget):
    scorer = Scorer(merge_decoder(graph, params), program)
    if plan is None:
      phases = (exact.exact_phase(scorer),)
    else:
      phases = race_phases(scorer, plan, ends, check=check)
    then = [partial(_after_texts, phases, floors, budget)]
    then += [partial(_after_pass, phases, index) for index in range(len(phases))]

    def run_pass(carried):
      chains, found, turn = carried
      chains, sums = run_spans(scorer, chains, turn.spans, turn.window, turn.remembers)
      small = exact.without_caches(chains)
      known, found, turn = jax.lax.switch(turn.phase, then, small, found, turn, sums)
      chains = chains._replace(**known._asdict())
      ended = turn.phase > len(phases)
      found, scores = _concluded(found, turn, ended)
      delete = partial(_delete_best, scorer, floors=floors)
      chains, found, _ = jax.lax.fori_loop(
        0, jnp.where(ended, most_deletions, 0), lambda _, x: delete(*x), (chains, found, scores)
      )
      turn = _either(ended, exact.first_turn(chains, ~found.done), turn)
      return chains, found, turn

    start = chains, _nothing_done(chains, active), exact.first_turn(chains, active)
    chains, found, _ = jax.lax.while_loop(lambda carried: ~carried[1].done.all(), run_pass, start)
    return chains, found

  specs = (P(), _CHAINS, P(DATA), P(DATA), P(DATA), P())
  run = on_mesh(steps, mesh, specs, (_CHAINS, P(DATA)), _AXES)
  chains, found = run(params, chains, active, floors, ends, budget)
  return _placed(chains, mesh), found


def chain_specs(chains: ChainState) -> Any:
  """Places of the arrays on a mesh: caches' heads along `model`, as the weights' are."""
  of_heads = P(None, DATA, None, MODEL)
  # The delta rule is whole along `model`, as its weights are.
  of_cache = {name: P(None, DATA) if name == "delta" else of_heads for name in chains.text_cache}
  return _CHAINS._replace(text_cache=of_cache, kept_cache=of_cache)


def _placed(chains: ChainState, mesh: Mesh | None) -> ChainState:
  """Each array where every call finds it."""
  if mesh is None:
    return chains

  def place(spec: P, arrays: Any) -> Any:
    return jax.lax.with_sharding_constraint(arrays, NamedSharding(mesh, spec))

  return jax.tree.map(place, chain_specs(chains), chains, is_leaf=lambda x: isinstance(x, P))


# Scores of the same text differ by so much where blocks hold other slots, nats per token.
SAME_NLL = 1e-5


class Validity(NamedTuple):
  """Fields of `ChainState` that say what holds, which is all that passes' ends change in it."""

  text_known: Int[Array, " B"]
  old_skips: Int[Array, "B 2"]
  kept_offsets: Int[Array, "B U"]
  columns_known: Int[Array, "B U"]
  stale: Bool[Array, "B U"]

  @classmethod
  def of(cls, chains: ChainState) -> "Validity":
    """Those of the chains."""
    return cls(*(getattr(chains, name) for name in cls._fields))


def _after_texts(
  phases: tuple[Phase, ...],
  floors: Int[Array, " B"],
  budget: Float[Array, ""],
  chains: ChainState,
  found: Steps,
  turn: Turn,
  sums: Float[Array, "B U"],
) -> tuple[Validity, Steps, Turn]:
  """Records the NLLs of the texts as they stand; and which chains go on to their candidates."""
  del sums
  chains = exact.after_texts(chains, turn.spans)
  pending, texts = ~found.done, chains.texts
  nll = jax.vmap(chain_nll)(
    chains.log_probs, texts.num_reasoning, texts.num_answer, texts.num_prompt
  )
  recorded = jax.tree.map(
    lambda old, new: _put(old, found.num_deleted, new, pending), found.nll, nll
  )
  sound = jnp.isfinite(nll.joint)
  running = pending & (texts.num_reasoning > floors) & sound
  running &= found.tally.positions.sum() < budget
  ran = turn.spans.length.sum(axis=1)
  found = found._replace(
    nll=recorded,
    finite=found.finite & (sound | ~pending),
    done=~running,
    tally=_add(found.tally, positions=ran, steps=running.astype(jnp.int32)),
  )
  turn = turn._replace(phase=jnp.int32(1), candidates=exact.candidates(texts, running))
  chains, turn = phases[0].prepare(chains, turn)
  return Validity.of(chains), found, turn


def _after_pass(
  phases: tuple[Phase, ...],
  index: int,
  chains: ChainState,
  found: Steps,
  turn: Turn,
  sums: Float[Array, "B U"],
) -> tuple[Validity, Steps, Turn]:
  """Draws a phase's conclusions from its pass, and prepares the pass that follows."""
  phase = phases[index]
  chains, turn = phase.finish(chains, turn, sums)
  after, following = chains, turn._replace(phase=turn.phase + 1)
  if index + 1 < len(phases):
    after, following = phases[index + 1].prepare(chains, following)
  validity = Validity.of(after)
  if phase.repeat is not None:
    repeated, again = phase.repeat(chains, turn)
    new = Validity.of(repeated), again
    validity, following = _either(again.chosen.any(), new, (validity, following))
  return validity, found, following


def _concluded(
  found: Steps, turn: Turn, ended: Bool[Array, ""]
) -> tuple[Steps, Float[Array, "B U"]]:
  """The findings when a step has ended, if it has; and the scores that units are deleted by."""
  running, scored, step = ~found.done, turn.scored, found.num_deleted
  chosen = running & jnp.isfinite(scored.nll.min(axis=1))
  tally = _add(
    found.tally,
    positions=scored.positions,
    num_scored=scored.num_scored,
    upsets=scored.upsets,
    missed=(scored.lost > SAME_NLL).astype(jnp.int32),
  )
  tally = tally._replace(
    squared_error=_put(tally.squared_error, step, scored.squared_error, running),
    lost=_put(tally.lost, step, scored.lost, running),
  )
  concluded = found._replace(finite=found.finite & (chosen | ~running), done=~chosen, tally=tally)
  return _either(ended, concluded, found), jnp.where(chosen[:, None], scored.nll, jnp.inf)


def _either(where: Bool[Array, ""], new: Any, old: Any) -> Any:
  """The new arrays, or the old."""
  return jax.tree.map(lambda new, old: jnp.where(where, new, old), new, old)


def _nothing_done(chains: ChainState, active: Bool[Array, " B"]) -> Steps:
  batch, units = chains.columns_known.shape
  empty = jnp.full((batch, units + 1), jnp.nan)
  zero, zeros = jnp.zeros(batch, jnp.int32), jnp.zeros((batch, units))
  return Steps(
    num_deleted=zero,
    deleted=jnp.full((batch, units), -1),
    nll=ChainNLL(empty, empty, empty),
    finite=jnp.ones(batch, bool),
    done=~active,
    tally=Tally(zero, zero, zero, zeros, zero, zero, zeros),
  )


def _add(tally: Tally, **more: Array) -> Tally:
  return tally._replace(**{name: getattr(tally, name) + x for name, x in more.items()})


def _put(rows: Array, at: Int[Array, " B"], x: Array, where: Bool[Array, " B"]) -> Array:
  """Sets one item of each row [B, U]."""
  place = jnp.where(where, at, rows.shape[1])
  return jax.vmap(lambda row, at, x: row.at[at].set(x, mode="drop"))(rows, place, x)


def _delete_best(
  scorer: Scorer,
  chains: ChainState,
  found: Steps,
  scores: Float[Array, "B U"],
  *,
  floors: Int[Array, " B"],
) -> tuple[ChainState, Steps, Float[Array, "B U"]]:
  """Deletes the unit of lowest score of each chain above its floor; its neighbours lose theirs.

  Their scores assumed that what is deleted was present.
  """
  best = jnp.argmin(scores, axis=1)  # the lowest index of equal scores
  lowest = jnp.take_along_axis(scores, best[:, None], axis=1)[:, 0]
  chosen = jnp.isfinite(lowest) & (chains.texts.num_reasoning > floors)
  unit, index = best[:, None], jnp.arange(scores.shape[1])[None, :]
  starts, stops = jax.vmap(deletion_spans)(chains.texts)
  count = jnp.take_along_axis(jax.vmap(units_deleted)(chains.texts), unit, axis=1)
  touched = (stops >= jnp.take_along_axis(starts, unit, axis=1)) & (index <= unit + count)
  moved = jnp.where(index >= unit, index + count, index)
  chains = exact.delete_units(scorer, chains, best, chosen)
  left = jnp.take_along_axis(
    jnp.where(touched, jnp.inf, scores), moved, axis=1, mode="fill", fill_value=jnp.inf
  )
  found = found._replace(
    num_deleted=found.num_deleted + chosen,
    deleted=_put(found.deleted, found.num_deleted, best, chosen),
  )
  return chains, found, choose(chosen, left, scores)
