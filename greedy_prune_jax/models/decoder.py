"""The decoder: one Flax NNX module for every supported family.

Layers are stacked: every parameter of `Decoder.layers` has a leading axis L, and `run_layers` scans
over it. What attention sees is the caller's business: a layer computes queries, keys and values and
hands them to an `attend` function, so that the full forward pass, the cached one, the packed
scorer, the sampler and the analysis share these layers and differ in `attend` alone.

Split a decoder once (`nnx.split`) and keep hot paths plain `jax.jit` over the parameter pytree;
`Model` holds the parts.

Axis letters: B batch, T query tokens, S attended tokens, V vocabulary, D model width, N query
heads, K key/value heads, G = N / K, H head width, F feed-forward width, L layers.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.rope import (
  apply_rope,
  config_for_length,
  query_scales,
  rope_turns,
)
from greedy_prune_jax.models.weights import (
  LowRank,
  Master,
  as_bits,
  factor_subscripts,
  from_bits,
  product,
)

# (q [..., T, N, H] scaled, k [..., T, K, H], v [..., T, K, H], window [], layer_input)
#   -> (out [..., T, N, H], layer_output)
Attend = Callable[[Array, Array, Array, Array, Any], tuple[Array, Any]]

# (residual stream, one layer's parameters and inputs) -> (residual stream, layer_output)
LayerBody = Callable[[Array, Any], tuple[Array, Any]]


def project(subscripts: str, x: Array, weight: Array | Master | LowRank) -> Array:
  """A large product with a weight, low-rank or not: see `product`."""
  if isinstance(weight, LowRank):
    down, up = factor_subscripts(subscripts)
    change = project(up, project(down, x, weight.a), weight.b)
    return project(subscripts, x, weight.weight) + weight.scale * change
  return product(subscripts, x, weight)


def along(weight: Array, x: Array) -> Array:
  """A weight of the last axes of x, with axes of size 1 before them: broadcasting in writing."""
  return jnp.expand_dims(weight, range(x.ndim - weight.ndim))


class RMSNorm(nnx.Module):
  """Root-mean-square norm over the last axes, in float32."""

  def __init__(self, *shape: int, config: ModelConfig):
    self.eps = config.norm_eps
    self.unit_offset = config.unit_offset_norm
    self.axes = tuple(range(-len(shape), 0))
    self.scale = nnx.Param(jnp.full(shape, 0.0 if config.unit_offset_norm else 1.0))

  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Normalises float32 x."""
    scale = self.scale[...].astype(jnp.float32) + (1.0 if self.unit_offset else 0.0)
    normalised = x * jax.lax.rsqrt(jnp.mean(x * x, axis=self.axes, keepdims=True) + self.eps)
    return normalised * along(scale, x)


def _normal(rngs: nnx.Rngs, shape: tuple[int, ...], dtype: Any, fan_in: int) -> nnx.Param:
  return nnx.Param(jax.random.normal(rngs.params(), shape, dtype) * fan_in**-0.5)


class Rope(NamedTuple):
  """What a layer does to queries and keys by their positions."""

  cos: Float[Array, "*B T h"]  # of the angles of H / 2 pairs
  sin: Float[Array, "*B T h"]
  query_scale: Any  # of queries: a number, or [*B, T, 1, 1]


class Attention(nnx.Module):
  """Projections around `attend`: grouped queries, optional biases and query/key norms."""

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs, dtype: Any):
    d, n, k, h = config.model_dim, config.num_heads, config.num_kv_heads, config.head_dim
    self.q = _normal(rngs, (d, n, h), dtype, d)
    self.k = _normal(rngs, (d, k, h), dtype, d)
    self.v = _normal(rngs, (d, k, h), dtype, d)
    self.out = _normal(rngs, (n, h, d), dtype, n * h)
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
    self.config = config

  def __call__(
    self,
    x: Float[Array, "*B T D"],
    rope: Rope,
    window: Int[Array, ""],
    attend: Attend,
    layer_input: Any,
  ) -> tuple[Float[Array, "*B T D"], Any]:
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
    attended, layer_output = attend(q * rope.query_scale, k, v, window, layer_input)
    out = project("...tnh,nhd->...td", attended, self.out[...])
    if self.config.out_bias:
      out += along(self.out_bias[...], out)
    return out, layer_output


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  "silu": jax.nn.silu,
  "gelu": lambda x: jax.nn.gelu(x, approximate=False),
  "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
  "relu2": lambda x: jnp.square(jax.nn.relu(x)),
}


