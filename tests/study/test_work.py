"""Work of parts: a training that is stopped, resumed, tested, and cleared away."""

import contextlib
import dataclasses
import itertools
import json

import pytest
import transformers

from configs import distill, evaluate, prune, study_cpu
from greedy_prune_jax.chains.reading import read_chains
from greedy_prune_jax.distill.workdir import has_ended
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.evaluation.run import read_evaluation
from greedy_prune_jax.study import work
from greedy_prune_jax.study.parts import StoppedError
from greedy_prune_jax.study.settings import StudySettings
from greedy_prune_jax.study.work import make_chains, train_and_test
from tests.helpers.tiny_runs import make_model, write_chains


def _rows(path, numbers):
  return write_chains(
    path,
    [
      {"question": f"{i} + {i}?", "answer": f"{'Add. ' * i}\n#### {2 * i}", "system": "Add."}
      for i in numbers
    ],
  )


@pytest.fixture
def settings(tmp_path):
  make_model(tmp_path / "model")
  _rows(tmp_path / "train.jsonl", range(1, 7))
  _rows(tmp_path / "test.jsonl", (2, 9))
  config = study_cpu.get_config().to_dict() | {
    "chains": f"gsm8k:{tmp_path / 'train.jsonl'}",
    "num_chains": 3,
    "max_reasoning_tokens": 0,
    "students": {"tiny": {"student": str(tmp_path / "model")}},
    "tests": {"sums": {"questions": f"gsm8k:{tmp_path / 'test.jsonl'}", "num_questions": 0}},
    "prune": prune.get_config().to_dict() | {"pruner": str(tmp_path / "model")},
    "distill": distill.get_config().to_dict()
    | {"steps": 3, "epochs": 0.0, "batch_size": 2, "show_progress": False},
    "evaluate": evaluate.get_config().to_dict() | {"max_new_tokens": 4},
  }
  return StudySettings.from_config(config)


def _stopping_when_asked(times):
  """A signal that comes before a training asks for it so many times."""
  asks = itertools.count()  # the first is before a step
  return lambda: contextlib.nullcontext(lambda _: next(asks) >= times)


@pytest.mark.slow
def test_a_student_is_stopped_gone_on_with_tested_and_cleared_away(settings, tmp_path, monkeypatch):
  chains, folder = tmp_path / "chains.jsonl", tmp_path / "student"
  make_chains(settings, chains, 0)
  training = settings.distill_config(settings.students["tiny"], str(chains), 1.0, 0)
  tests = {"sums": settings.evaluate_config(settings.tests["sums"], f"student={folder}")}

  def run():
    train_and_test(training, tests, folder, keep_student=False)

  for ask in (1, 3):  # behind the first of three steps; behind the last, as it is asked once more
    with monkeypatch.context() as patched:
      patched.setattr(work, "terminated", _stopping_when_asked(ask))
      with pytest.raises(StoppedError):
        run()
    assert not (folder / "evaluate").exists()
  assert has_ended(folder)
  run()
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
  records = read_evaluation(folder / "evaluate" / "sums")
  assert {(record["question"], record["step"]) for record in records} == {
    ("2 + 2?", 3), ("9 + 9?", 3)
  }  # fmt: skip
  assert not list(folder.glob("checkpoints*"))
  run()  # killed before the part was marked as done
  assert read_evaluation(folder / "evaluate" / "sums") == records
  # Not even then is it taken for what other configs would have made.
  other = {"seed": 1}
  for configs in ((training | other, tests), (training, {"sums": tests["sums"] | other})):
    with pytest.raises(UserError, match=r"(?s)belongs to another config.*\n  seed: was 0, is 1"):
      train_and_test(*configs, folder, keep_student=False)


@pytest.mark.slow
def test_a_training_that_failed_at_once_can_be_mended(settings, tmp_path):
  chains, folder = tmp_path / "chains.jsonl", tmp_path / "student"
  make_chains(settings, chains, 0)
  training = settings.distill_config(settings.students["tiny"], str(chains), 1.0, 0)
  with pytest.raises(UserError, match="nothing to train on"):
    train_and_test(training | {"max_length": 2}, {}, folder, keep_student=True)
  train_and_test(training, {}, folder, keep_student=True)
  assert has_ended(folder)


def test_chains_are_short_enough_and_in_no_test(settings, tmp_path):
  path = tmp_path / "chains.jsonl"
  make_chains(settings, path, 0)
  assert len(list(read_chains(str(path)))) == 3
  make_chains(dataclasses.replace(settings, num_chains=5), path, 0)
  asked = {chain.question for chain in read_chains(str(path))}
  assert asked == {f"{i} + {i}?" for i in (1, 3, 4, 5, 6)}, "2 + 2? is in the test"
  with pytest.raises(UserError, match="has 5 chains whose questions are in no test; expected num"):
    make_chains(dataclasses.replace(settings, num_chains=6), path, 0)
  texts = [chain.reasoning for chain in read_chains(str(path))]
  tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
  lengths = sorted(len(tokenizer(text)["input_ids"]) for text in texts)
  make_chains(dataclasses.replace(settings, num_chains=2, max_reasoning_tokens=lengths[1]), path, 0)
  assert {chain.question for chain in read_chains(str(path))} == {"1 + 1?", "3 + 3?"}
  with pytest.raises(
    UserError, match=rf"has 2 chains of at most max_reasoning_tokens={lengths[1]}"
  ):
    make_chains(
      dataclasses.replace(settings, num_chains=3, max_reasoning_tokens=lengths[1]), path, 0
    )


def test_fresh_chains_of_a_file_are_drawn_by_the_seed(settings, tmp_path):
  lines = [
    {"id": f"{i}", "question": f"{i}?", "reasoning": "Add.", "answer": "4"} for i in range(9)
  ]
  source, path = write_chains(tmp_path / "file.jsonl", lines), tmp_path / "chains.jsonl"

  def drawn(seed, *, fresh):
    make_chains(dataclasses.replace(settings, chains=str(source), fresh_chains=fresh), path, seed)
    return [chain.id for chain in read_chains(str(path))]

  assert [drawn(seed, fresh=False) for seed in (0, 1)] == [["0", "1", "2"]] * 2
  draws = [drawn(seed, fresh=True) for seed in range(4)]
  assert len({frozenset(draw) for draw in draws}) == 4
  assert drawn(2, fresh=True) == draws[2]
