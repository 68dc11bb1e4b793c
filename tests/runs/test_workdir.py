import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs import workdir as workdir_module
from greedy_prune_jax.runs.workdir import Workdir

CONFIG = {"pruner": "tiny"}


def open_workdir(path, config=CONFIG, **kwargs):
  return Workdir(path, config, output="pruned", **kwargs)


@pytest.mark.parametrize(
  "moment", ["write_or_check_config", "process_files", "process_writer", "read_output"]
)
def test_a_folder_that_goes_while_it_is_opened_is_said_to_be_gone(tmp_path, monkeypatch, moment):
  path = tmp_path / "run"
  with open_workdir(path) as workdir:
    workdir.write_finished({"id": "a"})
  there = getattr(workdir_module, moment)

  def goes(*args, **kwargs):
    shutil.rmtree(path, ignore_errors=True)
    return there(*args, **kwargs)

  monkeypatch.setattr(workdir_module, moment, goes)
  if moment == "read_output":  # which has found the file already
    found = [path / "pruned" / "process-00000.jsonl"]
    monkeypatch.setattr("greedy_prune_jax.runs.jsonl.process_files", lambda _: found)
  with pytest.raises(UserError, match="Its folder is gone: it was deleted or moved"):
    open_workdir(path)
  assert not path.exists()


def test_a_run_leaves_its_config_its_records_and_its_log(tmp_path):
  with open_workdir(tmp_path / "new" / "run") as workdir:
    workdir.write_finished({"id": "a", "n": 1})
    workdir.write_unfinished("b", 1, {"order": [3]})
    workdir.write_metrics({"chains": 1, "loss": float("nan")})
    workdir.remove_unfinished()
    files = {
      str(p.relative_to(workdir.path)): p.read_text()
      for p in workdir.path.rglob("*")
      if p.is_file() and p.parent.name != "locks"
    }
  assert files.keys() == {"config.json", "metrics.jsonl", "pruned/process-00000.jsonl"}
  assert json.loads(files["pruned/process-00000.jsonl"]) == {"id": "a", "n": 1}
  metrics = json.loads(files["metrics.jsonl"])
  assert abs(metrics.pop("time") - time.time()) < 60
  assert metrics == {"chains": 1, "loss": None}


