"""Records and workdirs of earlier runs, changed since they were written."""

import dataclasses
import json

import pytest

from greedy_prune_jax.analysis.label_files import labels_to_record, read_labels
from greedy_prune_jax.chains.categories import Category
from greedy_prune_jax.chains.chain import PrunedChain
from greedy_prune_jax.chains.kept_chains import read_kept
from greedy_prune_jax.chains.pruned_answers import read_pruned_answers
from greedy_prune_jax.chains.reading import read_pruned
from greedy_prune_jax.drp import summary as drp_summary
from greedy_prune_jax.evaluation.pruned.run import pruned_accuracy_table
from greedy_prune_jax.evaluation.run import by_run, read_evaluation
from greedy_prune_jax.evaluation.scores import accuracy_table, pairs_table
from greedy_prune_jax.pruning.show import format_mean_nlls, format_pruned
from greedy_prune_jax.runs.jsonl import read_output
from greedy_prune_jax.runs.workdir import Workdir
from greedy_prune_jax.sample.summary import format_samples, format_summary, read_samples, summarise
from tests.helpers.attacks import attack
from tests.helpers.made_records import drp_records, write_lines
from tests.helpers.planted import pruned_chain

pytestmark = pytest.mark.slow


def pruned_records():
  """Two pruned chains, the second by units."""
  one = pruned_chain(["3", " + 4", " =", " 7"], [1, 0, 2], "a", answer='{"answer": "7"}')
  one = dataclasses.replace(one, pruned={"0.5": " = 7"})
  other = pruned_chain(
    ["So", " it", " is", "\n7"], [2, 3], "b", unit_sizes=(2, 2), answer='{"answer": "7"}'
  )
  other = dataclasses.replace(
    other,
    nll={"joint": (1.0, 0.5), "answer": (0.2, 0.1), "reasoning": (1.0, None)},
    pruned={"0.5": "So it"},
  )
  return one.to_record(), other.to_record()


def test_pruned_records(tmp_path):
  (tmp_path / "good").mkdir()
  (tmp_path / "good" / "config.json").write_text("{}")
  write_lines(tmp_path / "good" / "pruned" / "process-00000.jsonl", *pruned_records())

  def read(folder):
    chains = list(read_pruned(folder))
    format_mean_nlls(chains)
    for chain in chains:
      format_pruned(chain)
      chain.spell(chain.kept_positions(len(chain.reasoning_ids) - 1))
      assert PrunedChain.from_record(chain.to_record()) == chain
    list(read_kept(str(folder), 0.5, on_bad=lambda bad: None))

  assert attack(tmp_path / "good", read, tmp_path, cases=200, name="pruned") > 0.2


def test_workdirs(tmp_path):
  config = {"a": 1, "group": {"b": [0.5]}}
  with Workdir(tmp_path / "good", config, output="out") as workdir:
    workdir.write_finished({"id": "x", "text": "t"})
    workdir.write_unfinished("y", 1, {"deleted": [1], "nll": {"joint": [0.5, 0.25]}})
    workdir.write_skipped({"place": "", "id": "z", "reason": "r"})
    workdir.write_metrics({"loss": 0.5})
    workdir.keep_unfinished()

  def reopen(folder):
    with Workdir(folder, config, output="out") as workdir:
      workdir.load_unfinished()
      list(workdir.output("out").records())
      workdir.write_skipped({"place": "", "id": "w", "reason": "r"})
    list(read_output(folder, "out"))

  assert attack(tmp_path / "good", reopen, tmp_path, cases=150, name="workdir") > 0.2


SAMPLE = {
  "text": "so 4", "reasoning": "so ", "answer": "4", "value": "4", "correct": True,
  "finish_reason": "stop", "num_tokens": 3, "thinking": None, "num_thinking_tokens": None,
}  # fmt: skip


def test_records_of_samples(tmp_path):
  record = {
    "id": "a", "question": "2 + 2?", "system": "Add.", "target": "4", "extra": {"level": 1},
    "teacher": "m",
    "samples": [SAMPLE, SAMPLE | {"correct": False, "value": None, "finish_reason": "length"}],
  }  # fmt: skip
  write_lines(tmp_path / "good" / "samples" / "process-00000.jsonl", record, record | {"id": "b"})

  def read(folder):
    records = read_samples(folder)
    for found in records:
      format_samples(found, most=2)
    if records:
      format_summary(summarise(records))

  assert attack(tmp_path / "good", read, tmp_path, cases=150, name="samples") > 0.2


def test_records_of_evaluations(tmp_path):
  records = [
    {
      "id": f"{model}/q{i}", "run": model, "model": model, "place": f"/m/{model}", "step": None,
      "keep_ratio": None, "question_id": f"q{i}", "question": f"{i}?", "target": "4",
      "samples": [SAMPLE | {"reasoning_tokens": 2 + i}], "weights": None,
    }
    for model in ("one", "two")
    for i in range(2)
  ]  # fmt: skip
  write_lines(tmp_path / "good" / "answers" / "process-00000.jsonl", *records)

  def read(folder):
    runs = by_run(read_evaluation(folder))
    if runs:
      accuracy_table(runs)
      pairs_table(runs)
    for of_run in runs.values():
      format_samples(of_run[0], most=2)

  assert attack(tmp_path / "good", read, tmp_path, cases=150, name="answers") > 0.2


def test_records_of_pruned_evaluations(tmp_path):
  answer = {"text": "4", "value": "4", "correct": True, "finish_reason": "stop"}
  record = {
    "id": "r/a", "run": "r", "ranking": "greedy", "objective": "joint", "chain": "a",
    "target": "4", "answers": {"1.0": answer, "0.5": answer | {"value": None, "correct": False}},
  }  # fmt: skip
  path = tmp_path / "good" / "answers" / "process-00000.jsonl"
  write_lines(path, record, record | {"id": "r/b", "chain": "b"})

  def read(folder):
    pruned_accuracy_table(read_pruned_answers(folder))

  assert attack(tmp_path / "good", read, tmp_path, cases=100, name="pruned answers") > 0.2


def test_records_of_drp(tmp_path):
  for output, record in drp_records().items():
    write_lines(tmp_path / "good" / output / "process-00000.jsonl", record)

  def read(folder):
    records = drp_summary.read_all(folder)
    drp_summary.format_tables(drp_summary.make_tables(records, "keep"))
    for of_stage in records.values():
      for record in of_stage:
        drp_summary.format_edited(record)

  assert attack(tmp_path / "good", read, tmp_path, cases=200, name="drp") > 0.2


def test_label_files(tmp_path):
  lines = json.loads(json.dumps(pruned_records()))
  one, other = map(PrunedChain.from_record, lines)
  labels = (Category.FUNCTION, None, Category.SYMBOLIC_MATH, Category.ENTITY_NAME)
  path = tmp_path / "good" / "labels.jsonl"
  write_lines(path, labels_to_record(one, labels), labels_to_record(other, labels))
  attack(
    tmp_path / "good", lambda f: read_labels(f / path.name), tmp_path, cases=100, name="labels"
  )
