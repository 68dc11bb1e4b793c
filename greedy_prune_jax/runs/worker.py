"""Work that may never end, or take any memory, in a process of its own that can be killed.

A request and a reply are a line of JSON each. A worker whose time is over is ended by the system:
neither a large product nor a regular expression can be interrupted from within Python.
"""

import atexit
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PACKAGES = Path(__file__).parents[2]  # where the worker finds this package, installed or not


class Worker:
  """A process that answers requests, started when first needed and again after it was ended."""

  def __init__(self, module: str, seconds: float):
    """Starts nothing yet.

    Args:
      module: module that runs as a program and calls `answer_requests`.
      seconds: seconds of a processor's time that an answer may take.
    """
    self._module, self._seconds = module, seconds
    self._process: subprocess.Popen[str] | None = None
    self._one_at_a_time = threading.Lock()
    atexit.register(self.close)

  def ask(self, request: Any) -> Any:
    """The answer to a request; None where the process was ended, as its time was over."""
    with self._one_at_a_time:
      if self._process is None:
        self._process = self._start()
      reply = _ask(self._process, json.dumps({"seconds": self._seconds, "request": request}))
      if not reply:
        self._stop()
      return json.loads(reply) if reply else None

  def close(self) -> None:
    """Ends the process; a later request starts another."""
    with self._one_at_a_time:
      self._stop()

  def _start(self) -> "subprocess.Popen[str]":
    paths = [str(_PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
      [sys.executable, "-m", self._module],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
      start_new_session=True,  # else Ctrl-C would reach it too, and make it print a traceback
    )
    if process.stdout is None or process.stdout.readline().strip() != "ready":
      process.kill()
      raise RuntimeError(f"the process of {self._module} did not start; its message is above")
    return process

  def _stop(self) -> None:
    if self._process is not None:
      self._process.kill()
      self._process.communicate()
      self._process = None


def _ask(process: "subprocess.Popen[str]", request: str) -> str:
  """The reply, or nothing if the process ended instead."""
  assert process.stdin is not None
  assert process.stdout is not None
  try:
    process.stdin.write(request + "\n")
    process.stdin.flush()
    reply = process.stdout.readline()
  except BrokenPipeError:
    return ""
  return reply.strip() if reply.endswith("\n") else ""


def answer_requests(answer: Callable[[Any], Any], most_bytes: int) -> None:
  """Answers requests until there are no more: the program of a worker.

  Args:
    answer: makes a request's answer, both values of JSON; it handles MemoryError.
    most_bytes: bytes of memory, beside those that the process has by now.
  """
  sizes = Path("/proc/self/statm")
  taken = int(sizes.read_text().split()[0]) * resource.getpagesize() if sizes.exists() else 0
  resource.setrlimit(resource.RLIMIT_AS, (taken + most_bytes, taken + most_bytes))
  signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # who asked has ended: no traceback of that
  print("ready", flush=True)
  for line in sys.stdin:
    asked = json.loads(line)
    signal.setitimer(signal.ITIMER_PROF, asked["seconds"])  # SIGPROF's default ends the process
    reply = json.dumps(answer(asked["request"]))
    signal.setitimer(signal.ITIMER_PROF, 0)
    print(reply, flush=True)
