"""The distill job as a program: its flags, its death, its second life."""

import json
import signal
import socket
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.helpers.tiny_runs import CHAINS, make_model, write_chains


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
  """A folder with a tiny model and chains."""
  folder = tmp_path_factory.mktemp("inputs")
  make_model(folder / "model", vocab_size=350)  # even, for meshes
  chains = [chain | {"question": f"Of {chain['id']}: how many?"} for chain in CHAINS]
  write_chains(folder / "chains.jsonl", chains)
  return folder


@pytest.fixture
def start(start, inputs):
  def start_distill(*argv, **settings):
    defaults = {
      "student": inputs / "model",
      "chains": inputs / "chains.jsonl",
      "keep_ratios": "(1.0,)",
      "batch_size": 2,
      "epochs": 0.0,
      "steps": 120,
      "save_every": 1000,
      "mesh.data": 1,
    }
    return start(*argv, job="distill", **(defaults | settings))

  return start_distill


def wait_for_lines(job, path, count):
  while job.process.is_alive() and not (path.exists() and path.read_bytes().count(b"\n") >= count):
    time.sleep(0.01)


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_goes_on(start, tmp_path):
  job, metrics = start(), tmp_path / "run" / "metrics.jsonl"
  wait_for_lines(job, metrics, 1)
  job.kill(signal.SIGTERM)
  assert job.wait() == 128 + signal.SIGTERM, job.stderr
  assert "stopped and saved; the same command goes on from here" in job.stdout
  assert not (tmp_path / "run" / "export").exists()
  done = len(metrics.read_text().splitlines())
  assert 0 < done < 120

  job = start()
  assert job.wait() == 0, job.stderr
  assert "step 120 of 120" in job.stdout
  assert len(metrics.read_text().splitlines()) == 120
  assert (tmp_path / "run" / "export" / "model.safetensors").exists()


def lines(workdir):
  return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def losses(workdir):
  return [(line["step"], line["loss"]) for line in lines(workdir)]


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_losses_to_the_last_digit(start, tmp_path):
  settings = {"steps": 120, "save_every": 10, "export": "none", "learning_rate": 1e-3}
  job = start(workdir="killed", **settings)
  wait_for_lines(job, tmp_path / "killed" / "metrics.jsonl", 45)
  job.kill()
  assert job.wait() == -signal.SIGKILL
  done = len((tmp_path / "killed" / "metrics.jsonl").read_bytes().splitlines())
  assert 45 <= done < 120

  for workdir in ("killed", "whole"):
    job = start(workdir=workdir, **settings)
    assert job.wait() == 0, job.stderr
  found = losses(tmp_path / "killed")
  assert found == losses(tmp_path / "whole")
  assert [step for step, _ in found] == list(range(1, 121))


@pytest.mark.slow
def test_settings_that_cannot_be(start):
  job = start(keep_ratios="(1.5,)")
  assert job.wait() == 1
  assert job.stderr.endswith(
    "a keep ratio is a number from 0 (answer only) to 1 (all of the reasoning)\n"
  )
  assert "Traceback" not in job.stderr


@pytest.mark.slow
def test_a_mesh_that_cannot_share_the_student(start):
  job = start(num_devices=4, **{"mesh.model": 4})
  assert job.wait() == 1
  assert (
    "cannot be split evenly over the mesh axis model of size 4; set mesh.model to a" in job.stderr
  )
  assert "Traceback" not in job.stderr


@pytest.fixture
def start_two(start):
  """Starts one run as two processes of two devices each, as on two hosts.

  JAX takes each host with GPUs for a slice of its own, and lays out no mesh over several by itself.
  """

  def start_two(**settings):
    with socket.socket() as free:  # closed at once: its port is free again
      free.bind(("localhost", 0))
      coordinator = f"localhost:{free.getsockname()[1]}"
    flags = ("--distributed", f"--coordinator={coordinator}", "--num_processes=2")
    return [
      start(
        *(*flags, f"--process_id={i}"),
        num_devices=2,
        env={"JAX_PARTITION_INDEX": str(i)},
        **{"mesh.data": 0} | settings,
      )
      for i in range(2)
    ]

  return start_two


@pytest.mark.slow
@pytest.mark.parametrize(
  "settings",
  [
    {"fully_sharded": True, "export": "best"},
    {"mesh.model": 2, "lora_rank": 2},
    {"mesh.model": 2, "fully_sharded": True, "num_parts": 2, "optimizer": "adafactor"},
  ],
)
def test_two_processes_train_one_student(start, start_two, tmp_path, settings):
  common = {"steps": 6, "save_every": 3, "num_validation": 1, "learning_rate": 1e-2} | settings
  jobs = start_two(workdir="two", **common)
  assert [job.wait() for job in jobs] == [0, 0], [job.stderr for job in jobs]
  assert "step 6 of 6" in jobs[0].stdout
  assert "step" not in jobs[1].stdout, "one of them speaks for both"
  one = {"mesh.model": 1, "fully_sharded": False}
  job = start(workdir="one", **common | one)
  assert job.wait() == 0, job.stderr

  found, expected = (lines(tmp_path / name) for name in ("two", "one"))
  assert [line["step"] for line in found] == [line["step"] for line in expected]
  for name in ("loss", "grad_norm", "validation_loss"):
    pair = [[line[name] for line in run if name in line] for run in (found, expected)]
    np.testing.assert_allclose(*pair, rtol=2e-4)
  weights = [load_file(tmp_path / name / "export/model.safetensors") for name in ("two", "one")]
  assert set(weights[0]) == set(weights[1])
  for name, weight in weights[0].items():
    np.testing.assert_allclose(weight, weights[1][name], atol=2e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("told", [0, 1])
def test_sigterm_to_one_process_saves_all_and_a_run_of_one_goes_on(
  start, start_two, tmp_path, told
):
  jobs, metrics = start_two(fully_sharded=True), tmp_path / "run" / "metrics.jsonl"
  wait_for_lines(jobs[0], metrics, 1)
  jobs[told].kill(signal.SIGTERM)
  ends = [job.wait() for job in jobs]
  assert ends == [128 + signal.SIGTERM] * 2, [job.stderr for job in jobs]
  assert "stopped and saved; the same command goes on from here" in jobs[0].stdout
  done = len(metrics.read_text().splitlines())
  assert 0 < done < 120
  assert [int(x.name) for x in (tmp_path / "run/checkpoints").iterdir()] == [done]

  job = start()
  assert job.wait() == 0, job.stderr
  assert "step 120 of 120" in job.stdout
  assert [step for step, _ in losses(tmp_path / "run")] == list(range(1, 121))


@pytest.mark.slow
def test_what_one_process_refuses_ends_both(start, start_two):
  job = start(steps=1)
  assert job.wait() == 0, job.stderr
  jobs = start_two(steps=2)
  ends = [job.wait() for job in jobs]
  assert ends[0] == 1
  assert "steps: was 1, is 2" in jobs[0].stderr
  assert ends[1] != 0


@pytest.mark.slow
def test_two_processes_must_use_all_devices(start_two):
  jobs = start_two(**{"mesh.data": 2})
  assert [job.wait() for job in jobs] == [1, 1]
  message = "mesh.data=2, mesh.model=1 takes 2 of 4 devices; where several processes train"
  for job in jobs:
    assert message in job.stderr
