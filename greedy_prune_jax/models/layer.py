"""One layer of the decoder: attention and feed-forward between norms; letters as in `decoder`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.delta_net import DeltaNet
from greedy_prune_jax.models.feed_forward import Experts, FeedForward
from greedy_prune_jax.models.rope import apply_rope
from greedy_prune_jax.models.weights import along, project, random_weight


class LayerCache(NamedTuple):
  """A layer's keys and values in what the caller of `run_layers` keeps.

  Attributes:
    name: a key of `ModelConfig.caches`.
    value: this layer's part of the caller's `layer_inputs` of that name.
  """

  name: str
  value: Any


# (q [..., T, N, H] scaled, k [..., T, K, H], v [..., T, K, H], window [], sinks [N] or None, cache)
#   -> (out [..., T, N, H], the layer's outputs by name)
Attend = Callable[
  [Array, Array, Array, Array, Array | None, LayerCache], tuple[Array, dict[str, Any]]
]


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
    normalised = x * jax.lax.rsqrt(jnp.mean(x * x, axis=self.axes, keepdims=True) + self.eps)
    return normalised * along(scale, x)


class Rope(NamedTuple):
  """Rotation of a layer's queries and keys by their positions."""

  cos: Float[Array, "*B T h"]  # of the angles of H / 2 pairs
  sin: Float[Array, "*B T h"]
  query_scale: Any  # of queries: a number, or [*B, T, 1, 1]


class Attention(nnx.Module):
  """Projections around `attend`: grouped queries, optional biases and query/key norms."""

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs, dtype: Any):
    d, n, k, h = config.model_dim, config.num_heads, config.num_kv_heads, config.head_dim
    self.q = random_weight(rngs, (d, n, h), dtype, d)
    self.k = random_weight(rngs, (d, k, h), dtype, d)
    self.v = random_weight(rngs, (d, k, h), dtype, d)
    self.out = random_weight(rngs, (n, h, d), dtype, n * h)
    if config.gated_attention:
      self.gate = random_weight(rngs, (d, n, h), dtype, d)
    if config.qkv_bias:
      self.q_bias = nnx.Param(jnp.zeros((n, h), dtype))
      self.k_bias = nnx.Param(jnp.zeros((k, h), dtype))
      self.v_bias = nnx.Param(jnp.zeros((k, h), dtype))
    if config.out_bias:
      self.out_bias = nnx.Param(jnp.zeros((d,), dtype))
    if config.qk_norm:
      self.q_norm = RMSNorm(h, config=config)
      self.k_norm = RMSNorm(h, config=config)
    if config.wide_qk_norm:
      self.wide_q_norm = RMSNorm(n, h, config=config)
      self.wide_k_norm = RMSNorm(k, h, config=config)
    if config.attention_sinks:
      self.sinks = nnx.Param(jnp.zeros((n,), dtype))
    self.config = config

  def __call__(
    self,
    x: Float[Array, "*B T D"],
    rope: Rope,
    window: Int[Array, ""],
    attend: Attend,
    cache: LayerCache,
  ) -> tuple[Float[Array, "*B T D"], dict[str, Any]]:
    """Returns what to add to the residual stream, and what `attend` returned beside its output."""
    q = project("...td,dnh->...tnh", x, self.q[...])
    k = project("...td,dkh->...tkh", x, self.k[...])
    v = project("...td,dkh->...tkh", x, self.v[...])
    if self.config.qkv_bias:
      q += along(self.q_bias[...], q)
      k += along(self.k_bias[...], k)
      v += along(self.v_bias[...], v)
    if self.config.qk_norm:
      q, k = self.q_norm(q), self.k_norm(k)
    if self.config.wide_qk_norm:
      q, k = self.wide_q_norm(q), self.wide_k_norm(k)
    q, k = apply_rope(q, rope.cos, rope.sin), apply_rope(k, rope.cos, rope.sin)
    sinks = self.sinks[...] if self.config.attention_sinks else None
    with jax.named_scope("attend"):
      attended, outputs = attend(q * rope.query_scale, k, v, window, sinks, cache)
    if self.config.gated_attention:
      attended = attended * jax.nn.sigmoid(project("...td,dnh->...tnh", x, self.gate[...]))
    out = project("...tnh,nhd->...td", attended, self.out[...])
    if self.config.out_bias:
      out += along(self.out_bias[...], out)
    return out, outputs


# normalised residual stream -> (what to add to the residual stream, the layer's outputs by name)
Mix = Callable[[Array], tuple[Array, dict[str, Any]]]


class Layer(nnx.Module):
  """Attention or a recurrence, and feed-forward, between norms, added to the residual stream."""

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs, dtype: Any):
    self.config = config
    mixers, kinds = config.mixer_of_layers, config.kind_of_layers
    if config.pre_norms:
      self.attention_norm = RMSNorm(config.model_dim, config=config)
    if "attention" in mixers:
      self.attention = Attention(config, rngs, dtype)
    if "delta" in mixers:
      self.delta = DeltaNet(config, rngs, dtype)
    if config.pre_norms:
      self.mlp_norm = RMSNorm(config.model_dim, config=config)
    if "mlp" in kinds:
      self.mlp = FeedForward(config, rngs, dtype)
    if "experts" in kinds:
      self.experts = Experts(config, rngs, dtype)
    if config.post_norms:
      self.post_attention_norm = RMSNorm(config.model_dim, config=config)
      self.post_mlp_norm = RMSNorm(config.model_dim, config=config)

  def __call__(
    self, x: Float[Array, "*B T D"], mix: Mix, kind: tuple[str, ...]
  ) -> tuple[Float[Array, "*B T D"], dict[str, Any]]:
    """Runs the layer.

    Args:
      x: the residual stream.
      mix: runs attention or recurrence.
      kind: see `ModelConfig.parts_of_layers`.
    """
    pre, post = self.config.pre_norms, self.config.post_norms
    normed = self.attention_norm(x) if pre else x
    attended, outputs = mix(normed)
    x = self._added(x, self.post_attention_norm(attended) if post else attended)
    feed_forward = self.mlp if "mlp" in kind else self.experts
    mixed = feed_forward(self.mlp_norm(x) if pre else x)
    return self._added(x, self.post_mlp_norm(mixed) if post else mixed), outputs

  def _added(self, x: Array, change: Array) -> Array:
    multiplier = self.config.residual_multiplier
    return x + (change if multiplier == 1 else multiplier * change)
