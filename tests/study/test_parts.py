"""Parts shared out: in their order, once, past what fails, and past who holds what."""

import contextlib
import threading

import pytest

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.config import write_or_check_config
from greedy_prune_jax.runs.lock import hold_locks
from greedy_prune_jax.study.parts import (
  Part,
  StoppedError,
  is_done,
  run_parts,
  seconds_spent,
)


class Work:
  """Makes parts that note that they were run."""

  def __init__(self, folder):
    self.folder, self.ran = folder, []

  def part(self, name, *needs, error=None, config=(), before=lambda: None):
    def run():
      before()
      self.ran.append(name)
      if error is not None:
        raise error

    return Part(name, needs, {"name": name, **dict(config)}, ("free",), run)

  def run(self, *parts, **kwargs):
    return run_parts(parts, self.folder, poll_seconds=0.01, **kwargs)


@pytest.fixture
def work(tmp_path):
  return Work(tmp_path)


def test_parts_are_run_once_those_that_others_need_first(work):
  parts = [work.part("a"), work.part("b/1", "a"), work.part("b/2", "a"), work.part("c", "b/1")]
  reported = []
  result = work.run(*parts, after_each=lambda: reported.append(len(work.ran)))
  assert (work.ran, result.failed, result.left) == (["a", "b/1", "b/2", "c"], {}, 0)
  assert reported == [1, 2, 3, 4]
  assert seconds_spent(parts, work.folder) >= 0
  work.run(*parts)
  assert len(work.ran) == 4, "nothing is run again"


def test_what_fails_takes_only_what_needs_it_along_and_is_tried_again(work):
  bad = work.part("bad", error=UserError("no such model"))
  rest = [work.part("of bad", "bad"), work.part("of that", "of bad"), work.part("good")]
  result = work.run(bad, *rest)
  assert (work.ran, result.failed, result.left) == (["bad", "good"], {"bad": "no such model"}, 2)
  result = work.run(work.part("bad", config={"model": "another"}), *rest)
  assert work.ran[2:] == ["bad", "of bad", "of that"]
  assert (result.failed, result.left) == ({}, 0)


def test_an_error_that_nobody_expected_is_that_of_its_part_alone(work, caplog):
  bad = work.part("bad", error=RuntimeError("RESOURCE_EXHAUSTED:\n  out of memory"))
  result = work.run(bad, work.part("of bad", "bad"), work.part("good"))
  why = "RuntimeError: RESOURCE_EXHAUSTED: out of memory"
  assert (work.ran, result.failed, result.left) == (["bad", "good"], {"bad": why}, 1)
  assert f"part bad cannot be done: {why}" in caplog.text


def test_a_process_that_is_to_stop_leaves_its_part_open(work):
  parts = [work.part("a", error=StoppedError()), work.part("b")]
  with pytest.raises(StoppedError):
    work.run(*parts)
  assert work.ran == ["a"]
  assert not is_done(parts[0], work.folder)


def test_another_config_is_refused_also_of_a_part_that_is_done(work):
  work.run(work.part("a", config={"steps": 1, "free": 1}))
  work.run(work.part("a", config={"steps": 1, "free": 2}))
  with pytest.raises(UserError, match=r"(?s)parts/a belongs to another config.*steps: was 1, is 2"):
    work.run(work.part("a", config={"steps": 2, "free": 2}))


@pytest.mark.parametrize("within", ["prune/a", "prune/a/evaluate/sums"])
def test_what_failed_after_it_stored_something_is_begun_anew_with_other_settings(
  work, within, caplog
):
  place = work.folder / within

  def attempt(steps, error=None):
    def store():
      place.mkdir(parents=True, exist_ok=True)
      write_or_check_config(place / "config.json", {"steps": steps})
      (place / "stored").write_text(f"{steps}")

    return work.run(work.part("prune/a", config={"steps": steps}, error=error, before=store))

  assert attempt(1, UserError("too few chains")).failed
  assert attempt(2, UserError("too few chains")).failed
  assert attempt(3).failed == {}
  assert (place / "stored").read_text() == "3"
  assert [place.with_name(f"{place.name}~{n}").joinpath("stored").read_text() for n in (1, 2)] == [
    "1", "2"
  ]  # fmt: skip
  assert f"the old one is {place}~2 now" in caplog.text
  with pytest.raises(UserError, match=r"parts/prune/a belongs to another config"):
    attempt(4)


def test_another_config_of_a_folder_that_is_not_the_parts_own_is_its_failure(work):
  other = work.folder / "prune" / "a"

  def store():
    other.mkdir(parents=True, exist_ok=True)
    write_or_check_config(other / "config.json", {"steps": 2})

  store()
  (other / "config.json").write_text('{"steps": 1}')
  assert work.run(work.part("prune/b", before=store)).failed
  assert other.exists()


def test_what_another_process_holds_is_left_to_it_and_waited_for(work):
  """The other process is a lock that a thread holds until all else is done."""
  parts = [work.part("held"), work.part("free"), work.part("of held", "held")]
  held = contextlib.ExitStack()
  hold_locks(work.folder / "parts" / "held" / "locks", 0, 1, held)

  def let_go():
    (work.folder / "parts" / "held" / "done.json").write_text('{"seconds": 1.0}')
    held.close()

  def after_each():
    if work.ran == ["free"]:
      threading.Timer(0.1, let_go).start()

  assert work.run(*parts, after_each=after_each).left == 0
  assert work.ran == ["free", "of held"]


def test_what_another_process_gave_up_is_taken_over(work):
  parts = [work.part("held"), work.part("free")]
  held = contextlib.ExitStack()
  hold_locks(work.folder / "parts" / "held" / "locks", 0, 1, held)
  work.run(*parts, after_each=held.close)
  assert work.ran == ["free", "held"]


def test_a_study_whose_folder_is_moved_ends_and_makes_none_in_its_place(tmp_path):
  work = Work(tmp_path / "study")
  parts = [work.part("a", before=lambda: work.folder.rename(tmp_path / "moved")), work.part("b")]
  with pytest.raises(UserError, match=r"parts: .*deleted or moved\. Put it back and run the same"):
    work.run(*parts)
  assert (work.ran, work.folder.exists()) == (["a"], False)
  (tmp_path / "moved").rename(work.folder)
  work.run(work.part("a"), parts[1])
  assert work.ran == ["a", "a", "b"]


@pytest.mark.parametrize("error", [None, UserError("no chains.jsonl"), ValueError("no checkpoint")])
def test_a_folder_that_a_part_made_anew_is_not_taken_for_the_one_that_was_moved(tmp_path, error):
  work = Work(tmp_path / "study")

  def move():
    work.folder.rename(tmp_path / "moved")
    (work.folder / "parts" / "a").mkdir(parents=True)

  with pytest.raises(UserError, match=r"parts: another folder is at its place\. .*moved\. Put it"):
    work.run(work.part("a", before=move, error=error), work.part("b"))
  assert work.ran == ["a"]
