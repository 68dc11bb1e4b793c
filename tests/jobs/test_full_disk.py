"""Jobs on disks that are really full, or have room for no further file, and without their workdir.

A file system of a few hundred kilobytes is mounted for each, which takes root; else it is skipped.
"""

import subprocess
import time

import pytest

DISTILL = {
  "job": "distill",
  "keep_ratios": "(1.0,)",
  "batch_size": 2,
  "steps": 40,
  "epochs": 0.0,
  "save_every": 1,
  "keep_checkpoints": 30,
  "warmup_steps": 1,
  "show_progress": False,
}


@pytest.fixture
def small_disk(tmp_path):
  """Mounts a file system in memory with these options; gives its folder."""
  folder = tmp_path / "disk"
  folder.mkdir()

  def mount(options):
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
      subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
      pytest.skip("no file system can be mounted here; that takes root on Linux")
    return folder

  yield mount
  subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)


def error_of(job):
  """The one message that a failed job ends with; it must end by itself."""
  assert job.wait() == 1, job.stderr
  assert "Traceback" not in job.stderr
  *_, message = job.stderr.split("\nerror: ")
  return message


@pytest.mark.slow
@pytest.mark.parametrize("options", ["size=3m", "size=64m,nr_inodes=60", "size=200k"])
def test_a_training_on_a_full_disk_ends_with_a_message_and_goes_on(
  start, shared, small_disk, options
):
  disk = small_disk(options)
  settings = DISTILL | {"chains": shared / "chains.jsonl", "student": shared / "model"}
  message = error_of(start(workdir=disk / "run", **settings))
  assert "No space left on device" in message or "cannot write" in message
  assert not (disk / "run" / "ended.json").exists()
  subprocess.run(["mount", "-o", "remount,size=200m,nr_inodes=0", str(disk)], check=True)
  again = start(workdir=disk / "run", **settings | {"export": "none"})
  assert again.wait() == 0, again.stderr
  assert (disk / "run" / "ended.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("options", ["size=16k", "size=1m,nr_inodes=6"])
def test_pruning_on_a_full_disk_ends_with_a_message(start, small_disk, options):
  message = error_of(start(workdir=small_disk(options) / "run"))
  assert "cannot write" in message
  assert "No space left on device" in message


@pytest.mark.slow
def test_a_training_whose_workdir_is_deleted_ends_with_a_message_and_makes_none(
  start, shared, tmp_path
):
  settings = DISTILL | {"chains": shared / "chains.jsonl", "student": shared / "model"}
  job = start(workdir="run", **settings | {"steps": 100_000, "save_every": 5})
  deadline = time.monotonic() + 120
  while not list((tmp_path / "run").glob("checkpoints/*/_CHECKPOINT_METADATA")):
    assert time.monotonic() < deadline, job.stderr
    time.sleep(0.05)
  (tmp_path / "run").rename(tmp_path / "moved")
  assert "is gone: it was deleted or moved" in error_of(job)
  # Orbax may have made the folder anew, with a part of a checkpoint: nothing takes it for a run.
  left = list((tmp_path / "run").glob("checkpoints/*"))
  assert {path.name for path in (tmp_path / "run").glob("*")} <= {"checkpoints"}
  assert not left or "holds a training but no config.json" in error_of(
    start(workdir="run", **settings)
  )
