"""A model's weights, told apart from others that lie at the same place later."""

import hashlib
from pathlib import Path

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.files import open_file, user_path, write_json
from greedy_prune_jax.runs.json_reader import read_json
from greedy_prune_jax.runs.records import Record

WEIGHTS = "weights.json"  # of a workdir: digests of the models that are files here

_NUM_SAMPLES = 64  # of a file
_SAMPLE_BYTES = 4096


def weights_digest(place: Path) -> str | None:
  """A hash of a model's files: their names, sizes, and some bytes of each, evenly spread.

  Training changes nearly every weight, so that some tell; copying a file changes none.

  Args:
    place: a file, or a folder with all that is in it. Of a model's folder only the weights count.

  Returns:
    None where there is no such place: a model by its name on the hub.
  """
  if not place.exists():
    return None
  files = sorted(place.glob("*.safetensors")) if place.is_dir() else [place]
  if not files:
    files = sorted(path for path in place.rglob("*") if path.is_file())
  digest = hashlib.sha256()
  for path in files:
    size = path.stat().st_size
    digest.update(f"{path.name if path == place else path.relative_to(place)} {size}\n".encode())
    with open_file(path) as file:
      for index in range(_NUM_SAMPLES):
        file.seek(size * index // _NUM_SAMPLES)
        digest.update(file.read(_SAMPLE_BYTES))
  return digest.hexdigest()[:16]


def hold_weights(workdir: Path, model: str, *, begun: bool) -> None:
  """Notes a model's weights, and refuses others than those that a workdir was begun with.

  Only of a model in a file or folder; a name stands for the same weights for good.

  Args:
    workdir: the run's workdir; one process may call this.
    begun: True where something in the workdir was made with the weights that it notes.

  Raises:
    UserError: there are other weights at its place now.
  """
  now = weights_digest(user_path(model))
  if now is None:
    return
  known = _noted(workdir)
  if begun and known.get(model, now) != now:
    raise UserError(
      f"{model} has other weights than when {workdir} was begun; choose another workdir"
    )
  write_json(workdir / WEIGHTS, known | {model: now})


def check_moved(workdir: Path, model: str, place: str) -> None:
  """A UserError if a workdir noted a model's weights and those at another place are others."""
  now = weights_digest(user_path(place))
  if now is not None and _noted(workdir).get(model, now) != now:
    raise UserError(
      f"{place} has other weights than {model} had when {workdir} was made; pass the place where "
      f"that model lies now"
    )


def _noted(workdir: Path) -> Record:
  path = workdir / WEIGHTS
  return read_json(path) if path.exists() else {}
