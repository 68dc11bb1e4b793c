"""A race's memory of a chain, as a value that an unfinished record can hold."""

import base64
import zlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from greedy_prune_jax.errors import UserError


def pack_known(
  changes: Float[Array | np.ndarray, "U S"], stale: Bool[Array | np.ndarray, "U"]
) -> dict[str, Any]:
  """Changes (bfloat16) as compressed text, and the stale units.

  Args:
    changes: see `ChainState`; those of the units and places that are left.
  """
  raw = zlib.compress(np.asarray(changes).tobytes(), level=1)
  return {
    "changes": base64.b64encode(raw).decode(),
    "stale": np.flatnonzero(np.asarray(stale)).tolist(),
  }


def unpack_known(
  known: Mapping[str, Any], shape: tuple[int, int]
) -> tuple[Float[np.ndarray, "U S"], Bool[np.ndarray, "U"]]:
  """The arrays of `pack_known`; a UserError if they are not of the shape [U, S]."""
  itemsize = jnp.dtype(jnp.bfloat16).itemsize
  expected, stale = shape[0] * shape[1] * itemsize, np.zeros(shape[0], bool)
  try:
    unpacker = zlib.decompressobj()
    raw = unpacker.decompress(base64.b64decode(known["changes"], validate=True), expected + 1)
    changes = np.frombuffer(raw, jnp.bfloat16).reshape(shape)
    if min(known["stale"], default=0) < 0:
      raise IndexError
    stale[known["stale"]] = True
  except (KeyError, TypeError, ValueError, IndexError, zlib.error) as e:
    raise UserError(
      "the workdir's unfinished chains have estimates of another version, or damaged ones; finish "
      "them with that version, or remove the workdir's folder unfinished to begin them again"
    ) from e
  return changes, stale
