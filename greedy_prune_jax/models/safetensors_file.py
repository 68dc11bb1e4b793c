"""Safetensors files, whose every fault is told by the file's name."""

import json
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.files import open_file


def open_safetensors(path: Path) -> Any:
  """The file, mapped into memory, as `safetensors.safe_open` gives it for numpy.

  Raises:
    UserError: it cannot be read; safetensors itself checks sizes against the file.
  """
  if not os.path.exists(path):  # which a name that is too long is no error to
    raise UserError(f"{path}: there is no such file; weights are read from safetensors.")
  with open_file(path):  # a pipe's reading would never end
    pass
  try:
    return safe_open(path, framework="numpy")
  except Exception as error:  # of Rust, which panics too
    raise _damaged(path, error) from error


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
  """All tensors of a file; see `open_safetensors` for the errors."""
  open_safetensors(path)
  try:
    return load_file(path)
  except Exception as error:
    raise _damaged(path, error) from error


FLOAT8 = "F8_E4M3"


def map_float8(path: Path, name: str) -> np.ndarray:
  """A tensor of kind `FLOAT8` in a file that `open_safetensors` has read, mapped into memory.

  safetensors looks for its dtype in numpy, which has none.
  """
  with path.open("rb") as file:
    size = int.from_bytes(file.read(8), "little")
    entry = json.loads(file.read(size))[name]
  start = 8 + size + entry["data_offsets"][0]
  return np.memmap(path, jnp.float8_e4m3fn, "r", start, tuple(entry["shape"]))


def _damaged(path: Path, error: Exception) -> UserError:
  return UserError(
    f"{path}: not a readable safetensors file ({error}). It may be cut short: it has "
    f"{path.stat().st_size} bytes; compare that with its source's, or download it again."
  )
