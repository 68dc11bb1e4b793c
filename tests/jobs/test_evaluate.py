"""The evaluate job as a process, with tiny models: killed, compared in pairs, read by eye."""

import csv
import json
import time

import pytest

from tests.jobs.tiny_runs import make_model

NUM_QUESTIONS = 5


@pytest.fixture
def settings(tmp_path):
  """Two models, and questions for them."""
  for name in ("one", "other"):
    make_model(tmp_path / name, num_hidden_layers=1 + (name == "other"))
  rows = [
    {"question": f"{i} + {i}?", "answer": f"#### {2 * i}", "system": "Add."}
    for i in range(NUM_QUESTIONS)
  ]
  (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  return {
    "questions": f"gsm8k:{tmp_path / 'rows.jsonl'}",
    "models": f"('{tmp_path / 'one'}','second={tmp_path / 'other'}')",
    "num_questions": 0,
    "num_samples": 2,
    "temperature": 1.0,
    "max_new_tokens": 24,
    "batch_size": 2,
    "show_samples": 1,
  }


def _records(workdir):
  path = workdir / "answers" / "process-00000.jsonl"
  return list(map(json.loads, path.read_text().splitlines())) if path.exists() else []


def test_a_killed_run_goes_on_and_two_models_are_compared(start, run, tmp_path, settings):
  whole = run(job="evaluate", workdir="whole", **settings)
  expected = _records(tmp_path / "whole")
  assert len(expected) == 2 * NUM_QUESTIONS

  job = start(job="evaluate", **settings)
  while not _records(tmp_path / "run") and job.process.is_alive():
    time.sleep(0.005)
  job.kill()
  job.wait()
  assert len(_records(tmp_path / "run")) < 2 * NUM_QUESTIONS, "killed too late"
  again = run(job="evaluate", **settings)
  by_id = {record["id"]: record for record in _records(tmp_path / "run")}
  assert by_id == {record["id"]: record for record in expected}
  assert again.stdout == whole.stdout

  with (tmp_path / "whole" / "accuracy.csv").open() as file:
    rows = list(csv.DictReader(file))
  assert [row["model"] for row in rows] == ["one", "second"]
  assert all(row["questions"] == str(NUM_QUESTIONS) for row in rows)
  samples = [s for r in expected if r["run"] == "one" for s in r["samples"]]
  assert float(rows[0]["accuracy"]) == sum(s["correct"] for s in samples) / len(samples)
  (pair,) = json.loads((tmp_path / "whole" / "pairs.json").read_text())["rows"]
  assert (pair["model"], pair["against"], pair["questions"]) == ("second", "one", NUM_QUESTIONS)
  assert pair["low"] < pair["difference"] < pair["high"]
  assert whole.stdout.count("=== ") == 1

  # In another workdir the same models' answers join the table.
  alone = settings | {
    "models": f"('{tmp_path / 'other'}',)",
    "compare_with": f"('{tmp_path}/run',)",
  }
  run(job="evaluate", workdir="alone", **alone)
  pairs = json.loads((tmp_path / "alone" / "pairs.json").read_text())["rows"]
  assert [(p["model"], p["against"]) for p in pairs] == [
    ("run: one", "other"), ("run: second", "other")
  ]  # fmt: skip
  assert pairs[1]["difference"] == 0, "it is the same model"
