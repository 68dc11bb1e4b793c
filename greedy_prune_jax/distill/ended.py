"""The mark that a training leaves when it is over, for those who wait for it."""

import json
from pathlib import Path

from greedy_prune_jax.chains.jsonl import explain_os_errors

_NAME = "ended.json"


def mark_ended(workdir: Path, step: int, best_step: int | None) -> None:
  """Marks a run as over, after everything else that it writes.

  Args:
    workdir: of the run.
    step: at which it ended.
    best_step: of its best validation loss, if it had validations.
  """
  path = workdir / _NAME
  new = path.with_name(_NAME + ".new")
  with explain_os_errors(path):
    new.write_text(json.dumps({"step": step, "best_step": best_step}) + "\n", encoding="utf-8")
    new.replace(path)


def has_ended(workdir: Path) -> bool:
  """Whether a run is over, and not only stopped."""
  return (workdir / _NAME).exists()
