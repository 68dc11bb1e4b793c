"""Tables of what is done so far of a study, and the time that they may take."""

import types
from unittest import mock

import pytest

from configs import study_cpu
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.study import run
from greedy_prune_jax.study.answers import collect_answers, write_answers
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


def test_the_table_tells_of_students_whose_chains_are_fewer(monkeypatch, tmp_path):
  config = study_cpu.get_config().to_dict() | {"seeds": (0, 1)}
  settings = StudySettings.from_config(config)
  student = next(iter(settings.students))
  assert run.left_out_note(settings, tmp_path) == ""
  for seed, count in ((0, 2), (1, 1)):
    folder = tmp_path / "students" / student / "greedy_joint" / "keep-0.3" / f"seed-{seed}"
    folder.mkdir(parents=True)
    with new_writer(folder / "skipped.jsonl") as writer:
      for i in range(count):
        writer.write({"place": "", "id": f"{i}@0.3", "reason": "it is long"})
  condition = Condition(student, "greedy_joint", 0.3)
  answer = answer_record("q/0", {"correct": True, "reasoning_tokens": 3})
  with new_writer(folder / "evaluate" / "sums" / "answers" / "process-00000.jsonl") as writer:
    writer.write(answer)
  write_answers(tmp_path / "answers.parquet", collect_answers(tmp_path, condition, (1,), "sums"))
  note = run.left_out_note(settings, tmp_path)
  assert f"of {student} on greedy_joint at 0.3 (up to 2);" in note
  table, *_ = run.write_results([tmp_path / "answers.parquet"], "", tmp_path, note)
  assert table.caption.endswith(note)
  assert note in (tmp_path / "study.md").read_text()
