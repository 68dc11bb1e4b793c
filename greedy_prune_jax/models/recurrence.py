"""Layers that keep a state in place of keys and values, and what stands before their tokens.

Both kinds begin with a convolution over the last tokens: of Gated DeltaNet (`delta_net`), whose
delta rule then runs over the convolved channels, and the short convolution (`short_conv`), which is
all. As attention leaves to its caller what is attended to, so do these layers leave to their caller
what stands before a text's tokens: they hand `Mixed` to a `recur` function. `recur_rows` and
`recur_texts` are those of whole texts.

Axis letters: those of `delta_rule`; Z channels of the convolution; W its width.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.delta_rule import DeltaInputs, run_chunks

CHUNK = 64  # tokens whose changes are solved for together, and between which states are kept

_L2_EPS = 1e-6  # of queries and keys


_NAMES = {"delta": "Gated DeltaNet", "conv": "short convolutions"}


def refuse_recurrence(config: ModelConfig, who: str) -> None:
  """Refuses models with recurrent layers.

  Raises:
    UserError: the model has some.
  """
  if config.has_recurrence:
    raise UserError(
      f"{who} cannot use a {config.family} model: it has recurrent layers "
      f"({_NAMES[config.recurrence]}), which are not supported there; take a model whose layers "
      "all have attention"
    )


class Mixed(NamedTuple):
  """A layer's tokens, before the convolution, and its weight."""

  channels: Float[Array, "*B T Z"]  # rounded to the weights' dtype
  filter: Float[Array, "W Z"]
  log_decay: Float[Array, "*B T M"] | None = None  # of the delta rule; None: there is none
  rate: Float[Array, "*B T M"] | None = None


class RecurrentCache(NamedTuple):
  """State and last channels that a text leaves to the tokens behind it."""

  state: Any  # of the delta rule, [*B, M, P, O], float32; None: there is none
  channels: Any  # [*B, W - 1, Z] of its last tokens, 0 where it has no more


# (tokens, layer_input) -> (out [..., T, M, O] or [..., T, Z], layer_output)
Recur = Callable[[Mixed, Any], tuple[Array, Any]]


def state_shape(config: ModelConfig) -> tuple[int, int, int] | None:
  """Shape of a layer's state, [M, P, O]; None where it has none but the last channels."""
  if config.recurrence != "delta":
    return None
  return config.delta_value_heads, config.delta_key_dim, config.delta_value_dim


def cache_shapes(config: ModelConfig, rows: int, dtype: DTypeLike) -> RecurrentCache:
  """Shapes of the caches of all recurrent layers, for rows of texts."""
  stack, state = (len(config.recurrent_layers), rows), state_shape(config)
  channels = (*stack, config.conv_width - 1, config.conv_channels)
  return RecurrentCache(
    state and jax.ShapeDtypeStruct((*stack, *state), jnp.float32),
    jax.ShapeDtypeStruct(channels, dtype),
  )


def mix_tokens(
  config: ModelConfig,
  mixed: Mixed,
  before: Float[Array, "T rest Z"],
  run_delta: Callable[[DeltaInputs], tuple[Array, Any]],
) -> tuple[Array, Any]:
  """Outputs of one text's tokens, and what `run_delta` returned beside them, if it was called.

  Args:
    before: channels of the W - 1 tokens before each token.
    run_delta: runs the delta rule, of layers that have one.
  """
  convolved = convolve(before, mixed.channels, mixed.filter)
  if mixed.rate is None or mixed.log_decay is None:
    return convolved, None
  return run_delta(_delta_inputs(config, convolved, mixed.log_decay, mixed.rate))


def _delta_inputs(
  config: ModelConfig,
  convolved: Float[Array, "T Z"],
  log_decay: Float[Array, "T M"],
  rate: Float[Array, "T M"],
) -> DeltaInputs:
  """Inputs of the delta rule, of one text's tokens."""
  of_keys = config.delta_key_heads * config.delta_key_dim
  query, key, value = jnp.split(jax.nn.silu(convolved), [of_keys, 2 * of_keys], axis=-1)
  query, key = (
    _unit(x.reshape(len(x), config.delta_key_heads, config.delta_key_dim)) for x in (query, key)
  )
  value = value.reshape(len(value), config.delta_value_heads, config.delta_value_dim)
  return DeltaInputs(query * config.delta_key_dim**-0.5, key, value, log_decay, rate)


