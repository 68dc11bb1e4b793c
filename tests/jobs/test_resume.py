"""Runs that are stopped, by whatever it may be, and started again."""

import random
import signal
import time

import pytest

from greedy_prune_jax.runs.workdir import Workdir
from tests.helpers.tiny_runs import CHAINS, assert_same_records, records, write_chains

NUM_CHAINS = 5


@pytest.fixture(scope="module")
def chains(tmp_path_factory):
  """Chains of several lengths, so that batches are uneven and go through several buckets."""
  lines = [
    CHAINS[i % 3]
    | {"id": f"{i}", "reasoning": " ".join(c["reasoning"] for c in CHAINS[: 1 + i % 3])}
    for i in range(NUM_CHAINS)
  ]
  return write_chains(tmp_path_factory.mktemp("chains") / "chains.jsonl", lines)


def _stored(workdir):
  """Bytes of results in a workdir."""
  files = [*workdir.glob("pruned/*.jsonl"), *workdir.glob("unfinished/*.jsonl")]
  return sum(file.stat().st_size for file in files)


def _wait_until(condition, job):
  while not condition() and job.process.is_alive():
    time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize(
  "settings",
  [
    {"batch_size": 1},
    {"batch_size": 2},
    {"batch_size": 2, "search": "screened", "audit": 1, "deletions_per_step": 2},
    {"batch_size": 2, "search": "runs", "keep_ratios": "(0.8,0.5,0.2)"},
    {"batch_size": 2, "search": "runs", "unit": "word", "keep_ratios": "(0.8,0.5,0.2)"},
  ],
)
def test_a_run_killed_at_any_moment_ends_as_one_that_was_not(
  start, run, tmp_path, chains, settings
):
  rng = random.Random(str(settings))
  settings = {"chains": chains, "show_chains": 0, "keep_ratios": 0.2} | settings
  run(**settings, workdir="whole")
  whole = records(tmp_path / "whole")
  assert len(whole) == NUM_CHAINS

  for attempt in range(3):
    job = start(**settings, workdir="killed")
    if attempt == 0:  # while it starts, or soon after
      job.process.join(rng.uniform(0.1, 2))
    else:  # when it has just stored something, or soon after
      seen = _stored(tmp_path / "killed")
      _wait_until(lambda: _stored(tmp_path / "killed") > seen, job)  # noqa: B023
      job.process.join(rng.choice([0, 0, 0.1]))
    job.kill()
    job.wait()
    found = records(tmp_path / "killed") if (tmp_path / "killed" / "pruned").exists() else {}
    assert_same_records(found, whole)
  run(**settings, workdir="killed")
  assert records(tmp_path / "killed").keys() == whole.keys()
  assert_same_records(records(tmp_path / "killed"), whole)
  assert not (tmp_path / "killed" / "unfinished").exists()


@pytest.mark.slow
def test_a_run_goes_on_with_another_batch_size(start, run, tmp_path, chains):
  settings = {"chains": chains, "show_chains": 0, "keep_ratios": 0.2}
  run(**settings, batch_size=1, workdir="whole")
  job = start(**settings, batch_size=2, workdir="killed")
  _wait_until(lambda: _stored(tmp_path / "killed") > 4000, job)
  job.kill()
  job.wait()
  run(**settings, batch_size=3, workdir="killed")
  whole, killed = records(tmp_path / "whole"), records(tmp_path / "killed")
  assert whole.keys() == killed.keys()
  assert_same_records(killed, whole)


@pytest.mark.slow
def test_an_ended_run_goes_on_with_more_chains(run, tmp_path, chains):
  settings = {"chains": chains, "show_chains": 0, "keep_ratios": 0.2, "batch_size": 2}
  run(**settings, workdir="whole")
  for num_chains, found in ((2, 2), (3, 3), (0, NUM_CHAINS)):
    run(**settings, num_chains=num_chains)
    assert len(records(tmp_path / "run")) == found
  whole = records(tmp_path / "whole")
  assert records(tmp_path / "run").keys() == whole.keys()
  assert_same_records(records(tmp_path / "run"), whole)


