"""Attention of a block's slots as one Pallas kernel: no array of scores ever reaches memory.

It is `tiles.attend_tiles`, of which a tile's running softmax stays on chip. On a GPU (Triton) a
program loops over the keys of its tile, which it reads from the caches as they lie. On a TPU
(Mosaic) the grid's last axis goes over these blocks of keys, so that the next one is fetched while
one is worked on, of several heads at once: a cache's rows hold all heads, since one narrower than
128 would be padded. There scores lie with queries along lanes, as do all numbers of slots and sums
over keys. On CPUs both forms are interpreted, for tests. Both compile for their devices; neither
has been timed yet.
"""

import importlib
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from greedy_prune_jax.accelerators import product_precision
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.forward import KeyValues
from greedy_prune_jax.models.sizes import TPU_LANES
from greedy_prune_jax.models.weights import uint16_as_bfloat16
from greedy_prune_jax.parallel import MODEL, on_model_shards
from greedy_prune_jax.scoring.stream import Slots
from greedy_prune_jax.scoring.tiles import (
  KEY_BLOCK,
  Running,
  common_intervals,
  join_queries,
  key_intervals,
  no_keys,
  split_queries,
  split_sinks,
)

_SOURCES = 4  # intervals of keys; see `key_intervals`
# On a TPU, of whose 16 MB for a program queries and results take up to 10 times this, keys 3 MB.
_QUERY_BYTES = 1 << 20
_MOST_HEADS = 8  # key/value heads of a program: it is written out for each


class GpuBlocks(NamedTuple):
  """Sizes for a GPU that fit the 227 kB of shared memory of an H100's processor."""

  queries: int
  keys: int
  num_warps: int
  num_stages: int = 2  # blocks of keys under way

  @classmethod
  def choose(cls, tile: int, width: int, itemsize: int, precision: Any) -> "GpuBlocks":
    """Those for tiles of a size and heads of a width, a power of two.

    Where float32 is multiplied in full, blocks are small because no tensor core does that: Triton
    writes out every multiplication of a thread, and compiles some thousands of them for minutes.
    """
    wide = width > 128
    if itemsize == 4 and (wide or precision == jax.lax.Precision.HIGHEST):
      return cls(min(tile, 32), 16, num_warps=8 if wide else 4)
    if itemsize == 4:
      return cls(min(tile, 64), 32, num_warps=4)
    return cls(min(tile, 64 if wide else 128), 32 if wide else 64, num_warps=4 if wide else 8)


def attend_cascade(
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
  softcap: float | None,
  platform: str,
  sinks: Float[Array, " N"] | None = None,
  interpret: bool = False,
) -> Float[Array, "T N H"]:
  """Softmax attention of each slot over all that it sees, from what `attend_tiles` takes.

  On a mesh each device of `model` attends with its own heads.

  Args:
    tile: slots of a tile; on a GPU a power of two.
    platform: platform of the program: `cpu` (the form for GPUs, interpreted), `gpu` or `tpu`.
    interpret: runs the form for `platform` on a CPU.
  """
  attend = _on_tpu if platform == "tpu" else _on_gpu

  def run(q, own, text, kept, layer, window, slots, text_ends, sinks):
    own = KeyValues(*(jnp.pad(x, ((0, -len(x) % KEY_BLOCK), (0, 0), (0, 0))) for x in own))
    return attend(
      q.astype(own.k.dtype),
      own,
      uint16_as_bfloat16(text),
      uint16_as_bfloat16(kept),
      layer,
      slots.chain[::tile],
      key_intervals(slots, text_ends, window, tile),
      () if sinks is None else (split_sinks(sinks, own.k.shape[1], tile),),
      softcap=softcap,
      interpret=interpret or platform == "cpu",
    )

  # XLA cannot split a kernel over `model`, as it does with what stands around it.
  of_heads, of_cache = P(None, MODEL), P(None, None, None, MODEL)
  specs = (of_heads, of_heads, of_cache, of_cache, P(), P(), P(), P(), P(MODEL))
  return on_model_shards(run, specs, of_heads)(
    q, own, text, kept, layer, window, slots, text_ends, sinks
  )