def test_on_nfs_a_run_ends_as_elsewhere(tmp_path, monkeypatch):
  """There a file that is deleted while somebody has it open stays, under another name."""
  unlink = os.unlink

  def nfs_unlink(path, *args, dir_fd=None, **kwargs):
    target = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
    for fd in os.listdir("/proc/self/fd"):
      with contextlib.suppress(OSError):
        if os.path.samestat(os.stat(f"/proc/self/fd/{fd}"), target):
          os.rename(path, f".nfs{fd}", src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
          return
    unlink(path, *args, dir_fd=dir_fd, **kwargs)

  monkeypatch.setattr(os, "unlink", nfs_unlink)
  with open_workdir(tmp_path) as workdir:
    workdir.write_unfinished("b", 1, {"order": [3]})
    workdir.write_finished({"id": "b"})
    workdir.remove_unfinished()
  assert not (tmp_path / "unfinished").exists()
  # What another program holds open is only told.
  with open_workdir(tmp_path) as workdir, open(tmp_path / "unfinished" / "other", "w"):
    workdir.remove_unfinished()
  assert [path.name[:4] for path in (tmp_path / "unfinished").iterdir()] == [".nfs"]
  with open_workdir(tmp_path) as workdir:
    assert workdir.finished_ids == {"b"}
    assert workdir.load_unfinished() == {}


def test_what_one_process_keeps_outlives_the_end_of_another(tmp_path):
  first, second = (open_workdir(tmp_path, process_index=i, num_processes=2) for i in range(2))
  with first, second:
    second.write_unfinished("b", 1, {"order": [3]})
    second.keep_unfinished()
    first.remove_unfinished()
  with open_workdir(tmp_path) as later:
    assert later.load_unfinished() == {"b": {"order": [3]}}
    later.remove_unfinished()  # all of it was done this time
  assert not (tmp_path / "unfinished").exists()


def test_the_outputs_load_as_a_dataset(tmp_path):
  datasets = pytest.importorskip("datasets")
  for index in range(2):
    with open_workdir(tmp_path, process_index=index, num_processes=2) as workdir:
      workdir.write_finished({"id": f"chain {index}", "pruned": {"0.5": "π"}, "nll": [1.0, None]})
  files = str(tmp_path / "pruned" / "*.jsonl")
  loaded = datasets.load_dataset("json", data_files=files, cache_dir=str(tmp_path), split="train")
  assert loaded["id"] == ["chain 0", "chain 1"]


def test_finished_items_are_known_over_all_processes_and_never_stored_twice(tmp_path):
  for index in range(3):
    with open_workdir(tmp_path, process_index=index, num_processes=3) as workdir:
      workdir.write_finished({"id": f"item {index}"})
  with open_workdir(tmp_path) as workdir:
    assert workdir.finished_ids == {"item 0", "item 1", "item 2"}
    with pytest.raises(ValueError, match="item 2 is finished already"):
      workdir.write_finished({"id": "item 2"})
  assert sorted(p.name for p in (tmp_path / "pruned").iterdir()) == [
    f"process-0000{index}.jsonl" for index in range(3)
  ]


def test_torn_lines_of_processes_that_are_no_more_are_cut_off(tmp_path):
  for index in range(2):
    with open_workdir(tmp_path, process_index=index, num_processes=2) as workdir:
      workdir.write_finished({"id": f"item {index}"})
      workdir.write_unfinished("torn", 1, {"order": [1]})
  for folder in ("pruned", "unfinished"):
    with (tmp_path / folder / "process-00001.jsonl").open("a") as file:
      file.write('{"id": "to')
  with open_workdir(tmp_path) as workdir:
    assert workdir.finished_ids == {"item 0", "item 1"}
    assert workdir.load_unfinished() == {"torn": {"order": [1]}}
  assert (tmp_path / "pruned" / "process-00001.jsonl").read_text() == '{"id": "item 1"}\n'


def test_the_furthest_state_of_unfinished_items_counts(tmp_path):
  with open_workdir(tmp_path, process_index=1, num_processes=2) as workdir:
    workdir.write_unfinished("a", 2, {"order": [5, 4]})
    workdir.write_unfinished("b", 1, {"order": [1]})
    workdir.write_unfinished("c", 1, {"order": [1]})
    workdir.write_unfinished("c", 1, {"order": [2]})
  with open_workdir(tmp_path) as workdir:
    workdir.write_unfinished("a", 1, {"order": [5]})
    workdir.write_finished({"id": "b"})
    assert workdir.load_unfinished() == {"a": {"order": [5, 4]}, "c": {"order": [2]}}


def test_skipped_inputs_are_recorded_once(tmp_path):
  bad = {"place": "x.jsonl, line 7", "id": None, "reason": "is empty"}
  for _ in range(2):
    with open_workdir(tmp_path) as workdir:
      workdir.write_skipped(bad)
      workdir.write_skipped(bad)
      workdir.write_skipped(bad | {"id": "a"})
  lines = (tmp_path / "skipped.jsonl").read_text().splitlines()
  assert [json.loads(line) for line in lines] == [bad, bad | {"id": "a"}]
  with open_workdir(tmp_path, process_index=1, num_processes=2) as workdir:
    workdir.write_skipped(bad)
  assert (tmp_path / "skipped-00001.jsonl").exists()


def test_what_was_left_out_is_recorded_until_it_is_finished(tmp_path):
  path, busy = tmp_path / "skipped.jsonl", {"place": "", "id": "a", "reason": "is busy"}
  repeated = {"place": "x.jsonl, line 7", "id": "a", "reason": "repeats an id"}
  with open_workdir(tmp_path) as workdir:
    workdir.write_skipped(busy)
    workdir.write_skipped(busy | {"id": "b"})
    workdir.write_skipped(repeated)
  with open_workdir(tmp_path) as workdir:
    workdir.write_finished({"id": "a"})
    workdir.write_skipped(busy | {"id": "c"})
    workdir.drop_skipped("b")
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
      repeated, busy | {"id": "c"}
    ]  # fmt: skip
    path.write_text(json.dumps(busy | {"id": "d"}) + "\n")
  with open_workdir(tmp_path) as workdir:
    workdir.write_finished({"id": "d"})
  assert not path.exists()


