"""A tiny student, and runs of it in a workdir of the test's folder."""

import dataclasses
import json

import pytest

from greedy_prune_jax.distill.run import run_distill
from greedy_prune_jax.distill.settings import MAY_CHANGE
from greedy_prune_jax.runs.config import write_or_check_config
from tests.helpers.tiny_runs import CHAINS, make_model, write_chains
from tests.helpers.tiny_student import settings


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  """A folder with a student and 8 chains, no two with the same question."""
  folder = tmp_path_factory.mktemp("base")
  make_model(folder / "model", num_hidden_layers=2, vocab_size=352)  # what meshes can share
  lines = [
    CHAINS[i % 3] | {"id": f"{i}", "question": f"{i} clips?", "answer": json.dumps({"answer": i})}
    for i in range(8)
  ]
  write_chains(folder / "chains.jsonl", lines)
  return folder


@pytest.fixture
def run(base, tmp_path):
  """Runs in a workdir of the test's folder; returns the result."""

  def run(workdir, stop_after=None, **changes):
    folder = tmp_path / workdir
    folder.mkdir(exist_ok=True)
    defaults = {
      "chains": str(base / "chains.jsonl"),
      "student": str(base / "model"),
      "keep_ratios": (1.0,),
      "batch_size": 4,
      "steps": 6,
      "epochs": 0.0,
      "learning_rate": 1e-2,
      "warmup_steps": 2,
      "save_every": 2,
      "export": "none",
    }
    config = defaults | changes
    made = settings(**config)
    write_or_check_config(folder / "config.json", dataclasses.asdict(made), MAY_CHANGE)
    calls = iter(range(1000))  # the first before the first step
    return run_distill(made, folder, lambda _: next(calls) == stop_after)

  return run
