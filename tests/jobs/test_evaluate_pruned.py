"""The evaluate_pruned job as a process: its table, and its status where something got no answer."""

import csv
import json

import pytest

from tests.helpers.tiny_runs import CHAINS, make_model
from tests.helpers.tokenizers_for_tests import byte_level


@pytest.mark.slow
def test_a_table_of_two_runs(run, shared, tmp_path):
  for objective in ("joint", "answer"):
    run(objective=objective, workdir=objective, keep_ratios="(0.5,0.0)", num_chains=2)
  runs = f"('{tmp_path / 'joint'}', 'other={tmp_path / 'answer'}')"
  settings = {"pruned": runs, "model": shared / "model", "max_new_tokens": 4}
  job = run(job="evaluate_pruned", workdir="evaluation", **settings)

  folder = tmp_path / "evaluation"
  lines = (folder / "answers" / "process-00000.jsonl").read_text().splitlines()
  records = {record["id"]: record for record in map(json.loads, lines)}
  assert set(records) == {f"{run}/{c['id']}" for run in ("joint", "other") for c in CHAINS[:2]}
  whole = [records[f"{run}/chain 0"]["answers"]["1.0"] for run in ("joint", "other")]
  assert whole[0] == whole[1]  # one reasoning, one model
  with (folder / "accuracy.csv").open() as file:
    head, *rows = csv.reader(file)
  assert head == ["run", "keep ratio", "accuracy", "low", "high", "no answer found", "chains"]
  assert [(row[0], row[1], row[-1]) for row in rows] == [
    (run, ratio, "2") for run in ("joint", "other") for ratio in ("1.0", "0.5", "0.0")
  ]
  assert "accuracy" in job.stdout
  assert not (folder / "unfinished").exists()
  # One chain first, and then all.
  run(job="evaluate_pruned", workdir="grown", **settings, num_chains=1)
  assert run(job="evaluate_pruned", workdir="grown", **settings).stdout == job.stdout
  before = (folder / "answers" / "process-00000.jsonl").read_bytes()
  assert run(job="evaluate_pruned", workdir="evaluation", **settings).stdout == job.stdout
  assert (folder / "answers" / "process-00000.jsonl").read_bytes() == before


@pytest.mark.slow
def test_texts_without_an_answer_end_in_an_error(start, run, tmp_path):
  run(keep_ratios=0.0, num_chains=1)
  tokenizer = byte_level()
  parts = (
    f"<|start|>user\n{CHAINS[0]['question']}<|end|>\n<|start|>assistant\n",
    CHAINS[0]["reasoning"] + '{"answer": "',
  )
  # No room behind the whole reasoning.
  length = sum(len(tokenizer(part)["input_ids"]) for part in parts)
  make_model(tmp_path / "narrow", max_position_embeddings=length)
  settings = {"pruned": f"('{tmp_path / 'run'}',)", "model": tmp_path / "narrow"}
  job = start(job="evaluate_pruned", workdir="evaluation", **settings)
  assert job.wait() == 1
  assert "Traceback" not in job.stderr
  *_, message = job.stderr.split("error: ")
  assert "texts got no answer; " in message
  (line,) = (tmp_path / "evaluation" / "skipped.jsonl").read_text().splitlines()
  assert json.loads(line)["id"] == "run/chain 0@1.0"
