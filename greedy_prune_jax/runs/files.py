"""Files of users and runs: only regular ones are read, every new one is whole or not there."""

import contextlib
import errno
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from greedy_prune_jax.errors import UserError

_BLOCK = 1 << 20  # bytes that are read at a time
_LONGEST_NAME, _LONGEST_PATH = 255, 4000  # bytes, on most file systems
_KINDS = {
  stat.S_IFDIR: "a folder",
  stat.S_IFIFO: "a named pipe",
  stat.S_IFCHR: "a device",
  stat.S_IFBLK: "a device",
  stat.S_IFSOCK: "a socket",
}


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
  """Opens a regular file for reading.

  Raises:
    UserError: the file cannot be read, or is a folder, a pipe or a device: their reading may never
      end.
  """
  try:
    # Without O_NONBLOCK a pipe that nobody writes to would be waited for here.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
  except OSError as error:
    raise UserError(f"cannot read {path}: {error.strerror}") from error
  except ValueError as error:  # the name has a NUL
    raise UserError(f"cannot read {str(path)!r}: {error}") from error
  kind = stat.S_IFMT(os.fstat(fd).st_mode)
  if kind != stat.S_IFREG:
    os.close(fd)
    raise UserError(f"cannot read {path}: it is {_KINDS.get(kind, 'no regular file')}")
  try:
    with open(fd, "rb") as file:
      yield file
  except OSError as error:
    raise UserError(f"cannot read {path}: {error.strerror}") from error


def read_bytes(path: Path, most_bytes: int) -> bytes:
  """The content of a regular file of at most `most_bytes` bytes; else a UserError."""
  content = bytearray()
  with open_file(path) as file:
    while block := file.read(_BLOCK):  # to ask for all at once would allocate the most
      content += block
      if len(content) > most_bytes:
        raise UserError(f"{path} has more than {most_bytes} bytes, the most that are read of it")
  return bytes(content)


def user_path(name: str | Path) -> Path:
  """The path of this name, `~` expanded: of a file or folder, or of one that could be made.

  Raises:
    UserError: it is empty, which would mean the folder that the job runs in; it has a NUL, or a
      part of more than 255 bytes, so that asking the system whether there is such a file would
      raise other errors than for a file that is not there; or there is a pipe, a socket or a
      device, which is neither file nor folder and so would seem missing.
  """
  text = str(name)
  if not text.strip():
    raise UserError("the name of a file or folder is empty")
  longest = max(len(part.encode(errors="replace")) for part in text.split("/"))
  if "\0" in text or longest > _LONGEST_NAME or len(text) > _LONGEST_PATH:
    raise UserError(
      f"{text[:60]!r}... cannot be a file's name: it has a NUL, or a part of {longest} bytes; file "
      f"systems take {_LONGEST_NAME}"
    )
  path = Path(os.path.expanduser(text))  # a shell leaves the ~ of --config.chains=~/x to us
  with contextlib.suppress(OSError):  # whoever reads it says so
    kind = stat.S_IFMT(path.stat().st_mode)
    if kind not in (stat.S_IFREG, stat.S_IFDIR):
      raise UserError(
        f"cannot read {path}: it is {_KINDS.get(kind, 'of an unknown kind')}; expected a file or "
        "folder"
      )
  return path


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
  """Gives a path to write to; what is written there takes the place of `path`, whole or not at all.

  The folder must exist: one that was deleted under a run must not come back with this file alone.

  Raises:
    UserError: the file cannot be written.
  """
  new = path.with_name(path.name + ".new")
  with explain_os_errors(path):
    try:
      yield new
      sync(new)
      new.replace(path)
      sync(path.parent)
    except BaseException:  # a full disk, or whoever was to write could not
      with contextlib.suppress(OSError):  # half a file takes room
        new.unlink(missing_ok=True)
      raise


def replace_file(path: Path, content: str | bytes) -> None:
  """Writes a file of this content; see `new_file`."""
  with new_file(path) as new:
    new.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: Any) -> None:
  """Writes a value as JSON, in lines that can be read; see `replace_file`."""
  replace_file(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def make_folder(path: Path) -> None:
  """Makes a folder and those above it, where they are not there; a UserError if that fails."""
  with explain_os_errors(path):
    try:
      path.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # in /proc and its like: nothing was deleted
      raise PermissionError(errno.EACCES, error.strerror) from error


def make_subfolder(path: Path) -> None:
  """Makes a folder in one that must be there: a workdir that was moved is not to come back."""
  with explain_os_errors(path):
    path.mkdir(exist_ok=True)


@contextlib.contextmanager
def held_folder(folder: Path) -> Iterator[Callable[[], None]]:
  """Gives a check that the folder still is the one that it was, whatever is at its path by then.

  A run makes folders inside its own; where somebody moves that away, it would come back with
  nothing in it but those. It is kept open, so that no other folder gets its number meanwhile.

  Raises:
    UserError: the folder cannot be opened; or, from the check and in place of each error of the
      body, that it was deleted or moved.
  """
  with explain_os_errors(folder):
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

  def check() -> None:
    with explain_os_errors(folder):
      if not os.path.samestat(folder.stat(), os.fstat(fd)):
        raise FileNotFoundError(errno.ENOENT, "another folder is at its place")

  try:
    yield check
  except Exception:
    check()  # what is missing may be in the folder that was moved
    raise
  finally:
    os.close(fd)


def sync(path: Path) -> None:
  """Waits until a file, or a folder's list of files, is on disk."""
  fd = os.open(path, os.O_RDONLY)
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
    advice = os_error_advice(error) or "Choose a workdir in a folder that you can write to."
    raise UserError(f"cannot write {path}: {error.strerror or error}. {advice}") from error


def os_error_advice(error: OSError) -> str:
  """Says what to do about an error of reading or writing; empty where its kind does not tell."""
  if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
    return (
      "What was written before is whole; free some space and run the same command again to go on."
    )
  if error.errno == errno.ENOENT:
    return (
      "Its folder is gone: it was deleted or moved. Put it back and run the same command again, "
      "or choose another workdir."
    )
  if error.errno == errno.ENAMETOOLONG:
    return "Choose a shorter name: file systems take names of up to 255 bytes."
  return ""
