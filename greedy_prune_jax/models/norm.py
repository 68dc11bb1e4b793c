"""The norm of all families."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.weights import along


def normalised(x: Float[Array, "*B D"], eps: float, axes: tuple[int, ...] = (-1,)) -> Array:
  """Float32 x over its root mean square along some axes."""
  return x * jax.lax.rsqrt(jnp.mean(x * x, axis=axes, keepdims=True) + eps)


class RMSNorm(nnx.Module):
  """Root-mean-square norm over the last axes, in float32."""

  def __init__(self, *shape: int, config: ModelConfig):
    self.eps = config.norm_eps
    self.unit_offset = config.unit_offset_norm
    self.axes = tuple(range(-len(shape), 0))
    self.scale = nnx.Param(jnp.full(shape, 0.0 if config.unit_offset_norm else 1.0, jnp.float32))

  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Normalises float32 x."""
    scale = self.scale[...].astype(jnp.float32) + (1.0 if self.unit_offset else 0.0)
    return normalised(x, self.eps, self.axes) * along(scale, x)
