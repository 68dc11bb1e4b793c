"""Checkpoints of a run by Orbax: written beside the training, whole or not there.

`checkpoints/STEP/` holds `trained` (the weights, or LoRA's matrices), `optimizer`, and `progress`
(JSON: the position in the data and what the validations found so far).
"""

import contextlib
import dataclasses
import errno
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jaxtyping import Array
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, CustomSteps, LatestN

from greedy_prune_jax.distill.parameters import Params
from greedy_prune_jax.distill.step import TrainState
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.parallel import place
from greedy_prune_jax.runs.files import explain_os_errors, make_subfolder
from greedy_prune_jax.runs.records import CHECK, Record, check_form, checksum


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainProgress:
  """A run's progress, stored beside its weights.

  Attributes:
    data: the position of the input, as Grain gives it.
    best_step: step of the best validation loss; None before there was one.
    best_loss: nats per token.
    stalled: validations since without a better one.
    examples: the training data's `fingerprint`; None in checkpoints from before it.
  """

  data: Any
  best_step: int | None = None
  best_loss: float | None = None
  stalled: int = 0
  examples: str | None = None

  @classmethod
  def from_record(cls, record: Record) -> "TrainProgress":
    """Reads what `to_record` wrote, also of versions that wrote no checksum.

    Raises:
      UserError: it was changed since.
    """
    if record.get(CHECK, checksum(record)) != checksum(record):
      raise UserError(f'its progress was changed since it was written: "{CHECK}" does not fit')
    check_form(record, _PROGRESS_FORM, "its progress")
    return cls(**{key: value for key, value in record.items() if key != CHECK})

  def to_record(self) -> Record:
    """The progress as a JSON object, with a checksum."""
    record = dataclasses.asdict(self)
    return record | {CHECK: checksum(record)}

  def after(self, data: Any, step: int, loss: float | None) -> "TrainProgress":
    """TrainProgress at a checkpoint, whose validation loss is None if there was no validation."""
    if loss is None:
      return dataclasses.replace(self, data=data)
    if self.best_loss is None or loss < self.best_loss:
      return dataclasses.replace(self, data=data, best_step=step, best_loss=loss, stalled=0)
    return dataclasses.replace(self, data=data, stalled=self.stalled + 1)


_PROGRESS_FORM = {
  "data": (dict, str, type(None)),
  "best_step?": (int, type(None)),
  "best_loss?": (float, type(None)),
  "stalled?": int,
  "examples?": (str, type(None)),
}


