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
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.rope import apply_rope, config_for_length, rope_frequencies
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
  """Root-mean-square norm over the last axis, in float32."""

  def __init__(self, dim: int, config: ModelConfig, dtype: Any = jnp.float32):
    self.eps = config.norm_eps
    self.unit_offset = config.unit_offset_norm
    self.scale = nnx.Param(jnp.full((dim,), 0.0 if config.unit_offset_norm else 1.0, dtype))

  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Normalises float32 x."""
    scale = self.scale[...].astype(jnp.float32) + (1.0 if self.unit_offset else 0.0)
    normalised = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.eps)
    return normalised * along(scale, x)


def _normal(rngs: nnx.Rngs, shape: tuple[int, ...], dtype: Any, fan_in: int) -> nnx.Param:
  return nnx.Param(jax.random.normal(rngs.params(), shape, dtype) * fan_in**-0.5)


class Attention(nnx.Module):
  """Projections around `attend`: grouped queries, optional biases and query/key norms."""

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs, dtype: Any):
    d, n, k, h = config.model_dim, config.num_heads, config.num_kv_heads, config.head_dim
    self.query_scale = config.query_scale
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
      self.q_norm = RMSNorm(h, config)
      self.k_norm = RMSNorm(h, config)
    self.qkv_bias, self.has_out_bias, self.qk_norm = (
      config.qkv_bias,
      config.out_bias,
      config.qk_norm,
    )

  def __call__(
    self,
    x: Float[Array, "*B T D"],
    rope: tuple[Array, Array],  # cos, sin: [..., T, H / 2]
    window: Int[Array, ""],
    attend: Attend,
    layer_input: Any,
  ) -> tuple[Float[Array, "*B T D"], Any]:
    """Returns what to add to the residual stream, and what `attend` returned beside its output."""
    q = project("...td,dnh->...tnh", x, self.q[...])
    k = project("...td,dkh->...tkh", x, self.k[...])
    v = project("...td,dkh->...tkh", x, self.v[...])
    if self.qkv_bias:
      q += along(self.q_bias[...], q)
      k += along(self.k_bias[...], k)
      v += along(self.v_bias[...], v)
    if self.qk_norm:
      q, k = self.q_norm(q), self.k_norm(k)
    q, k = apply_rope(q, *rope), apply_rope(k, *rope)
    attended, layer_output = attend(q * self.query_scale, k, v, window, layer_input)
    out = project("...tnh,nhd->...td", attended, self.out[...])
    if self.has_out_bias:
      out += along(self.out_bias[...], out)
    return out, layer_output


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  "silu": jax.nn.silu,
  "gelu": lambda x: jax.nn.gelu(x, approximate=False),
  "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}


class FeedForward(nnx.Module):
  """Gated feed-forward: down(activation(gate(x)) * up(x))."""

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs, dtype: Any):
    d, f = config.model_dim, config.mlp_dim
    self.activation = config.activation
    self.gate = _normal(rngs, (d, f), dtype, d)
    self.up = _normal(rngs, (d, f), dtype, d)
    self.down = _normal(rngs, (f, d), dtype, f)
    if config.mlp_bias:
      self.gate_bias = nnx.Param(jnp.zeros((f,), dtype))
      self.up_bias = nnx.Param(jnp.zeros((f,), dtype))
      self.down_bias = nnx.Param(jnp.zeros((d,), dtype))
    self.has_bias = config.mlp_bias

  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Returns what to add to the residual stream, in float32."""
    gate = project("...d,df->...f", x, self.gate[...])
    up = project("...d,df->...f", x, self.up[...])
    if self.has_bias:
      gate += along(self.gate_bias[...], gate)
      up += along(self.up_bias[...], up)
    out = project("...f,fd->...d", _ACTIVATIONS[self.activation](gate) * up, self.down[...])
    if self.has_bias:
      out += along(self.down_bias[...], out)
    return out


class Layer(nnx.Module):
  """Attention and feed-forward, each behind a norm and added to the residual stream."""

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs, dtype: Any):
    self.attention_norm = RMSNorm(config.model_dim, config)
    self.attention = Attention(config, rngs, dtype)
    self.mlp_norm = RMSNorm(config.model_dim, config)
    self.mlp = FeedForward(config, rngs, dtype)
    self.post_norms = config.post_norms
    if config.post_norms:
      self.post_attention_norm = RMSNorm(config.model_dim, config)
      self.post_mlp_norm = RMSNorm(config.model_dim, config)

  def __call__(
    self, x: Float[Array, "*B T D"], rope, window, attend: Attend, layer_input
  ) -> tuple[Float[Array, "*B T D"], Any]:
    """Runs the layer; arguments are those of `Attention`."""
    attended, layer_output = self.attention(
      self.attention_norm(x), rope, window, attend, layer_input
    )
    x = x + (self.post_attention_norm(attended) if self.post_norms else attended)
    mixed = self.mlp(self.mlp_norm(x))
    return x + (self.post_mlp_norm(mixed) if self.post_norms else mixed), layer_output


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
    self.final_norm = RMSNorm(d, config)
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
    return x * self.config.model_dim**0.5 if self.config.scale_embedding else x

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
      The normalised hidden states, and what `attend` returned beside its output, stacked over L.
    """
    frequencies, scales = rope_frequencies(self.config)  # [ropes, H / 2], [ropes]
    angles = jnp.multiply.outer(positions.astype(jnp.float32), frequencies)
    cos, sin = jnp.cos(angles), jnp.sin(angles)  # [..., T, ropes, H / 2]
    scales = jnp.asarray(scales)
    graph, stacked = nnx.split(self.layers)

    def body(x, per_layer):
      state, rope_index, window, layer_input = from_bits(per_layer)
      layer = nnx.merge(graph, state)
      scale = scales[rope_index]
      rope = (cos[..., rope_index, :] * scale, sin[..., rope_index, :] * scale)
      return layer(x, rope, window, attend, layer_input)

    per_layer = (
      stacked,
      jnp.asarray(self.config.rope_of_layers, jnp.int32),
      jnp.asarray(self.config.window_of_layers, jnp.int32),
      layer_inputs,
    )
    x, layer_outputs = jax.lax.scan(wrap_layer(body), x, as_bits(per_layer, self.platform))
    return self.final_norm(x), layer_outputs

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
