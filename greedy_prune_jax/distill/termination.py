"""SIGTERM to a training: a flag that is polled after each step, so that the run saves and ends."""

import contextlib
import signal
from collections.abc import Callable, Iterator

import jax

TERMINATED = 128 + signal.SIGTERM  # the status by which shells know a program that was terminated


@contextlib.contextmanager
def terminated() -> Iterator[Callable[[int], bool]]:
  """Gives a function of the step just done that tells whether to stop after it.

  Within it SIGTERM does nothing else. Of several processes, which must have been started for it
  (`start_processes(..., saves_on_sigterm=True)`), each asks after every step, and if any of them
  got the signal all are told to stop at one step.
  """
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    yield multihost_utils.reached_preemption_sync_point
    return
  before, received = signal.getsignal(signal.SIGTERM), []

  def should_stop(_: int) -> bool:
    signal.signal(signal.SIGTERM, lambda *_: received.append(True))
    return bool(received)

  try:
    yield should_stop
  finally:
    signal.signal(signal.SIGTERM, before)
