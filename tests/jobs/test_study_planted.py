"""The planted study from nothing, tiny: a model from random weights, its pruning, its students."""

import csv
import json

import pytest

from greedy_prune_jax.study.answers import read_answers
from greedy_prune_jax.study.plan import Condition


@pytest.mark.slow
def test_one_command_makes_the_planted_study(run_program, tmp_path):
  job = run_program(job="study", config="configs/study_planted.py:smoke")
  study = tmp_path / "run"
  assert "8 of 8 parts are done" in job.stdout
  chains = [
    json.loads(line)
    for line in (study / "chains" / "seed-0" / "chains.jsonl").read_text().splitlines()
  ]
  assert len(chains) == 4
  assert all(chain["pieces"] for chain in chains)
  pruned = study / "prune" / "oracle" / "seed-0"
  assert json.loads((pruned / "config.json").read_text())["pruner"].endswith("base/export")
  answers = {cell.condition: cell for cell in read_answers(study / "answers.parquet")}
  assert set(answers) == {
    *(Condition("base", *end) for end in (("no_pruning", 1.0), ("answer_only", 0.0))),
    *(Condition("base", arm, 0.5) for arm in ("greedy_joint", "oracle")),
  }
  assert all(cell.correct.shape == (1, 4) for cell in answers.values())
  with (study / "differences.csv").open() as file:
    against = [row["against"] for row in csv.DictReader(file)]
  assert against == ["no_pruning", "answer_only", "oracle"]
