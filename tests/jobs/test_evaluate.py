"""The evaluate job as a process, with tiny models: killed, compared in pairs, read by eye."""

import csv
import json
import socket
import time
from pathlib import Path

import pytest

from greedy_prune_jax.jobs.evaluate import compared_runs
from tests.helpers.answer_records import answer_record
from tests.helpers.jsonl_files import new_writer
from tests.helpers.tiny_runs import make_model, write_chains

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


def test_runs_of_workdirs_with_one_name_are_told_apart(tmp_path):
  workdirs = [str(tmp_path / name) for name in ("a/run", "b/run", "b/other")]
  for at, workdir in enumerate(workdirs):
    with new_writer(Path(workdir) / "answers" / "process-00000.jsonl") as writer:
      writer.write(answer_record(f"{at}", run="one"))
  runs = compared_runs(workdirs)
  assert {run: records[0]["question_id"] for run, records in runs.items()} == {
    f"{workdirs[0]}: one": "0", f"{workdirs[1]}: one": "1", "other: one": "2"
  }  # fmt: skip


def test_a_workdir_to_compare_with_that_is_not_there_is_told_at_once(start, tmp_path, settings):
  job = start(job="evaluate", **settings | {"compare_with": f"('{tmp_path}/typo',)"})
  assert job.wait() == 1
  assert "typo has no answers; expected an evaluate run's workdir" in job.stderr
  assert not _records(tmp_path / "run")


@pytest.mark.slow
def test_an_ended_run_goes_on_with_more_questions(run, tmp_path, settings):
  whole = run(job="evaluate", workdir="whole", **settings)
  run(job="evaluate", **settings | {"num_questions": 1})
  assert len(_records(tmp_path / "run")) == 2
  more = run(job="evaluate", **settings | {"num_questions": NUM_QUESTIONS})
  found, expected = (
    {record["id"]: record for record in _records(tmp_path / name)} for name in ("run", "whole")
  )
  assert found == expected
  assert more.stdout == whole.stdout


@pytest.mark.slow
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
  run(job="evaluate", workdir="alone", **alone | {"compare_with": "()"})
  assert json.loads((tmp_path / "alone" / "pairs.json").read_text())["rows"] == []

  # All are held against the first of the models that the latest run was given.
  others_first = {"models": f"('{tmp_path / 'one'}','{tmp_path / 'other'}')", "compare_with": "()"}
  run(job="evaluate", workdir="alone", **alone | others_first)
  [pair] = json.loads((tmp_path / "alone" / "pairs.json").read_text())["rows"]
  assert (pair["model"], pair["against"]) == ("other", "one")


@pytest.mark.slow
def test_two_processes_share_the_questions_on_a_checkpoint(start, run, tmp_path, settings):
  """One of them has none, and so loads nothing."""
  student = {
    "student": tmp_path / "one",
    "chains": write_chains(tmp_path / "chains.jsonl"),
    "keep_ratios": "(1.0,)",
    "batch_size": 2,
    "epochs": 0.0,
    "steps": 1,
    "lora_rank": 2,
    "export": "none",
  }
  run(job="distill", workdir="student", **student)
  settings |= {"models": f"('{tmp_path / 'student'}',)", "num_questions": 1, "show_samples": 0}
  with socket.socket() as free:  # closed at once: its port is free again
    free.bind(("localhost", 0))
    coordinator = f"localhost:{free.getsockname()[1]}"
  flags = ("--distributed", f"--coordinator={coordinator}", "--num_processes=2")
  jobs = [start(*flags, f"--process_id={i}", job="evaluate", **settings) for i in range(2)]
  for job in jobs:
    assert job.wait() == 0, job.stderr
  assert len(_records(tmp_path / "run")) == 1
