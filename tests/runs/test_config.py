import importlib
import json
import math
import subprocess

import pytest

from greedy_prune_jax.chains.question_sets import NUM_GENERATED
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.config import write_or_check_config

CONFIG = {"pruner": "tiny", "keep_ratios": (0.9, 0.5), "log": {"every": 10, "where": None}}


def changed(**log):
  return CONFIG | {"log": CONFIG["log"] | log}


def test_config_is_written_and_the_same_one_accepted(tmp_path):
  path = tmp_path / "config.json"
  write_or_check_config(path, CONFIG)
  written = path.read_bytes()
  assert json.loads(written) == CONFIG | {"keep_ratios": [0.9, 0.5]}
  write_or_check_config(path, CONFIG | {"keep_ratios": [0.9, 0.5]})
  assert path.read_bytes() == written
  assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_every_key_that_differs_is_named_with_both_values(tmp_path):
  path = tmp_path / "config.json"
  write_or_check_config(path, CONFIG)
  new = changed(where="x") | {"keep_ratios": (0.9,), "extra": True}
  del new["pruner"]
  with pytest.raises(UserError) as error:
    write_or_check_config(path, new, may_change={"log.every"})
  assert str(error.value).splitlines()[1:-1] == [
    '  pruner: was "tiny", is (absent)',
    "  keep_ratios: was [0.9, 0.5], is [0.9]",
    '  log.where: was null, is "x"',
    "  extra: was (absent), is true",
  ]
  assert json.loads(path.read_bytes())["pruner"] == "tiny"


def test_true_is_not_1(tmp_path):
  path = tmp_path / "config.json"
  write_or_check_config(path, {"flag": 1})
  with pytest.raises(UserError, match="flag: was 1, is true"):
    write_or_check_config(path, {"flag": True})


def test_keys_that_may_change_are_updated(tmp_path):
  path = tmp_path / "config.json"
  write_or_check_config(path, CONFIG)
  write_or_check_config(path, changed(every=5), may_change={"log.every"})
  assert json.loads(path.read_bytes())["log"]["every"] == 5
  with pytest.raises(UserError, match=r"log.every: was 5, is 10"):
    write_or_check_config(path, CONFIG)


@pytest.mark.parametrize(("was", "now"), [(2, 3), (9, 10), (2, 0)])
def test_numbers_of_inputs_may_grow(tmp_path, was, now):
  path = tmp_path / "config.json"
  write_or_check_config(path, {"num_chains": was})
  write_or_check_config(path, {"num_chains": now}, may_grow={"num_chains": math.inf})
  assert json.loads(path.read_bytes()) == {"num_chains": now}


@pytest.mark.parametrize(("was", "now"), [(3, 2), (10, 9), (0, 2)])
def test_numbers_of_inputs_may_not_shrink(tmp_path, was, now):
  path = tmp_path / "config.json"
  write_or_check_config(path, {"num_chains": was})
  with pytest.raises(
    UserError, match=rf"num_chains: was {was}, is {now} \(it may only grow; 0: all\)"
  ):
    write_or_check_config(path, {"num_chains": now}, may_grow={"num_chains": math.inf})


@pytest.mark.parametrize(("was", "now"), [(0, 8), (0, 4), (4, 0), (3, 0)])
def test_of_a_set_without_end_0_stands_for_a_number(tmp_path, was, now):
  path = tmp_path / "config.json"
  write_or_check_config(path, {"num_chains": was})
  write_or_check_config(path, {"num_chains": now}, may_grow={"num_chains": 4})
  assert json.loads(path.read_bytes()) == {"num_chains": now}
  for smaller in (2, 0):
    write_or_check_config(path, {"num_chains": 6}, may_grow={"num_chains": math.inf}, begun=False)
    message = rf"num_chains: was 6, is {smaller} \(it may only grow; 0: 4\)"
    with pytest.raises(UserError, match=message):
      write_or_check_config(path, {"num_chains": smaller}, may_grow={"num_chains": 4})


@pytest.mark.parametrize(
  ("module", "key", "source"),
  [
    ("prune", "num_chains", "chains"),
    ("drp", "num_chains", "chains"),
    ("sample", "num_questions", "questions"),
    ("evaluate", "num_questions", "questions"),
  ],
)
def test_jobs_know_what_0_stands_for(module, key, source):
  config = importlib.import_module(f"configs.{module}").get_config().to_dict()
  config |= {"models": ("m",)} if module == "evaluate" else {}
  package = {"prune": "pruning", "evaluate": "evaluation"}.get(module, module)
  settings = importlib.import_module(f"greedy_prune_jax.{package}.settings")
  settings = getattr(settings, f"{module.capitalize()}Settings")
  for name, number in (("gsm_symbolic@3", NUM_GENERATED), ("gsm8k", math.inf)):
    assert settings.from_config(config | {source: name}).may_grow == {key: number}


@pytest.mark.parametrize("was", [{}, {"num_chains": None}, {"num_chains": "2"}])
def test_what_was_no_number_has_not_grown(tmp_path, was):
  path = tmp_path / "config.json"
  write_or_check_config(path, was)
  with pytest.raises(UserError, match=r"num_chains: was .*, is 3 "):
    write_or_check_config(path, {"num_chains": 3}, may_grow={"num_chains": math.inf})


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_config_that_is_none_is_named(tmp_path, content):
  path = tmp_path / "config.json"
  path.write_text(content)
  with pytest.raises(UserError, match=r"config.json"):
    write_or_check_config(path, CONFIG)


def test_a_place_that_was_moved_gets_a_link(tmp_path):
  old, new = tmp_path / "old place" / "model", tmp_path / "model"
  new.mkdir()
  path = tmp_path / "config.json"
  write_or_check_config(path, {"pruner": str(old), "objective": "joint", "say": "x"})
  with pytest.raises(UserError) as error:
    write_or_check_config(path, {"pruner": str(new), "objective": "answer", "say": "/" + 300 * "y"})
  *_, advice, line = str(error.value).splitlines()
  assert advice == "Go on with the old values, or choose another workdir."
  start, command = line.split(" the old value: ")
  assert start == f"If {new} is what was at {old}, a link there lets the run go on with"
  subprocess.run(["bash", "-c", command], check=True)
  assert old.resolve() == new
  with pytest.raises(UserError) as error:
    write_or_check_config(path, {"pruner": str(new), "objective": "joint"})
  assert "a link there" not in str(error.value), "both are there, and may differ"
