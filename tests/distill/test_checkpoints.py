import jax.numpy as jnp

from greedy_prune_jax.distill.checkpoints import Checkpoints, TrainProgress
from greedy_prune_jax.distill.step import TrainState


def save(workdir, steps, best_step):
  """Saves checkpoints as one run does, and returns the steps of those that are kept."""
  with Checkpoints(workdir, num_last=2) as checkpoints:
    for step in steps:
      state = TrainState(jnp.int32(step), {"w": jnp.ones(2)}, {"mean": jnp.zeros(2)})
      checkpoints.save(state, TrainProgress(data={}, best_step=best_step))
  with Checkpoints(workdir, read_only=True) as checkpoints:
    return checkpoints.steps


def test_the_last_and_the_best_are_kept(tmp_path):
  assert save(tmp_path, [8, 9, 10], best_step=None) == [9, 10]
  assert save(tmp_path, [11], best_step=9) == [9, 10, 11], "by number and not by name"
  assert save(tmp_path, [12, 100, 101], best_step=9) == [9, 100, 101]
  assert save(tmp_path, [102], best_step=102) == [101, 102]
