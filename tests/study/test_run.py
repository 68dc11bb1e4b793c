"""Tables of what is done so far of a study, and the time that they may take."""

import shutil
import types
from pathlib import Path
from unittest import mock

import pytest

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.jobs.study_tables import study_tables
from greedy_prune_jax.study import run
from greedy_prune_jax.study.answers import collect_answers, read_answers, write_answers
from greedy_prune_jax.study.parts import PartsResult
from greedy_prune_jax.study.plan import Condition
from greedy_prune_jax.study.run import at_most_a_share
from greedy_prune_jax.study.settings import StudySettings
from tests.helpers.answer_records import answer_record
from tests.helpers.jsonl_files import new_writer


def test_tables_take_their_share_of_the_time(monkeypatch):
  now, written = 0.0, []
  monkeypatch.setattr(run, "time", types.SimpleNamespace(monotonic=lambda: now))

  def write():
    nonlocal now
    written.append(now)
    now += 2  # seconds

  maybe = at_most_a_share(write, 0.1)
  for _ in range(10):
    maybe()
    now += 6
  # 18 s must pass between the end of one and the next, and parts take 6.
  assert written == [0, 20, 40, 60]


def test_a_study_that_is_moved_before_its_tables_does_not_end_well(monkeypatch, tmp_path):
  folder = tmp_path / "study"

  def run_parts(*_, **__):
    folder.rename(tmp_path / "moved")
    return PartsResult({}, 0)

  monkeypatch.setattr(run, "plan", lambda *_: [])
  monkeypatch.setattr(run, "run_parts", run_parts)
  settings = mock.Mock(spec=StudySettings, poll_seconds=0.01, tests={})
  with pytest.raises(UserError, match=r"another folder is at its place\. .*moved\. Put it back"):
    run.run_study(settings, folder)


def test_students_that_lack_examples_are_named(tmp_path):
  condition = Condition("tiny", "greedy_joint", 0.3)
  for seed, count in ((0, 2), (1, 1)):
    folder = tmp_path / condition.folder(seed)
    with new_writer(folder / "evaluate" / "sums" / "answers" / "process-00000.jsonl") as writer:
      writer.write(answer_record("q/0", {"correct": True, "reasoning_tokens": 3}))
    with new_writer(folder / "skipped.jsonl") as writer:
      for i in range(count):
        writer.write({"place": "", "id": f"{i}@0.3", "reason": "it is long"})
  file, moved = tmp_path / "answers.parquet", tmp_path / "moved" / "answers.parquet"
  write_answers(file, collect_answers(tmp_path, condition, (0, 1), "sums"))
  moved.parent.mkdir()
  shutil.copy(file, moved)
  name = "tiny on greedy_joint at 0.3"
  for path, note in (
    (file, f"skipped.jsonl) of {name} (up to 2); so students may differ in the chains, too."),
    (moved, f"not known of students that are not beside their answers: {name}."),
  ):
    table, *_ = run.write_results([path], "", tmp_path)
    assert table.caption.endswith(note)
    assert note in (tmp_path / "study.md").read_text()
  for place in tmp_path.glob("students/**/skipped.jsonl"):
    place.unlink()
  assert run.left_out_note(read_answers(file), [tmp_path]) == ""


def test_many_students_that_are_not_beside_their_answers_are_counted(tmp_path):
  answers = read_answers(Path(__file__).parents[2] / "docs" / "study_planted.parquet")
  assert run.left_out_note(answers, [tmp_path]).endswith("answers: 32 kinds of students.")


def test_tables_against_an_arm_that_nobody_answered_for(tmp_path):
  """The tables there are not written over with empty ones."""
  row = {"test": "sums", "student": "tiny", "keep_ratio": 0.5, "seed": 0, "question": "q"}
  row |= {"correct": True, "reasoning_tokens": 3, "cut_off": False, "unparsed": False}
  arms = ("no_pruning", "greedy", "random")
  write_answers(tmp_path / "answers.parquet", [row | {"arm": arm} for arm in arms])
  with pytest.raises(UserError, match="reference='gredy' is no arm; expected one of greedy, rand"):
    study_tables([str(tmp_path / "answers.parquet")], "gredy", str(tmp_path))
  assert [path.name for path in tmp_path.iterdir()] == ["answers.parquet"]
  run.write_results([tmp_path / "answers.parquet"], "not_done_yet", tmp_path)
