"""Trains a student on pruned chains.

python -m greedy_prune_jax.jobs.distill --config=configs/distill.py --workdir=DIR
"""

from greedy_prune_jax.jobs import startup

if __name__ == "__main__":
  startup.prepare_process()  # before the imports below, which take seconds

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from greedy_prune_jax.distill.run import TrainResult, run_distill
from greedy_prune_jax.distill.settings import DistillSettings
from greedy_prune_jax.distill.termination import TERMINATED, terminated
from greedy_prune_jax.distill.workdir import bind_config
from greedy_prune_jax.jobs.entry import print_result, quiet_orbax, run_job
from greedy_prune_jax.parallel import meet
from greedy_prune_jax.runs.lock import hold_locks


def distill(config: Mapping[str, Any], workdir: str) -> None:
  """Runs the job and says how it ended; a UserError if config or workdir cannot be used."""
  settings, folder = DistillSettings.from_config(config), Path(workdir)
  first = jax.process_index() == 0
  quiet_orbax()
  with contextlib.ExitStack() as held, terminated() as should_stop:
    if first:
      hold_locks(folder / "locks", 0, 1, held)
      bind_config(folder, config)
    meet("the workdir is checked")
    result = run_distill(settings, folder, should_stop)
  if first:
    print_result(describe(result))
  if result.stopped:
    sys.exit(TERMINATED)


def describe(result: TrainResult) -> str:
  """Describes the end of a run, in lines to print."""
  lines = [f"step {result.step} of {result.steps}, {result.passes:.3g} passes over the chains"]
  if result.loss is not None:
    lines.append(f"loss of the last step: {result.loss:.4f} nats per token")
  if result.progress.best_loss is not None:
    best = result.progress
    lines.append(f"best validation loss: {best.best_loss:.4f}, at step {best.best_step}")
  if result.stopped:
    lines.append("stopped and saved; the same command goes on from here")
  if result.exported is not None:
    lines.append(f"student: {result.exported}")
  return "\n".join(lines)


if __name__ == "__main__":
  run_job(distill, saves_on_sigterm=True)
