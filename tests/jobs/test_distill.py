"""The distill job as a program: its flags, its death, its second life."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.jobs.tiny_runs import make_model, write_chains


@pytest.fixture
def start(tmp_path):
  make_model(tmp_path / "model")
  write_chains(tmp_path / "chains.jsonl")

  def start(*argv, workdir="run", **settings):
    defaults = {
      "student": tmp_path / "model",
      "chains": tmp_path / "chains.jsonl",
      "keep_ratios": "(1.0,)",
      "batch_size": 2,
      "epochs": 0.0,
      "steps": 200,
      "save_every": 1000,
      "mesh.data": 1,
    }
    flags = [f"--config.{name}={value}" for name, value in (defaults | settings).items()]
    command = [sys.executable, "-m", "greedy_prune_jax.jobs.distill"]
    command += ["--config=configs/distill.py", f"--workdir={tmp_path / workdir}", *flags, *argv]
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    return subprocess.Popen(
      command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )

  return start


def wait_for_lines(job, path, count):
  while job.poll() is None and not (path.exists() and path.read_bytes().count(b"\n") >= count):
    time.sleep(0.01)


def test_sigterm_saves_and_the_same_command_goes_on(start, tmp_path):
  job, metrics = start(), tmp_path / "run" / "metrics.jsonl"
  wait_for_lines(job, metrics, 1)
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


def losses(workdir):
  lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  return [(line["step"], line["loss"]) for line in lines]


def test_a_killed_run_goes_on_with_the_same_losses_to_the_last_digit(start, tmp_path):
  settings = {"steps": 120, "save_every": 10, "export": "none", "learning_rate": 1e-3}
  job = start(workdir="killed", **settings)
  wait_for_lines(job, tmp_path / "killed" / "metrics.jsonl", 45)
  job.kill()
  job.communicate()
  assert job.returncode == -signal.SIGKILL
  done = len((tmp_path / "killed" / "metrics.jsonl").read_bytes().splitlines())
  assert 45 <= done < 120

  for workdir in ("killed", "whole"):
    job = start(workdir=workdir, **settings)
    _, err = job.communicate()
    assert job.returncode == 0, err
  found = losses(tmp_path / "killed")
  assert found == losses(tmp_path / "whole")
  assert [step for step, _ in found] == list(range(1, 121))


def test_settings_that_cannot_be(start):
  job = start(keep_ratios="(1.5,)")
  _, err = job.communicate()
  assert job.returncode == 1
  assert err.endswith("a keep ratio is a number from 0 (answer only) to 1 (all of the reasoning)\n")
  assert "Traceback" not in err


def test_a_mesh_that_cannot_share_the_student(start):
  job = start(**{"mesh.model": 4})
  _, err = job.communicate()
  assert job.returncode == 1
  assert "cannot be split evenly over the mesh axis model of size 4; set mesh.model to a" in err
  assert "Traceback" not in err


def test_several_processes_are_refused(start):
  with socket.socket() as free:  # closed at once: its port is free again
    free.bind(("localhost", 0))
    coordinator = f"localhost:{free.getsockname()[1]}"
  flags = ("--distributed", f"--coordinator={coordinator}", "--num_processes=2")
  jobs = [start(*flags, f"--process_id={i}") for i in range(2)]
  told = [job.communicate()[1] for job in jobs]
  assert [job.returncode for job in jobs] == [1, 1]
  for text in told:
    assert "error: distill runs in one process, on a mesh of that process's devices; this" in text
