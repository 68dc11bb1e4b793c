"""Metrics of a run, to `metrics.jsonl` and TensorBoard, with its share of the hardware's peak."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from greedy_prune_jax.accelerators import ACCELERATORS, find_accelerator
from greedy_prune_jax.distill.batches import Batch
from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.runs.files import explain_os_errors, make_subfolder, replace_file
from greedy_prune_jax.runs.jsonl import JsonlWriter, encode_line, read_records
from greedy_prune_jax.runs.records import get
from greedy_prune_jax.torch_free import import_without_torch


class MetricsLog:
  """The log of a run; a context manager. Of several processes the first alone writes it."""

  def __init__(self, workdir: Path, step: int):
    """Opens the log of a run that goes on from `step`; what it holds of later ones is dropped."""
    self._writes = jax.process_index() == 0
    if not self._writes:
      return
    path = workdir / "metrics.jsonl"
    _drop_later(path, step)
    self._lines = JsonlWriter(path)
    self._board = _Board(workdir / "tensorboard", step)

  def __enter__(self) -> "MetricsLog":
    return self

  def __exit__(self, *_) -> None:
    if self._writes:
      self._board.close()
      self._lines.close()

  def check_there(self) -> None:
    """A UserError where the workdir was deleted or moved: no checkpoint is to make it anew."""
    if self._writes:
      self._lines.check_there()

  def write(self, step: int, values: Mapping[str, float | int | None]) -> None:
    """Adds what was measured at a step; None and what is not finite are null in the file."""
    if not self._writes:
      return
    known = {name: x for name, x in values.items() if x is not None and math.isfinite(x)}
    self._board.write(step, known)
    line = {name: known.get(name) for name in values}
    self._lines.write({"time": round(time.time(), 3), "step": step} | line)


class _Board:
  """TensorBoard's file of a run.

  tensorboardX's own SummaryWriter writes from a thread, which a full disk ends without a word;
  whoever then adds a value waits for ever.
  """

  def __init__(self, folder: Path, step: int):
    """Begins a file in which values of later steps than `step` replace those of earlier files."""
    make_subfolder(folder)
    self._path = folder
    self._proto, self._summary, writer = import_without_torch(_tensorboard)
    with explain_os_errors(folder):
      self._events = writer(str(folder / "events"))
    start = self._proto.SessionLog(status=self._proto.SessionLog.START)
    self._add(step=step + 1, session_log=start)

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Adds the values of a step, and waits until they are in the file."""
    for name, value in values.items():
      self._add(step=step, summary=self._summary.scalar(name, value))
    with explain_os_errors(self._path):
      self._events.flush()

  def close(self) -> None:
    """Closes the file; no write may follow."""
    with explain_os_errors(self._path):
      self._events.close()

  def _add(self, **fields: Any) -> None:
    with explain_os_errors(self._path):
      self._events.write_event(self._proto.Event(wall_time=time.time(), **fields))


def _tensorboard() -> tuple[Any, Any, Any]:
  """The parts of tensorboardX in use; its import takes PyTorch along where that is installed."""
  from tensorboardX import summary
  from tensorboardX.event_file_writer import EventsWriter
  from tensorboardX.proto import event_pb2

  return event_pb2, summary, EventsWriter


def _drop_later(path: Path, step: int) -> None:
  """Takes steps that are run again off the log."""
  if not path.exists():
    return
  records = list(read_records(path, drop_torn=True, check=lambda record: get(record, "step", int)))
  kept = [record for record in records if record["step"] <= step]
  if len(kept) < len(records):
    replace_file(path, b"".join(map(encode_line, kept)))


def train_step_flops(config: ModelConfig, batch: Batch, *, all_weights: bool) -> float:
  """Multiplications and additions that a step cannot do without, times two as usual.

  Products with weights alone (attention's own are a few percent at such lengths), of tokens, not
  padding. Forward once, backward twice; once where only LoRA's matrices have gradients.
  """
  passes = 6 if all_weights else 4
  head = config.vocab_size * config.model_dim * batch.num_scored
  return passes * (config.matmul_params(head=False) * batch.num_tokens + float(head))


def peak_flops(num_devices: int) -> float | None:
  """FLOP/s of bfloat16 products of so many devices together; None where that is not known."""
  name = find_accelerator(jax.devices()[0].device_kind)
  return None if name is None else ACCELERATORS[name].peak_flops * num_devices
