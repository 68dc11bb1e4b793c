"""Ctrl-C and SIGTERM to every job as a real program, at random moments from its first import on.

More of them: SIGNAL_REPEATS=10 pytest tests/jobs/test_signals.py
"""

import contextlib
import os
import random
import signal
import time

import pytest

from tests.helpers import tiny_jobs
from tests.helpers.processes import wait_for_handlers

pytestmark = pytest.mark.slow

REPEATS = int(os.environ.get("SIGNAL_REPEATS", "1"))
ENDS = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}
SAVES = ("distill", "study")  # on SIGTERM, once they train; and say so


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
  return tiny_jobs.make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.parametrize("job", tiny_jobs.JOBS)
def test_a_signal_at_any_moment_is_one_line(job, inputs, tmp_path):
  with tiny_jobs.config_of(job, inputs) as config:
    begun = time.monotonic()
    whole = tiny_jobs.start(job, config, tmp_path / "whole", inputs)
    _, said = whole.communicate(timeout=1200)
    assert whole.returncode == 0, said
    seconds = time.monotonic() - begun
    rng = random.Random(f"{job} {REPEATS}")
    for number in ENDS:
      for repeat in range(REPEATS):
        moment = rng.uniform(0, seconds)
        workdir = tmp_path / f"{number.name} {repeat}"
        _signal_at(
          moment, number, job, tiny_jobs.start(job, config, workdir, inputs, process_group=0)
        )


def _signal_at(moment, number, job, process):
  """Sends the signal to the program and its children, as a terminal does, and looks at its end."""
  wait_for_handlers(process)
  time.sleep(moment)
  if process.poll() is None:
    with contextlib.suppress(ProcessLookupError):
      os.killpg(process.pid, number)
  out, said = process.communicate(timeout=600)
  what = f"{job}, {number.name} after {moment:.2f} s: status {process.returncode}\n{said[-3000:]}"
  assert "Traceback" not in said, what
  assert "Exception" not in said, what
  if process.returncode == 0:  # it had just ended
    return
  status, word = ENDS[number]
  assert process.returncode == status, what
  saved = number == signal.SIGTERM and job in SAVES and "stopped and saved" in out
  assert saved or said.splitlines()[-1] == f"{word}; the same command goes on from here", what
