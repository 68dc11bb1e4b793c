"""The script for a lent device: its smoke form, what it does about failures, what it imports."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import on_device, on_device_rows

ROOT = Path(__file__).parents[2]
# Of our dependencies, those that the image of the lent machines does not have.
NOT_THERE = ("datasets", "gguf", "grain", "ml_collections", "tensorboardX")


@pytest.mark.slow
def test_the_smoke_form_measures_every_row(tmp_path):
  env = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
  command = ["bash", str(ROOT / "benchmarks/on_device.sh"), str(tmp_path / "out"), "--smoke"]
  done = subprocess.run(command, env=env, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  found = json.loads((tmp_path / "out" / "results.json").read_text())
  names = [row.name for make in on_device.SMOKE.values() for row in make()]
  assert [row["row"] for row in found] == names
  assert [row for row in found if not row["ok"]] == []


def test_a_row_that_fails_is_recorded_and_the_rest_go_on(tmp_path):
  def fail():
    raise RuntimeError("out of memory")

  groups = {
    "g": lambda: [on_device.Row("bad", fail), on_device.Row("good", lambda: {"seconds": 2.0})]
  }
  on_device.run_group("g", groups, tmp_path)
  bad, good = on_device.read_rows(tmp_path)
  assert (bad["ok"], bad["error"]) == (False, "RuntimeError: out of memory")
  assert good["seconds"] == 2.0
  on_device.write_report(tmp_path)
  lines = (tmp_path / "table.txt").read_text().splitlines()
  assert "FAILED" in lines[1]
  assert "seconds=2" in lines[2]


def test_a_group_that_cannot_begin_is_recorded(tmp_path):
  on_device.run_groups(on_device.SMOKE, ["score:tiny"], tmp_path, deadline=0.0)
  [row] = on_device.read_rows(tmp_path)
  assert not row["ok"]
  assert "the time was over" in row["error"]


def test_what_differs_from_the_cpu_fails(monkeypatch):
  stored = json.loads(on_device_rows.EXPECTED.read_text())["exact joint"]
  swapped = stored | {"order": [*stored["order"][1::-1], *stored["order"][2:]]}
  for wrong in (swapped, stored | {"numbers": [x + 1e-3 for x in stored["numbers"]]}):
    monkeypatch.setitem(on_device_rows.CHECKS, "exact joint", (lambda wrong=wrong: wrong, 2e-5))
    with pytest.raises(AssertionError, match="differ"):
      on_device_rows.check("exact joint")


@pytest.mark.slow
def test_it_needs_nothing_that_the_lent_machines_lack():
  code = f"""
import sys
class Missing:
  def find_spec(self, name, path=None, target=None):
    if name.split(".")[0] in {NOT_THERE}:
      raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
import benchmarks.on_device, benchmarks.published
"""
  done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
