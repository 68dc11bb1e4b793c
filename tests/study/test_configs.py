"""The configs of studies: each makes the settings of every part."""

import pytest

from configs import study_cpu, study_drp, study_gpu, study_planted
from greedy_prune_jax.chains.question_sets import load_questions
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.study.plan import conditions, plan
from greedy_prune_jax.study.settings import StudySettings


@pytest.mark.parametrize("mode", ["", "smoke"])
@pytest.mark.parametrize("config", [study_cpu, study_gpu])
def test_every_part_has_settings(config, mode, tmp_path):
  settings = StudySettings.from_config(config.get_config(mode).to_dict())
  parts = plan(settings, tmp_path)
  names = [part.name for part in parts]
  assert len(set(names)) == len(names)
  for at, part in enumerate(parts):
    assert set(part.needs) <= set(names[:at])
  if mode == "":
    assert len(settings.seeds) >= 3
    assert set(settings.keep_ratios) == {0.9, 0.7, 0.5, 0.3}
    arms = {condition.arm for condition in conditions(settings)}
    assert {"no_pruning", "answer_only", "greedy_joint", "random", "gradient"} <= arms


@pytest.mark.parametrize("mode", ["", "pilot", "other", "smoke"])
def test_the_planted_study_begins_with_its_model(mode, tmp_path):
  settings = StudySettings.from_config(study_planted.get_config(mode).to_dict())
  parts = plan(settings, tmp_path)
  names = [part.name for part in parts]
  assert names[0] == "base"
  assert len(set(names)) == len(names)
  for at, part in enumerate(parts):
    assert set(part.needs) <= set(names[:at])
  exported = str(tmp_path / "base" / "export")
  for part in parts:
    if part.name.startswith("prune/"):
      assert ("base" in part.needs, part.config["pruner"]) == (True, exported)
    if part.name.startswith("students/"):
      other = part.name.startswith("students/other/")
      student = (False, "runs/planted_other/export") if other else (True, exported)
      assert ("base" in part.needs, part.config["distill"]["student"]) == student
      assert part.config["distill"]["init"] == ""
  if mode == "":
    assert len(settings.arms) >= 9
    assert len(settings.seeds) >= 10
    assert len(settings.keep_ratios) == 3
    assert settings.tests["new_sums"]["num_questions"] == 400


def test_students_of_another_model_share_the_planted_study(tmp_path):
  """Its parts but for those students; so nothing that has run there runs again, or is refused."""
  study, other = (
    {part.name: part.config for part in plan(StudySettings.from_config(config), tmp_path)}
    for config in (study_planted.get_config(mode).to_dict() for mode in ("", "other"))
  )
  new = {name for name in other if name.startswith("students/other/")}
  assert len(new) == 5 * (2 + 4 * 3)
  assert {name: other[name] for name in other.keys() - new} == {
    name: study[name] for name in other.keys() - new
  }


def test_a_seed_draws_everything_anew(tmp_path):
  """Chains, the order of random rankings, and the students' data, where chains are fresh."""
  config = study_planted.get_config("pilot").to_dict() | {"chains_seed": 7, "seeds": (0, 3)}
  parts = {p.name: p.config for p in plan(StudySettings.from_config(config), tmp_path)}
  assert [parts[f"chains/seed-{seed}"]["chains_seed"] for seed in (0, 3)] == [7, 10]
  for seed in (0, 3):
    pruned = parts[f"prune/random/seed-{seed}"]
    assert pruned["ranking_seed"] == seed
    assert pruned["chains"] == str(tmp_path / "chains" / f"seed-{seed}" / "chains.jsonl")
    student = parts[f"students/base/random/keep-0.5/seed-{seed}"]["distill"]
    assert student["chains"] == str(tmp_path / "prune" / "random" / f"seed-{seed}")
    assert student["seed"] == seed
    whole = parts[f"students/base/no_pruning/keep-1/seed-{seed}"]["distill"]
    assert whole["chains"] == pruned["chains"]


def test_students_of_the_first_keep_ratio_come_first_from_all_seeds(tmp_path):
  config = study_cpu.get_config().to_dict() | {"keep_ratios": (0.5, 0.9), "seeds": (0, 1)}
  settings = StudySettings.from_config(config)
  names = [part.name.split("/")[2:] for part in plan(settings, tmp_path) if "student" in part.name]
  keep, seeds = [name[1] for name in names], [name[2] for name in names]
  arms = len(settings.arms)
  assert set(keep[: 2 * (arms + 2)]) == {"keep-1", "keep-0", "keep-0.5"}
  assert set(keep[2 * (arms + 2) :]) == {"keep-0.9"}
  turns = [(0, arms + 2), (1, arms + 2), (0, arms), (1, arms)]
  assert seeds == [f"seed-{seed}" for seed, count in turns for _ in range(count)]
  # The table has them in another order.
  of_random = [
    condition.keep_ratio for condition in conditions(settings) if condition.arm == "random"
  ]
  assert of_random == [0.9, 0.5]


