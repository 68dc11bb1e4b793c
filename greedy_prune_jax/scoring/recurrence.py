"""The recurrence of a block's slots: every candidate's from the state that its prefix leaves.

What attention reads of keys and values, a recurrence reads of `Columns`: the convolution the last
channels, and the delta rule, where there is one, what tokens wrote. The state at any place is the
one at a border of the text before it, and what the tokens behind the border wrote since. So a
suffix costs the same however long its prefix is. Kept columns have no borders: where a run goes on
behind some, the state takes in what they wrote, one product over them.

Where a race leaves out a middle (see `stream.window_lengths`), the tail begins with the state and
the channels that the middle leaves in the text as it stands, as its attention sees the middle's
keys and values.

Letters beside those of `scoring.stream` and `models.delta_rule`: C borders of a text.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, UInt

from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.delta_rule import (
  DeltaInputs,
  advance_state,
  read_state,
  run_chunk,
)
from greedy_prune_jax.models.recurrence import CHUNK, Mixed, mix_tokens, state_shape
from greedy_prune_jax.models.weights import uint16_as_bfloat16
from greedy_prune_jax.scoring.stream import Slots


class Written(NamedTuple):
  """Changes of the delta rule's state by tokens."""

  key: Array  # [..., J, P]
  change: Array  # [..., M, O], of the values that the state gives to this key
  log_decay: Array  # [..., M], float32


class Columns(NamedTuple):
  """Tokens of a text or of candidates as the recurrent layers saw them; perhaps as bits."""

  channels: Array  # [..., Z], before the convolution
  written: Written | None  # None: there is no delta rule


def empty_columns(config: ModelConfig, shape: tuple[int, ...], dtype: DTypeLike) -> Columns:
  """Columns that hold nothing, of all recurrent layers."""
  shape, written = (len(config.recurrent_layers), *shape), None
  if (state := state_shape(config)) is not None:
    m, p, o = state
    written = Written(
      jnp.zeros((*shape, config.delta_key_heads, p), dtype),
      jnp.zeros((*shape, m, o), dtype),
      jnp.zeros((*shape, m), jnp.float32),
    )
  return Columns(jnp.zeros((*shape, config.conv_channels), dtype), written)


def empty_borders(
  config: ModelConfig, batch: int, places: int
) -> Float[Array, "L B C M P O"] | None:
  """States before every `CHUNK`-th place of texts of which nothing is known; None without any."""
  state = state_shape(config) if config.has_recurrence else None
  stack = len(config.recurrent_layers), batch, places // CHUNK
  return None if state is None else jnp.zeros((*stack, *state))


def renewed_borders(
  borders: Float[Array, "L B C M P O"],
  text: Written,
  first: Int[Array, " B"],
  stop: Int[Array, " B"],
) -> Float[Array, "L B C M P O"]:
  """The borders of texts of which places [first, stop) are new; no others if stop <= first."""
  first, stop = first // CHUNK, jnp.where(first < stop, stop, 0) // CHUNK
  everything = jnp.ones(CHUNK, bool)
  advance = jax.vmap(jax.vmap(partial(advance_state, counted=everything)))

  def renew(index, borders):
    def part(x):
      return jax.lax.dynamic_slice_in_dim(x, (index - 1) * CHUNK, CHUNK, axis=2)

    written = _as_float32(jax.tree.map(part, text))
    old = borders[:, :, index - 1]
    new = advance(old, written.key, written.change, written.log_decay)
    wanted = ((index > first) & (index <= stop))[None, :, None, None, None]
    return borders.at[:, :, index].set(jnp.where(wanted, new, borders[:, :, index]))

  last = jnp.minimum(stop.max(), borders.shape[2] - 1)
  return jax.lax.fori_loop(first.min() + 1, last + 1, renew, borders)


class _Origins(NamedTuple):
  """Parts of a block that follow each other without a gap, by their slots; every field is [T].

  Before a part's first slot here stand places [0, place) of its chain's text as it stands, and
  behind these its chain's kept columns [low, high).
  """

  number: Array  # of the part; rises
  first: Array  # slot of the block
  place: Array
  low: Array
  high: Array