def test_another_config_is_refused_and_the_lock_released(tmp_path):
  with open_workdir(tmp_path) as workdir:
    workdir.write_unfinished("a", 1, {"order": [5]})
  with pytest.raises(UserError, match=r'pruner: was "tiny", is "huge"'):
    open_workdir(tmp_path, {"pruner": "huge"})
  open_workdir(tmp_path, {"pruner": "huge"}, may_change={"pruner"}).__exit__()


def test_a_run_that_stored_nothing_leaves_its_workdir_to_any_config(tmp_path):
  open_workdir(tmp_path).__exit__()
  open_workdir(tmp_path, {"pruner": "huge"}).__exit__()
  assert json.loads((tmp_path / "config.json").read_text()) == {"pruner": "huge"}


def test_results_without_a_config_are_not_added_to(tmp_path):
  with open_workdir(tmp_path) as workdir:
    workdir.write_finished({"id": "a"})
  (tmp_path / "config.json").unlink()
  with pytest.raises(UserError, match=r"holds results but no config.json"):
    open_workdir(tmp_path)


def test_a_place_that_cannot_be_a_folder_is_named(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match=r"cannot write .*file.*Choose a workdir"):
    open_workdir(tmp_path / "file")


def test_two_runs_in_one_workdir_are_refused(tmp_path):
  with open_workdir(tmp_path):
    with pytest.raises(UserError, match=r"another run is writing to .*: process \d+ on "):
      open_workdir(tmp_path)
    with pytest.raises(UserError, match="another run"):
      open_workdir(tmp_path, num_processes=2)
  open_workdir(tmp_path).__exit__()


def test_a_run_with_fewer_processes_waits_for_all_of_the_earlier_ones(tmp_path):
  with (
    open_workdir(tmp_path, process_index=1, num_processes=2),
    pytest.raises(UserError, match="another run"),
  ):
    open_workdir(tmp_path)
  with open_workdir(tmp_path, num_processes=2):
    open_workdir(tmp_path, process_index=1, num_processes=2).__exit__()


# A job of 40 items of 5 steps each. What a step finds depends on the item and the step alone, and
# each step that is worked out is counted in a file, one byte a step.
JOB = """
import os, sys, hashlib
from greedy_prune_jax.runs.workdir import Workdir

path, index, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
work = os.open(path + ".work", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
with Workdir(path, {"items": 40}, output="pruned", process_index=index, num_processes=count) as w:
  print("open", flush=True)
  sys.stdin.readline()  # all processes have opened the workdir
  begun = w.load_unfinished()
  for item in range(index, 40, count):
    if f"item {item}" in w.finished_ids:
      continue
    found = begun.get(f"item {item}", {"found": []})["found"]
    for step in range(len(found), 5):
      os.write(work, b".")
      found.append(hashlib.sha256(f"{item}/{step}".encode()).hexdigest() * 200)
      w.write_unfinished(f"item {item}", step + 1, {"found": found})
    w.write_finished({"id": f"item {item}", "found": found})
  if count == 1:
    w.remove_unfinished()
"""


def start_job(path, index=0, count=1):
  command = [sys.executable, "-c", JOB, str(path), str(index), str(count)]
  return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def finish_job(path):
  job = start_job(path)
  job.communicate(b"go\n")
  assert job.returncode == 0


def records_of(path):
  lines = [line for file in (path / "pruned").iterdir() for line in file.read_text().splitlines()]
  return sorted(lines)