@pytest.mark.slow
def test_what_was_found_is_not_found_again(start, run, tmp_path, chains):
  settings = {"chains": chains, "num_chains": 1, "keep_ratios": 0.2, "show_chains": 0}
  job = start(**settings)
  _wait_until(lambda: _stored(tmp_path / "run") > 0, job)
  job.kill()
  job.wait()
  unfinished = (tmp_path / "run" / "unfinished" / "process-00000.jsonl").read_text()
  assert unfinished.count("\n") >= 1, "killed too late"
  again = run(**settings)
  first_line = again.stderr[again.stderr.index("chains:") :].split("pos/s")[0]
  assert not first_line.strip().startswith("chains:   0%"), first_line


@pytest.mark.slow
def test_ctrl_c(start, run, tmp_path, chains):
  settings = {"chains": chains, "keep_ratios": 0.2, "show_chains": 0}
  job = start(**settings)
  _wait_until(lambda: _stored(tmp_path / "run") > 0, job)
  job.kill(signal.SIGINT)
  assert job.wait() == 130
  assert job.stderr.endswith("\ninterrupted; the same command goes on from here\n")
  assert "Traceback" not in job.stderr
  run(**settings)
  assert len(records(tmp_path / "run")) == NUM_CHAINS


@pytest.mark.slow
def test_a_full_disk(start, run, tmp_path, chains):
  settings = {"chains": chains, "keep_ratios": 0.5, "show_chains": 0, "batch_size": 1}
  run(**settings, workdir="whole")
  job = start(**settings, most_bytes=5000)
  assert job.wait() == 1
  *_, message = job.stderr.split("error: ")
  assert "cannot write" in message
  assert ": File too large. What was written before is whole; free some space and run" in message
  assert "Traceback" not in job.stderr
  found, whole = records(tmp_path / "run"), records(tmp_path / "whole")
  assert 0 < len(found) < NUM_CHAINS
  assert_same_records(found, whole)
  run(**settings)
  assert records(tmp_path / "run").keys() == whole.keys()
  assert_same_records(records(tmp_path / "run"), whole)


@pytest.mark.slow
def test_a_second_run_at_the_same_time(start, run, tmp_path):
  with Workdir(tmp_path / "run", {"some": "config"}, output="pruned"):
    job = start()
    assert job.wait() == 1
    assert "error: another run is writing to " in job.stderr
    assert "Wait for it to end, stop it, or choose another workdir" in job.stderr
    assert "Traceback" not in job.stderr
  run()


@pytest.mark.slow
def test_a_chain_whose_text_has_changed_is_not_gone_on_with(start, run, tmp_path):
  path = write_chains(tmp_path / "chains.jsonl", [CHAINS[0], CHAINS[1]])
  settings = {"chains": path, "keep_ratios": 0.2, "show_chains": 0, "batch_size": 2}
  run(**settings, workdir="whole")
  job = start(**settings, workdir="killed")
  _wait_until(lambda: _stored(tmp_path / "killed") > 0, job)
  job.kill()
  job.wait()
  before = _stored(tmp_path / "killed")
  write_chains(path, [CHAINS[0] | {"reasoning": "3 + 4 = 7.\n"}, CHAINS[1]])
  refused = {
    "whole": f"this workdir was begun: reasoning was {CHAINS[0]['reasoning']!r}, is '3 + 4 = 7.",
    "killed": "chain chain 0 has other tokens or units than when this workdir was begun; go on",
  }
  for workdir, message in refused.items():
    job = start(**settings, workdir=workdir)
    assert job.wait() == 1
    assert message in job.stderr
    assert "Traceback" not in job.stderr
  assert _stored(tmp_path / "killed") == before
  write_chains(path, [CHAINS[0], CHAINS[1]])
  run(**settings, workdir="killed")
  assert_same_records(records(tmp_path / "killed"), records(tmp_path / "whole"))