def _origins(slots: Slots) -> _Origins:
  index = jnp.arange(slots.valid.shape[0])
  in_tail = slots.valid & (slots.jump > 0) & (slots.column >= slots.tail)
  begins = (index == slots.begin) | (in_tail & (slots.column == slots.tail))
  begins = jnp.where(slots.valid, begins, jnp.roll(slots.valid, 1)) | (index == 0)
  low = slots.kept_start + jnp.where(in_tail, slots.tail, 0)
  return _Origins(
    number=jnp.cumsum(begins) - 1,
    first=jax.lax.cummax(jnp.where(begins, index, 0)),
    place=jnp.where(in_tail, slots.source - (slots.column - slots.tail), slots.visible),
    low=low,
    high=jnp.maximum(low, slots.kept_stop),
  )


def recur_slots(
  mixed: Mixed,
  layer: Int[Array, ""],
  text: Columns,
  kept: Columns,
  borders: Float[Array, "L B C M P O"] | None,
  slots: Slots,
  *,
  config: ModelConfig,
  dtype: DTypeLike,
) -> tuple[Float[Array, "T M O"] | Float[Array, "T Z"], Columns]:
  """Outputs of each slot, and its columns.

  Args:
    mixed: the slots' tokens.
    layer: index among the recurrent layers.
    text: columns of the texts as they stand, [L, B, S, ...], perhaps as bits.
    kept: columns that were kept, [L, B, Z, ...], perhaps as bits.
    borders: states before places of the texts, if there is a delta rule.
    dtype: dtype of the columns.
  """
  origins = _origins(slots)

  def run_delta(inputs: DeltaInputs) -> tuple[Array, Written]:
    assert text.written is not None
    assert kept.written is not None
    assert borders is not None
    state_before = partial(_state_before, layer, text.written, kept.written, borders)
    out, change = _run_delta(inputs, origins, slots.chain, state_before, borders.shape[3:])
    return out, Written(inputs.key.astype(dtype), change.astype(dtype), inputs.log_decay)

  before = _before(
    mixed.channels, layer, text.channels, kept.channels, slots, origins, config.conv_width - 1
  )
  out, written = mix_tokens(config, mixed, before, run_delta)
  return out, Columns(mixed.channels.astype(dtype), written)


def _run_delta(
  inputs: DeltaInputs,
  origins: _Origins,
  chain: Int[Array, " T"],
  state_before: Callable[[Array, _Origins], Array],
  shape: tuple[int, ...],
) -> tuple[Float[Array, "T M O"], Float[Array, "T M O"]]:
  """Outputs and changes of a block's slots.

  Args:
    origins: part of each slot.
    chain: chain of each slot.
    state_before: makes the state before a part of a chain.
    shape: sizes of a state, [M, P, O].
  """
  size = math.gcd(len(chain), CHUNK)

  def step(carried, chunk):
    inputs, origins, chain = chunk
    state, last = carried
    first_part, last_part = origins.number[0], origins.number[-1]

    def add_part(part, found):
      of_key, of_query, _ = found
      own = origins.number == part
      at = jnp.argmax(own)
      origin = jax.tree.map(lambda x: x[at], origins)
      new = partial(state_before, chain[at], origin)
      state_here = jax.lax.cond(part == last, lambda: state, new)
      own = own[:, None, None]
      of_key = jnp.where(own, read_state(state_here, inputs.key), of_key)
      of_query = jnp.where(own, read_state(state_here, inputs.query), of_query)
      return of_key, of_query, state_here

    nothing = jnp.zeros_like(inputs.value)
    start = nothing, nothing, state
    of_key, of_query, state = jax.lax.fori_loop(first_part, last_part + 1, add_part, start)
    # A NaN of another chain would not stay out of sums because its weight is 0.
    sound = _finite(inputs) & _finite((of_key, of_query))
    clean, of_key, of_query = jax.tree.map(
      lambda x: jnp.where(sound.reshape(-1, *[1] * (x.ndim - 1)), x, 0), (inputs, of_key, of_query)
    )
    out, change = run_chunk(clean, origins.number, of_key, of_query)
    counted = origins.number == last_part
    broken = (counted & ~sound).any()
    state = advance_state(state, clean.key, change, clean.log_decay, counted)
    state = jnp.where(broken, jnp.nan, state)
    out, change = (jnp.where(sound[:, None, None], x, jnp.nan) for x in (out, change))
    return (state, last_part), (out, change)

  chunks = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), (inputs, origins, chain))
  start = jnp.zeros(shape), jnp.int32(-1)
  _, found = jax.lax.scan(step, start, chunks)
  out, change = (x.reshape(-1, *x.shape[2:]) for x in found)
  return out, change