class Checkpoints:
  """The checkpoints of one run; a context manager that waits until the last one is written."""

  def __init__(
    self, workdir: Path, *, num_last: int = 1, read_only: bool = False, alone: bool = False
  ):
    """Opens the folder.

    Args:
      num_last: number of latest checkpoints to keep, beside the best.
      read_only: True where another run may be writing them.
      alone: True where this process opens and reads them by itself; else all processes of the run
        do, and wait for each other.
    """
    folder = checkpoints_folder(workdir)
    self._kept = AnyPreservationPolicy([LatestN(num_last)])
    options = ocp.CheckpointManagerOptions(
      preservation_policy=self._kept,
      read_only=read_only,
      create=False,  # Orbax would make a workdir that is gone anew
      cleanup_tmp_directories=not read_only,
    )
    if alone:
      own = jax.process_index()
      options.multiprocessing_options = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process_{own}"
      )
    if not read_only:
      make_subfolder(folder)
    with explain_os_errors(folder):
      self._manager = ocp.CheckpointManager(folder, options=options)
    self._folder = folder

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, kind: type[BaseException] | None, *_) -> None:
    try:
      with _explain(f"cannot write {self._folder}"):
        self._manager.close()
    except UserError:
      if kind is None:  # else what went wrong before matters more
        raise

  @property
  def steps(self) -> list[int]:
    """Steps of which there is a checkpoint, ascending."""
    return sorted(self._manager.all_steps())

  def save(self, state: TrainState, progress: TrainProgress) -> None:
    """Begins to write a checkpoint; the state may be donated as soon as this returns.

    Args:
      progress: the run's progress, this step's validation included.

    Raises:
      UserError: this one, or the one before, cannot be written.
    """
    items = ocp.args.Composite(
      trained=ocp.args.StandardSave(state.trained),
      optimizer=ocp.args.StandardSave(_by_name(state.optimizer)),
      progress=ocp.args.JsonSave(progress.to_record()),
    )
    if progress.best_step is not None:  # a run knows it, however often it was stopped
      self._kept.policies = [*self._kept.policies[:1], CustomSteps([progress.best_step])]
    with _explain(f"cannot write {self._folder}"):
      self._manager.save(int(state.step), args=items, force=True)

  def restore(self, step: int, like: TrainState) -> tuple[TrainState, TrainProgress]:
    """The state and the progress of a step.

    Args:
      step: one of `steps`.
      like: a state of the same shapes, on the devices where the new one is to be.

    Raises:
      UserError: the checkpoint is damaged.
    """
    items = ocp.args.Composite(
      trained=ocp.args.StandardRestore(_abstract(like.trained)),
      optimizer=ocp.args.StandardRestore(_abstract(_by_name(like.optimizer))),
      progress=ocp.args.JsonRestore(),
    )
    with _explain(f"cannot read {self._folder / str(step)}"):
      items = self._manager.restore(step, args=items)
      optimizer = jax.tree.unflatten(
        jax.tree.structure(like.optimizer),
        [items["optimizer"][name] for name in _by_name(like.optimizer)],
      )
      progress = TrainProgress.from_record(items["progress"])
    count = place(np.asarray(step, like.step.dtype), like.step.sharding)
    return TrainState(count, items["trained"], optimizer), progress

  def restore_last(self, like: TrainState) -> tuple[int, TrainState, TrainProgress | None]:
    """The last checkpoint that can be read: its step, state and progress; 0 and `like` for none.

    One that is damaged is moved to `damaged/`, so that the run can write it anew.

    Raises:
      UserError: none of the checkpoints can be read, or one cannot and there are several processes.
    """
    for step in reversed(self.steps):
      try:
        return step, *self.restore(step, like)
      except UserError as error:
        if step == self.steps[0] or jax.process_count() > 1:
          raise
        logging.warning("%s; going on from the checkpoint before it", error)
        damaged = self._folder.parent / "damaged"
        make_subfolder(damaged)
        with explain_os_errors(damaged):
          (self._folder / str(step)).rename(damaged / f"{step}-{time.time_ns()}")
        self._manager.reload()
    return 0, like, None

  def restore_trained(self, step: int, like: Mapping[str, Any]) -> Params:
    """The weights of a step alone, or LoRA's matrices.

    Args:
      step: one of `steps`.
      like: arrays or shapes of the same kind; these decide on which devices they are.

    Raises:
      UserError: the checkpoint is damaged.
    """
    items = ocp.args.Composite(trained=ocp.args.StandardRestore(_abstract(like)))
    with _explain(f"cannot read {self._folder / str(step)}"):
      return self._manager.restore(step, args=items)["trained"]

  def progress(self, step: int) -> TrainProgress:
    """The progress of a step; see `restore_trained` for the error."""
    items = ocp.args.Composite(progress=ocp.args.JsonRestore())
    with _explain(f"cannot read {self._folder / str(step)}"):
      return TrainProgress.from_record(self._manager.restore(step, args=items)["progress"])


@contextlib.contextmanager
def _explain(what: str) -> Iterator[None]:
  """Turns whatever Orbax raises of a disk or a damaged file into a UserError."""
  try:
    yield
  except Exception as error:  # bare ones too
    full = os.strerror(errno.ENOSPC)
    first, *_ = str(error).strip().splitlines() or [type(error).__name__]
    why = f"{full}; free some, the same command goes on" if full in str(error) else first
    raise UserError(f"{what}: {why}. What was written before is whole") from error


def saved_steps(workdir: Path) -> list[int]:
  """Steps of which a run, which may be going on, has a whole checkpoint now; ascending."""
  folder = checkpoints_folder(workdir)
  return sorted(ocp.utils.checkpoint_steps(folder)) if folder.is_dir() else []


def checkpoints_folder(workdir: Path) -> Path:
  """Folder of a run's checkpoints, each in a folder named by its step."""
  return workdir.resolve() / "checkpoints"


def _by_name(tree: Any) -> dict[str, Array]:
  """The leaves of an optimiser's state by their paths; its own classes stay out of the files."""
  return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _abstract(tree: Any) -> Any:
  return jax.tree.map(ocp.utils.to_shape_dtype_struct, dict(tree))
