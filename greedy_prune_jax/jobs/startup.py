"""A job's process from its first import on: its end by a signal, and its standard streams.

Ctrl-C and SIGTERM end a job at once: what is on disk is whole at any moment. Python itself would
print a traceback while modules are imported, and later wait until the device is done with what it
was given, half a minute or more. While Python takes itself down, after all that it runs at exit, it
would give signals their defaults again, so a job that is done leaves before that.

Standard output that nobody reads any more, or whose disk is full, ends no run.

Jobs call this before their other imports, so nothing that takes time is imported here.
"""

import atexit
import contextlib
import io
import os
import select
import signal
import sys
import threading
from typing import Any

_DONE = threading.Event()
_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


def prepare_process() -> None:
  """Makes Ctrl-C end the program with status 130, SIGTERM with 143, and no print raise an error.

  A signal that is given another handler later is left to that one.
  """
  _open_streams()
  atexit.register(_leave_when_done)  # before all other imports: runs after what they register
  # Else the first line that a user reads is transformers' on PyTorch, which no job needs.
  os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  signal.set_wakeup_fd(writer)  # written to at once, whatever the main thread waits for
  for number in _WORDS:
    signal.signal(number, _left_to_the_thread)
  threading.Thread(target=_wait_and_leave, args=(reader,), daemon=True).start()


def tell_done() -> None:
  """Makes the process end with status 0 once all that is registered to run at its exit has run."""
  _DONE.set()


def output_error() -> str | None:
  """The system's words on the first write to standard output that failed; None if none did."""
  stream = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
  return stream.error if isinstance(stream, _StandardStream) else None


class _StandardStream(io.FileIO):
  """Standard output or error, which drops what it cannot write and remembers the first error."""

  error: str | None = None

  def write(self, data: Any) -> int | None:
    try:
      return super().write(data)
    except OSError as error:
      # Not the exception: with its frames it would keep files open, unflushed, to the very end.
      self.error = self.error or error.strerror
      return len(data)


def _open_streams() -> None:
  for number in range(3):
    try:
      os.fstat(number)
    except OSError:
      # The shell closed it. The next file opened, such as one of results, would get its number, and
      # whatever libraries print would land there.
      os.open(os.devnull, os.O_RDWR)
  sys.stdout, sys.stderr = _text_stream(1), _text_stream(2)


def _text_stream(number: int) -> io.TextIOWrapper:
  """The stream of a descriptor, in lines; characters that it has no bytes for are escaped."""
  buffer = io.BufferedWriter(_StandardStream(number, "w", closefd=False))
  return io.TextIOWrapper(buffer, errors="backslashreplace", line_buffering=True)


def _leave_when_done() -> None:
  if _DONE.is_set():
    for stream in (sys.stdout, sys.stderr):
      stream.flush()
    os._exit(0)


def _left_to_the_thread(*_: Any) -> None:
  """Handler of signals that `_wait_and_leave` acts on."""


def _wait_and_leave(reader: int) -> None:
  while True:
    number = os.read(reader, 1)[0]
    if number in _WORDS and signal.getsignal(number) is _left_to_the_thread:
      word = _WORDS[signal.Signals(number)]
      if select.select((), (2,), (), 0)[1]:  # else nobody reads it, and writing would not return
        with contextlib.suppress(OSError):
          os.write(2, f"\n{word}; the same command goes on from here\n".encode())
      os._exit(128 + number)
