"""Attention of packed rows as one Pallas kernel: no array of scores ever reaches memory.

XLA's form (`scorer._attend_packed`) writes the scores of all queries against the shared prefix, in
float32, and reads them back for the softmax. Here a block of queries goes over the prefix, then
over its own row's slots, a block of keys at a time, with a running maximum and sum (FlashAttention,
arXiv 2205.14135), and leaves out blocks of keys that none of its queries sees.

The loop over the prefix's blocks lies inside the kernel on a GPU (Triton), where keys are read from
memory as they are used, and is an axis of the grid on a TPU (Mosaic), where a block specification
brings them on chip one block at a time. On CPUs both forms are interpreted, for tests. Both compile
for their devices (`benchmarks/accelerators.py`); neither has been timed yet.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Int

from greedy_prune_jax.models.attention import MASKED

# Columns of what a query, or a slot, is known by.
_PLACE, _VISIBLE, _SEGMENT = range(3)
_COLUMNS = 4  # a power of two; on a TPU all columns share one tile of 128 lanes


@dataclasses.dataclass(frozen=True)
class Tiles:
  """Sizes of what meets on chip at once.

  Attributes:
    queries: queries of a block.
    keys: keys of a block.
    num_warps: warps of a block of queries, on a GPU.
    num_stages: blocks of keys under way, on a GPU.
  """

  queries: int = 128
  keys: int = 128
  num_warps: int = 4
  num_stages: int = 2

  @classmethod
  def choose(cls, platform: str, head_dim: int, dtype: Any) -> "Tiles":
    """Tiles that fit a device; on a GPU the 228 kB of shared memory of an H100's processor.

    Args:
      platform: `cpu`, `gpu` or `tpu`.
      head_dim: width of a head, rounded up to a power of two on a GPU.
      dtype: of keys and values.
    """
    if platform != "gpu":
      return cls()
    width = head_dim * jnp.dtype(dtype).itemsize  # bytes of a key
    return cls(
      queries=128 if width <= 256 else 64,
      keys=max(16, min(64, 16384 // width)),
      num_warps=8 if width <= 256 else 4,
    )


def attend_cascade(
  q: Float[Array, "K R Q H"],
  prefix_k: Float[Array, "K S H"],
  prefix_v: Float[Array, "K S H"],
  own_k: Float[Array, "K R W H"],
  own_v: Float[Array, "K R W H"],
  place: Int[Array, "R W"],
  visible: Int[Array, "R W"],
  segment: Int[Array, "R W"],
  window: Int[Array, ""],
  *,
  softcap: float | None,
  platform: str,
  interpret: bool = False,
) -> Float[Array, "K R Q H"]:
  """Softmax attention of each slot's queries over the prefix and the slots of its own segment.

  Args:
    q: scaled queries, slot by slot, Q = W times the queries of a key/value head.
    prefix_k: keys of prompt and text.
    prefix_v: their values.
    own_k: keys of each row's slots.
    own_v: their values.
    place: place of each slot's token in the text that its candidate leaves, prompt included.
    visible: number of prefix tokens that each slot may see.
    segment: segment of each slot; slots see those of their segment up to themselves.
    window: number of tokens that a token sees, itself included.
    softcap: see `ModelConfig.attention_softcap`.
    platform: device that the program is for: `cpu` (interpreted), `gpu` or `tpu`.
    interpret: runs the form for `platform` on a CPU.
  """
  num_queries, head_dim = q.shape[2:]
  groups = num_queries // own_k.shape[2]
  if platform == "gpu":  # Triton's arrays have sizes that are powers of two
    padded_dim = 1 << max(head_dim - 1, 15).bit_length()
    q, prefix_k, prefix_v, own_k, own_v = (
      _padded(x, x.ndim - 1, padded_dim) for x in (q, prefix_k, prefix_v, own_k, own_v)
    )
  tiles = Tiles.choose(platform, q.shape[-1], prefix_k.dtype)
  slots = jnp.stack([place, visible, segment, jnp.zeros_like(place)], axis=-1)  # [R, W, 4]
  queries = _padded(jnp.repeat(slots, groups, axis=1), 1, tiles.queries)
  q = _padded(q, 2, tiles.queries)
  own_k, own_v = _padded(own_k, 2, tiles.keys), _padded(own_v, 2, tiles.keys)
  slots = _padded(slots, 1, tiles.keys).transpose(0, 2, 1)  # [R, 4, W]: keys lie along lanes
  prefix_k, prefix_v = _padded(prefix_k, 1, tiles.keys), _padded(prefix_v, 1, tiles.keys)
  operands = (window.reshape(1, 1), queries, slots, q, prefix_k, prefix_v, own_k, own_v)
  kernel = partial(_Block, groups=groups, softcap=softcap, tiles=tiles)
  call = _on_tpu if platform == "tpu" else _in_one_program
  out = call(kernel, operands, tiles, interpret or platform == "cpu")
  return out[:, :, :num_queries, :head_dim]


def _in_one_program(kernel, operands, tiles: Tiles, interpret: bool) -> Array:
  """One program a block of queries, which loops over all keys itself."""
  _, _, slots, q, prefix_k, _, own_k, _ = operands
  kv_heads, rows, padded_queries, head_dim = q.shape

  def run(window, queries, slots, q, prefix_k, prefix_v, own_k, own_v, out):
    block = kernel(window[0, 0], queries, slots, q, pl.program_id(2) * tiles.queries)

    def add_prefix(number, state):
      keys = pl.ds(number * tiles.keys, tiles.keys)
      return block.add_prefix(state, number, prefix_k[keys, :], prefix_v[keys, :])

    num_blocks = _ceil_div(jnp.max(block.visible), tiles.keys)
    state = jax.lax.fori_loop(0, num_blocks, add_prefix, block.start())
    out[...] = block.finish(state, own_k, own_v)

  return pl.pallas_call(
    run,
    out_shape=jax.ShapeDtypeStruct(q.shape, jnp.float32),
    grid=(kv_heads, rows, padded_queries // tiles.queries),
    in_specs=[
      pl.BlockSpec((1, 1), lambda k, r, i: (0, 0)),
      pl.BlockSpec((None, tiles.queries, _COLUMNS), lambda k, r, i: (r, i, 0)),
      pl.BlockSpec((None, *slots.shape[1:]), lambda k, r, i: (r, 0, 0)),
      pl.BlockSpec((None, None, tiles.queries, head_dim), lambda k, r, i: (k, r, i, 0)),
      *[pl.BlockSpec((None, *prefix_k.shape[1:]), lambda k, r, i: (k, 0, 0))] * 2,
      *[pl.BlockSpec((None, None, *own_k.shape[2:]), lambda k, r, i: (k, r, 0, 0))] * 2,
    ],
    out_specs=pl.BlockSpec((None, None, tiles.queries, head_dim), lambda k, r, i: (k, r, i, 0)),
    interpret=interpret,
    compiler_params=None
    if interpret
    else triton.CompilerParams(num_warps=tiles.num_warps, num_stages=tiles.num_stages),
  )(*operands)


def _on_tpu(kernel, operands, tiles: Tiles, interpret: bool) -> Array:
  """A grid over the prefix's blocks too; the running softmax stays on chip between them.

  A block of queries that sees no more of the prefix asks for the block that is there already, so
  that nothing is fetched for it.
  """
  _, queries, slots, q, prefix_k, _, own_k, _ = operands
  kv_heads, rows, padded_queries, head_dim = q.shape
  visible = queries[..., _VISIBLE].reshape(rows, -1, tiles.queries).max(-1)
  num_blocks = _ceil_div(visible, tiles.keys).astype(jnp.int32)  # [R, blocks of queries]

  def run(num_blocks, window, queries, slots, q, prefix_k, prefix_v, own_k, own_v, out, *state):
    _, row, i, number = (pl.program_id(axis) for axis in range(4))
    block = kernel(window[0, 0], queries, slots, q, i * tiles.queries)

    @pl.when(number == 0)
    def _start():
      for ref, value in zip(state, block.start(), strict=True):
        ref[...] = value

    @pl.when(number < num_blocks[row, i])
    def _add():
      values = block.add_prefix(
        tuple(ref[...] for ref in state), number, prefix_k[...], prefix_v[...]
      )
      for ref, value in zip(state, values, strict=True):
        ref[...] = value

    @pl.when(number == pl.num_programs(3) - 1)
    def _finish():
      out[...] = block.finish(tuple(ref[...] for ref in state), own_k, own_v)

  def seen(k, r, i, number, num_blocks):
    return k, jnp.minimum(number, jnp.maximum(num_blocks[r, i] - 1, 0)), 0

  grid = pltpu.PrefetchScalarGridSpec(
    num_scalar_prefetch=1,
    grid=(kv_heads, rows, padded_queries // tiles.queries, prefix_k.shape[1] // tiles.keys),
    in_specs=[
      pl.BlockSpec((1, 1), lambda k, r, i, j, _: (0, 0)),
      pl.BlockSpec((None, tiles.queries, _COLUMNS), lambda k, r, i, j, _: (r, i, 0)),
      pl.BlockSpec((None, *slots.shape[1:]), lambda k, r, i, j, _: (r, 0, 0)),
      pl.BlockSpec((None, None, tiles.queries, head_dim), lambda k, r, i, j, _: (k, r, i, 0)),
      *[pl.BlockSpec((None, tiles.keys, head_dim), seen)] * 2,
      *[pl.BlockSpec((None, None, *own_k.shape[2:]), lambda k, r, i, j, _: (k, r, 0, 0))] * 2,
    ],
    out_specs=pl.BlockSpec(
      (None, None, tiles.queries, head_dim), lambda k, r, i, j, _: (k, r, i, 0)
    ),
    scratch_shapes=[
      *[pltpu.VMEM((tiles.queries, 1), jnp.float32)] * 2,
      pltpu.VMEM((tiles.queries, head_dim), jnp.float32),
    ],
  )
  out_shape = jax.ShapeDtypeStruct(q.shape, jnp.float32)
  call = pl.pallas_call(run, out_shape=out_shape, grid_spec=grid, interpret=interpret)
  return call(num_blocks, *operands)


class _Block:
  """One block of queries of one key/value head and row, and its running softmax.

  The state is the greatest score, the sum of weights and the weighted sum of values so far:
  [queries, 1], [queries, 1] and [queries, H].
  """

  def __init__(self, window, queries, slots, q, first, *, groups, softcap, tiles):
    self.window, self.slots, self.first = window, slots, first
    self.groups, self.softcap, self.tiles = groups, softcap, tiles
    self.q = q[...]
    columns = (queries[:, pl.ds(column, 1)] for column in range(3))
    self.place, self.visible, self.segment = columns  # [queries, 1]

  def start(self):
    """The state before any key."""
    shape = (self.tiles.queries, 1)
    return (
      jnp.full(shape, MASKED, jnp.float32),
      jnp.zeros(shape, jnp.float32),
      jnp.zeros(self.q.shape, jnp.float32),
    )

  def add_prefix(self, state, block, keys, values):
    """Takes in a block of the prefix."""
    number = self._numbers(block)
    may_see = (number < self.visible) & (self.place - number < self.window)
    return self._add(state, keys, values, may_see)

  def finish(self, state, own_k, own_v):
    """Takes in the row's own slots; returns the attention's result."""
    tiles = self.tiles
    rows = jax.lax.broadcasted_iota(jnp.int32, (tiles.queries, 1), 0)
    slots = jax.lax.div(self.first + rows, self.groups)

    def add(block, state):
      keys = pl.ds(block * tiles.keys, tiles.keys)
      own_place, own_segment = (self.slots[pl.ds(column, 1), keys] for column in (_PLACE, _SEGMENT))
      may_see = (own_segment == self.segment) & (self._numbers(block) <= slots)
      may_see &= self.place - own_place < self.window
      return self._add(state, own_k[keys, :], own_v[keys, :], may_see)

    last_slot = jax.lax.div(self.first + tiles.queries - 1, self.groups)
    num_blocks = _ceil_div(last_slot + 1, tiles.keys)
    num_blocks = jnp.minimum(num_blocks, self.slots.shape[1] // tiles.keys)
    _, total, mixed = jax.lax.fori_loop(0, num_blocks, add, state)
    return mixed / total  # a query sees itself, so no total is 0

  def _numbers(self, block):
    return block * self.tiles.keys + jax.lax.broadcasted_iota(jnp.int32, (1, self.tiles.keys), 1)

  def _add(self, state, keys, values, may_see):
    top, total, mixed = state
    scores = _product(self.q.astype(keys.dtype), keys, 1)
    scores = scores if self.softcap is None else self.softcap * jnp.tanh(scores / self.softcap)
    scores = jnp.where(may_see, scores, MASKED)
    new_top = jnp.maximum(top, scores.max(1, keepdims=True))
    weights = jnp.where(may_see, jnp.exp(scores - new_top), 0.0)
    old = jnp.exp(top - new_top)
    total = total * old + weights.sum(1, keepdims=True)
    return new_top, total, mixed * old + _product(weights.astype(values.dtype), values, 0)


def _padded(x: Array, axis: int, multiple: int) -> Array:
  """Fills an axis with zeros up to a multiple."""
  widths = [(0, 0)] * x.ndim
  widths[axis] = (0, -x.shape[axis] % multiple)
  return jnp.pad(x, widths)


def _ceil_div(count, size: int):
  # Not //, whose care for signs Mosaic lowers only where there is a TPU.
  return jax.lax.div(count + size - 1, jnp.int32(size))


def _product(a: Array, b: Array, contracted: int) -> Array:
  """a [M, C] times b, whose axis `contracted` is C; in float32."""
  return jax.lax.dot_general(
    a,
    b,
    (((1,), (contracted,)), ((), ())),
    precision=jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None,
    preferred_element_type=jnp.float32,
  )
