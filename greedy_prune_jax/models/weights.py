"""Large products in the dtype of one operand, forwards and backwards."""

import dataclasses
import functools
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array

from greedy_prune_jax.accelerators import product_precision


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MasterWeight:
  """A weight of which products see a rounded copy, made where they need it.

  Products in float32 see the weight itself, and learn from it their platform. Rounded layer by
  layer, stacked weights are sliced in float32, and so are their gradients, which are never rounded
  at all. No rounded copy of the whole model is asked for; for a TPU, XLA makes one all the same.

  Attributes:
    weight: float32, of any shape.
    dtype: dtype of the products.
    platform: see `Decoder`.
  """

  weight: Any  # an array; but trees of other leaves (shapes, shardings) are made of it too
  dtype: Any = dataclasses.field(metadata={"static": True})
  platform: str = dataclasses.field(metadata={"static": True})

  def __getitem__(self, index: Any) -> "MasterWeight":
    """The whole: modules read a parameter as `parameter[...]`."""
    if index is not Ellipsis:
      raise TypeError(f"a MasterWeight is read as a whole, with [...], not [{index}]")
    return self

  @property
  def shape(self) -> tuple[int, ...]:
    """Of the weight."""
    return self.weight.shape

  def rounded(self) -> Array:
    """The weight in the dtype of the products."""
    return self.weight.astype(self.dtype)


def product(subscripts: str, x: Array, weight: Array | MasterWeight) -> Array:
  """An einsum with operands in the dtype of `weight` and the result in float32.

  float32 is multiplied as such on every backend, where GPUs and TPUs would round the operands by
  default: see `product_precision`. Beside bfloat16 the gradient of the result is rounded too, as x
  is: left to itself, JAX would multiply it in float32 with what was bfloat16, at a fraction of the
  speed, and twice for each product forwards. In float32 the gradients are written out too, because
  the one that autodiff makes for a weight is a transposed product, for which XLA's CPU backend is a
  third slower.

  Args:
    subscripts: string of `jnp.einsum`, with lower-case letters; no axis is summed within one
      operand.
    x: rounded to the dtype of `weight`.
    weight: the operand whose dtype counts; a `MasterWeight` is rounded, and its gradient is not.
  """
  dtype = jnp.dtype(weight.dtype)
  if isinstance(weight, MasterWeight):
    array, platform = weight.weight, weight.platform
  else:  # it has no gradient where it is bfloat16, so x is not kept
    array, platform = weight, None
  ellipsis = "ABCDEFGH"[: x.ndim - len(subscripts.split(",")[0].replace("...", ""))]
  return _rounded(subscripts.replace("...", ellipsis), dtype, platform, x, array)


def product_in_full(subscripts: str, a: Array, b: Array) -> Array:
  """An einsum in the dtype of `b` whose float32 no backend rounds, with the result in float32."""
  return jnp.einsum(
    subscripts,
    a.astype(b.dtype),
    b,
    precision=jax.lax.Precision.HIGHEST,
    preferred_element_type=jnp.float32,
  )


def _einsum(subscripts: str, a: Array, b: Array, platform: str | None = None) -> Array:
  """The einsum of two operands of one dtype, with a result in float32; see `product_precision`."""
  subscripts, a, b = _summed_flat(subscripts, a, b)
  precision = product_precision(a.dtype, platform)
  return jnp.einsum(subscripts, a, b, precision=precision, preferred_element_type=jnp.float32)


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _rounded(subscripts: str, dtype: Any, platform: str | None, x: Array, weight: Array) -> Array:
  x, weight = x.astype(dtype), weight.astype(dtype)
  if dtype == jnp.float32:
    # Where something is differentiated, policies of `jax.checkpoint` would not see the product in
    # there: a `MasterWeight` says for which platform it is.
    on_gpu, elsewhere = (functools.partial(_einsum, subscripts, platform=p) for p in ("gpu", None))
    return jax.lax.platform_dependent(x, weight, cuda=on_gpu, default=elsewhere)
  return _einsum(subscripts, x, weight)


def _forward(
  subscripts: str, dtype: Any, platform: str | None, x: Any, weight: Any
) -> tuple[Array, Any]:
  """The product, and what the gradients need: x only if the weight has one.

  The weight is kept as it came, so that in a scan over layers nothing of it is kept twice.
  """
  rounded = x.value.astype(dtype)
  # A scan stacks what is kept.
  kept = bfloat16_as_uint16(rounded, platform) if weight.perturbed else None
  like = jnp.zeros((), x.value.dtype)  # dtypes by themselves are no values that JAX keeps
  result = _einsum(subscripts, rounded, weight.value.astype(dtype), platform)
  return result, (kept, weight.value, like)


