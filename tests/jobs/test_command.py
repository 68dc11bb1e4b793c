"""The console command, configs by name, and the wheel that carries them."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from greedy_prune_jax.jobs import command
from tests.helpers import processes
from tests.jobs.test_bad_input import error_of

ROOT = Path(__file__).parents[2]
CONFIGS = {path.stem for path in ROOT.glob("configs/*.py")}


def test_all_configs_and_jobs_have_names():
  assert set(command.config_names()) == CONFIGS
  jobs = {path.stem for path in ROOT.glob("greedy_prune_jax/jobs/*.py")}
  assert set(command.job_names()) == jobs - {"__init__", "command", "entry", "startup"}


@pytest.mark.parametrize(
  ("value", "found"),
  [
    ("prune", "prune.py"),
    ("study_cpu:smoke", "study_cpu.py:smoke"),
    ("configs/prune.py", None),
    ("prnue", None),
    ("", None),
  ],
)
def test_the_value_of_the_config_flag(value, found, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  expected = value if found is None else f"{ROOT / 'greedy_prune_jax' / 'configs' / found}"
  assert command.find_config(value) == expected
  (tmp_path / "prune").mkdir()  # the workdir of the same command before
  assert command.find_config("prune") == f"{ROOT / 'greedy_prune_jax' / 'configs' / 'prune.py'}"
  (tmp_path / "prune").rmdir()
  (tmp_path / "prune").touch()  # a user's own file
  assert command.find_config("prune") == "prune"


@pytest.mark.slow
@pytest.mark.parametrize("argv", [["--config=prune"], ["--config", "prune"], ["-config=prune"]])
def test_a_job_takes_a_config_by_name(shared, tmp_path, argv):
  settings = {"pruner": shared / "model", "chains": shared / "chains.jsonl", "dry_run": True}
  flags = [f"--config.{name}={value}" for name, value in settings.items()]
  job = processes.start(tmp_path / "job", *argv, *flags, f"--workdir={tmp_path / 'run'}")
  assert job.wait() == 0, job.stderr
  assert "cost estimate (dry run)" in job.stdout


def test_an_unknown_name_of_a_config(start):
  message = error_of(start(config="prnue", bare=True))
  assert message.startswith("cannot read --config=prnue; expected a Python file that defines")
  assert ", prune, " in message


def _command(*argv):
  code = "from greedy_prune_jax.jobs.command import main; main()"
  return subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True)


def test_the_command_without_a_job_tells_its_form():
  for argv in ([], ["prnue", "--config=prune"]):
    job = _command(*argv)
    assert job.returncode == 1
    assert job.stderr.startswith("usage: greedy-prune JOB --config=NAME_OR_FILE --workdir=DIR")
    assert "jobs: analyze, distill, drp," in job.stderr
  assert _command("--help").stdout == job.stderr


@pytest.mark.slow
def test_the_command_runs_a_job(shared, tmp_path):
  job = _command(
    *("prune", "--config=prune", f"--workdir={tmp_path / 'run'}", "--config.dry_run=True"),
    *(f"--config.pruner={shared / 'model'}", f"--config.chains={shared / 'chains.jsonl'}"),
    "--config.plan.peak_flops=1e12",
  )
  assert job.returncode == 0, job.stderr
  assert "cost estimate (dry run)\n            chains  3" in job.stdout


@pytest.mark.slow
def test_a_wheel_carries_configs_templates_and_prompts(tmp_path):
  pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
  subprocess.run([*pip, "-w", tmp_path, ROOT], check=True)
  (wheel,) = tmp_path.glob("*.whl")
  with zipfile.ZipFile(wheel) as archive:
    names = set(archive.namelist())
    (entry_points,) = (name for name in names if name.endswith("/entry_points.txt"))
    assert b"greedy-prune = greedy_prune_jax.jobs.command:main" in archive.read(entry_points)
  package = ROOT / "greedy_prune_jax"
  data = [*package.glob("analysis/templates/*"), *package.glob("drp/prompts/*")]
  expected = {str(path.relative_to(ROOT)) for path in data}
  expected |= {f"greedy_prune_jax/configs/{name}.py" for name in CONFIGS}
  assert len(expected) > len(CONFIGS) + 5
  assert expected <= names
  assert not {name.split("/")[0] for name in names} & {"configs", "tests", "benchmarks"}
