"""Handling of the workdir in all jobs."""

import types

import jax
import numpy as np
import pytest
from absl import flags

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.jobs import entry
from greedy_prune_jax.jobs.entry import run_in_workdir


@pytest.mark.parametrize("failed", [0, 2])
def test_partial_results_stay_where_something_failed(tmp_path, failed):
  def work(workdir):
    workdir.write_unfinished("a", 1, {"order": [3]})
    return failed

  assert run_in_workdir(work, str(tmp_path), {}, output="pruned", may_change=()) == failed
  assert (tmp_path / "unfinished").exists() == bool(failed)


class _EndedError(Exception):
  pass


@pytest.fixture
def run_job(monkeypatch):
  """Runs a job as a program does, but for the end of the process; gives its status."""

  def end(status):
    raise _EndedError(status)

  config = types.SimpleNamespace(to_json=str, to_dict=dict, get=lambda *_: False)
  flags_of_job = types.SimpleNamespace(config=config, workdir="w", distributed=False, debug=False)
  flags_of_job.is_parsed = lambda: True
  monkeypatch.setattr(entry, "_end", end)
  monkeypatch.setattr(entry, "_protect_terminal", lambda: None)
  monkeypatch.setattr(entry, "flags", types.SimpleNamespace(FLAGS=flags_of_job))

  def run_job(job, *, debug=False):
    flags_of_job.debug = debug
    with pytest.raises(_EndedError) as ended:
      entry._run(job, False)
    return ended.value.args[0]

  return run_job


def _fail_oddly(config, workdir):
  raise KeyError("\x1b]0;x\x07 of data\nE0101 forged" + "x" * 5000)


def test_an_error_that_nobody_expected_is_one_line(run_job, capsys):
  assert run_job(_fail_oddly) == 1
  said = capsys.readouterr().err
  assert len(said.splitlines()) == 1
  assert len(said) < 1200
  assert "\x1b" not in said
  assert said.startswith("error: KeyError: ")
  assert "--debug" in said


def test_a_device_without_memory_is_said_to_be_that(run_job, capsys):
  def fill(config, workdir):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9")

  assert run_job(fill) == 1
  said = capsys.readouterr().err
  assert said.startswith("error: the memory of a device is full: RESOURCE_EXHAUSTED: Out of memory")
  assert "smaller batch_size" in said
  assert "report" not in said


def test_its_traceback_is_shown_when_asked_for_and_escaped(run_job, capsys):
  assert run_job(_fail_oddly, debug=True) == 1
  said = capsys.readouterr().err
  assert "Traceback (most recent call last)" in said
  assert "_fail_oddly" in said
  assert "\x1b" not in said
  assert not [line for line in said.splitlines()[1:] if not line.startswith(" ")]


def test_a_workdir_that_goes_where_nobody_looked_for_it(run_job, capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for path, advice in ((tmp_path / "w" / "x", "Its folder is gone"), (tmp_path / "x", "")):
    assert run_job(lambda *_, path=path: path.stat()) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {path}: No such file or directory. {advice}".rstrip())
    assert ("Put it back and run the same command again" in said) == bool(advice)


def test_the_log_of_every_library_is_escaped(monkeypatch, caplog):
  import logging

  make = logging.getLogRecordFactory()
  try:
    entry._protect_terminal()
    logging.getLogger("a library").warning("left out %s", "a\nI0101 forged\x1b[2J")
    logging.getLogger("a library").warning("says \x1b[2J")
    logging.getLogger("a library").warning("rises to %.2g in %d", np.float32(0.5), np.int64(3))
  finally:
    logging.setLogRecordFactory(make)
    logging.captureWarnings(False)
  assert caplog.messages == [
    r"left out a\nI0101 forged\x1b[2J",
    r"says \x1b[2J",
    "rises to 0.5 in 3",
  ]


def test_a_file_that_went_with_the_workdir_is_not_what_is_complained_of(tmp_path):
  def work(run):
    run.path.rename(tmp_path / "elsewhere")
    raise UserError("cannot read process-00000.jsonl: No such file or directory")

  with pytest.raises(UserError, match="was deleted or moved"):
    run_in_workdir(work, str(tmp_path / "run"), {}, output="pruned", may_change=())


def test_paths_of_several_flags_all_count():
  values = flags.FlagValues()
  paths = entry.define_paths("pruned", "Workdirs", values)
  values(["job", "--pruned=a,b", "--pruned", "c"])
  assert paths() == ["a", "b", "c"]


def test_one_text_that_may_mean_several_is_explained():
  config = {"seed": 1, "ratios": (0.5,), "stop": ("x,y",), "pruned": ("a, b/c",)}
  assert entry._several_advice("a, b/c holds no pruned chains", config) == (
    ". If these are several, pass --config.pruned=\"('a','b/c')\""
  )
  assert entry._several_advice("b/c holds no pruned chains", config) == ""