@pytest.mark.slow
def test_runs_killed_at_any_moment_end_as_one_that_was_never_killed(tmp_path):
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  finish_job(whole)
  expected = records_of(whole)
  assert len(expected) == len(set(expected)) == 40
  assert not (whole / "unfinished").exists()

  rng = random.Random(0)
  kills = 0
  for _ in range(25):
    count = rng.choice([1, 2])
    jobs = [start_job(killed, index, count) for index in range(count)]
    if rng.random() < 0.2:  # while it starts
      time.sleep(rng.uniform(0, 0.1))
    else:  # while it works
      for job in jobs:
        job.stdout.readline()
      for job in jobs:
        job.stdin.write(b"go\n")
        job.stdin.flush()
      time.sleep(rng.uniform(0, 0.03))
    for job in jobs:
      job.send_signal(signal.SIGKILL)
      job.communicate()
      kills += job.returncode == -signal.SIGKILL
  assert kills > 20
  finish_job(killed)
  assert records_of(killed) == expected
  assert not (killed / "unfinished").exists()
  # A kill costs the step that was being worked out, not the steps before it.
  steps = (tmp_path / "killed.work").stat().st_size
  assert 40 * 5 <= steps <= 40 * 5 + kills


def test_a_full_disk_is_explained_and_what_was_written_is_whole(tmp_path):
  path = tmp_path / "run"

  def limit_file_size():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

  command = [sys.executable, "-c", JOB, str(path), "0", "1"]
  full = subprocess.run(
    command, input="go\n", capture_output=True, text=True, preexec_fn=limit_file_size
  )
  assert full.returncode == 1
  assert "UserError: cannot write" in full.stderr
  assert "free some space and run the same command again" in full.stderr
  for file in path.rglob("*.jsonl"):
    assert all(json.loads(line) for line in file.read_text().splitlines())
  finish_job(path)
  assert len(records_of(path)) == 40


@pytest.mark.parametrize(
  ("old", "new"), [("0.25", "0.26"), ("[3, 1]", "[1, 3]"), ('"x"', '"y"'), ('"check"', '"ckeck"')]
)
def test_a_partial_result_that_was_changed_is_named(tmp_path, old, new):
  with Workdir(tmp_path, {}, output="pruned") as run:
    run.write_unfinished("x", 1, {"deleted": [3], "nll": [0.5]})
    run.write_unfinished("x", 2, {"deleted": [3, 1], "nll": [0.5, 0.25]})
  path = tmp_path / "unfinished" / "process-00000.jsonl"
  lines = path.read_text().splitlines()
  path.write_text("\n".join([lines[0], lines[1].replace(old, new)]) + "\n")
  with (
    Workdir(tmp_path, {}, output="pruned") as run,
    pytest.raises(UserError, match=r"process-00000.jsonl, line 2: .*Remove the line"),
  ):
    run.load_unfinished()


@pytest.mark.parametrize("target", ["process-00000.jsonl", "nowhere/x"])
def test_a_link_to_nothing_in_place_of_an_output_is_a_message(tmp_path, target):
  open_workdir(tmp_path).__exit__()
  path = tmp_path / "pruned" / "process-00000.jsonl"
  path.unlink()
  path.symlink_to(target)
  with pytest.raises(UserError, match=r"cannot write .*process-00000\.jsonl"):
    open_workdir(tmp_path)


def test_a_folder_that_is_moved_while_a_run_begins_is_noticed(tmp_path, monkeypatch):
  make = Workdir._writer

  def moved(self, path):
    if path.name == "metrics.jsonl":
      self.path.rename(tmp_path / "moved")
    return make(self, path)

  monkeypatch.setattr(Workdir, "_writer", moved)
  with pytest.raises(UserError, match=r"cannot write .*run: .*Its folder is gone"):
    open_workdir(tmp_path / "run")
  assert not (tmp_path / "run").exists()
  assert (tmp_path / "moved" / "config.json").exists()


def test_other_weights_than_those_that_a_run_was_begun_with_are_refused(tmp_path):
  model = tmp_path / "model.gguf"
  model.write_bytes(b"weights")

  def begin(finish=()):
    with open_workdir(tmp_path / "run") as workdir:
      workdir.hold_weights(str(model))
      workdir.hold_weights("org/name")  # of the hub
      for item_id in finish:
        workdir.write_finished({"id": item_id})

  begin()
  model.write_bytes(b"other weights")  # before anything was made of them
  begin(["a"])
  begin(["b"])
  model.write_bytes(b"third weights")
  with pytest.raises(UserError, match=r"model.gguf has other weights than when .*run was begun"):
    begin(["c"])
  model.write_bytes(b"other weights")
  begin(["c"])
