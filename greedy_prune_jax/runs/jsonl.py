"""JSON lines: read with their numbers at hand, appended whole or not at all."""

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.records import Record


def read_lines(path: Path, *, drop_torn: bool = False) -> Iterator[tuple[int, bytes]]:
  """Yields the number (from 1) and the bytes of every line that is not blank, one at a time.

  Args:
    path: the file.
    drop_torn: ignore a last line without a newline: in a file that `JsonlWriter` writes it is what
      a killed run left of a record.

  Raises:
    UserError: the file cannot be read.
  """
  try:
    with path.open("rb") as file:
      for number, line in enumerate(file, start=1):
        if line.strip() and not (drop_torn and not line.endswith(b"\n")):
          yield number, line
  except OSError as error:
    raise UserError(f"cannot read {path}: {error.strerror}") from error


def parse_line(line: bytes) -> Record:
  """The object on one line.

  Raises:
    UserError: it is not UTF-8, not JSON, not an object, or its text cannot be encoded again.
  """
  try:
    record = json.loads(line.decode("utf-8-sig"), parse_constant=_refuse_constant)
  except UnicodeDecodeError as error:
    raise UserError(f"is not UTF-8 text (byte {error.start} of the line)") from error
  except ValueError as error:
    raise UserError(f"is not JSON ({error}); expected one object a line") from error
  except RecursionError as error:
    raise UserError("is JSON nested too deeply; expected one object a line") from error
  if not isinstance(record, dict):
    raise UserError(f"is a JSON {type(record).__name__}; expected an object, {{...}}")
  if b"\\ud" in line.lower():  # the only way to write half of a surrogate pair
    try:
      encode_line(record)
    except UnicodeEncodeError as error:
      raise UserError("has half of a surrogate pair (\\ud800 to \\udfff alone)") from error
  return record


def _refuse_constant(name: str) -> None:
  raise ValueError(f"{name} is no JSON number")


def read_records(path: Path, *, drop_torn: bool = False) -> Iterator[Record]:
  """Yields the object of every line.

  Raises:
    UserError: the file cannot be read, or a line is not an object; the message names the line.
  """
  for number, line in read_lines(path, drop_torn=drop_torn):
    try:
      yield parse_line(line)
    except UserError as error:
      raise UserError(f"{path}, line {number}: {error}") from error


def encode_line(record: Record) -> bytes:
  """The record as one line of UTF-8 JSON; ValueError for NaN and infinity, which JSON lacks."""
  return json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"


class JsonlWriter:
  """Appends objects to a file, each of which is wholly on disk when `write` returns, or not at all.

  The process may be killed at any moment: what it left of a line, which then lacks its newline, is
  cut off when the file is next opened. One writer per file at a time.
  """

  def __init__(self, path: Path):
    """Opens `path`, creating it and its folder.

    Raises:
      UserError: the place cannot be written.
    """
    self.path = path
    with explain_os_errors(path):
      path.parent.mkdir(parents=True, exist_ok=True)
      self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
      cut_torn_line(self._fd)
      sync_folder(path.parent)  # else a power cut could lose the file's name

  def write(self, record: Record) -> None:
    """Appends one object and waits until it is on disk.

    Raises:
      UserError: the disk is full, or the file can no longer be written; it ends as it did before.
    """
    line = encode_line(record)
    end = os.fstat(self._fd).st_size
    with explain_os_errors(self.path):
      try:
        rest = memoryview(line)
        while rest:
          rest = rest[os.write(self._fd, rest) :]
        os.fsync(self._fd)
      except OSError:
        with contextlib.suppress(OSError):  # what caused it matters more
          os.ftruncate(self._fd, end)
        raise

  def close(self) -> None:
    """Closes the file; no write may follow."""
    os.close(self._fd)

  def __enter__(self) -> "JsonlWriter":
    return self

  def __exit__(self, *_) -> None:
    self.close()


def cut_torn_line(fd: int, block: int = 1 << 16) -> None:
  """Shortens a file to its last newline, searching backwards `block` bytes at a time."""
  size = os.fstat(fd).st_size
  end = size
  while end > 0:
    start = max(0, end - block)
    newline = os.pread(fd, end - start, start).rfind(b"\n")
    if newline >= 0:
      end = start + newline + 1
      break
    end = start
  if end < size:
    os.ftruncate(fd, end)
    os.fsync(fd)


def sync_folder(folder: Path) -> None:
  """Waits until the folder's list of files is on disk."""
  fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
  try:
    os.fsync(fd)
  finally:
    os.close(fd)


@contextlib.contextmanager
def explain_os_errors(path: Path) -> Iterator[None]:
  """Turns an OSError at a place that is written to into a UserError that says what to do."""
  try:
    yield
  except OSError as error:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
      advice = (
        "What was written before is whole; free some space and run the same command again to go on."
      )
    else:
      advice = "Choose a workdir in a folder that you can write to."
    raise UserError(f"cannot write {path}: {error.strerror}. {advice}") from error
