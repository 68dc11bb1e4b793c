"""The folder of a run: its config, its outputs, and what lets a killed run go on."""

import contextlib
import errno
import math
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from absl import logging

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.config import write_or_check_config
from greedy_prune_jax.runs.files import explain_os_errors, held_folder, replace_file
from greedy_prune_jax.runs.jsonl import (
  JsonlWriter,
  encode_line,
  parse_line,
  process_files,
  process_writer,
  read_lines,
  read_output,
)
from greedy_prune_jax.runs.lock import hold_locks
from greedy_prune_jax.runs.records import CHECK, Record, checksum, get, get_text
from greedy_prune_jax.runs.weights import WEIGHTS, hold_weights


class FinishedItems:
  """A folder of finished items of one kind, a record with an `id` a line."""

  def __init__(self, folder: Path, writer: JsonlWriter):
    """Reads which items are finished; the writer is of this process's file in the folder."""
    self._folder = folder
    self._writer = writer
    self._ids = {record["id"] for record in self.records()}

  @property
  def ids(self) -> frozenset[str]:
    """Of the finished items: all that there were at the opening, and this process's since."""
    return frozenset(self._ids)

  def records(self) -> Iterator[Record]:
    """Every finished item, of all processes."""
    return read_output(self._folder.parent, self._folder.name)

  def write(self, record: Record) -> None:
    """Stores a finished item; it is on disk when this returns.

    Raises:
      ValueError: its id is finished already.
      UserError: the disk is full or gone; everything stored before is whole.
    """
    item_id = get_text(record, "id")
    if item_id in self._ids:
      raise ValueError(f"{item_id} is finished already")
    self._writer.write(record)
    self._ids.add(item_id)


