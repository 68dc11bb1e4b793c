"""Large products in the dtype of one operand, forwards and backwards."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array

from greedy_prune_jax.models.bits import as_bits, from_bits
from greedy_prune_jax.models.master import Master


def product(subscripts: str, x: Array, weight: Array | Master) -> Array:
  """An einsum with operands in the dtype of `weight` and the result in float32.

  float32 is multiplied in full on every backend (GPUs and TPUs would round the operands by
  default). Beside bfloat16 the gradient of the result is rounded too, as x is: left to itself, JAX
  would multiply it in float32 with what was bfloat16, at a fraction of the speed, and twice for
  each product forwards. In float32 the gradients are written out too, because the one that autodiff
  makes for a weight is a transposed product, for which XLA's CPU backend is a third slower.

  Args:
    subscripts: of `jnp.einsum`, with lower-case letters; no axis is summed within one operand.
    x: rounded to the dtype of `weight`.
    weight: whose dtype counts; a `Master` is rounded, and its gradient is not.
  """
  dtype = jnp.dtype(weight.dtype)
  array: Array = weight.weight if isinstance(weight, Master) else weight
  ellipsis = "ABCDEFGH"[: x.ndim - len(subscripts.split(",")[0].replace("...", ""))]
  return _rounded(subscripts.replace("...", ellipsis), dtype, x, array)


def _einsum(subscripts: str, a: Array, b: Array) -> Array:
  subscripts, a, b = _summed_flat(subscripts, a, b)
  return jnp.einsum(
    subscripts, a, b, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32
  )


def _summed_flat(subscripts: str, a: Array, b: Array) -> tuple[str, Array, Array]:
  """The same einsum with its summed axes as one, where a ends and b begins with them.

  `...tnh,nhd->...td` becomes `...tn,nd->...td`. XLA's CPU backend would transpose both operands.
  """
  of_a, of_b = subscripts.split("->")[0].split(",")
  result = subscripts.split("->")[1]
  count = sum(axis not in result for axis in of_b)
  summed = of_b[:count]
  if count < 2 or not of_a.endswith(summed) or any(axis in result for axis in summed):
    return subscripts, a, b
  a = a.reshape(*a.shape[: a.ndim - count], -1)
  b = b.reshape(-1, *b.shape[count:])
  one = summed[0]
  return f"{of_a[:-count]}{one},{one}{of_b[count:]}->{result}", a, b


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _rounded(subscripts: str, dtype: Any, x: Array, weight: Array) -> Array:
  return _einsum(subscripts, x.astype(dtype), weight.astype(dtype))


def _forward(subscripts: str, dtype: Any, x: Any, weight: Any) -> tuple[Array, Any]:
  """The product, and what the gradients need: x only if the weight has one.

  The weight is kept as it came, so that in a scan over layers nothing of it is kept twice.
  """
  rounded = x.value.astype(dtype)
  kept = as_bits(rounded) if weight.perturbed else None  # a scan stacks what is kept
  like = jnp.zeros((), x.value.dtype)  # dtypes by themselves are no values that JAX keeps
  return _einsum(subscripts, rounded, weight.value.astype(dtype)), (kept, weight.value, like)


def _backward(
  subscripts: str, dtype: Any, kept: Any, cotangent: Any
) -> tuple[Array | None, Array | None]:
  x, weight, like = kept
  if isinstance(cotangent, SymbolicZero):
    return None, None
  operands, result = subscripts.split("->")
  of_x, of_weight = operands.split(",")
  rounded = cotangent.astype(dtype)
  d_x = _einsum(f"{result},{of_weight}->{of_x}", rounded, weight.astype(dtype)).astype(like.dtype)
  if x is None:
    return d_x, None
  return d_x, _einsum(f"{of_x},{result}->{of_weight}", from_bits(x), rounded).astype(weight.dtype)


_rounded.defvjp(_forward, _backward, symbolic_zeros=True)
