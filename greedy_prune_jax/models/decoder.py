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
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from greedy_prune_jax.models.attention import softcapped
from greedy_prune_jax.models.config import RECURRENCES, ModelConfig, cache_name
from greedy_prune_jax.models.layer import Attend, Layer, LayerCache, OwnKeysValues, Rope
from greedy_prune_jax.models.layer_scan import Kind, LayerBody, scan_layers
from greedy_prune_jax.models.norm import RMSNorm
from greedy_prune_jax.models.per_layer import PerLayerEmbedding
from greedy_prune_jax.models.recurrence import Recur, recur_rows
from greedy_prune_jax.models.rope import config_for_length, query_scales, rope_turns
from greedy_prune_jax.models.weights import (
  MasterWeight,
  bfloat16_as_uint16,
  project,
  random_weight,
  uint16_as_bfloat16,
)


class Embedded(NamedTuple):
  """Embedded tokens: the start of the residual stream, and rows of `per_layer`'s table, if any."""

  x: Float[Array, "*B T D"]
  rows: Float[Array, "*B T L U"] | None


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
    self.embedding = random_weight(rngs, (v, d), dtype, d)
    graph, _ = nnx.split(nnx.eval_shape(lambda: Layer(config, nnx.Rngs(0), dtype)))
    keys = jax.random.split(rngs.params(), config.num_layers)
    stacked = jax.vmap(lambda key: nnx.state(Layer(config, nnx.Rngs(key), dtype)))(keys)
    self.layers = nnx.merge(graph, _of_kinds(stacked, config))
    self.final_norm = RMSNorm(d, config=config)
    if config.per_layer_dim:
      self.per_layer = PerLayerEmbedding(config, rngs, dtype)
    if not config.tied_head:
      self.head = random_weight(rngs, (v, d), dtype, d)

  def embed(self, token_ids: Int[Array, "*B T"]) -> Embedded:
    """Embeds token ids."""
    x = self._rows(self.embedding[...], token_ids)
    if self.config.scale_embedding:
      x = x * self.config.model_dim**0.5
    if self.config.embedding_multiplier != 1:
      x = x * self.config.embedding_multiplier
    rows = self._rows(self.per_layer.table[...], token_ids) if self.config.per_layer_dim else None
    return Embedded(x, rows)

  def _rows(self, table: Array | MasterWeight, token_ids: Int[Array, "*B T"]) -> Array:
    """Rows of a table, in float32."""
    if isinstance(table, MasterWeight):
      rows = table.weight[token_ids].astype(table.dtype)
    else:
      rows = uint16_as_bfloat16(bfloat16_as_uint16(table, self.platform)[token_ids])
    return rows.astype(jnp.float32)

  def run_layers(
    self,
    embedded: Embedded,
    positions: Int[Array, "*B T"],
    attend: Attend,
    layer_inputs: Mapping[str, Any] | None = None,
    wrap_layer: Callable[[LayerBody], LayerBody] = lambda body: body,
    *,
    unroll: bool = False,
    recur: Recur | None = None,
  ) -> tuple[Float[Array, "*B T D"], dict[str, Any]]:
    """Runs every layer and the final norm.

    Args:
      embedded: the tokens, from `embed`.
      positions: place of each token in its text; rotary embeddings depend on it.
      attend: attention of one layer's queries; called once, while tracing the scan's body.
      layer_inputs: keys of `ModelConfig.caches` (and its `recurrence`) -> pytrees stacked over the
        layers of each, the cache itself, say; `attend` (and `recur`) gets one layer's part.
      wrap_layer: wraps the scan's body; training passes `jax.checkpoint` here to save memory.
      unroll: compile each layer by itself, in as many times the compile time. A GPU's scan copies
        each layer's weights and inputs before it reads them.
      recur: recurrence of one layer's tokens, as `attend`; None: that of rows of one text each.

    Returns:
      The normalised hidden states, divided as the logits are to be; and the outputs of `attend` by
      name, stacked over the layers where it returned one, with those of `recur` under the name of
      the recurrence.
    """
    cos, sin = rope_turns(self.config, positions)  # [..., T, ropes, H / 2]
    query_scale = self.config.query_scale
    if self.config.ropes[0].query_growth:
      query_scale = query_scale * query_scales(self.config, positions)

    if recur is None and self.config.has_recurrence:
      recur = recur_rows(self.config, jnp.zeros(positions.shape, jnp.int32))

    kinds, caches = self.config.parts_of_layers, dict(layer_inputs or {})
    shared = {cache_name(part) for kind in kinds for part in kind if part.startswith("shared_")}
    last_of = {name: jax.tree.map(lambda y: y[-1], caches.get(name)) for name in shared}

    def run(
      carried: tuple[Array, dict[str, OwnKeysValues]],
      layer: Layer,
      inputs: dict[str, Any],
      kind: Kind,
    ) -> tuple[Any, dict[str, Any]]:
      (x, handed_on), (rope_index, window, caches, piece) = carried, inputs[""]
      handed_on = dict(handed_on)
      rope = Rope(cos[..., rope_index, :], sin[..., rope_index, :], query_scale)

      def mix(x: Array) -> tuple[Array, dict[str, Any]]:
        part = kind[0] if len(kind) > 1 else "attention"
        if part in RECURRENCES:
          assert recur is not None
          out, left = getattr(layer, part)(x, recur, inputs[part])
          return out, {part: left}
        name = cache_name(part)
        own = part == name
        value = (caches | inputs).get(name) if own else last_of[name]
        out, outputs, keys_values = getattr(layer, part)(
          x,
          rope,
          window,
          attend,
          LayerCache(name, value, own),
          None if own else handed_on[name],
        )
        if name in handed_on:
          handed_on[name] = keys_values
        return out, outputs

      x, outputs = layer(x, mix, kind, piece)
      return (x, handed_on), outputs

    of_parts = {name: caches.pop(name) for name in list(caches) if any(name in k for k in kinds)}
    ropes = jnp.asarray(self.config.rope_of_layers, jnp.int32)
    windows = jnp.asarray(self.config.window_of_layers, jnp.int32)
    pieces = None if embedded.rows is None else self.per_layer(embedded.x, embedded.rows)
    nothing = {
      name: (jnp.zeros((*embedded.x.shape[:-1], *self.config.heads(name))),) * 2 for name in shared
    }
    (x, _), outputs = scan_layers(
      (embedded.x, nothing),
      self.layers,
      {"": (ropes, windows, caches, pieces), **of_parts},
      kinds,
      run,
      wrap_layer=wrap_layer,
      platform=self.platform,
      unroll=unroll,
    )
    hidden = self.final_norm(x)
    divisor = self.config.logit_divisor
    return (hidden if divisor == 1 else hidden / divisor), outputs

  def logits(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
    """Next-token logits from normalised hidden states, in float32."""
    with jax.named_scope("head"):
      logits = project("...d,vd->...v", hidden, self.head_weight)
    return softcapped(logits, self.config.logit_softcap)

  @property
  def head_weight(self) -> Float[Array, "V D"] | MasterWeight:
    """The matrix that the LM head multiplies hidden states with; a `MasterWeight` in training."""
    return (self.embedding if self.config.tied_head else self.head)[...]


def _of_kinds(stacked: nnx.State, config: ModelConfig) -> nnx.State:
  """Stacked parameters without those that a layer of another kind has no use for."""
  flat = {
    path: variable if len(at) == config.num_layers else variable.replace(variable[...][at,])
    for path, variable in nnx.to_flat_state(stacked)
    for at in [np.array(config.layers_with(str(path[0])))]
  }
  return nnx.from_flat_state(flat)


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
  def inference_params(self) -> nnx.State:
    """`params` for jitted functions that train nothing; read them with `merge_decoder`.

    A copy only on a CPU (see `bfloat16_as_uint16`), made once and not in every call.
    """
    return bfloat16_as_uint16(self.params, self.platform)

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


def merge_decoder(graph: nnx.GraphDef, params: nnx.State) -> Decoder:
  """The decoder of `Model.inference_params`, or of plain parameters."""
  return nnx.merge(graph, uint16_as_bfloat16(params))
