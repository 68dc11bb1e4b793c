"""One layer of the decoder: attention and feed-forward between norms; letters as in `decoder`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from greedy_prune_jax.models.config import ModelConfig, base_part
from greedy_prune_jax.models.delta_net import DeltaNet
from greedy_prune_jax.models.feed_forward import Experts, FeedForward
from greedy_prune_jax.models.norm import RMSNorm, normalised
from greedy_prune_jax.models.per_layer import PerLayerGate
from greedy_prune_jax.models.rope import apply_rope
from greedy_prune_jax.models.short_conv import ShortConv
from greedy_prune_jax.models.weights import add_biases, along, biased, project, random_weight


class LayerCache(NamedTuple):
  """A layer's keys and values in what the caller of `run_layers` keeps."""

  name: str  # a key of `ModelConfig.caches`
  # Part of the caller's `layer_inputs` of that name: this layer's, or that of the layer whose keys
  # and values it attends to.
  value: Any
  own: bool  # False where these are an earlier layer's, and kept already


# (q [..., T, N, H] scaled, k [..., T, K, H], v [..., T, K, H], window [], sinks [N] or None, cache)
#   -> (out [..., T, N, H], the layer's outputs by name)
Attend = Callable[
  [Array, Array, Array, Array, Array | None, LayerCache], tuple[Array, dict[str, Any]]
]


class Rope(NamedTuple):
  """Rotation of a layer's queries and keys by their positions."""

  cos: Float[Array, "*B T h"]  # of the angles of H / 2 pairs
  sin: Float[Array, "*B T h"]
  query_scale: Any  # of queries: a number, or [*B, T, 1, 1]


# k and v, [..., T, K, H], in float32
OwnKeysValues = tuple[Array, Array]


class Attention(nnx.Module):
  """Projections around `attend`: grouped queries, optional biases and norms.

  `part` is the name that the layer gives it; see `ModelConfig.mixer_of_layers`.
  """

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs, dtype: Any, part: str):
    (k, h), d, n = config.heads(part), config.model_dim, config.num_heads
    self.part, self.config = part, config
    self.q = random_weight(rngs, (d, n, h), dtype, d)
    if self.has_keys:
      self.k = random_weight(rngs, (d, k, h), dtype, d)
    if self.has_values:
      self.v = random_weight(rngs, (d, k, h), dtype, d)
    self.out = random_weight(rngs, (n, h, d), dtype, n * h)
    if config.gated_attention:
      self.gate = random_weight(rngs, (d, n, h), dtype, d)
    if config.qkv_bias:
      shapes = {"q": (n, h), "k": (k, h), "v": (k, h)}
      add_biases(self, dtype, **{name: x for name, x in shapes.items() if hasattr(self, name)})
    if config.out_bias:
      add_biases(self, dtype, out=(d,))
    if config.qk_norm:
      self.q_norm = RMSNorm(h, config=config)
    if config.qk_norm and self.has_keys:
      self.k_norm = RMSNorm(h, config=config)
    if config.wide_qk_norm:
      self.wide_q_norm = RMSNorm(n, h, config=config)
      self.wide_k_norm = RMSNorm(k, h, config=config)
    if config.attention_sinks:
      self.sinks = nnx.Param(jnp.zeros((n,), dtype))

  @property
  def has_keys(self) -> bool:
    """False where keys and values are an earlier layer's."""
    return not self.part.startswith("shared_")

  @property
  def has_values(self) -> bool:
    """False where values are keys, or an earlier layer's."""
    return self.has_keys and not self.config.takes_keys(self.part)

  def __call__(
    self,
    x: Float[Array, "*B T D"],
    rope: Rope,
    window: Int[Array, ""],
    attend: Attend,
    cache: LayerCache,
    earlier: OwnKeysValues | None = None,
  ) -> tuple[Float[Array, "*B T D"], dict[str, Any], OwnKeysValues]:
    """Attends to the keys and values of this layer, or to an `earlier` one's.

    Returns:
      What to add to the residual stream, what `attend` returned beside its output, and the keys and
      values.
    """
    width = self.config.heads(self.part).head_dim // 2
    if rope.cos.shape[-1] > width:  # other layers have wider heads
      rope = rope._replace(cos=rope.cos[..., :width], sin=rope.sin[..., :width])
    q = biased(self, "q", project("...td,dnh->...tnh", x, self.q[...]))
    q = apply_rope(self._normed("q", q), rope.cos, rope.sin)
    k, v = self._keys_values(x, rope) if earlier is None else earlier
    sinks = self.sinks[...] if self.config.attention_sinks else None
    with jax.named_scope("attend"):
      attended, outputs = attend(q * rope.query_scale, k, v, window, sinks, cache)
    if self.config.gated_attention:
      attended = attended * jax.nn.sigmoid(project("...td,dnh->...tnh", x, self.gate[...]))
    out = biased(self, "out", project("...tnh,nhd->...td", attended, self.out[...]))
    return out, outputs, (k, v)

  def _keys_values(self, x: Array, rope: Rope) -> OwnKeysValues:
    """The layer's own keys, rotated, and values."""
    v = k = biased(self, "k", project("...td,dkh->...tkh", x, self.k[...]))
    if self.has_values:
      v = biased(self, "v", project("...td,dkh->...tkh", x, self.v[...]))
    if self.config.value_norm:
      v = normalised(v, self.config.norm_eps)
    return apply_rope(self._normed("k", k), rope.cos, rope.sin), v

  def _normed(self, name: str, x: Array) -> Array:
    """Queries (`q`) or keys (`k`) with their norms."""
    if self.config.qk_norm:
      x = getattr(self, f"{name}_norm")(x)
    if self.config.wide_qk_norm:
      x = getattr(self, f"wide_{name}_norm")(x)
    return x


