"""Gated DeltaNet: the layer that keeps a state in place of keys and values (arXiv 2412.06464).

Axis letters: those of `delta_rule`; Z channels of the convolution, 2 J P + M O; W its width.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.recurrence import Mixed, Recur
from greedy_prune_jax.models.weights import along, project, random_weight


class DeltaNet(nnx.Module):
  """Projections around `recur`, a gated norm of its heads, and the projection back."""

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs, dtype: Any):
    d, width = config.model_dim, config.conv_width
    j, m, p, o = (
      config.delta_key_heads,
      config.delta_value_heads,
      config.delta_key_dim,
      config.delta_value_dim,
    )
    self.config = config
    self.q = random_weight(rngs, (d, j, p), dtype, d)
    self.k = random_weight(rngs, (d, j, p), dtype, d)
    self.v = random_weight(rngs, (d, m, o), dtype, d)
    self.gate = random_weight(rngs, (d, m, o), dtype, d)
    self.rate = random_weight(rngs, (d, m), dtype, d)
    self.decay = random_weight(rngs, (d, m), dtype, d)
    self.out = random_weight(rngs, (m, o, d), dtype, m * o)
    self.q_filter = random_weight(rngs, (j, p, 1, width), jnp.float32, width)
    self.k_filter = random_weight(rngs, (j, p, 1, width), jnp.float32, width)
    self.v_filter = random_weight(rngs, (m, o, 1, width), jnp.float32, width)
    self.decay_bias = nnx.Param(jnp.zeros((m,), jnp.float32))
    self.log_speed = nnx.Param(jnp.zeros((m,), jnp.float32))
    self.norm_scale = nnx.Param(jnp.ones((o,), jnp.float32))

  def __call__(
    self, x: Float[Array, "*B T D"], recur: Recur, layer_input: Any
  ) -> tuple[Float[Array, "*B T D"], Any]:
    """Returns what to add to the residual stream, and what `recur` returned beside its output."""
    dtype = self.gate[...].dtype
    channels = [project("...td,djp->...tjp", x, w[...]) for w in (self.q, self.k, self.v)]
    channels = [c.reshape(*c.shape[:-2], -1).astype(dtype) for c in channels]
    filters = [
      f[...].reshape(-1, f.shape[-1]) for f in (self.q_filter, self.k_filter, self.v_filter)
    ]
    steps = jax.nn.softplus(
      project("...td,dm->...tm", x, self.decay[...]) + along(self.decay_bias[...], x)
    )
    mixed = Mixed(
      channels=jnp.concatenate(channels, axis=-1).astype(jnp.float32),
      filter=jnp.concatenate(filters).T,
      log_decay=-along(jnp.exp(self.log_speed[...]), steps) * steps,
      rate=jax.nn.sigmoid(project("...td,dm->...tm", x, self.rate[...])),
    )
    with jax.named_scope("recur"):
      out, layer_output = recur(mixed, layer_input)
    gate = jax.nn.silu(project("...td,dmo->...tmo", x, self.gate[...]))
    return project("...tmo,mod->...td", self._normed(out) * gate, self.out[...]), layer_output

  def _normed(self, x: Float[Array, "*B T M O"]) -> Float[Array, "*B T M O"]:
    mean = jnp.mean(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(mean + self.config.norm_eps) * along(self.norm_scale[...], x)