def _triton() -> ModuleType:
  """Pallas' Triton, imported late: JAX 0.11 deprecates it, and the rest must outlive it."""
  try:
    return importlib.import_module("jax.experimental.pallas.triton")
  except ImportError as error:
    raise UserError(
      f"attention=pallas on a GPU needs Pallas' Triton backend, which jax {jax.__version__} does "
      "not have; set attention=xla, or install jax 0.11"
    ) from error


def _on_gpu(q, own, text, kept, layer, chains, intervals, sinks, *, softcap, interpret) -> Array:
  """One program for each block of queries of a head.

  Those of one tile and head run side by side, so that the next ones find its keys in the cache.
  """
  triton = _triton()
  tile = intervals.shape[-1]
  q = split_queries(q, own.k.shape[1], tile)
  count, kv_heads, num_queries, head_dim = q.shape
  width = pl.next_power_of_2(max(head_dim, 16))  # of Triton's arrays
  precision = product_precision(q.dtype, None if interpret else "gpu")
  sizes = GpuBlocks.choose(tile, width, q.dtype.itemsize, precision)
  common = common_intervals(intervals)
  text, kept = (
    KeyValues(*(x.reshape(*x.shape[:3], kv_heads, head_dim) for x in cache))
    for cache in (text, kept)
  )

  def run(layer, chains, common, intervals, q, own_k, own_v, text_k, text_v, kept_k, kept_v, *rest):
    *sinks, out = rest
    y = pl.program_id(1)
    of_chain = layer[0], chains[y]
    of_text, of_kept = (text_k, text_v, of_chain), (kept_k, kept_v, of_chain)
    is_dim = jax.lax.broadcasted_iota(jnp.int32, (1, width), 1) < head_dim
    queries = triton.load(q, mask=is_dim, other=0.0)
    state = no_keys(
      (sizes.queries, 1), (sizes.queries, width), *(ref[...][:, None] for ref in sinks)
    )
    for source, (k, v, chain) in enumerate((of_text, of_text, of_kept, (own_k, own_v, ()))):
      low, high = (intervals[source, i][:, None] for i in range(2))
      first, last = (common[y, source, i] for i in range(2))

      def add(block, state, k=k, v=v, chain=chain, low=low, high=high, first=first, last=last):
        at = (*chain, pl.ds(block * sizes.keys, sizes.keys), slice(None))
        along, down = (_numbers(block, sizes.keys, axis) for axis in (1, 0))
        keys = triton.load(k.at[at], mask=is_dim, other=0.0)
        values = triton.load(v.at[at], mask=is_dim & (down >= first) & (down < last), other=0.0)
        seen = (along >= low) & (along < high)
        return _add(state, queries, keys, values, seen, softcap, precision)

      stop = jax.lax.div(last + sizes.keys - 1, jnp.int32(sizes.keys))
      state = jax.lax.fori_loop(jax.lax.div(first, jnp.int32(sizes.keys)), stop, add, state)
    triton.store(out, state.result(), mask=is_dim)

  whole = [pl.BlockSpec(x.shape, lambda *_, n=x.ndim: (0,) * n) for x in (chains, common)]
  of_head = pl.BlockSpec((None, None, sizes.queries, width), lambda i, y, k: (y, k, i, 0))
  own_spec = pl.BlockSpec((own.k.shape[0], None, width), lambda i, y, k: (0, k, 0))
  text_spec, kept_spec = (
    pl.BlockSpec((*x.k.shape[:3], None, width), lambda i, y, k: (0, 0, 0, k, 0))
    for x in (text, kept)
  )
  per_tile = tile // sizes.queries
  seen = pl.BlockSpec(
    (None, _SOURCES, 2, sizes.queries), lambda i, y, k: (y, 0, 0, jax.lax.rem(i, per_tile))
  )
  out = pl.pallas_call(
    run,
    out_shape=jax.ShapeDtypeStruct(q.shape, jnp.float32),
    grid=(num_queries // sizes.queries, count, kv_heads),
    in_specs=[
      pl.BlockSpec((1,), lambda *_: (0,)),
      *whole,
      seen,
      of_head,
      *[own_spec] * 2,
      *[text_spec] * 2,
      *[kept_spec] * 2,
      *[pl.BlockSpec((None, sizes.queries), lambda i, y, k: (k, i))] * len(sinks),
    ],
    out_specs=of_head,
    interpret=interpret,
    compiler_params=None
    if interpret
    else triton.CompilerParams(num_warps=sizes.num_warps, num_stages=sizes.num_stages),
  )(layer[None], chains, common, intervals, q, *own, *text, *kept, *sinks)
  return join_queries(out, tile)


def _on_tpu(q, own, text, kept, layer, chains, intervals, sinks, *, softcap, interpret) -> Array:
  """A grid over heads, tiles, and the blocks of keys that the longest tile needs.

  Of arrays whose keys are not met now, a tile asks for the block that is there already, or for its
  first one ahead of time, so that nothing is fetched twice.
  """
  (size, num_heads, head_dim), kv_heads = q.shape, own.k.shape[1]
  count, tile, groups = len(chains), intervals.shape[-1], num_heads // kv_heads
  num_queries = groups * tile
  heads = heads_together(kv_heads, head_dim, num_queries, q.dtype.itemsize)
  precision = product_precision(q.dtype, "tpu")
  common = common_intervals(intervals)
  first, last = common[..., 0] // KEY_BLOCK, -(-common[..., 1] // KEY_BLOCK)
  ends = jnp.cumsum(last - first, axis=1).reshape(-1)
  begins = last.reshape(-1) - ends
  own = KeyValues(*(x.reshape(len(x), -1) for x in own))

  def run(layer, chains, begins, ends, common, intervals, q, *rest):
    of_text, of_kept, of_block = (rest[i : i + 2] for i in (0, 2, 4))
    *sinks, out, queries, top, total, mixed = rest[6:]
    state = top, total, mixed
    y, i = pl.program_id(1), pl.program_id(2)

    @pl.when(i == 0)
    def _start():
      own_sinks = [ref[...] for ref in sinks]
      shapes = (heads, 1, num_queries), (heads, head_dim, num_queries)
      _write(state, no_keys(*shapes, *own_sinks))
      for head in range(heads):
        for some, at in _query_parts(head, groups, tile, head_dim):
          queries[head, some, :] = q[:, at]

    @pl.when(i < ends[_SOURCES * y + _SOURCES - 1])
    def _take_in():
      source, block = _locate(range(_SOURCES), y, i, begins, ends)
      number = _numbers(block, KEY_BLOCK, 0)
      low, high = (intervals[pl.ds(2 * source + j, 1), :] for j in range(2))
      first, last = (common[2 * (_SOURCES * y + source) + j] for j in range(2))
      seen = jnp.tile((number >= low) & (number < high), (1, num_queries // tile))
      for head in range(heads):
        at = slice(None), slice(head * head_dim, (head + 1) * head_dim)
        k, v = (
          jnp.where(source == 3, own[at], jnp.where(source == 2, kept[at], text[at]))
          for own, kept, text in zip(of_block, of_kept, of_text, strict=True)
        )
        v = jnp.where((number >= first) & (number < last), v, 0)
        old = Running(*(ref[head] for ref in state))
        new = _add(old, queries[head], k, v, seen, softcap, precision, keys_first=True)
        for ref, value in zip(state, new, strict=True):
          ref[head] = value

    @pl.when(i == pl.num_programs(2) - 1)
    def _finish():
      for head in range(heads):
        result = Running(*(ref[head] for ref in state)).result()
        for some, at in _query_parts(head, groups, tile, head_dim):
          out[:, at] = result[:, some].T

  of_tile = pl.BlockSpec((tile, heads * groups * head_dim), lambda k, y, *_: (y, k))
  width = heads * head_dim

  def of_cache(sources):
    def at(k, y, i, layer, chains, begins, ends, _):
      return layer[0], chains[y], _locate(sources, y, i, begins, ends)[1], k

    return pl.BlockSpec((None, None, KEY_BLOCK, width), at)

  def at_own(k, y, i, layer, chains, begins, ends, _):
    return _locate((3,), y, i, begins, ends)[1], k

  out = pl.pallas_call(
    run,
    out_shape=jax.ShapeDtypeStruct((size, num_heads * head_dim), jnp.float32),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=5,
      grid=(kv_heads // heads, count, jnp.maximum(ends.max(), 1)),
      in_specs=[
        pl.BlockSpec((None, 2 * _SOURCES, tile), lambda k, y, i, *_: (y, 0, 0)),
        of_tile,
        *[of_cache((0, 1))] * 2,
        *[of_cache((2,))] * 2,
        *[pl.BlockSpec((KEY_BLOCK, width), at_own)] * 2,
        *[pl.BlockSpec((heads, 1, num_queries), lambda k, *_: (k, 0, 0))] * len(sinks),
      ],
      out_specs=of_tile,
      scratch_shapes=[
        pltpu.VMEM((heads, num_queries, head_dim), q.dtype),
        *[pltpu.VMEM((heads, 1, num_queries), jnp.float32)] * 2,
        pltpu.VMEM((heads, head_dim, num_queries), jnp.float32),
      ],
    ),
    interpret=interpret,
    compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
  )(
    layer[None],
    chains,
    begins,
    ends,
    common.reshape(-1),
    intervals.reshape(count, 2 * _SOURCES, tile),
    q.reshape(size, -1),
    *text,
    *kept,
    *own,
    *(x[:, None] for x in sinks),
  )
  return out.reshape(q.shape)


def _locate(sources: Sequence[int], y, i, begins, ends) -> tuple[Array, Array]:
  """Source and number of the i-th block of tile y, or of the nearest block of some sources."""
  start = ends[_SOURCES * y + sources[0] - 1] if sources[0] else 0
  index = jnp.maximum(jnp.minimum(i, ends[_SOURCES * y + sources[-1]] - 1), start)
  behind = [(index >= ends[_SOURCES * y + j]).astype(jnp.int32) for j in sources[:-1]]
  source = sum(behind, jnp.int32(sources[0]))
  return source, begins[_SOURCES * y + source] + index


def _query_parts(head: int, groups: int, tile: int, width: int) -> Iterator[tuple[slice, slice]]:
  """Queries of a key/value head in a tile, and where they lie among the numbers of a slot."""
  for group in range(groups):
    at = (head * groups + group) * width
    yield slice(group * tile, (group + 1) * tile), slice(at, at + width)


def heads_together(kv_heads: int, head_dim: int, num_queries: int, itemsize: int) -> int:
  """Key/value heads of one program on a TPU: as many as its memory takes, in whole lanes.

  Args:
    kv_heads: heads of a device.
    head_dim: width of a head.
    num_queries: queries of a tile that meet one of the heads.
    itemsize: bytes of a number of keys.
  """
  fitting = [
    heads
    for heads in range(1, kv_heads + 1)
    if kv_heads % heads == 0 and (heads == kv_heads or heads * head_dim % TPU_LANES == 0)
  ]
  of_head = head_dim * num_queries * itemsize
  small = [heads for heads in fitting if heads <= _MOST_HEADS and heads * of_head <= _QUERY_BYTES]
  return max(small, default=fitting[0])


def _numbers(block, size: int, axis: int) -> Array:
  """Numbers of a block's keys, along an axis of two."""
  shape = (size, 1) if axis == 0 else (1, size)
  return block * size + jax.lax.broadcasted_iota(jnp.int32, shape, axis)


def _write(refs, state: Running) -> None:
  for ref, value in zip(refs, state, strict=True):
    ref[...] = value


def _add(state: Running, q, k, v, seen, softcap, precision, *, keys_first: bool = False) -> Running:
  """Takes in a block of keys [X, H]. Values that no query sees are 0, for a NaN has no weight.

  Scores are [queries, X], or turned with `keys_first`."""

  def dot(a: Array, b: Array, axis_a: int, axis_b: int) -> Array:
    axes = ((axis_a,), (axis_b,)), ((), ())
    return jax.lax.dot_general(
      a,
      b,
      axes,
      precision=precision if a.dtype == jnp.float32 else None,  # Mosaic has none for bfloat16
      preferred_element_type=jnp.float32,
    )

  if keys_first:
    return state.add(dot(k, q, 1, 1), seen, lambda w: dot(v, w.astype(v.dtype), 0, 0), softcap, 0)
  return state.add(dot(q, k, 1, 1), seen, lambda w: dot(w.astype(v.dtype), v, 1, 0), softcap)
