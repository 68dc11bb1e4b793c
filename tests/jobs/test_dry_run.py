"""The cost that a run is said to have, beside what the run then counts."""

import re
import shutil

import pytest

from tests.helpers.tiny_runs import records
from tests.jobs.test_bad_input import error_of


@pytest.fixture
def dry(run):
  """Output of a dry run."""
  return lambda **settings: run(dry_run=True, **settings).stdout


def _number(output, name):
  return float(re.search(rf"^ *{name} +([\d.,e+-]+)", output, re.MULTILINE)[1].replace(",", ""))


@pytest.mark.slow
@pytest.mark.parametrize(
  "settings",
  [
    {"keep_ratios": 0.3},
    {"objective": "answer", "keep_ratios": 0},
    {"deletions_per_step": 2, "keep_ratios": 0.3},
    {"unit": "word", "keep_ratios": 0.3},
    {"search": "screened", "keep_ratios": 0.3},
    {"search": "screened", "objective": "answer", "keep_ratios": 0.3},
    {"search": "runs", "keep_ratios": (0.7, 0.3)},
    {"search": "runs", "unit": "word", "keep_ratios": (0.7, 0.3)},
    {"unit": "sentence", "keep_ratios": 0.3},
    *({"ranking": name, "keep_ratios": 0.3} for name in ("random", "surprisal", "gradient")),
    {"ranking": "attention", "unit": "word", "keep_ratios": 0.2},
    {"ranking": "random", "deletions_per_step": 9, "keep_ratios": (0.7, 0.3)},
  ],
)
def test_the_positions_are_those_of_the_run(dry, run, tmp_path, settings):
  settings = {"plan.peak_flops": 1e12, "show_chains": 0} | settings
  expected = _number(dry(**settings), "positions")
  assert not (tmp_path / "run").exists()
  run(**settings)
  counted = sum(record["positions_scored"] for record in records(tmp_path / "run").values())
  # What a search runs depends on where deletions fall, which is not known before.
  if settings.get("search") == "screened":
    # Candidates in doubt depend on the model. Short chains have fewer than a race may take.
    assert counted / 2 < expected < 2 * counted
  else:
    assert expected == pytest.approx(counted, rel=0.1 if "ranking" in settings else 0.35)
  if "ranking" in settings and not {"unit", "deletions_per_step"} & settings.keys():
    assert expected == counted


@pytest.mark.slow
def test_no_weights_are_loaded_and_nothing_is_written(dry, shared, tmp_path):
  shutil.copytree(shared / "model", tmp_path / "model")
  (tmp_path / "model" / "model.safetensors").unlink()
  output = dry(pruner=tmp_path / "model", num_chains=2)
  assert "measured now, with float32 matrix products" in output
  assert "device-hours" not in output
  assert re.search(r"chains  2, with \d+ to \d+ reasoning tokens", output)
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_time_follows_from_devices_and_utilisation(dry):
  settings = {"dtype": "bfloat16", "plan.device": "h100", "num_chains": 3}
  one = dry(**settings)
  flops = _number(one, "FLOPs")
  hours = flops / (0.4 * 989e12) / 3600
  assert _number(one, "device-hours") == pytest.approx(hours, rel=0.01)
  assert "at 40% of the peak" in one
  assert "of 80 GB: 0.00 GB weights" in one
  assert _number(dry(**settings, **{"plan.utilisation": 0.2}), "device-hours") == pytest.approx(
    2 * hours, rel=0.01
  )
  # Three chains leave 61 of 64 devices idle: the longest chain decides, and all are paid for.
  many = dry(**settings, **{"plan.num_devices": 64})
  assert _number(many, "device-hours") > 20 * hours
  assert "64 x h100 (64 side by side, 1 share the weights)" in many


@pytest.mark.slow
@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"plan.device": "h900"}, "plan.device='h900'; expected one of , h100, "),
    ({"plan.utilisation": 1.5}, "plan.utilisation=1.5; expected a share of the peak"),
    ({"plan.num_devices": -1}, "num_devices=-1; expected 0 or more"),
    ({"plan.device": "h100"}, "dtype=float32: the peak that is known of h100 is of bfloat16"),
    ({"plan.num_devices": 3, "mesh.model": 2}, "times mesh.model=2 does not divide 3 devices"),
    ({"plan.num_devices": 7, "mesh.model": 7}, "cannot be split evenly over the mesh axis model"),
  ],
)
def test_what_cannot_be_estimated(start, settings, message):
  assert message in error_of(start(dry_run=True, **settings))


@pytest.mark.slow
@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"ranking": "attention", "attention_layers": "(99,)"}, "attention_layers=(99,) has 99"),
    ({"ranking": "answer_attention", "attention_heads": "(9,)"}, "attention_heads=(9,) has 9"),
    ({"ranking": "other_run", "other_run": "/nope"}, "/nope holds no pruned chains"),
    (
      {"ranking": "attention_regression", "attention_regression": "/nope"},
      "cannot read the attention regression /nope",
    ),
  ],
)
def test_what_a_run_refuses_at_once_a_dry_run_refuses_too(
  start, shared, tmp_path, settings, message
):
  shutil.copytree(shared / "model", tmp_path / "model")
  (tmp_path / "model" / "model.safetensors").unlink()
  settings = {"pruner": tmp_path / "model", "plan.peak_flops": 1e12, **settings}
  for dry_run in (True, False):  # neither loads weights first
    assert message in error_of(start(dry_run=dry_run, num_devices=2, **settings))
