"""Stores that analyses and trainings leave for later runs: features, regressions, checkpoints."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from greedy_prune_jax.analysis.feature_store import build_store, open_store
from greedy_prune_jax.distill.checkpoints import Checkpoints, TrainProgress
from greedy_prune_jax.distill.export import settings_of
from greedy_prune_jax.distill.metrics import MetricsLog
from greedy_prune_jax.distill.step import init_state
from greedy_prune_jax.rankings.attention_regression import TokenCounts, load_ranking, save_ranking
from greedy_prune_jax.runs.weights import weights_digest
from tests.helpers.attacks import attack
from tests.helpers.planted import random_segments, tiny_model
from tests.helpers.tiny_student import settings as distill_settings

pytestmark = pytest.mark.slow


def test_stores_of_features(tmp_path):
  chains = random_segments(3)
  arguments = (tiny_model(), [f"c/{i}" for i in range(3)], chains)
  build_store(tmp_path / "good", *arguments, pruner="tiny")

  def read(folder):
    store = open_store(folder)
    assert np.asarray(store.attention[store.rows(2)]).shape[0] == len(chains[2].reasoning)
    build_store(folder, *arguments, pruner="tiny")

  attack(tmp_path / "good", read, tmp_path, cases=60, name="features")


def test_attention_regressions(tmp_path):
  from greedy_prune_jax.analysis.rank_regression import fit_ranking
  from tests.analysis.test_rank_regression import planted_order, rank_data

  chains = random_segments(8)
  store = build_store(
    tmp_path / "store", tiny_model(), [f"c/{i}" for i in range(8)], chains, pruner="tiny"
  )
  data, counts = rank_data((tiny_model(), chains, store), planted_order)
  ranking = fit_ranking(data, counts, pruner="tiny", annotator="rules")
  save_ranking(tmp_path / "good" / "ranking", ranking)

  def read(folder):
    found = load_ranking(folder / "ranking")
    assert isinstance(found.counts, TokenCounts)

  attack(tmp_path / "good", read, tmp_path, cases=120, name="ranking")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A workdir with two checkpoints of a tiny student, and a state of its shapes."""
  import jax.numpy as jnp
  import optax

  folder = tmp_path_factory.mktemp("trained") / "run"
  folder.mkdir()
  state = init_state({"a": jnp.ones((3, 2)), "b": jnp.zeros(4)}, optax.adam(0.1), None)
  with Checkpoints(folder, num_last=3) as checkpoints:
    for step in (1, 2):
      progress = TrainProgress(data={"next_index": step}, best_step=1, best_loss=0.5)
      checkpoints.save(state._replace(step=jnp.asarray(step, jnp.int32)), progress)
  config = dataclasses.asdict(distill_settings())
  (folder / "config.json").write_text(json.dumps(config))
  with MetricsLog(folder, 0) as log:
    log.write(1, {"loss": 0.5})
    log.write(2, {"loss": None})
  shutil.rmtree(folder / "tensorboard")
  return folder, state


def test_workdirs_of_trainings(trained, tmp_path):
  pristine, state = trained

  def read(folder):
    settings_of(folder)
    weights_digest(folder / "checkpoints" / "2")
    with Checkpoints(folder, read_only=True, alone=True) as checkpoints:
      assert checkpoints.progress(checkpoints.steps[-1]).best_step == 1
      checkpoints.restore_trained(checkpoints.steps[-1], state.trained)
    with Checkpoints(folder, num_last=3) as checkpoints:
      step, restored, progress = checkpoints.restore_last(state)
      assert step in (1, 2)
      assert progress is not None
      assert progress.best_step == 1
      np.testing.assert_array_equal(restored.trained["a"], state.trained["a"])
    with MetricsLog(folder, step):
      pass

  attack(pristine, read, tmp_path, cases=150, name="checkpoints")
