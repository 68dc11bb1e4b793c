"""The config that the workdir of a training belongs to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from greedy_prune_jax.chains.jsonl import explain_os_errors
from greedy_prune_jax.chains.run_config import write_or_check_config
from greedy_prune_jax.distill.settings import MAY_CHANGE


def bind_config(workdir: Path, config: Mapping[str, Any]) -> None:
  """Writes a training's config, or refuses one that what was trained before does not fit.

  Args:
    workdir: of the run, made if need be; the caller sees to it that nobody else writes there.
    config: of the run.

  Raises:
    UserError: the workdir belongs to another config, or cannot be written.
  """
  path, metrics = workdir / "config.json", workdir / "metrics.jsonl"
  begun = metrics.exists() and metrics.stat().st_size
  with explain_os_errors(path):
    workdir.mkdir(parents=True, exist_ok=True)
    if not begun and not any((workdir / "checkpoints").glob("[0-9]*")):
      path.unlink(missing_ok=True)  # an earlier run failed at once: its config binds nobody
  write_or_check_config(path, config, MAY_CHANGE)