def _finite(arrays: DeltaInputs | tuple[Array, ...]) -> Bool[Array, " T"]:
  """True for slots all of whose numbers are finite."""
  each = [jnp.isfinite(x).reshape(len(x), -1).all(axis=1) for x in jax.tree.leaves(arrays)]
  return jnp.stack(each).all(axis=0)


def _before(
  channels: Float[Array, "T Z"],
  layer: Int[Array, ""],
  text: Float[Array, "L B S Z"] | UInt[Array, "L B S Z"],
  kept: Float[Array, "L B K Z"] | UInt[Array, "L B K Z"],
  slots: Slots,
  origins: _Origins,
  count: int,
) -> Float[Array, "T count Z"]:
  """Channels of the tokens before each slot's, the farthest first; 0 before a text's first."""
  at = jnp.arange(len(channels))[:, None] - jnp.arange(count, 0, -1)[None, :]  # slot
  missing = origins.first[:, None] - at  # tokens back from the part's first, if above 0
  column = origins.high[:, None] - missing
  place = origins.place[:, None] - (missing - (origins.high - origins.low)[:, None])
  chain = jnp.broadcast_to(slots.chain[:, None], at.shape)

  def read(columns: Array, index: Array) -> Array:
    found = columns[layer, chain, jnp.clip(index, 0, columns.shape[2] - 1)]
    return uint16_as_bfloat16(found).astype(jnp.float32)

  of_text = jnp.where((place >= 0)[..., None], read(text, place), 0.0)
  of_chain = jnp.where((column >= origins.low[:, None])[..., None], read(kept, column), of_text)
  return jnp.where((missing <= 0)[..., None], channels[jnp.maximum(at, 0)], of_chain)


def _state_before(
  layer: Int[Array, ""],
  text: Written,
  kept: Written,
  borders: Float[Array, "L B C M P O"],
  chain: Int[Array, ""],
  origin: _Origins,
) -> Float[Array, "M P O"]:
  """The state before a part's first slot."""

  def advance(state, columns, index, low, high):
    def part(x):
      start = (layer, chain, index * CHUNK, *[0] * (x.ndim - 3))
      return jax.lax.dynamic_slice(x, start, (1, 1, CHUNK, *x.shape[3:]))[0, 0]

    place = index * CHUNK + jnp.arange(CHUNK)
    counted = (place >= low) & (place < high)
    written = _as_float32(jax.tree.map(part, columns))
    return advance_state(state, written.key, written.change, written.log_decay, counted)

  border = origin.place // CHUNK
  state = jax.lax.dynamic_slice(
    borders, (layer, chain, border, 0, 0, 0), (1, 1, 1, *borders.shape[3:])
  )[0, 0, 0]
  state = advance(state, text, border, border * CHUNK, origin.place)
  return jax.lax.fori_loop(
    origin.low // CHUNK,
    jnp.where(origin.low < origin.high, -(-origin.high // CHUNK), 0),
    lambda index, state: advance(state, kept, index, origin.low, origin.high),
    state,
  )


def _as_float32(written: Written) -> Written:
  return jax.tree.map(lambda x: x.astype(jnp.float32), uint16_as_bfloat16(written))