def _backward(
  subscripts: str, dtype: Any, platform: str | None, kept: Any, cotangent: Any
) -> tuple[Array | None, Array | None]:
  x, weight, like = kept
  if isinstance(cotangent, SymbolicZero):
    return None, None
  operands, result = subscripts.split("->")
  of_x, of_weight = operands.split(",")
  rounded = cotangent.astype(dtype)
  einsum = functools.partial(_einsum, platform=platform)
  d_x = einsum(f"{result},{of_weight}->{of_x}", rounded, weight.astype(dtype)).astype(like.dtype)
  if x is None:
    return d_x, None
  d_weight = einsum(f"{of_x},{result}->{of_weight}", uint16_as_bfloat16(x), rounded)
  return d_x, d_weight.astype(weight.dtype)


_rounded.defvjp(_forward, _backward, symbolic_zeros=True)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LowRank:
  """The weight `weight + scale * a b`, of which the product is never made.

  Attributes:
    weight: the unchanged weight; axes in and out.
    a: [..., in, rank].
    b: [..., rank, out].
    scale: factor of the change.
  """

  weight: Any  # arrays; but trees of other leaves (shapes, shardings) are made of it too
  a: Any
  b: Any
  scale: float = dataclasses.field(metadata={"static": True})

  def __getitem__(self, index: Any) -> "LowRank":
    """The whole: modules read a parameter as `parameter[...]`."""
    if index is not Ellipsis:
      raise TypeError(f"a LowRank weight is read as a whole, with [...], not [{index}]")
    return self

  @property
  def dtype(self):
    """Of the weight."""
    return self.weight.dtype


def factor_subscripts(subscripts: str) -> tuple[str, str]:
  """The two products that stand for one with a low-rank weight.

  `...td,dnh->...tnh` is `...td,dr->...tr` and then `...tr,rnh->...tnh`.

  Args:
    subscripts: string of an einsum of an input and a weight whose axes begin with those summed
      over; it has no letter r.
  """
  inputs, result = subscripts.split("->")
  x, weight = inputs.split(",")
  axes_in = "".join(axis for axis in weight if axis not in result)
  axes_out = "".join(axis for axis in weight if axis in result)
  assert "r" not in subscripts, subscripts
  inner = "".join(axis for axis in x if axis not in axes_in) + "r"
  return f"{x},{axes_in}r->{inner}", f"{inner},r{axes_out}->{result}"


def project(subscripts: str, x: Array, weight: Array | MasterWeight | LowRank) -> Array:
  """A large product with a weight, low-rank or not: see `product`."""
  if isinstance(weight, LowRank):
    down, up = factor_subscripts(subscripts)
    change = project(up, project(down, x, weight.a), weight.b)
    return project(subscripts, x, weight.weight) + weight.scale * change
  return product(subscripts, x, weight)


def along(weight: Array, x: Array) -> Array:
  """A weight of the last axes of x, with axes of size 1 before them: broadcasting in writing."""
  return jnp.expand_dims(weight, range(x.ndim - weight.ndim))


def random_weight(rngs: nnx.Rngs, shape: tuple[int, ...], dtype: Any, fan_in: int) -> nnx.Param:
  """A normal weight of variance 1 / fan_in."""
  return nnx.Param(jax.random.normal(rngs.params(), shape, dtype) * fan_in**-0.5)


def add_biases(module: nnx.Module, dtype: Any, **shapes: tuple[int, ...]) -> None:
  """Gives a module biases that are 0, of these shapes by the names of what they are added to."""
  for name, shape in shapes.items():
    setattr(module, f"{name}_bias", nnx.Param(jnp.zeros(shape, dtype)))


def biased(module: nnx.Module, name: str, x: Array) -> Array:
  """x with the bias that a module has for what is called so, if it has one."""
  bias = getattr(module, f"{name}_bias", None)
  return x if bias is None else x + along(bias[...], x)


T = TypeVar("T")


def bfloat16_as_uint16(tree: T, platform: str | None) -> T:
  """The tree with its bfloat16 arrays, of any shapes, as uint16 for a program on a CPU.

  XLA's CPU backend slices bfloat16 by way of float32, which copies every stack of layers; integers
  are sliced as they are.

  Args:
    platform: platform of the compiled program; the tree is left alone on any but `cpu`.

  Raises:
    TypeError: while tracing, where something is differentiated with respect to one of them.
  """
  if platform != "cpu":
    return tree
  return jax.tree.map(lambda x: _as_uint16(x) if x.dtype == jnp.bfloat16 else x, tree)


def uint16_as_bfloat16(tree: T) -> T:
  """Undoes `bfloat16_as_uint16` on a tree that had no uint16 before."""

  def undo(x: Array) -> Array:
    return jax.lax.bitcast_convert_type(x, jnp.bfloat16) if x.dtype == jnp.uint16 else x

  return jax.tree.map(undo, tree)


@jax.custom_jvp
def _as_uint16(x: Array) -> Array:
  return jax.lax.bitcast_convert_type(x, jnp.uint16)


@_as_uint16.defjvp
def _no_gradient(primals, tangents):
  raise TypeError(
    "a gradient with respect to bfloat16 weights; train float32 ones, as a `MasterWeight` where "
    "products are to be in bfloat16"
  )
