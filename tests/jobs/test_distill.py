"""The distill job as a program: its flags, its death, its second life."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.jobs.tiny_runs import make_model, write_chains


@pytest.fixture
def start(tmp_path):
  make_model(tmp_path / "model")
  write_chains(tmp_path / "chains.jsonl")

  def start(**settings):
    defaults = {
      "student": tmp_path / "model",
      "chains": tmp_path / "chains.jsonl",
      "keep_ratios": "(1.0,)",
      "batch_size": 2,
      "epochs": 0.0,
      "steps": 200,
      "save_every": 1000,
    }
    flags = [f"--config.{name}={value}" for name, value in (defaults | settings).items()]
    command = [sys.executable, "-m", "greedy_prune_jax.jobs.distill"]
    command += ["--config=configs/distill.py", f"--workdir={tmp_path / 'run'}", *flags]
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    return subprocess.Popen(
      command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )

  return start


def test_sigterm_saves_and_the_same_command_goes_on(start, tmp_path):
  job, metrics = start(), tmp_path / "run" / "metrics.jsonl"
  while job.poll() is None and not (metrics.exists() and metrics.stat().st_size):
    time.sleep(0.01)
  job.send_signal(signal.SIGTERM)
  out, err = job.communicate()
  assert job.returncode == 128 + signal.SIGTERM, err
  assert "stopped and saved; the same command goes on from here" in out
  assert not (tmp_path / "run" / "export").exists()
  done = len(metrics.read_text().splitlines())
  assert 0 < done < 200

  job = start()
  out, err = job.communicate()
  assert job.returncode == 0, err
  assert "step 200 of 200" in out
  assert len(metrics.read_text().splitlines()) == 200
  assert (tmp_path / "run" / "export" / "model.safetensors").exists()


def test_settings_that_cannot_be(start):
  job = start(keep_ratios="(1.5,)")
  _, err = job.communicate()
  assert job.returncode == 1
  assert err.endswith("a keep ratio is a number from 0 (answer only) to 1 (all of the reasoning)\n")
  assert "Traceback" not in err