def xielu(x: Array, alpha_p: Array, alpha_n: Array) -> Array:
  """The activation with two trained slopes of arXiv 2411.13010; its other constants are fixed."""
  beta, eps = 0.5, -1e-6
  above = jax.nn.softplus(alpha_p) * x * x + beta * x
  below = (beta + jax.nn.softplus(alpha_n)) * (jnp.expm1(jnp.minimum(x, eps)) - x) + beta * x
  return jnp.where(x > 0, above, below)


class FeedForward(nnx.Module):
  """Feed-forward, down(activation(gate(x)) * up(x)), or down(activation(up(x))) without a gate."""

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs, dtype: Any):
    d, f = config.model_dim, config.mlp_dim
    self.config = config
    if config.gated_mlp:
      self.gate = _normal(rngs, (d, f), dtype, d)
    self.up = _normal(rngs, (d, f), dtype, d)
    self.down = _normal(rngs, (f, d), dtype, f)
    if config.mlp_bias:
      if config.gated_mlp:
        self.gate_bias = nnx.Param(jnp.zeros((f,), dtype))
      self.up_bias = nnx.Param(jnp.zeros((f,), dtype))
      self.down_bias = nnx.Param(jnp.zeros((d,), dtype))
    if config.activation == "xielu":
      self.alpha_p = nnx.Param(jnp.full((1,), 0.2, dtype))
      self.alpha_n = nnx.Param(jnp.full((1,), -1.0, dtype))

  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Returns what to add to the residual stream, in float32."""
    has_bias = self.config.mlp_bias
    up = self._biased(project("...d,df->...f", x, self.up[...]), self.up_bias if has_bias else None)
    if self.config.gated_mlp:
      gate = project("...d,df->...f", x, self.gate[...])
      gate = self._biased(gate, self.gate_bias if has_bias else None)
      hidden = self._activated(gate) * up
    else:
      hidden = self._activated(up)
    out = project("...f,fd->...d", hidden, self.down[...])
    return self._biased(out, self.down_bias if has_bias else None)

  def _activated(self, x: Array) -> Array:
    if self.config.activation != "xielu":
      return _ACTIVATIONS[self.config.activation](x)
    slopes = (alpha[...].astype(jnp.float32) for alpha in (self.alpha_p, self.alpha_n))
    return xielu(x, *(along(slope, x) for slope in slopes))

  def _biased(self, x: Array, bias: nnx.Param | None) -> Array:
    return x if bias is None else x + along(bias[...], x)


class Layer(nnx.Module):
  """Attention and feed-forward, each between norms and added to the residual stream."""

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs, dtype: Any):
    self.config = config
    if config.pre_norms:
      self.attention_norm = RMSNorm(config.model_dim, config=config)
    self.attention = Attention(config, rngs, dtype)
    if config.pre_norms:
      self.mlp_norm = RMSNorm(config.model_dim, config=config)
    self.mlp = FeedForward(config, rngs, dtype)
    if config.post_norms:
      self.post_attention_norm = RMSNorm(config.model_dim, config=config)
      self.post_mlp_norm = RMSNorm(config.model_dim, config=config)

  def __call__(
    self, x: Float[Array, "*B T D"], rope: Rope, window, attend: Attend, layer_input
  ) -> tuple[Float[Array, "*B T D"], Any]:
    """Runs the layer; arguments are those of `Attention`."""
    pre, post = self.config.pre_norms, self.config.post_norms
    attended, layer_output = self.attention(
      self.attention_norm(x) if pre else x, rope, window, attend, layer_input
    )
    x = self._added(x, self.post_attention_norm(attended) if post else attended)
    mixed = self.mlp(self.mlp_norm(x) if pre else x)
    return self._added(x, self.post_mlp_norm(mixed) if post else mixed), layer_output

  def _added(self, x: Array, change: Array) -> Array:
    multiplier = self.config.residual_multiplier
    return x + (change if multiplier == 1 else multiplier * change)


class Decoder(nnx.Module):
  """A causal language model. Residual stream, norms and logits are float32 for any weight dtype.

  The platform that programs are compiled for (`cpu`, `gpu` or `tpu`) is part of the static graph,
  so that tracing never asks which devices this process has.
  """

  def __init__(
    self,
    config: ModelConfig,
    rngs: nnx.Rngs,
    dtype: Any = jnp.float32,
    platform: str | None = None,
  ):
    self.config = config
    self.platform = platform or jax.default_backend()
    v, d = config.vocab_size, config.model_dim
    self.embedding = _normal(rngs, (v, d), dtype, d)
    graph, _ = nnx.split(nnx.eval_shape(lambda: Layer(config, nnx.Rngs(0), dtype)))
    keys = jax.random.split(rngs.params(), config.num_layers)
    stacked = jax.vmap(lambda key: nnx.state(Layer(config, nnx.Rngs(key), dtype)))(keys)
    self.layers = nnx.merge(graph, stacked)
    self.final_norm = RMSNorm(d, config=config)
    if not config.tied_head:
      self.head = _normal(rngs, (v, d), dtype, d)

  def embed(self, token_ids: Int[Array, "*B T"]) -> Float[Array, "*B T D"]:
    """Embeds token ids; the start of the residual stream."""
    table = self.embedding[...]
    if isinstance(table, Master):
      rows = table.weight[token_ids].astype(table.dtype)
    else:
      rows = from_bits(as_bits(table, self.platform)[token_ids])
    x = rows.astype(jnp.float32)
    if self.config.scale_embedding:
      x = x * self.config.model_dim**0.5
    return x if self.config.embedding_multiplier == 1 else x * self.config.embedding_multiplier

  def run_layers(
    self,
    x: Float[Array, "*B T D"],
    positions: Int[Array, "*B T"],
    attend: Attend,
    layer_inputs: Any = None,
    wrap_layer: Callable[[LayerBody], LayerBody] = lambda body: body,
  ) -> tuple[Float[Array, "*B T D"], Any]:
    """Runs every layer and the final norm.

    Args:
      x: the residual stream, from `embed`.
      positions: place of each token in its text; rotary embeddings depend on it.
      attend: what each layer's queries see; called once, while tracing the scan's body.
      layer_inputs: pytree with leading axis L (a cache, say); `attend` gets one layer's slice.
      wrap_layer: wraps the scan's body; training passes `jax.checkpoint` here to save memory.

    Returns:
      The normalised hidden states, divided as the logits are to be, and what `attend` returned
      beside its output, stacked over L.
    """
    cos, sin = rope_turns(self.config, positions)  # [..., T, ropes, H / 2]
    query_scale = self.config.query_scale
    if self.config.ropes[0].query_growth:
      query_scale = query_scale * query_scales(self.config, positions)
    graph, stacked = nnx.split(self.layers)

    def body(x, per_layer):
      state, rope_index, window, layer_input = from_bits(per_layer)
      layer = nnx.merge(graph, state)
      rope = Rope(cos[..., rope_index, :], sin[..., rope_index, :], query_scale)
      return layer(x, rope, window, attend, layer_input)

    per_layer = (
      stacked,
      jnp.asarray(self.config.rope_of_layers, jnp.int32),
      jnp.asarray(self.config.window_of_layers, jnp.int32),
      layer_inputs,
    )
    x, layer_outputs = jax.lax.scan(wrap_layer(body), x, as_bits(per_layer, self.platform))
    hidden = self.final_norm(x)
    divisor = self.config.logit_divisor
    return (hidden if divisor == 1 else hidden / divisor), layer_outputs

  def logits(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
    """Next-token logits from normalised hidden states, in float32."""
    logits = project("...d,vd->...v", hidden, self.head_weight)
    cap = self.config.logit_softcap
    return logits if cap is None else cap * jnp.tanh(logits / cap)

  @property
  def head_weight(self) -> Float[Array, "V D"] | Master:
    """What the LM head multiplies hidden states with; a `Master` in training."""
    return (self.embedding if self.config.tied_head else self.head)[...]


@dataclasses.dataclass(frozen=True)
class Model:
  """A decoder split once into static graph and parameters, for use under plain `jax.jit`."""

  config: ModelConfig
  graph: nnx.GraphDef
  params: nnx.State

  @classmethod
  def from_decoder(cls, decoder: Decoder) -> "Model":
    """Splits a decoder."""
    graph, params = nnx.split(decoder)
    return cls(decoder.config, graph, params)

  @functools.cached_property
  def platform(self) -> str:
    """See `Decoder`."""
    return self.decoder.platform

  @functools.cached_property
  def frozen(self) -> nnx.State:
    """`params` for jitted functions that train nothing and `thaw` them: a copy only on a CPU.

    See `bits`; made here once, the copy is not made in every call.
    """
    return as_bits(self.params, self.platform)

  def graph_for(self, length: int) -> nnx.GraphDef:
    """The graph whose ropes turn for texts of up to `length` tokens; see `config_for_length`."""
    config = config_for_length(self.config, length)
    if config == self.config:
      return self.graph
    decoder = self.decoder
    decoder.config = config
    return nnx.split(decoder)[0]

  @property
  def decoder(self) -> Decoder:
    """The parts as one module again; costs nothing to speak of."""
    return nnx.merge(self.graph, self.params)


def thaw(graph: nnx.GraphDef, frozen: nnx.State) -> Decoder:
  """The decoder of `Model.frozen`, or of plain parameters."""
  return nnx.merge(graph, from_bits(frozen))
