"""JSON lines: read with their numbers at hand, appended whole or not at all."""

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.files import explain_os_errors, make_subfolder, open_file, sync
from greedy_prune_jax.runs.json_reader import MOST_BYTES, as_object, parse_json
from greedy_prune_jax.runs.records import Record, get_text

_BLOCK = 1 << 16  # bytes in which the last newline is searched for at a time


def read_lines(path: Path, *, drop_torn: bool = False) -> Iterator[tuple[int, bytes]]:
  """Yields the number (from 1) and the bytes of every line that is not blank, one at a time.

  Args:
    drop_torn: True for a file that `JsonlWriter` writes: a last line without a newline, which is
      what a killed run left of a record, is ignored, and lines may have any length.

  Raises:
    UserError: the file cannot be read, or a line of another file is longer than `MOST_BYTES`.
  """
  with open_file(path) as file:
    yield from lines_of(file, path, drop_torn=drop_torn)


def lines_of(file: BinaryIO, path: Path, *, drop_torn: bool = False) -> Iterator[tuple[int, bytes]]:
  """Yields the lines of an open file; see `read_lines`. `path` is its name in messages."""
  for number in itertools.count(1):
    line = file.readline(-1 if drop_torn else MOST_BYTES + 1)
    if not line:
      return
    if len(line) > MOST_BYTES and not drop_torn:
      raise UserError(
        f"{path}, line {number}: has more than {MOST_BYTES} bytes; expected one object a line"
      )
    if line.strip() and not (drop_torn and not line.endswith(b"\n")):
      yield number, line


def parse_line(line: bytes) -> Record:
  """The object on one line; see `parse_json` for the errors."""
  return as_object(parse_json(line))


def read_records(
  path: Path, *, drop_torn: bool = False, check: Callable[[Record], object] = bool
) -> Iterator[Record]:
  """The object of every line, one at a time.

  Args:
    check: raises a UserError where a record is not of the form that it should be.

  Raises:
    UserError: the file cannot be read, or a line is not such an object; the message names the line.
  """
  return (record for _, record in _numbered_records(path, check, drop_torn=drop_torn))


def _numbered_records(
  path: Path, check: Callable[[Record], object], *, drop_torn: bool
) -> Iterator[tuple[int, Record]]:
  for number, line in read_lines(path, drop_torn=drop_torn):
    try:
      record = parse_line(line)
      check(record)
    except UserError as error:
      raise UserError(f"{path}, line {number}: {error}") from error
    yield number, record


def encode_line(record: Record) -> bytes:
  """The record as one line of UTF-8 JSON; ValueError for NaN and infinity, which JSON lacks."""
  return json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def process_files(folder: Path) -> list[Path]:
  """The files of a folder that processes have written, in the order of the processes."""
  return sorted(folder.glob("process-*.jsonl"))


def process_records(folder: Path, check: Callable[[Record], object] = bool) -> Iterator[Record]:
  """Records that all processes have written to a folder, one at a time; see `read_records`."""
  for path in process_files(folder):
    yield from read_records(path, drop_torn=True, check=check)


def read_output(
  workdir: Path, output: str, check: Callable[[Record], object] = bool
) -> Iterator[Record]:
  """Yields every finished item of one of a workdir's outputs, of all processes.

  Args:
    output: name of its folder in the workdir.

  Raises:
    UserError: a line is not an object with an id, or has the id of another; the message names it.
  """
  places: dict[str, str] = {}  # of each id
  for path in process_files(workdir / output):
    for number, record in _numbered_records(path, check, drop_torn=True):
      place = f"{path}, line {number}"
      try:
        item_id = get_text(record, "id")
      except UserError as error:
        raise UserError(f"{place}: {error}") from error
      if item_id in places:
        raise UserError(
          f'{place}: repeats the id "{item_id}" of {places[item_id]}; a run writes each once. '
          f"Remove one of the two lines"
        )
      places[item_id] = place
      yield record


def process_writer(folder: Path, process_index: int) -> "JsonlWriter":
  """Opens a process's file in a folder of a workdir, made if the workdir is there."""
  make_subfolder(folder)
  return JsonlWriter(folder / f"process-{process_index:05d}.jsonl")


class JsonlWriter:
  """Appends objects to a file, each of which is wholly on disk when `write` returns, or not at all.

  The process may be killed at any moment: what it left of a line, which then lacks its newline, is
  cut off when the file is next opened. One writer per file at a time.
  """

  def __init__(self, path: Path):
    """Opens `path`, creating it in a folder that must be there; see `make_subfolder`."""
    self.path = path
    with explain_os_errors(path):
      self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
      _cut_torn_line(self._fd)
      sync(path.parent)  # else a power cut could lose the file's name

  def write(self, record: Record) -> None:
    """Appends one object and waits until it is on disk.

    Raises:
      UserError: the disk is full, or the file can no longer be written; it ends as it did before.
        Or it was deleted, or its folder: what is written to it would be lost with it.
    """
    line = encode_line(record)
    self.check_there()
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

  def check_there(self) -> None:
    """A UserError where the file was moved or deleted since it was opened."""
    try:
      there = os.path.samestat(os.stat(self.path), os.fstat(self._fd))
    except OSError:
      there = False
    if not there:
      raise UserError(
        f"{self.path} is gone: it was deleted or moved while this run wrote to it. Put its folder "
        f"back and run the same command again, or choose another workdir"
      )

  def close(self) -> None:
    """Closes the file; no write may follow."""
    os.close(self._fd)

  def __enter__(self) -> "JsonlWriter":
    return self

  def __exit__(self, *_) -> None:
    self.close()


def _cut_torn_line(fd: int) -> None:
  """Shortens a file to its last newline, searching backwards."""
  size = os.fstat(fd).st_size
  end = size
  while end > 0:
    start = max(0, end - _BLOCK)
    newline = os.pread(fd, end - start, start).rfind(b"\n")
    if newline >= 0:
      end = start + newline + 1
      break
    end = start
  if end < size:
    os.ftruncate(fd, end)
    os.fsync(fd)
