"""Real processes that share a run, on loopback: what each does, and what a death leaves behind."""

import json
import re
import signal
import socket
import time

import pytest

from tests.helpers.tiny_runs import CHAINS, assert_same_records, records, write_chains

NUM_CHAINS = 5
KEEP = 0.5


@pytest.fixture(scope="module")
def chains(tmp_path_factory):
  lines = [CHAINS[i % 3] | {"id": f"{i}"} for i in range(NUM_CHAINS)]
  return write_chains(tmp_path_factory.mktemp("chains") / "chains.jsonl", lines)


@pytest.fixture
def start_all(start, chains):
  """Starts one run as several processes; settings are those of `start`."""

  def start_all(num_processes, **settings):
    with socket.socket() as free:  # closed at once: its port is free again
      free.bind(("localhost", 0))
      coordinator = f"localhost:{free.getsockname()[1]}"
    return [
      start(
        "--distributed",
        f"--coordinator={coordinator}",
        f"--num_processes={num_processes}",
        f"--process_id={i}",
        **{"chains": chains, "keep_ratios": KEEP, "show_chains": 0, "batch_size": 1} | settings,
      )
      for i in range(num_processes)
    ]

  return start_all


@pytest.fixture(scope="module")
def whole_run():
  return {}


@pytest.fixture
def whole(whole_run, run, chains, tmp_path):
  """Records of a run of one process."""
  if not whole_run:
    run(chains=chains, keep_ratios=KEEP, show_chains=0, workdir="whole")
    whole_run.update(records(tmp_path / "whole"))
  return whole_run


def _ids(path):
  return [json.loads(line)["id"] for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_each_process_prunes_its_share(start_all, whole, tmp_path):
  jobs = start_all(2, show_chains=1)
  for job in jobs:
    assert job.wait() == 0, job.stderr
  pruned = tmp_path / "run" / "pruned"
  assert _ids(pruned / "process-00000.jsonl") == ["0", "2", "4"]
  assert _ids(pruned / "process-00001.jsonl") == ["1", "3"]
  found = records(tmp_path / "run")
  assert found.keys() == whole.keys()
  assert_same_records(found, whole)
  assert not (tmp_path / "run" / "unfinished").exists()
  # One of them shows what all have found.
  assert "mean NLL of 5 chains" in jobs[0].stdout
  assert jobs[1].stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_one_is_killed_and_another_run_of_one_process_goes_on(
  start_all, run, whole, chains, tmp_path, victim
):
  jobs = start_all(2)
  own = f"process-{victim:05d}.jsonl"
  files = [tmp_path / "run" / folder / own for folder in ("pruned", "unfinished")]
  while not all(file.exists() and file.stat().st_size for file in files):
    assert jobs[victim].process.is_alive(), jobs[victim].stderr
    time.sleep(0.005)
  jobs[victim].kill()
  assert jobs[victim].wait() == -signal.SIGKILL
  if victim == 0:  # the others cannot do without the coordinator
    assert jobs[1].wait() != 0
  else:  # the other learns of it only after some heartbeats
    jobs[0].kill(signal.SIGTERM)
    assert jobs[0].wait() == 128 + signal.SIGTERM
  found = records(tmp_path / "run")
  assert 0 < len(found) < NUM_CHAINS
  run(chains=chains, keep_ratios=KEEP, show_chains=0, batch_size=1)
  found = records(tmp_path / "run")
  assert found.keys() == whole.keys()
  assert_same_records(found, whole)
  assert not (tmp_path / "run" / "unfinished").exists()


@pytest.mark.slow
def test_a_run_of_one_process_goes_on_as_three(start_all, start, whole, chains, tmp_path):
  job = start(chains=chains, keep_ratios=KEEP, show_chains=0, batch_size=1)
  finished = tmp_path / "run" / "pruned" / "process-00000.jsonl"
  while not (finished.exists() and finished.stat().st_size):
    assert job.process.is_alive(), job.stderr
    time.sleep(0.005)
  job.kill()
  job.wait()
  for job in start_all(3):
    assert job.wait() == 0, job.stderr
  found = records(tmp_path / "run")
  assert found.keys() == whole.keys()
  assert_same_records(found, whole)


@pytest.mark.slow
def test_what_one_process_refuses_ends_all(start_all, run, chains, tmp_path):
  run(chains=chains, keep_ratios=0.6, show_chains=0, batch_size=1)
  jobs = start_all(2)
  assert jobs[0].wait() == 1
  assert "error: " in jobs[0].stderr
  assert f"keep_ratios: was [0.6], is [{KEEP}]" in jobs[0].stderr
  assert jobs[1].wait() != 0


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (
      ["--distributed"],
      "error: this process cannot join the others: .*Outside of SLURM and TPU pod slices each",
    ),
    (
      ["--distributed", "--process_id=2", "--num_processes=2", "--coordinator=localhost:1"],
      "error: --process_id=2; expected a number from 0 to below --num_processes=2",
    ),
    (
      ["--process_id=0"],
      "error: --process_id says which of .* pass --distributed too",
    ),
    (["--coordinator=a:1"], "error: --coordinator says which .*pass --distributed too"),
  ],
)
def test_processes_that_cannot_be(start, flags, message):
  job = start(*flags)
  assert job.wait() == 1
  assert "Traceback" not in job.stderr
  assert re.search(message, job.stderr), job.stderr
