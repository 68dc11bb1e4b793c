"""Jobs whose workdir is moved or deleted, from set-up to the end of their work."""

import json
import shutil
import time

import pytest

from tests.helpers.tiny_runs import CHAINS, write_chains

JOBS = {
  "prune": {"batch_size": 1, "keep_ratios": 0.2, "show_chains": 0},
  "sample": {"num_questions": 0, "num_samples": 12, "max_new_tokens": 6, "batch_size": 2},
  "distill": {
    "keep_ratios": "(1.0,)",
    "batch_size": 2,
    "steps": 100_000,
    "epochs": 0.0,
    "save_every": 5,
    "warmup_steps": 1,
    "show_progress": False,
  },
}
# What is in the workdir when it goes, and of how many bytes.
MOMENTS = {
  "prune": [("locks", 0), ("config.json", 1), ("unfinished/*", 1), ("pruned/*", 1)],
  "sample": [("locks", 0), ("config.json", 1), ("unfinished/*", 1), ("samples/*", 1)],
  "distill": [
    ("locks", 0),
    ("config.json", 1),
    ("examples.json", 1),
    ("checkpoints", 0),
    ("metrics.jsonl", 1),
    ("checkpoints/*/_CHECKPOINT_METADATA", 1),
  ],
}
CASES = [(job, *moment) for job, moments in MOMENTS.items() for moment in moments]


@pytest.fixture
def settings(shared, tmp_path):
  """Settings of each job, with work for longer than it takes to notice the first of it."""
  chains = [chain | {"id": f"{i} {chain['id']}"} for i in range(4) for chain in CHAINS]
  rows = [{"question": f"{i} + {i}?", "answer": f"So.\n#### {2 * i}"} for i in range(20)]
  (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  chains_file = write_chains(tmp_path / "chains.jsonl", chains)
  inputs = {
    "prune": {"chains": chains_file},
    "sample": {"questions": f"gsm8k:{tmp_path}/rows.jsonl", "teacher": shared / "model"},
    "distill": {"chains": chains_file, "student": shared / "model"},
  }
  return {job: JOBS[job] | inputs[job] for job in JOBS}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["moved", "deleted"])
@pytest.mark.parametrize(("job", "file", "num_bytes"), CASES)
def test_a_workdir_that_goes_ends_the_run(start, settings, tmp_path, job, file, num_bytes, how):
  process = start(job=job, **settings[job])
  run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
  deadline = time.monotonic() + 300
  while not any(path.stat().st_size >= num_bytes for path in run.glob(file)):
    assert process.process.is_alive(), process.stderr
    assert time.monotonic() < deadline, process.stderr
    time.sleep(0.01)
  run.rename(elsewhere)
  if how == "deleted":
    shutil.rmtree(elsewhere)
  assert process.wait() == 1, process.stderr
  assert "Traceback" not in process.stderr
  assert "was deleted or moved" in process.stderr.split("\nerror: ")[-1]
  # Orbax, which is writing, may make the folder anew: with nothing that counts as a run.
  assert not run.exists() or {path.name for path in run.iterdir()} == {"checkpoints"}
