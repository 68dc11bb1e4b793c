"""Parts of a long work, shared out among processes that see one folder.

A part has a folder of its own under `parts/`: a lock, which the process that works on it holds (and
the operating system frees, however the process ends), the config that its results are made with,
and `done.json` when it is done, before which the config may be mended. Its work is in the study's
folder of its name: what an attempt with another config left there is moved aside. Nobody deals
parts out: each process takes the next that nobody has, and waits while others hold all that is
left.
"""

import contextlib
import dataclasses
import itertools
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import logging

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.reports.printing import printable
from greedy_prune_jax.runs.config import OtherConfigError, write_or_check_config
from greedy_prune_jax.runs.files import explain_os_errors, held_folder, make_folder, write_json
from greedy_prune_jax.runs.json_reader import read_json
from greedy_prune_jax.runs.lock import LockedError, hold_locks
from greedy_prune_jax.runs.records import Record, get

PARTS = "parts"

_MOST_OF_FAULT = 500  # characters of the text of an error that was not expected


class StoppedError(Exception):
  """This process was asked to stop; what it has is saved."""


@dataclasses.dataclass(frozen=True)
class Part:
  """Something to be done once, by one process.

  Attributes:
    name: unique; may have slashes.
    needs: names of parts that must be done before, each earlier in the list.
    config: settings that its results depend on; results of other settings are not used.
    may_change: dotted keys of the config that do not matter.
    run: does it, resuming the work of a process that died if that fits the config. Any error says
      that it cannot be done, but `StoppedError`, that this process has to end.
  """

  name: str
  needs: tuple[str, ...]
  config: Mapping[str, Any] = dataclasses.field(hash=False)
  may_change: Collection[str]
  run: Callable[[], None]


@dataclasses.dataclass(frozen=True)
class PartsResult:
  """End of a share of the work.

  Attributes:
    failed: why parts could not be done, by their names; parts that need these are not among them.
    left: number of parts that are not done because they need those.
  """

  failed: Mapping[str, str]
  left: int


def run_parts(
  parts: Sequence[Part],
  folder: Path,
  *,
  poll_seconds: float,
  after_each: Callable[[], None] = lambda: None,
) -> PartsResult:
  """Works until every part is done, by this process or another, or cannot be.

  Args:
    parts: the work's parts, those that others need first.
    poll_seconds: seconds to wait where other processes hold all that can be done.
    after_each: called when this process has done a part.

  Raises:
    UserError: a part was done with another config, or the folder was deleted or moved.
    StoppedError: see `Part.run`.
  """
  make_folder(folder / PARTS)
  with held_folder(folder / PARTS) as check_there:
    return _run_parts(parts, folder, poll_seconds, after_each, check_there)


def _run_parts(
  parts: Sequence[Part],
  folder: Path,
  poll_seconds: float,
  after_each: Callable[[], None],
  check_there: Callable[[], None],
) -> PartsResult:
  left, done = list(parts), set[str]()
  failed: dict[str, str] = {}
  while left:
    before = len(left)
    for part in list(left):
      if set(part.needs) - done:
        continue
      check_there()
      with _claimed(part, folder) as place:
        if place is None:
          continue
        ran = not is_done(part, folder)
        try:
          if ran:
            logging.info("part %s (%d left)", part.name, len(left))
            _run(part, place, folder / part.name)
        except StoppedError:
          raise
        except Exception as error:  # such as a device whose memory this part alone is too large for
          check_there()  # what it lacks may be in the folder that was moved
          fault = None if isinstance(error, UserError) else error
          failed[part.name] = str(error) if fault is None else _in_one_line(fault)
          logging.error("part %s cannot be done: %s", part.name, failed[part.name], exc_info=fault)
          jax.clear_caches()  # the next part has shapes of its own
        else:
          done.add(part.name)
      left.remove(part)
      if ran and part.name in done:
        check_there()
        after_each()
    left = _without_hopeless(left, failed)
    if len(left) == before:
      time.sleep(poll_seconds)
  return PartsResult(failed, sum(part.name not in done for part in parts) - len(failed))


def _in_one_line(error: Exception) -> str:
  """The type and text of an error that is no user's."""
  text = printable(" ".join(str(error).split()), one_line=True, most=_MOST_OF_FAULT)
  return f"{type(error).__name__}: {text}"


def is_done(part: Part, folder: Path) -> bool:
  """Tells whether a part is done."""
  return (_place(part, folder) / "done.json").exists()


def seconds_spent(parts: Sequence[Part], folder: Path) -> float:
  """Process time of the parts that are done: the last attempt of each."""
  done = (_place(part, folder) / "done.json" for part in parts if is_done(part, folder))
  return sum(get(read_json(path), "seconds", float, int) for path in done)


@contextlib.contextmanager
def _claimed(part: Part, folder: Path) -> Iterator[Path | None]:
  """The part's folder while this process holds it; None if another does.

  Raises:
    UserError: it was done with another config.
  """
  place = _place(part, folder)
  with contextlib.ExitStack() as held:
    try:
      hold_locks(place / "locks", 0, 1, held)
    except LockedError:
      yield None
      return
    path = place / "config.json"
    if not is_done(part, folder):
      with explain_os_errors(path):  # what is not done binds nobody
        path.unlink(missing_ok=True)
    write_or_check_config(path, part.config, part.may_change)
    yield place


def _run(part: Part, place: Path, work: Path) -> None:
  """Does a part, whose work is in a folder of the study."""
  began = time.monotonic()
  while True:
    try:
      part.run()
      break
    except OtherConfigError as error:  # what is not done binds nobody
      if not error.folder.is_relative_to(work):
        raise
      _move_aside(error.folder)
  record: Record = {
    "seconds": round(time.monotonic() - began, 1),
    "finished": round(time.time(), 1),
    "host": socket.gethostname(),
  }
  write_json(place / "done.json", record)


def _move_aside(folder: Path) -> None:
  """Renames a folder that another config made to one of a name that no arm or test can have."""
  names = (folder.with_name(f"{folder.name}~{number}") for number in itertools.count(1))
  aside = next(name for name in names if not name.exists())
  logging.warning(
    "%s was made with other settings and is not done: it is begun anew, and the old one is %s now",
    folder,
    aside,
  )
  with explain_os_errors(folder):
    folder.rename(aside)


def _place(part: Part, folder: Path) -> Path:
  return folder / PARTS / part.name


def _without_hopeless(parts: Sequence[Part], failed: Collection[str]) -> list[Part]:
  """Parts without a failed one among those that they need, directly or through others."""
  hopeless = set(failed)
  for part in parts:
    if hopeless.intersection(part.needs):
      hopeless.add(part.name)
  return [part for part in parts if part.name not in hopeless]
