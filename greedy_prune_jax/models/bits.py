"""bfloat16 arrays as integers of the same bits, for slices and gathers on a CPU.

XLA's CPU backend slices and gathers bfloat16 by way of a float32 copy of the whole array, which for
a model's stacked layers takes twice the memory of the weights and a good part of a second. Integers
of the same width are spared that. On other backends arrays stay as they are.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

T = TypeVar("T")


def as_bits(tree: T) -> T:
  """The tree with its bfloat16 arrays, of any shapes, as uint16 on a CPU.

  Raises:
    TypeError: while tracing, where something is differentiated with respect to one of them.
  """
  if jax.default_backend() != "cpu":
    return tree
  return jax.tree.map(lambda x: _bits(x) if x.dtype == jnp.bfloat16 else x, tree)


def from_bits(tree: T) -> T:
  """Undoes `as_bits` on a tree that had no uint16 before."""

  def undo(x: Array) -> Array:
    return jax.lax.bitcast_convert_type(x, jnp.bfloat16) if x.dtype == jnp.uint16 else x

  return jax.tree.map(undo, tree)


@jax.custom_jvp
def _bits(x: Array) -> Array:
  return jax.lax.bitcast_convert_type(x, jnp.uint16)


@_bits.defjvp
def _no_gradient(primals, tangents):
  raise TypeError(
    "a gradient with respect to bfloat16 weights; train float32 ones, as a `Master` where products "
    "are to be in bfloat16"
  )
