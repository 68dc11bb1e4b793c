"""Keeps two runs from writing to one workdir."""

import contextlib
import errno
import fcntl
import os
import socket
import warnings
from pathlib import Path

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.files import explain_os_errors, make_folder

_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # some network file systems


class LockedError(UserError):
  """Somebody else holds a lock."""


def hold_locks(
  folder: Path, process_index: int, num_processes: int, held: contextlib.ExitStack
) -> None:
  """Takes this process's lock, which the end of the process releases, however it ends.

  Process 0 also takes the locks that an earlier run with more processes left, to be sure that none
  of those still runs.

  Args:
    folder: folder of the locks, one file a process; made if it does not exist.
    held: releases the locks when it is closed.

  Raises:
    LockedError: another run holds one of them.
    UserError: they cannot be written.
  """
  make_folder(folder)
  paths = [folder / f"process-{process_index:05d}"]
  if process_index == 0:
    paths += [path for path in sorted(folder.glob("process-*")) if _index(path) >= num_processes]
  for path in paths:
    _hold(path, held)


def _index(path: Path) -> int:
  return int(path.name.removeprefix("process-"))


def _hold(path: Path, held: contextlib.ExitStack) -> None:
  with explain_os_errors(path):
    # Not inherited by programs that this process starts, so no child can keep a dead run's lock.
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
  held.callback(os.close, fd)
  try:
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    holder = os.pread(fd, 1000, 0).decode(errors="replace") or "a process that has just started"
    raise LockedError(
      f"another run is writing to {path.parent.parent}: {holder}. Wait for it to end, stop it, or "
      f"choose another workdir"
    ) from error
  except OSError as error:
    if error.errno not in _NO_LOCKS_HERE:
      raise
    warnings.warn(
      f"{path.parent.parent} is on a file system without locks: take care that no two runs write "
      f"to it",
      stacklevel=2,
    )
  with explain_os_errors(path):
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
