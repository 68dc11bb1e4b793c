"""Tables of what is done so far of a study, and the time that they may take."""

import types
from unittest import mock

import pytest

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.study import run
from greedy_prune_jax.study.parts import PartsResult
from greedy_prune_jax.study.run import at_most_a_share
from greedy_prune_jax.study.settings import StudySettings


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