def test_in_which_order_students_come_binds_no_part(tmp_path):
  configs = []
  for ratios in ((0.5, 0.9), (0.9, 0.5)):
    config = study_cpu.get_config().to_dict() | {"keep_ratios": ratios, "seeds": (0,)}
    parts = plan(StudySettings.from_config(config), tmp_path)
    configs.append({part.name: part.config for part in parts})
  assert configs[0] == configs[1]


def test_a_study_without_keep_ratios_has_the_students_of_whole_chains(tmp_path):
  config = study_cpu.get_config().to_dict() | {"arms": {}, "keep_ratios": (), "seeds": (0, 1)}
  config |= {"ready": {"by_hand": "chains.jsonl"}, "reference": "by_hand"}
  parts = plan(StudySettings.from_config(config), tmp_path)
  arms = [part.name.split("/")[2] for part in parts if part.name.startswith("students/")]
  assert arms == ["no_pruning", "answer_only", "by_hand"] * 2


def test_students_have_the_same_budget():
  settings = StudySettings.from_config(study_cpu.get_config().to_dict())
  made = [
    settings.distill_config(settings.students["smollm2"], "chains", ratio, 1)
    for ratio in (1.0, 0.5)
  ]
  assert made[0] | {"keep_ratios": ()} == made[1] | {"keep_ratios": ()}


def test_an_arm_changes_settings_also_within_groups():
  config = study_cpu.get_config().to_dict()
  config["reference"] = "narrow"
  config["arms"] = {"narrow": {"search": "screened", "screen": {"window": 5}, "unit": "word"}}
  settings = StudySettings.from_config(config)
  made = settings.prune_config(settings.arms["narrow"], "chains")
  changed = {key for key in made if made[key] != config["prune"][key]}
  assert changed == {
    *("search", "screen", "unit"),
    *("chains", "keep_ratios", "show_chains"),
  }
  assert made["screen"] == config["prune"]["screen"] | {"window": 5}


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"arms": {"a": {"keep_ratios": (0.5,)}}}, "arms.a sets keep_ratios, which the study sets for"),
    ({"arms": {"no_pruning": {}}}, "an arm is called no_pruning, as another is"),
    ({"arms": {"a": {}}, "ready": {"a": "x"}}, "an arm is called a, as another is"),
    ({"arms": {"a b": {}}}, "'a b' names a folder; expected letters"),
    ({"arms": {"a": {"rankng": "random"}}}, "arms.a: the config has unknown keys: rankng"),
    ({"seeds": (0, 0)}, r"seeds=\(0, 0\); expected different whole numbers from 0 on"),
    ({"seeds": (-1,)}, r"seeds=\(-1,\); expected different whole numbers from 0 on"),
    ({"seeds": (True,)}, r"seeds=\(True,\) has True; expected a whole number for each"),
    ({"students": {}}, "students is empty; expected at least one"),
    ({"base": {"steps": -1}}, "base: steps=-1; expected 0 or more"),
    ({"base": {"student": "base"}}, "base.student=base; expected the model, or the tokenizer"),
    ({"reference": "best"}, "reference='best' is no arm; expected one of attention, gradient,"),
  ],
)
def test_settings_that_cannot_be_are_refused(change, message):
  with pytest.raises(UserError, match=message):
    StudySettings.from_config(study_cpu.get_config().to_dict() | change)


@pytest.mark.parametrize("study", [study_cpu, study_drp])
def test_held_out_templates_are_not_trained_on(study):
  config = study.get_config()
  trained = load_questions(config.chains, num_questions=30)
  held_out = load_questions(
    config.tests.held_out_templates.questions, split="test", num_questions=30
  )
  found = [{question.extra["template"] for question in asked} for asked in (trained, held_out)]
  assert len(found[0]) >= len(found[1]) > 1
  assert not found[0] & found[1]


@pytest.mark.parametrize("mode", ["", "smoke", "endpoint", "endpoint_smoke"])
def test_the_study_of_steps_has_a_teacher_where_it_is_asked_for(mode, tmp_path):
  config = study_drp.get_config(mode)
  config.drp.endpoint.model = "m"
  settings = StudySettings.from_config(config.to_dict())
  names = {part.name for part in plan(settings, tmp_path)}
  assert "prune/steps_answer" in names
  assert ("drp/drp" in names) == mode.startswith("endpoint")
  assert len(names) == len(plan(settings, tmp_path))
  if not mode.endswith("smoke"):
    assert settings.num_chains >= 50


@pytest.mark.parametrize(
  ("edited", "message"),
  [
    ({"a": {"stages": ("decompose",)}}, r"edited\.a: stages=\('decompose',\) make no chains"),
    ({"a": {"splitter": "me"}}, r"edited\.a: splitter='me'; expected one of"),
    ({"a": {"dry_run": True}}, r"edited\.a sets dry_run, which the study sets for all parts"),
    ({"greedy_joint": {}}, "an arm is called greedy_joint, as another is"),
  ],
)
def test_edited_arms_that_cannot_be_are_refused(edited, message):
  config = study_cpu.get_config().to_dict() | {"edited": edited}
  with pytest.raises(UserError, match=message):
    StudySettings.from_config(config)


def test_an_unknown_mode_is_refused():
  with pytest.raises(ValueError, match="mode='smok'; expected smoke or nothing"):
    study_cpu.get_config("smok")
