"""Attention of a block's slots, a tile at a time, over the keys that the tile sees.

Each slot sees intervals of three arrays of keys: its chain's text as it stands, the columns that
its chain has kept, and the block itself. A tile goes over the blocks of keys that one of its slots
sees, with a running maximum and sum (FlashAttention, arXiv 2205.14135), so that no array of scores
is larger than a tile's against a block of keys. The queries of a tile, of whichever candidates,
meet the shared prefix together (cascade attention, as in Hydragen, arXiv 2402.05099).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from greedy_prune_jax.models.attention import MASKED, softcapped
from greedy_prune_jax.models.forward import KeyValues
from greedy_prune_jax.models.weights import product, uint16_as_bfloat16
from greedy_prune_jax.scoring.stream import Slots

KEY_BLOCK = 128  # arrays of keys are multiples of this long


def key_intervals(
  slots: Slots, text_ends: Int[Array, " B"], window: Int[Array, ""], tile: int
) -> Int[Array, "Y 4 2 tile"]:
  """Keys [low, high) that each slot of each tile sees, in four intervals; none unless low < high.

  They are of the chain's text up to the deletion, of the text again from `resume` on, of the
  chain's kept columns, and of the block's slots, numbered as they lie in each. Places rise with
  these numbers, so all that a window does is to make an interval begin later. Slots that hold
  nothing see nothing.

  Args:
    text_ends: place of each chain's last reasoning token, behind which no resumed view goes.
    window: number of tokens that a token sees, itself included.
    tile: slots of a tile.
  """
  place = slots.position - window + 1  # the first of the window, in the text as it stands
  # The first column of the window. Columns before a tail are `jump` further from those in it.
  near = slots.column - window + 1
  far = near + jnp.where(slots.column >= slots.tail, slots.jump, 0)
  column = jnp.where(far < slots.tail, far, jnp.maximum(near, slots.tail))
  intervals = jnp.array(
    [
      [jnp.maximum(place, 0), slots.visible],
      [jnp.maximum(place, slots.resume), text_ends[slots.chain]],
      [slots.kept_start + jnp.maximum(column, 0), slots.kept_stop],
      [
        jnp.maximum(slots.number - slots.column + column, slots.begin),
        slots.valid * (slots.number + 1),
      ],
    ]
  )
  return jnp.moveaxis(intervals.reshape(4, 2, -1, tile), 2, 0)


def common_intervals(intervals: Int[Array, "Y I 2 tile"]) -> Int[Array, "Y I 2"]:
  """The least intervals that hold those of all slots of a tile; [0, 0) where there are none."""
  low, high = intervals[:, :, 0], intervals[:, :, 1]
  last = jnp.where(low < high, high, 0).max(-1)
  first = jnp.where(low < high, low, last[..., None]).min(-1)
  return jnp.stack([first, last], axis=-1)


def split_queries(q: Float[Array, "T N H"], kv_heads: int, tile: int) -> Float[Array, "Y K Q H"]:
  """Queries of each tile and key/value head: all slots of a head, then those of the next."""
  size, heads, head_dim = q.shape
  groups, count = heads // kv_heads, size // tile
  q = q.reshape(count, tile, kv_heads, groups, head_dim).transpose(0, 2, 3, 1, 4)
  return q.reshape(count, kv_heads, groups * tile, head_dim)


def join_queries(x: Float[Array, "Y K Q H"], tile: int) -> Float[Array, "T N H"]:
  """Undoes `split_queries`."""
  count, kv_heads, queries, head_dim = x.shape
  x = x.reshape(count, kv_heads, queries // tile, tile, head_dim).transpose(0, 3, 1, 2, 4)
  return x.reshape(count * tile, -1, head_dim)


def split_sinks(sinks: Float[Array, " N"], kv_heads: int, tile: int) -> Float[Array, "K Q"]:
  """Sinks of a tile's queries, as `split_queries` orders these."""
  return jnp.repeat(sinks.astype(jnp.float32).reshape(kv_heads, -1), tile, axis=1)