def recur_rows(config: ModelConfig, sequence: Int[Array, "*B T"]) -> Recur:
  """The recurrence of rows of whole texts, one behind the other.

  Args:
    sequence: number of each token's text.
  """

  def one_row(mixed: Mixed, sequence: Int[Array, " T"]) -> Array:
    def run_delta(inputs: DeltaInputs) -> tuple[Array, None]:
      return run_chunks(inputs, _no_state(config), sequence, CHUNK)[0], None

    before = tokens_before(mixed.channels, sequence, config.conv_width - 1)
    return mix_tokens(config, mixed, before, run_delta)[0]

  return lambda mixed, _: (each_row(one_row, mixed, sequence), None)


def recur_texts(config: ModelConfig, lengths: Int[Array, "*B"], dtype: DTypeLike) -> Recur:
  """The recurrence of whole texts, each with what it leaves, a `RecurrentCache`.

  Args:
    lengths: tokens of each text; those behind them leave nothing.
    dtype: dtype of the channels that are kept.
  """
  rest = config.conv_width - 1

  def one_text(mixed: Mixed, length: Int[Array, ""]) -> tuple[Array, RecurrentCache]:
    index = jnp.arange(len(mixed.channels))
    sequence = jnp.zeros_like(index)

    def run_delta(inputs: DeltaInputs) -> tuple[Array, Array]:
      inside = (index < length)[:, None]
      log_decay, rate = (jnp.where(inside, x, 0.0) for x in (inputs.log_decay, inputs.rate))
      inputs = inputs._replace(log_decay=log_decay, rate=rate)
      out, _, state = run_chunks(inputs, _no_state(config), sequence, CHUNK)
      return out, state

    before = tokens_before(mixed.channels, sequence, rest)
    out, state = mix_tokens(config, mixed, before, run_delta)
    padded = jnp.pad(mixed.channels, ((rest, 0), (0, 0)))
    last = jax.lax.dynamic_slice_in_dim(padded, length, rest)
    return out, RecurrentCache(state, last.astype(dtype))

  return lambda mixed, _: each_row(one_text, mixed, lengths)


def each_row(function: Callable[..., Any], mixed: Mixed, other: Any) -> Any:
  """A function of one row's tokens and of something else of the row, of every row."""
  for _ in range(mixed.channels.ndim - 2):
    function = jax.vmap(function, in_axes=(Mixed(0, None, 0, 0), 0))  # pyright: ignore[reportArgumentType]
  return function(mixed, other)


def _no_state(config: ModelConfig) -> Float[Array, "M P O"]:
  return jnp.zeros(state_shape(config))  # pyright: ignore[reportArgumentType] - layers that ask have one


def _unit(x: Float[Array, "*B P"]) -> Float[Array, "*B P"]:
  return x * jax.lax.rsqrt((x * x).sum(axis=-1, keepdims=True) + _L2_EPS)


def convolve(
  before: Float[Array, "T rest Z"], x: Float[Array, "T Z"], weight: Float[Array, "W Z"]
) -> Float[Array, "T Z"]:
  """A weighted sum of each token and those before it, channel by channel.

  Args:
    before: the W - 1 tokens before each token, the farthest first.
    weight: weights of the W tokens, the farthest first.
  """
  return (before * weight[None, :-1]).sum(axis=1) + x * weight[None, -1]


def tokens_before(
  x: Float[Array, "T Z"], sequence: Int[Array, " T"], count: int
) -> Float[Array, "T count Z"]:
  """The tokens of its sequence before each token, the farthest first; 0 where there are none."""
  place = jnp.arange(len(x))[:, None] - jnp.arange(count, 0, -1)[None, :]
  at = jnp.maximum(place, 0)
  there = (place >= 0) & (sequence[at] == sequence[:, None])
  return jnp.where(there[..., None], x[at], 0.0)
