"""The beginning and end of a training run: bound config, polled SIGTERM, mark of its end."""

import contextlib
import json
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from greedy_prune_jax.distill.settings import MAY_CHANGE
from greedy_prune_jax.runs.config import write_or_check_config
from greedy_prune_jax.runs.files import explain_os_errors, make_folder, replace_file

_ENDED = "ended.json"
TERMINATED = 128 + signal.SIGTERM  # the status by which shells know a program that was terminated


@contextlib.contextmanager
def terminated() -> Iterator[Callable[[int], bool]]:
  """Gives a function of the step just done that tells whether to stop after it.

  Within it SIGTERM does nothing else. Of several processes, which must have been started for it
  (`start_processes(..., saves_on_sigterm=True)`), each asks after every step, and if any of them
  got the signal all are told to stop at one step.
  """
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    yield multihost_utils.reached_preemption_sync_point
    return
  before, received = signal.getsignal(signal.SIGTERM), []

  def should_stop(_: int) -> bool:
    signal.signal(signal.SIGTERM, lambda *_: received.append(True))
    return bool(received)

  try:
    yield should_stop
  finally:
    signal.signal(signal.SIGTERM, before)


def mark_ended(workdir: Path, step: int, best_step: int | None) -> None:
  """Marks a run as over, after everything else that it writes.

  Args:
    workdir: the run's workdir.
    step: its last step.
    best_step: step of its best validation loss, if it had validations.
  """
  replace_file(workdir / _ENDED, json.dumps({"step": step, "best_step": best_step}) + "\n")


def has_ended(workdir: Path) -> bool:
  """Tells whether a run is over, and not only stopped."""
  return (workdir / _ENDED).exists()


def bind_config(workdir: Path, config: Mapping[str, Any]) -> None:
  """Writes a training's config, or refuses one that what was trained before does not fit.

  Args:
    workdir: the run's workdir, made if need be; the caller sees to it that nobody else writes
      there.
    config: the run's config.

  Raises:
    UserError: the workdir belongs to another config, or cannot be written.
  """
  path, metrics = workdir / "config.json", workdir / "metrics.jsonl"
  begun = metrics.exists() and metrics.stat().st_size
  make_folder(workdir)
  with explain_os_errors(path):
    if not begun and not any((workdir / "checkpoints").glob("[0-9]*")):
      path.unlink(missing_ok=True)  # an earlier run failed at once: its config binds nobody
  write_or_check_config(path, config, MAY_CHANGE)
