"""Files of JSON lines, with the folders that they lie in."""

from pathlib import Path

from greedy_prune_jax.runs.jsonl import JsonlWriter


def new_writer(path: Path) -> JsonlWriter:
  """A writer of a file whose folders are made too."""
  path.parent.mkdir(parents=True, exist_ok=True)
  return JsonlWriter(path)