class Workdir:
  """A folder that one run at a time writes to, by one or more processes.

  What is in it, for a job whose `output` is `pruned`; each process writes files of its own:

      config.json                      the resolved config of the latest run
      weights.json                     digests of the weights of models that are files here
      metrics.jsonl                    process 0's log
      skipped.jsonl                    inputs that were left out, and why (what process 1 left out
                                       is in skipped-00001.jsonl)
      pruned/process-00000.jsonl       finished items, one record with an `id` a line
      unfinished/process-00000.jsonl   partial results; gone when the run is complete
      unfinished/keep-00000            empty: process 0 has ended with something left to do
      locks/process-00000              locked while the process runs

  Use it as a context manager; the lock is held from construction to exit.
  """

  def __init__(
    self,
    path: str | Path,
    config: Mapping[str, Any],
    *,
    output: str,
    further_outputs: Sequence[str] = (),
    may_change: Collection[str] = (),
    may_grow: Mapping[str, float] = MappingProxyType({}),
    process_index: int = 0,
    num_processes: int = 1,
  ):
    """Makes or reopens the folder.

    In a run of several processes none may finish an item before all have come out of here.

    Args:
      path: the folder; made if it does not exist.
      output: name of the folder of finished items.
      further_outputs: names of further ones, of a job with several stages; see `output`.
      may_change: dotted keys of `config` that a later run may set differently.
      may_grow: those of numbers of inputs, which a later run may set higher, each with the number
        that 0 stands for.
      num_processes: processes of this run; an earlier run in the same folder may have had another
        number.

    Raises:
      UserError: the folder cannot be written, another run is writing to it, or what it holds was
        made with another config; the message says which keys differ.
    """
    self.path = Path(path)
    self.process_index = process_index
    self._outputs = {name: self.path / name for name in (output, *further_outputs)}
    self._unfinished = self.path / "unfinished"
    own_suffix = f"-{process_index:05d}" if process_index else ""
    self._skipped = self.path / f"skipped{own_suffix}.jsonl"
    self._skipped_lines: dict[bytes, str] | None = None
    self._open = contextlib.ExitStack()  # locks, and the files
    self._files = self._open.enter_context(contextlib.ExitStack())
    with contextlib.ExitStack() as undo:
      undo.push(self._open)
      hold_locks(self.path / "locks", process_index, num_processes, self._open)
      with held_folder(self.path):  # a file that cannot be read went with it
        if process_index == 0:
          self._check_config(config, may_change, may_grow)
          self._repair_files_of_others(num_processes)
          with explain_os_errors(self._unfinished):
            for kept in self._unfinished.glob("keep-*"):  # by an earlier run
              kept.unlink()
          self._metrics_writer = self._writer(self.path / "metrics.jsonl")
        finished = {
          name: FinishedItems(folder, self._open_own(folder))
          for name, folder in self._outputs.items()
        }
        self._unfinished_writer = self._open_own(self._unfinished)
      undo.pop_all()
    self._finished, self._main = finished, finished[output]

  def __enter__(self) -> "Workdir":
    return self

  def __exit__(self, *_) -> None:
    self._open.close()

  def output(self, name: str) -> FinishedItems:
    """The finished items of one of the outputs."""
    return self._finished[name]

  @property
  def finished_ids(self) -> frozenset[str]:
    """`FinishedItems.ids` of the first output."""
    return self._main.ids

  def write_finished(self, record: Record) -> None:
    """`FinishedItems.write` to the first output; the item was not left out, then."""
    self._main.write(record)
    self.drop_skipped(record["id"])

  def write_unfinished(self, item_id: str, progress: int, state: Record) -> None:
    """Stores what was found so far about an item, from which a later run can go on.

    Args:
      progress: measure of the progress, such as the number of deletions; the furthest counts.
    """
    record = {"id": item_id, "progress": progress, "state": state}
    self._unfinished_writer.write(record | {CHECK: checksum(record)})

  def load_unfinished(self) -> dict[str, Record]:
    """The furthest state of every item that is begun but not finished, by id, of all processes.

    Raises:
      UserError: a record is not as it was written; the message names its line.
    """
    furthest: dict[str, Record] = {}
    for record in self._unfinished_records():
      known = furthest.get(record["id"])
      if known is None or record["progress"] >= known["progress"]:
        furthest[record["id"]] = record
    return {
      item_id: record["state"]
      for item_id, record in furthest.items()
      if item_id not in self._main.ids
    }

  def _unfinished_records(self) -> Iterator[Record]:
    for path in process_files(self._unfinished):
      for number, line in read_lines(path, drop_torn=True):
        try:
          record = parse_line(line)
          if get(record, CHECK, str) != checksum(record):
            raise UserError(f'was changed since it was written: its "{CHECK}" does not fit')
        except UserError as error:
          raise UserError(
            f"{path}, line {number}: {error}. Remove the line: what it holds is computed again"
          ) from error
        yield record

  def write_skipped(self, record: Record) -> None:
    """Records an input that was left out and why, unless an earlier run already did.

    Where every process sees the same input, let only one of them call this.
    """
    line = encode_line(record)
    if line not in self._known_skipped():
      with JsonlWriter(self._skipped) as writer:  # a run that skips nothing has no such file
        writer.write(record)
      self._known_skipped()[line] = _left_out_for_now(line)

  def drop_skipped(self, item_id: str) -> None:
    """Removes what this process recorded of an input without a place that has its result now.

    A record with a place is of a line that can never be used, though it may have the id of another.
    """
    lines = self._known_skipped()
    if item_id not in lines.values():
      return
    self._skipped_lines = {line: own for line, own in lines.items() if own != item_id}
    if self._skipped_lines:
      replace_file(self._skipped, b"".join(self._skipped_lines))
    else:
      with explain_os_errors(self._skipped):
        self._skipped.unlink()

  def _known_skipped(self) -> dict[bytes, str]:
    """The lines of this process's file; see `_left_out_for_now`."""
    if self._skipped_lines is None:
      there = self._skipped.exists()
      lines = read_lines(self._skipped, drop_torn=True) if there else ()
      self._skipped_lines = {line: _left_out_for_now(line) for _, line in lines}
    return self._skipped_lines

  def warn_of_gone(self, ids: Collection[str]) -> None:
    """Logs which finished items this run would not make any more: tables go on counting them."""
    finished = frozenset().union(*(items.ids for items in self._finished.values()))
    gone = sorted(finished.difference(ids))
    if gone and self.process_index == 0:
      logging.warning(
        "the input no longer has %d of the finished items: %s. They stay in %s and in every table "
        "of it; choose another workdir to leave them out",
        len(gone),
        ", ".join(gone[:5]) + (", ..." if len(gone) > 5 else ""),
        self.path,
      )

  def write_metrics(self, metrics: Mapping[str, Any]) -> None:
    """Adds a line to the log, with the time in seconds since 1970; only process 0 has a log.

    NaN and infinity, which JSON cannot hold, become null.
    """
    if self.process_index == 0:
      finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in metrics.items()
      }
      self._metrics_writer.write({"time": round(time.time(), 3)} | finite)

  def hold_weights(self, model: str) -> None:
    """Refuses other weights of a model than the workdir was begun with; see `weights`."""
    if self.process_index == 0:
      hold_weights(self.path, model, begun=self._begun)

  def keep_unfinished(self) -> None:
    """Says that this process leaves something that a later run can go on with."""
    path = self._unfinished / f"keep-{self.process_index:05d}"
    with explain_os_errors(path):
      path.touch()

  def remove_unfinished(self) -> None:
    """Removes all partial results, unless a process keeps them: for the end of all processes.

    No write may follow: files are closed first, because NFS keeps what is deleted while it is open.
    """
    self._files.close()
    if self.process_index == 0 and not any(self._unfinished.glob("keep-*")):
      with explain_os_errors(self._unfinished):
        try:
          shutil.rmtree(self._unfinished)
        except OSError as error:
          if error.errno not in (errno.ENOTEMPTY, errno.EBUSY):
            raise
          # Another program has something open there; results are whole, and no run reads it.
          logging.warning("could not remove %s: %s", self._unfinished, error.strerror)

  def _open_own(self, folder: Path) -> JsonlWriter:
    return self._files.enter_context(process_writer(folder, self.process_index))

  def _writer(self, path: Path) -> JsonlWriter:
    return self._files.enter_context(JsonlWriter(path))

  def _check_config(
    self, config: Mapping[str, Any], may_change: Collection[str], may_grow: Mapping[str, float]
  ) -> None:
    path = self.path / "config.json"
    # Empty files may be those that this run's other processes have just made.
    has_results = any(
      file.lstat().st_size for folder in self._outputs.values() for file in folder.glob("*.jsonl")
    )
    if has_results and not path.exists():
      raise UserError(
        f"{self.path} holds results but no config.json, so nobody knows how they were made; choose "
        f"another workdir"
      )
    self._begun = self._holds_anything()
    write_or_check_config(path, config, may_change, may_grow=may_grow, begun=self._begun)

  def _holds_anything(self) -> bool:
    """Tells whether any file but the config and the locks has something in it."""
    files = (path for path in self.path.rglob("*") if not path.is_dir())
    own = ("config.json", "config.json.new", WEIGHTS)
    return any(
      path.lstat().st_size and path.parent.name != "locks" and path.name not in own
      for path in files
    )

  def _repair_files_of_others(self, num_processes: int) -> None:
    """Cuts torn lines off the files of an earlier run's processes that this run does not have."""
    for folder in (*self._outputs.values(), self._unfinished):
      for path in process_files(folder):
        if int(path.stem.removeprefix("process-")) >= num_processes:
          JsonlWriter(path).close()


def _left_out_for_now(line: bytes) -> str:
  """The id of the input that a line of `skipped.jsonl` records; empty where it names a place."""
  try:
    record = parse_line(line)
  except UserError:  # somebody else's
    return ""
  return "" if record.get("place") else str(record.get("id", ""))
