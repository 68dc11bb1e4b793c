"""A tiny study from end to end, by two processes at once, one of which is killed and resumed."""

import collections
import csv
import json
import re
import shutil
import time
from pathlib import Path

import pytest

from greedy_prune_jax.jobs.study_tables import study_tables
from tests.helpers.tiny_runs import TEMPLATE, make_model

CONFIG = """
from configs import study_cpu

def get_config(mode=""):
  config = study_cpu.get_config(mode)
  config.chains = "gsm8k:{folder}/train.jsonl"
  config.num_chains, config.max_reasoning_tokens = 4, 40
  config.arms = {{"greedy": {{"objective": "joint"}}, "random": {{"ranking": "random"}}}}
  config.reference = "random"
  config.keep_ratios, config.seeds = (0.5,), (0,)
  config.ready = {{"by_hand": "{folder}/by_hand.jsonl"}}
  config.students = {{"tiny": {{"student": "{folder}/model"}}}}
  config.tests = {{"sums": {{"questions": "gsm8k:{folder}/test.jsonl", "num_questions": 0}}}}
  config.prune.pruner = "{folder}/model"
  config.distill.steps, config.distill.batch_size, config.distill.save_every = 2, 2, 1
  config.evaluate.max_new_tokens = 8
  config.poll_seconds = 0.05
  return config
"""
NUM_STUDENTS = 2 + 2 + 1


@pytest.fixture
def config(tmp_path):
  """The config of a study: 5 students with 2 steps each, answering 3 questions."""
  make_model(tmp_path / "model", TEMPLATE)

  def rows(name, numbers):
    lines = [
      {"question": f"{i} + {i}?", "answer": f"Two {i} make {2 * i}.\n#### {2 * i}", "system": "Add"}
      for i in numbers
    ]
    (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))

  rows("train.jsonl", range(1, 7))
  rows("test.jsonl", (2, 8, 9))  # the question with 2 is in both
  chain = {
    "question": "1 + 1?",
    "reasoning": "Two.\n",
    "answer": '{"answer": "2"}',
    "system": "Add",
  }
  lines = [json.dumps(chain | {"id": f"hand/{i}"}) + "\n" for i in range(2)]
  (tmp_path / "by_hand.jsonl").write_text("".join(lines))
  path = tmp_path / "study_config.py"
  path.write_text(CONFIG.format(folder=tmp_path))
  return path


def _done(workdir: Path) -> set[str]:
  return {str(path.parent) for path in (workdir / "parts").rglob("done.json")}


@pytest.mark.slow
def test_two_processes_share_a_study_and_one_that_is_killed_is_replaced(
  start, run_program, tmp_path, config
):
  study = tmp_path / "run"
  killed = start(job="study", config=config)
  other = start(job="study", config=config)
  while len(_done(study)) < 4 and killed.process.is_alive():
    time.sleep(0.01)
  killed.kill()
  killed.wait()
  assert len(_done(study)) < 1 + 2 + NUM_STUDENTS, "killed too late"
  again = start(job="study", config=config)
  assert (other.wait(), again.wait()) == (0, 0), other.stderr + again.stderr

  # Every part was done once: by the process that says that it ended it, and by no other.
  ended = collections.Counter()
  for job in (killed, other, again):
    begun = re.findall(r"\] part (\S+) \(", job.stderr)
    assert len(set(begun)) == len(begun)
    ended.update(begun)
  assert len(ended) == 1 + 2 + NUM_STUDENTS
  assert sum(ended.values()) <= len(ended) + 1, "only what was killed was begun again"

  chains = [json.loads(x) for x in (study / "chains" / "chains.jsonl").read_text().splitlines()]
  assert len(chains) == 4
  assert "2 + 2?" not in {chain["question"] for chain in chains}, "it is in the test"
  with (study / "study.csv").open() as file:
    table = list(csv.DictReader(file))
  assert [(row["trained on"], row["keep ratio"]) for row in table] == [
    *[("no_pruning", "1.0"), ("answer_only", "0.0")],
    *[("greedy", "0.5"), ("random", "0.5")],
    ("by_hand", "1.0"),
  ]
  assert all((row["seeds"], row["questions"]) == ("1", "3") for row in table)
  assert all(float(row["low"]) <= float(row["accuracy"]) <= float(row["high"]) for row in table)
  with (study / "differences.csv").open() as file:
    differences = list(csv.DictReader(file))
  others = [row["against"] for row in differences]
  assert others == ["no_pruning", "answer_only", "greedy", "by_hand"]
  assert (study / "study.png").stat().st_size > 10_000
  assert "no pruning" in (study / "study.svg").read_text()
  assert "| sums | tiny | greedy | 0.5 |" in (study / "study.md").read_text()
  assert not list(study.rglob("checkpoints*")), "the students are not kept"
  trained = study / "students" / "tiny" / "greedy" / "keep-0.5" / "seed-0"
  assert json.loads((trained / "config.json").read_text())["keep_ratios"] == [0.5]
  assert len((trained / "metrics.jsonl").read_text().splitlines()) == 2

  # The tables come out of the answers alone too.
  study_tables([str(study / "answers.parquet")], "random", str(tmp_path / "anew"))
  for name in ("study.csv", "differences.csv", "matched.csv"):
    assert (tmp_path / "anew" / name).read_bytes() == (study / name).read_bytes()

  # All of it again: nothing is done twice, and the tables are the same.
  before = (study / "study.csv").read_bytes()
  last = run_program(job="study", config=config)
  assert "] part " not in last.stderr
  assert (study / "study.csv").read_bytes() == before
  assert f"{1 + 2 + NUM_STUDENTS} of {1 + 2 + NUM_STUDENTS} parts are done" in last.stdout


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 4])
def test_a_study_that_is_moved_ends_and_goes_on_when_it_is_back(
  start, run_program, tmp_path, config, after
):
  study, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
  moved = start(job="study", config=config)
  while len(_done(study)) < after and moved.process.is_alive():
    time.sleep(0.001)
  study.rename(elsewhere)
  assert moved.wait() == 1, moved.stderr
  assert "Traceback" not in moved.stderr
  assert "was deleted or moved" in moved.stderr.split("\nerror: ")[-1]
  shutil.rmtree(study, ignore_errors=True)  # what the part at work made anew
  elsewhere.rename(study)
  assert f"{1 + 2 + NUM_STUDENTS} of" in run_program(job="study", config=config).stdout


@pytest.mark.slow
@pytest.mark.parametrize(
  ("setting", "message"),
  [
    ("--config.seeds=(0,0)", "seeds=(0, 0); expected different whole numbers"),
    ("--config.keep_ratios=(1.5,)", "arms.greedy: keep_ratios=(1.5,) has 1.5; a keep ratio is"),
    ("--config.distill.learning_rate=-1.0", "students.tiny: learning_rate=-1.0; expected a number"),
    ("--config.tests.sums.questions=gsm9", "  chains: unknown question set 'gsm9'; expected NAME"),
  ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_run(
  start, tmp_path, config, setting, message
):
  job = start(setting, job="study", config=config)
  assert job.wait() == 1
  assert message in job.stderr
  assert "Traceback" not in job.stderr
  assert not (tmp_path / "run" / "students").exists()
