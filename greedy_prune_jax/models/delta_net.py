"""Gated DeltaNet: the layer that keeps a state in place of keys and values (arXiv 2412.06464).

As attention leaves to its caller what is attended to, so does this layer leave to its caller what
stands before a text's tokens: it hands `Mixed` to a `recur` function. `recur_rows` and
`recur_texts` are those of whole texts.

Axis letters: those of `delta_rule`; Z channels of the convolution, 2 J P + M O; W its width.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.delta_rule import DeltaInputs, convolve, run_chunks, tokens_before
from greedy_prune_jax.models.weights import along, project, random_weight

CHUNK = 64  # tokens whose changes are solved for together, and between which states are kept

_L2_EPS = 1e-6  # of queries and keys


def refuse_recurrence(config: ModelConfig, who: str) -> None:
  """Refuses models with recurrent layers.

  Raises:
    UserError: the model has some.
  """
  if config.has_recurrence:
    raise UserError(
      f"{who} cannot use a {config.family} model: it has recurrent layers (Gated DeltaNet), which "
      "are not supported there; take a model whose layers all have attention"
    )


class Mixed(NamedTuple):
  """A layer's tokens, before the convolution, and its weight."""

  channels: Float[Array, "*B T Z"]  # queries, keys and values, rounded to the weights' dtype
  log_decay: Float[Array, "*B T M"]
  rate: Float[Array, "*B T M"]
  filter: Float[Array, "W Z"]


class DeltaCache(NamedTuple):
  """State and last channels that a text leaves to the tokens behind it."""

  state: Any  # [*B, M, P, O], float32
  channels: Any  # [*B, W - 1, Z] of its last tokens, 0 where it has no more


# (tokens, layer_input) -> (out [..., T, M, O], layer_output)
Recur = Callable[[Mixed, Any], tuple[Array, Any]]


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
      log_decay=-along(jnp.exp(self.log_speed[...]), steps) * steps,
      rate=jax.nn.sigmoid(project("...td,dm->...tm", x, self.rate[...])),
      filter=jnp.concatenate(filters).T,
    )
    with jax.named_scope("recur"):
      out, layer_output = recur(mixed, layer_input)
    gate = jax.nn.silu(project("...td,dmo->...tmo", x, self.gate[...]))
    return project("...tmo,mod->...td", self._normed(out) * gate, self.out[...]), layer_output

  def _normed(self, x: Float[Array, "*B T M O"]) -> Float[Array, "*B T M O"]:
    mean = jnp.mean(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(mean + self.config.norm_eps) * along(self.norm_scale[...], x)


def cache_shapes(config: ModelConfig, rows: int, dtype: DTypeLike) -> DeltaCache:
  """Shapes of the caches of all recurrent layers, for rows of texts."""
  layers = len(config.layers_with("delta"))
  heads = (config.delta_value_heads, config.delta_key_dim, config.delta_value_dim)
  channels = (config.conv_width - 1, config.conv_channels)
  return DeltaCache(
    jax.ShapeDtypeStruct((layers, rows, *heads), jnp.float32),
    jax.ShapeDtypeStruct((layers, rows, *channels), dtype),
  )


def delta_inputs(
  config: ModelConfig, mixed: Mixed, before: Float[Array, "T rest Z"]
) -> DeltaInputs:
  """Inputs of the recurrence of one text's tokens.

  Args:
    config: config of the model.
    mixed: the tokens.
    before: channels of the W - 1 tokens before each.
  """
  channels = jax.nn.silu(convolve(before, mixed.channels, mixed.filter))
  of_keys = config.delta_key_heads * config.delta_key_dim
  query, key, value = jnp.split(channels, [of_keys, 2 * of_keys], axis=-1)
  query, key = (
    _unit(x.reshape(len(x), config.delta_key_heads, config.delta_key_dim)) for x in (query, key)
  )
  value = value.reshape(len(value), config.delta_value_heads, config.delta_value_dim)
  return DeltaInputs(query * config.delta_key_dim**-0.5, key, value, mixed.log_decay, mixed.rate)


def recur_rows(config: ModelConfig, sequence: Int[Array, "*B T"]) -> Recur:
  """The recurrence of rows of whole texts, one behind the other.

  Args:
    config: config of the model.
    sequence: number of each token's text.
  """

  def one_row(mixed: Mixed, sequence: Int[Array, " T"]) -> Float[Array, "T M O"]:
    before = tokens_before(mixed.channels, sequence, config.conv_width - 1)
    return run_chunks(delta_inputs(config, mixed, before), _no_state(config), sequence, CHUNK)[0]

  return lambda mixed, _: (_each(one_row, mixed, sequence), None)


def recur_texts(config: ModelConfig, lengths: Int[Array, "*B"], dtype: DTypeLike) -> Recur:
  """The recurrence of whole texts, each with what it leaves, a `DeltaCache`.

  Args:
    config: config of the model.
    lengths: tokens of each text; those behind them leave nothing.
    dtype: dtype of the channels that are kept.
  """
  rest = config.conv_width - 1

  def one_text(mixed: Mixed, length: Int[Array, ""]) -> tuple[Float[Array, "T M O"], DeltaCache]:
    sequence = jnp.zeros(len(mixed.rate), jnp.int32)
    inside = (jnp.arange(len(mixed.rate)) < length)[:, None]
    mixed = mixed._replace(
      log_decay=jnp.where(inside, mixed.log_decay, 0.0), rate=jnp.where(inside, mixed.rate, 0.0)
    )
    before = tokens_before(mixed.channels, sequence, rest)
    out, _, state = run_chunks(
      delta_inputs(config, mixed, before), _no_state(config), sequence, CHUNK
    )
    padded = jnp.pad(mixed.channels, ((rest, 0), (0, 0)))
    last = jax.lax.dynamic_slice_in_dim(padded, length, rest)
    return out, DeltaCache(state, last.astype(dtype))

  return lambda mixed, _: _each(one_text, mixed, lengths)


def _each(function: Callable[..., Any], mixed: Mixed, other: Array) -> Any:
  """A function of one row, of every row."""
  for _ in range(mixed.rate.ndim - 2):
    function = jax.vmap(function, in_axes=(Mixed(0, 0, 0, None), 0))  # pyright: ignore[reportArgumentType]
  return function(mixed, other)


def _no_state(config: ModelConfig) -> Float[Array, "M P O"]:
  return jnp.zeros((config.delta_value_heads, config.delta_key_dim, config.delta_value_dim))


def _unit(x: Float[Array, "*B P"]) -> Float[Array, "*B P"]:
  return x * jax.lax.rsqrt((x * x).sum(axis=-1, keepdims=True) + _L2_EPS)
