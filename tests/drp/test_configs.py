"""The baselines of DRP as configs: each makes its job's settings."""

import pytest

from configs import drp, drp_direct, drp_steps, drp_student, drp_token_budget
from greedy_prune_jax.distill.settings import DistillSettings
from greedy_prune_jax.drp.settings import DrpSettings
from greedy_prune_jax.pruning.settings import PruneSettings
from greedy_prune_jax.sample.settings import SampleSettings


def test_each_makes_settings():
  DrpSettings.from_config(drp.get_config().to_dict())
  assert PruneSettings.from_config(drp_steps.get_config().to_dict()).unit == "skill_step"
  config = drp_direct.get_config()
  config.endpoint.model = "m"
  assert SampleSettings.from_config(config.to_dict()).teacher_name == "m"
  budget = SampleSettings.from_config(drp_token_budget.get_config("60").to_dict())
  assert "less than 60 tokens" in budget.instruction


@pytest.mark.parametrize("arm", drp_student.ARMS)
def test_students_differ_by_their_chains_alone(arm):
  config = drp_student.get_config(arm).to_dict()
  DistillSettings.from_config(config)
  common = {key: value for key, value in config.items() if key not in ("chains", "keep_ratios")}
  assert common.items() <= drp_student.get_config().to_dict().items()
  assert config["keep_ratios"] == {"steps": (0.5,), "answer_only": (0.0,)}.get(arm, (1.0,))


def test_an_unknown_arm_is_refused():
  with pytest.raises(ValueError, match="no arm 'dpr'; expected one of drp, steps, direct"):
    drp_student.get_config("dpr")
