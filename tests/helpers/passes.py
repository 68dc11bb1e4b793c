"""One step's scores alone, by the phases of a search."""

import jax
import jax.numpy as jnp

from greedy_prune_jax.scoring import exact
from greedy_prune_jax.scoring.racing import race_phases
from greedy_prune_jax.scoring.scorer import run_spans


def score_deletions(scorer, state, wanted):
  """The state after exact scores of the wanted units; and what was found."""
  return _run(scorer, state, wanted, (exact.exact_phase(scorer),))


def race_deletions(scorer, state, candidates, ends, plan):
  """The same after a race between the candidates."""
  return _run(scorer, state, candidates, race_phases(scorer, plan, ends))


def _run(scorer, state, candidates, phases):
  nobody = jnp.zeros(len(candidates), bool)
  turn = exact.first_turn(state, nobody)._replace(candidates=candidates)

  def run_pass(phase, state, turn):
    state, sums = run_spans(scorer, state, turn.spans, turn.window)
    return phase.finish(state, turn, sums)

  for phase in phases:
    state, turn = run_pass(phase, *phase.prepare(state, turn))
    if phase.repeat is not None:

      def again(carried, phase=phase):
        return phase.repeat(*run_pass(phase, *carried))

      start = phase.repeat(state, turn)
      state, turn = jax.lax.while_loop(lambda carried: carried[1].chosen.any(), again, start)
  return state, turn.scored
