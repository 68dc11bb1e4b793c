import pytest

from greedy_prune_jax.distill.workdir import bind_config
from greedy_prune_jax.errors import UserError


def test_checkpoints_without_a_config_bind_no_run(tmp_path):
  (tmp_path / "checkpoints" / "5").mkdir(parents=True)
  with pytest.raises(UserError, match=r"holds a training but no config.json"):
    bind_config(tmp_path, {"steps": 5})
  assert not (tmp_path / "config.json").exists()


def test_a_new_folder_is_bound_to_its_config(tmp_path):
  (tmp_path / "run").mkdir()
  bind_config(tmp_path / "run", {"steps": 5, "seed": 0})
  bind_config(tmp_path / "run", {"steps": 5, "seed": 0})
  (tmp_path / "run" / "checkpoints" / "5").mkdir(parents=True)
  with pytest.raises(UserError, match="seed: was 0, is 1"):
    bind_config(tmp_path / "run", {"steps": 5, "seed": 1})


def test_a_workdir_that_is_gone_is_not_made_anew(tmp_path):
  with pytest.raises(UserError, match="deleted or moved"):
    bind_config(tmp_path / "run", {"steps": 5})
  assert not (tmp_path / "run").exists()
