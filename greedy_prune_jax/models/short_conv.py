"""LFM2's short convolution: a layer that sees a token and the few before it, between two gates.

Axis letters: those of `decoder`; Z channels of the convolution, as many as D; W its width.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.recurrence import Mixed, Recur
from greedy_prune_jax.models.weights import add_biases, biased, project, random_weight


class ShortConv(nnx.Module):
  """Projections around `recur`: gates before and after it, and the projection back."""

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs, dtype: Any):
    d, z, width = config.model_dim, config.conv_channels, config.conv_width
    self.in_gate = random_weight(rngs, (d, z), dtype, d)
    self.out_gate = random_weight(rngs, (d, z), dtype, d)
    self.value = random_weight(rngs, (d, z), dtype, d)
    self.out = random_weight(rngs, (z, d), dtype, z)
    self.filter = random_weight(rngs, (z, 1, width), jnp.float32, width)
    if config.conv_bias:
      add_biases(self, dtype, in_gate=(z,), out_gate=(z,), value=(z,), filter=(z,), out=(d,))

  def __call__(
    self, x: Float[Array, "*B T D"], recur: Recur, layer_input: Any
  ) -> tuple[Float[Array, "*B T D"], Any]:
    """Returns what to add to the residual stream, and what `recur` returned beside its output."""
    in_gate, out_gate, value = (
      biased(self, name, project("...td,dz->...tz", x, getattr(self, name)[...]))
      for name in ("in_gate", "out_gate", "value")
    )
    channels = (in_gate * value).astype(self.out[...].dtype).astype(jnp.float32)
    with jax.named_scope("recur"):
      mixed = Mixed(channels, self.filter[...][:, 0].T)
      convolved, layer_output = recur(mixed, layer_input)
    gated = out_gate * biased(self, "filter", convolved)
    return biased(self, "out", project("...tz,zd->...td", gated, self.out[...])), layer_output
