"""Whether two mathematical expressions are equal: math-verify, in bounded time, on any thread."""

import atexit
import importlib.util
import json
import subprocess
import sys
import threading

from greedy_prune_jax.errors import UserError


class MathChecker:
  """Asks a worker process, started when first needed and again after it ran out of time.

  math-verify limits its time with SIGALRM, which works on the main thread only and cancels alarms
  that others have set; so it runs where neither matters.
  """

  def __init__(self, seconds: float = 10.0):
    """With `seconds` as the time that one comparison may take."""
    self._seconds = seconds
    self._worker: subprocess.Popen[str] | None = None
    self._one_at_a_time = threading.Lock()

  def equal(self, value: str, target: str) -> bool:
    """Whether `value` states what `target` does, both in TeX; False if time or memory ran out.

    Raises:
      UserError: math-verify is not installed.
    """
    with self._one_at_a_time:
      if self._worker is None:
        self._worker = _start_worker()
      request = {"value": value, "target": target, "seconds": self._seconds}
      reply = _ask(self._worker, json.dumps(request))
      if not reply:
        self._stop()
      return reply == "true"

  def close(self) -> None:
    """Ends the worker; a later question starts another."""
    with self._one_at_a_time:
      self._stop()

  def _stop(self) -> None:
    if self._worker is not None:
      self._worker.kill()
      self._worker.communicate()
      self._worker = None


def _start_worker() -> "subprocess.Popen[str]":
  if importlib.util.find_spec("math_verify") is None:
    raise UserError(
      "checking answers of MATH, AIME and AMC needs the package math-verify; install it with: "
      "pip install 'greedy_prune_jax[math]'"
    )
  worker = subprocess.Popen(
    [sys.executable, "-m", "greedy_prune_jax.chains.math_worker"],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  if worker.stdout is None or worker.stdout.readline().strip() != "true":
    worker.kill()
    raise RuntimeError("the worker that runs math-verify did not start; its message is above")
  return worker


def _ask(worker: "subprocess.Popen[str]", request: str) -> str:
  """The reply, or nothing if the worker ended instead."""
  assert worker.stdin is not None
  assert worker.stdout is not None
  try:
    worker.stdin.write(request + "\n")
    worker.stdin.flush()
    return worker.stdout.readline().strip()
  except BrokenPipeError:
    return ""


MATH_CHECKER = MathChecker()
atexit.register(MATH_CHECKER.close)
