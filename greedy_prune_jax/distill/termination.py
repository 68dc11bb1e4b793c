"""SIGTERM as a question that a training asks after each step, not as its end."""

import contextlib
import signal
from collections.abc import Callable, Iterator

TERMINATED = 128 + signal.SIGTERM  # the status by which shells know a program that was terminated


@contextlib.contextmanager
def terminated() -> Iterator[Callable[[], bool]]:
  """Within it SIGTERM does nothing but to make what it gives return True."""
  received = []
  before = signal.signal(signal.SIGTERM, lambda *_: received.append(True))
  try:
    yield lambda: bool(received)
  finally:
    signal.signal(signal.SIGTERM, before)
