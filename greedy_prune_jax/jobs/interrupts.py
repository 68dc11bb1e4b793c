"""Ctrl-C and SIGTERM end a job at once: what is on disk is whole at any moment.

Python itself would print a traceback while modules are imported, and later wait until the device is
done with what it was given, half a minute or more. Jobs call this before their other imports, so
nothing that takes time is imported here.
"""

import os
import signal
import sys
import threading
from typing import Any

_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


def leave_at_once() -> None:
  """Makes Ctrl-C end the program with status 130, and SIGTERM with status 143.

  A signal that is given another handler later is left to that one.
  """
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  signal.set_wakeup_fd(writer)  # written to at once, whatever the main thread waits for
  for number in _WORDS:
    signal.signal(number, _left_to_the_thread)
  threading.Thread(target=_wait_and_leave, args=(reader,), daemon=True).start()


def _left_to_the_thread(*_: Any) -> None:
  """Handler of signals that `_wait_and_leave` acts on."""


def _wait_and_leave(reader: int) -> None:
  while True:
    number = os.read(reader, 1)[0]
    if number in _WORDS and signal.getsignal(number) is _left_to_the_thread:
      word = _WORDS[signal.Signals(number)]
      sys.stderr.write(f"\n{word}; the same command goes on from here\n")
      sys.stderr.flush()
      os._exit(128 + number)
