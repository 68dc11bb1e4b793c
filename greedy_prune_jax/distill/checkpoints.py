"""Checkpoints of a run by Orbax: written beside the training, whole or not there.

`checkpoints/STEP/` holds `trained` (the weights, or LoRA's matrices), `optimizer`, and `progress`
(JSON: the position in the data and what the validations found so far).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import Array
from orbax.checkpoint.checkpoint_managers import PreservationContext, PreservationPolicy

from greedy_prune_jax.distill.parameters import Params
from greedy_prune_jax.distill.step import TrainState
from greedy_prune_jax.parallel import place
from greedy_prune_jax.runs.files import explain_os_errors


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

  def after(self, data: Any, step: int, loss: float | None) -> "TrainProgress":
    """TrainProgress at a checkpoint, whose validation loss is None if there was no validation."""
    if loss is None:
      return dataclasses.replace(self, data=data)
    if self.best_loss is None or loss < self.best_loss:
      return dataclasses.replace(self, data=data, best_step=step, best_loss=loss, stalled=0)
    return dataclasses.replace(self, data=data, stalled=self.stalled + 1)


class _LastAndBest(PreservationPolicy):
  """Keeps the last checkpoints and `best_step`: a run knows it, however often it was stopped."""

  def __init__(self, num_last: int):
    self._num_last = num_last
    self.best_step: int | None = None

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: PreservationContext
  ) -> Sequence[bool]:
    del context
    steps = sorted(info.step for info in checkpoints)
    kept = {*steps[-self._num_last :], self.best_step}
    return [info.step in kept for info in checkpoints]


class Checkpoints:
  """The checkpoints of one run; a context manager that waits until the last one is written."""

  def __init__(
    self, workdir: Path, *, num_last: int = 1, read_only: bool = False, alone: bool = False
  ):
    """Opens the folder.

    Args:
      workdir: the run's workdir.
      num_last: number of latest checkpoints to keep, beside the best.
      read_only: True where another run may be writing them.
      alone: True where this process opens and reads them by itself; else all processes of the run
        do, and wait for each other.
    """
    folder = checkpoints_folder(workdir)
    self._kept = _LastAndBest(num_last)
    options = ocp.CheckpointManagerOptions(
      preservation_policy=self._kept,
      read_only=read_only,
      create=not read_only,
      cleanup_tmp_directories=not read_only,
    )
    if alone:
      own = jax.process_index()
      options.multiprocessing_options = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process_{own}"
      )
    with explain_os_errors(folder):
      self._manager = ocp.CheckpointManager(folder, options=options)
    self._folder = folder

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, *_) -> None:
    with explain_os_errors(self._folder):
      self._manager.close()

  @property
  def steps(self) -> list[int]:
    """Steps of which there is a checkpoint, ascending."""
    return sorted(self._manager.all_steps())

  def save(self, state: TrainState, progress: TrainProgress) -> None:
    """Begins to write a checkpoint; the state may be donated as soon as this returns.

    Args:
      state: the run's weights and optimizer state.
      progress: the run's progress, this step's validation included.

    Raises:
      UserError: this one, or the one before, cannot be written.
    """
    items = ocp.args.Composite(
      trained=ocp.args.StandardSave(state.trained),
      optimizer=ocp.args.StandardSave(_by_name(state.optimizer)),
      progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
    )
    self._kept.best_step = progress.best_step
    with explain_os_errors(self._folder):
      self._manager.save(int(state.step), args=items, force=True)

  def restore(self, step: int, like: TrainState) -> tuple[TrainState, TrainProgress]:
    """The state and the progress of a step.

    Args:
      step: one of `steps`.
      like: a state of the same shapes, on the devices where the new one is to be.
    """
    items = ocp.args.Composite(
      trained=ocp.args.StandardRestore(_abstract(like.trained)),
      optimizer=ocp.args.StandardRestore(_abstract(_by_name(like.optimizer))),
      progress=ocp.args.JsonRestore(),
    )
    found = self._manager.restore(step, args=items)
    leaves = list(_by_name(like.optimizer))
    optimizer = jax.tree.unflatten(
      jax.tree.structure(like.optimizer), [found["optimizer"][name] for name in leaves]
    )
    count = place(np.asarray(step, like.step.dtype), like.step.sharding)
    return TrainState(count, found["trained"], optimizer), TrainProgress(**found["progress"])

  def restore_trained(self, step: int, like: Mapping[str, Any]) -> Params:
    """The weights of a step alone, or LoRA's matrices.

    Args:
      step: one of `steps`.
      like: arrays or shapes of the same kind; these decide on which devices they are.
    """
    items = ocp.args.Composite(trained=ocp.args.StandardRestore(_abstract(like)))
    return self._manager.restore(step, args=items)["trained"]

  def progress(self, step: int) -> TrainProgress:
    """The progress of a step."""
    items = ocp.args.Composite(progress=ocp.args.JsonRestore())
    return TrainProgress(**self._manager.restore(step, args=items)["progress"])


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
