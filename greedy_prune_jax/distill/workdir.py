"""The workdir of a training: the config that binds it, and the mark of its end."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from greedy_prune_jax.distill.settings import MAY_CHANGE
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.config import write_or_check_config
from greedy_prune_jax.runs.files import write_json
from greedy_prune_jax.runs.json_reader import read_json
from greedy_prune_jax.runs.records import get_optional_text

_ENDED, _EXAMPLES = "ended.json", "examples.json"


def bind_config(workdir: Path, config: Mapping[str, Any]) -> None:
  """Writes a training's config, or refuses one that does not fit the earlier training.

  Args:
    workdir: the run's workdir, which must be there: one that was moved is not made anew. The caller
      makes sure that no other process writes there.

  Raises:
    UserError: the workdir belongs to another config or to none, or cannot be written.
  """
  metrics = workdir / "metrics.jsonl"
  logged = metrics.exists() and metrics.stat().st_size > 0
  begun = logged or any((workdir / "checkpoints").glob("[0-9]*"))
  path = workdir / "config.json"
  if begun and not path.exists():  # such as what Orbax was writing while the workdir was moved
    raise UserError(
      f"{workdir} holds a training but no config.json, so nobody knows how it was made; choose "
      f"another workdir"
    )
  write_or_check_config(path, config, MAY_CHANGE, begun=begun)


def note_examples(workdir: Path, thinking_form: str | None) -> None:
  """Writes the form in which a student learns to think; None if its reasoning is visible."""
  write_json(workdir / _EXAMPLES, {"thinking_form": thinking_form})


def learnt_thinking(workdir: Path) -> str | None:
  """The form in which a student learnt to think; None if it did not, or nobody noted it."""
  path = workdir / _EXAMPLES
  return get_optional_text(read_json(path), "thinking_form") if path.exists() else None


def mark_ended(workdir: Path, step: int, best_step: int | None) -> None:
  """Marks a run as over, after everything else that it writes; `best_step` is by validation."""
  write_json(workdir / _ENDED, {"step": step, "best_step": best_step})


def has_ended(workdir: Path) -> bool:
  """Tells whether a run is over, and not only stopped."""
  return (workdir / _ENDED).exists()