# normalised residual stream -> (what to add to the residual stream, the layer's outputs by name)
Mix = Callable[[Array], tuple[Array, dict[str, Any]]]


class Layer(nnx.Module):
  """Attention or a recurrence, and feed-forward, between norms, added to the residual stream."""

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs, dtype: Any):
    self.config = config
    mixers, kinds = config.mixer_of_layers, config.kind_of_layers
    if config.pre_norms:
      self.attention_norm = RMSNorm(config.model_dim, config=config)
    for part in dict.fromkeys(mixers):
      if base_part(part) == "attention":
        setattr(self, part, Attention(config, rngs, dtype, part))
    if "delta" in mixers:
      self.delta = DeltaNet(config, rngs, dtype)
    if "conv" in mixers:
      self.conv = ShortConv(config, rngs, dtype)
    if config.pre_norms:
      self.mlp_norm = RMSNorm(config.model_dim, config=config)
    if "mlp" in kinds:
      self.mlp = FeedForward(config, rngs, dtype, config.mlp_dim)
    if "wide_mlp" in kinds:
      self.wide_mlp = FeedForward(config, rngs, dtype, 2 * config.mlp_dim)
    if "experts" in kinds or config.experts_beside_mlp:
      self.experts = Experts(config, rngs, dtype)
    if config.post_norms:
      self.post_attention_norm = RMSNorm(config.model_dim, config=config)
      self.post_mlp_norm = RMSNorm(config.model_dim, config=config)
    if config.experts_beside_mlp:
      self.mlp_alone_norm = RMSNorm(config.model_dim, config=config)
    if config.per_layer_dim:
      self.per_layer = PerLayerGate(config, rngs, dtype)
    if config.layer_scalars:
      self.scale = nnx.Param(jnp.ones((1,), jnp.float32))

  def __call__(
    self,
    x: Float[Array, "*B T D"],
    mix: Mix,
    kind: tuple[str, ...],
    piece: Float[Array, "*B T U"] | None = None,
  ) -> tuple[Float[Array, "*B T D"], dict[str, Any]]:
    """Runs the layer.

    Args:
      x: the residual stream.
      mix: runs attention or recurrence.
      piece: the tokens' embeddings for this layer, if there are any; see `per_layer`.
    """
    pre, post = self.config.pre_norms, self.config.post_norms
    normed = self.attention_norm(x) if pre else x
    attended, outputs = mix(normed)
    x = self._added(x, self.post_attention_norm(attended) if post else attended)
    mixed = getattr(self, kind[-1])(self.mlp_norm(x) if pre else x)
    if self.config.experts_beside_mlp:
      mixed = self.mlp_alone_norm(mixed) + self.experts(x)
    x = self._added(x, self.post_mlp_norm(mixed) if post else mixed)
    if piece is not None:
      x = x + self.per_layer(x, piece)
    if self.config.layer_scalars:  # no one trains them
      x = x * along(jax.lax.stop_gradient(self.scale[...].astype(jnp.float32)), x)
    return x, outputs

  def _added(self, x: Array, change: Array) -> Array:
    multiplier = self.config.residual_multiplier
    return x + (change if multiplier == 1 else multiplier * change)