class Running(NamedTuple):
  """A softmax over the keys so far, of some queries; keys lie along one axis of scores."""

  top: Float[Array, "..."]
  total: Float[Array, "..."]
  mixed: Float[Array, "..."]

  def add(
    self,
    scores: Float[Array, "..."],
    seen: Bool[Array, "..."],
    mix: Callable[[Array], Array],
    softcap: float | None,
    axis: int = -1,
  ) -> "Running":
    """Takes in the scores of more keys, of which `mix` weights the values."""
    scores = jnp.where(seen, softcapped(scores, softcap), MASKED)
    top = jnp.maximum(self.top, scores.max(axis, keepdims=True))
    weights = jnp.where(seen, jnp.exp(scores - top), 0.0)
    fade = jnp.exp(self.top - top)
    total = self.total * fade + weights.sum(axis, keepdims=True)
    return Running(top, total, self.mixed * fade + mix(weights))

  def result(self) -> Array:
    """Weighted values; 0 where no key was seen (else the greatest score alone adds 1)."""
    return self.mixed / jnp.maximum(self.total, 1.0)


def no_keys(
  of_queries: tuple[int, ...], mixed: tuple[int, ...], sinks: Float[Array, "..."] | None = None
) -> Running:
  """The softmax before any key, over the queries' sinks if there are any.

  Args:
    of_queries: shape of `top`.
    mixed: shape of `mixed`.
    sinks: score of each query's head, float32, of the shape of `top`.
  """
  if sinks is not None:
    return Running(sinks, jnp.ones(of_queries, jnp.float32), jnp.zeros(mixed, jnp.float32))
  return Running(
    jnp.full(of_queries, MASKED, jnp.float32),
    jnp.zeros(of_queries, jnp.float32),
    jnp.zeros(mixed, jnp.float32),
  )


# (chain, block of keys, the tile's interval of keys) -> the block's keys and values, [S, K, H] each
ReadKeys = Callable[[Array, Array, Array], KeyValues]


class KeySource(NamedTuple):
  """Keys of one of the intervals of `key_intervals`."""

  block: int  # keys that are read at once
  read: ReadKeys


