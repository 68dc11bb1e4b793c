"""Signals and output of jobs that have hardly begun, as real programs."""

import os
import signal
import subprocess
import sys
import time

import pytest

ENV = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.getcwd()}


def start_program(*flags, job="distill", **kwargs):
  command = [sys.executable, "-m", f"greedy_prune_jax.jobs.{job}", *flags]
  pipe = subprocess.PIPE
  return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=ENV, **kwargs)


def wait_for_handlers(process):
  """Waits until the program catches Ctrl-C itself: that is long before its imports are done."""
  caught = 0
  while not caught & 1 << signal.SIGTERM - 1:
    with open(f"/proc/{process.pid}/status") as file:
      caught = int(next(line for line in file if line.startswith("SigCgt")).split()[1], 16)
    time.sleep(0.01)


@pytest.mark.parametrize(
  ("number", "status", "word"),
  [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
@pytest.mark.parametrize("job", ["prune", "distill"])
def test_a_signal_while_modules_are_imported_is_one_line(tmp_path, job, number, status, word):
  process = start_program(f"--config=configs/{job}.py", f"--workdir={tmp_path / 'run'}", job=job)
  wait_for_handlers(process)
  process.send_signal(number)
  _, error = process.communicate(timeout=120)
  assert process.returncode == status
  assert error.strip() == f"{word}; the same command goes on from here"


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--distributed", "--coordinator=host"], "--coordinator=host; expected HOST:PORT"),
    (["--distributed", "--num_processes=0"], "--num_processes=0; expected 1 or more"),
    (["--distributed", "--num_processes=2", "--process_id=2"], "--process_id=2; expected"),
    (["--config.chains=" + "n" * 300], "a part of 300 bytes; file systems take 255"),
    (["--config.learning_rate=inf"], "learning_rate=inf; expected a finite number"),
    (["--config.student=\x1b]0;x\x07"], "\\x1b]0;x\\x07"),
  ],
)
def test_flags_that_cannot_be_are_a_message(start, flags, message):
  job = start(*flags, job="distill")
  assert job.wait() == 1
  assert message in job.stderr.splitlines()[-1]
  assert "Traceback" not in job.stderr
  assert "\x1b" not in job.stderr
