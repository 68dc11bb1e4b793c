"""Signals to jobs that have hardly begun, and streams that cannot be written, as real programs."""

import os
import signal
import subprocess
import sys

import pytest

from tests.helpers.processes import wait_for_handlers

ENV = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.getcwd()}


def start_program(*flags, job="distill", **kwargs):
  command = [sys.executable, "-m", f"greedy_prune_jax.jobs.{job}", *flags]
  pipe = subprocess.PIPE
  return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=ENV, **kwargs)


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
    *(
      (["--distributed", f"--coordinator={place}"], f"--coordinator={place}; expected HOST:PORT")
      for place in ("host:0", "host:65536", ":12345", "a host:12345")
    ),
    (["--distributed", "--num_processes=0"], "--num_processes=0; expected 1 to"),
    (["--distributed", f"--num_processes={10**11}"], f"--num_processes={10**11}; expected 1 to"),
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


PRINTS = """
from greedy_prune_jax.jobs import startup
startup.prepare_process()
import contextlib, os, sys
print("result")
print("log", file=sys.stderr)
kept = open("kept.txt", "w")
for number in (1, 2):
  with contextlib.suppress(OSError):
    os.write(number, b"of a library")
kept.write(str(startup.output_error()))
"""


@pytest.mark.parametrize(
  ("redirections", "error", "stdout"),
  [
    ("", None, "result\nof a library"),
    (">/dev/full", "No space left on device", ""),
    (">&-", None, ""),
    ("2>/dev/full", None, "result\nof a library"),
    ("2>&-", None, "result\nof a library"),
    ("<&- >&- 2>&-", None, ""),
  ],
)
def test_streams_that_are_closed_or_full_raise_nothing(tmp_path, redirections, error, stdout):
  (tmp_path / "program.py").write_text(PRINTS)
  command = f"exec {sys.executable} program.py {redirections}"
  ended = subprocess.run(
    command, shell=True, cwd=tmp_path, env=ENV, capture_output=True, text=True, check=True
  )
  said = (tmp_path / "kept.txt").read_text()
  assert said == "None" if error is None else error in said
  assert ended.stdout == stdout
  assert "Traceback" not in ended.stderr
  assert "Exception" not in ended.stderr


def test_a_reader_that_left_raises_nothing(tmp_path):
  many = "for i in range(99999):\n  print(i)\n"
  (tmp_path / "program.py").write_text(PRINTS.replace('print("result")\n', many))
  command = f"{sys.executable} program.py 2>errors | head -1"
  ended = subprocess.run(
    command, shell=True, cwd=tmp_path, env=ENV, capture_output=True, text=True, check=True
  )
  assert ended.stdout == "0\n"
  assert "Broken pipe" in (tmp_path / "kept.txt").read_text()
  assert "Traceback" not in (tmp_path / "errors").read_text()


# A library registers an end of its own, such as JAX's shutdown, and an object that Python deletes
# in the very end, when signals have their defaults again.
ENDS = """
from greedy_prune_jax.jobs import startup
startup.prepare_process()
import atexit, os, sys, time

def shut_down():
  print("shutting down", flush=True)
  time.sleep({seconds})
  print("shut down")

class Kept:
  def __del__(self, write=os.write):
    write(1, b"taken down")

sys.kept = Kept()
atexit.register(shut_down)
startup.tell_done()
"""


def start_ending(tmp_path, seconds):
  (tmp_path / "program.py").write_text(ENDS.format(seconds=seconds))
  pipe = subprocess.PIPE
  command = [sys.executable, str(tmp_path / "program.py")]
  return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=ENV)


def test_a_job_that_is_done_leaves_after_shutdowns_and_before_python_is_taken_down(tmp_path):
  process = start_ending(tmp_path, seconds=0)
  assert process.communicate(timeout=60) == ("shutting down\nshut down\n", "")
  assert process.returncode == 0


@pytest.mark.parametrize(
  ("number", "status", "word"),
  [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_signal_while_a_job_that_is_done_shuts_down_is_one_line(tmp_path, number, status, word):
  process = start_ending(tmp_path, seconds=100)
  assert process.stdout.readline() == "shutting down\n"
  process.send_signal(number)
  out, error = process.communicate(timeout=60)
  assert (process.returncode, out) == (status, "")
  assert error.strip() == f"{word}; the same command goes on from here"