def attend_tiles(
  q: Float[Array, "T N H"],
  own: KeyValues,
  text: KeyValues,
  kept: KeyValues,
  layer: Int[Array, ""],
  window: Int[Array, ""],
  slots: Slots,
  text_ends: Int[Array, " B"],
  *,
  tile: int,
  text_tile: int,
  tile_by_tile: bool,
  softcap: float | None,
  sinks: Float[Array, " N"] | None = None,
) -> Float[Array, "T N H"]:
  """Softmax attention of each slot over all that it sees.

  Args:
    q: scaled queries.
    own: keys and values of the block's slots, [T, K, H].
    text: keys or values of the texts as they stand, [L, B, S, K*H], perhaps as bits.
    kept: keys or values of the columns that were kept, [L, B, Z, K*H], perhaps as bits.
    layer: index of the layer, below L.
    window: number of tokens that a token sees, itself included.
    slots: visible positions of each slot.
    tile: slots of a tile, all of one chain; a divisor of T.
    text_tile: slots that meet the keys of the texts together, all of one chain; a multiple of the
      tile and a divisor of T. Slots of one chain see nearly the same of its text, but each the
      columns and slots of its own candidate.
    tile_by_tile: run one tile after the other, each over the blocks of keys that it sees; else all
      side by side, over as many blocks as any of them sees.
  """
  kv_heads = own.k.shape[1]
  # Of shorter blocks fewer keys are hidden; where scores are multiplied fast, calls cost more.
  block = KEY_BLOCK // 2 if tile_by_tile and own.k.dtype == jnp.float32 else KEY_BLOCK
  own_block = min(block, len(q))

  def from_cache(cache: KeyValues) -> ReadKeys:
    # Found by one index of whole blocks: by four, XLA would transpose the cache for a TPU.
    _, chains, size, width = cache.k.shape
    of_chain = size // block

    def read(chain: Array, index: Array, _: Array) -> KeyValues:
      start = (layer * chains + chain) * of_chain
      at = start + jnp.minimum(index, of_chain - 1)  # behind the chain may be another's NaN
      found = (x.reshape(-1, block, width)[at] for x in cache)
      return uint16_as_bfloat16(KeyValues(*(x.reshape(block, kv_heads, -1) for x in found)))

    return read

  def from_block(_: Array, index: Array, interval: Int[Array, " 2"]) -> KeyValues:
    at = jnp.minimum(index * own_block, len(own.k) - own_block)
    k, v = (jax.lax.dynamic_slice_in_dim(x, at, own_block) for x in own)
    # A NaN of another chain would not stay out of sums because its weight is 0.
    number = at + jnp.arange(own_block)
    same = (number >= interval[0]) & (number < interval[1])
    return KeyValues(k, jnp.where(same[:, None, None], v, 0))

  sources = (
    *(KeySource(block, from_cache(cache)) for cache in (text, text, kept)),
    KeySource(own_block, from_block),
  )
  passes = [(tile, slice(0, 4))]
  if text_tile != tile:
    passes = [(text_tile, slice(0, 2)), (tile, slice(2, 4))]

  each = (*q.shape[:2], 1)
  own_sinks = None
  if sinks is not None:
    own_sinks = jnp.broadcast_to(sinks.astype(jnp.float32)[:, None], each)
  state = no_keys(each, q.shape, own_sinks)
  for size, some in passes:
    intervals = key_intervals(slots, text_ends, window, size)[:, some]
    of_queries = jax.tree.map(lambda x, size=size: split_queries(x, kv_heads, size), (q, state))
    run = partial(_over_tiles, tile_by_tile=tile_by_tile, softcap=softcap)
    state = run(*of_queries, slots.chain[::size], intervals, sources[some])
    state = jax.tree.map(lambda x, size=size: join_queries(x, size), state)
  return state.result()


def _over_tiles(
  q: Float[Array, "Y K Q H"],
  state: Running,
  chains: Int[Array, " Y"],
  intervals: Int[Array, "Y I 2 tile"],
  sources: Sequence[KeySource],
  *,
  tile_by_tile: bool,
  softcap: float | None,
) -> Running:
  """The softmaxes of tiles' queries when they have met the keys of their intervals."""
  common = common_intervals(intervals)
  sizes = jnp.array([[source.block for source in sources]])
  first_blocks = common[..., 0] // sizes
  rounds = -(-common[..., 1] // sizes) - first_blocks  # [Y, I]

  def one_tile(inputs, rounds):
    q, state, chain, intervals, common, first_blocks = inputs
    intervals = jnp.tile(intervals, q.shape[1] // intervals.shape[-1])  # of queries, heads by heads
    for i, source in enumerate(sources):
      low, high = intervals[i]

      def add(index, state, i=i, source=source, low=low, high=high):
        block = first_blocks[i] + index
        k, v = source.read(chain, block, common[i])
        number = block * source.block + jnp.arange(source.block)[None, :]
        seen = (number >= low[:, None]) & (number < high[:, None])
        mix = partial(product, "kqs,skh->kqh", weight=v)
        scores = product("kqh,skh->kqs", q, k)
        return state.add(scores, seen, mix, softcap)

      state = jax.lax.fori_loop(0, rounds[i], add, state)
    return state

  of_tiles = q, state, chains, intervals, common, first_blocks
  if tile_by_tile:
    return jax.lax.map(lambda inputs: one_tile(*inputs), (of_tiles, rounds))
  # With a count of its own for each tile, each round would copy the states of all.
  return jax.vmap(one_tile, (0, None))(of_tiles, rounds.max(0))
