"""Attention of packed rows as one Pallas kernel: no array of scores ever reaches memory.

XLA's form (`scorer._attend_packed`) writes the scores of all queries against the shared prefix, in
float32, and reads them back for the softmax. Here a block of queries goes over the prefix, then
over its own row's slots, a block of keys at a time, with a running maximum and sum (FlashAttention,
arXiv 2205.14135), and leaves out blocks of keys that none of its queries sees.

On CPUs the kernel is interpreted, for tests. It lowers for GPUs (Triton) and TPUs (Mosaic), and has
not been timed on either yet.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Int

from greedy_prune_jax.models.attention import MASKED

BLOCK = 128  # queries, and keys, that meet at once


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
) -> Float[Array, "K R Q H"]:
  """Softmax attention of each slot's queries over the prefix and the slots of its own segment.

  Args:
    q: scaled queries, slot by slot, Q = W times the queries of a key/value head.
    prefix_k: keys of prompt and text.
    prefix_v: their values.
    own_k: keys of each row's slots.
    own_v: their values.
    place: of each slot's token in the text that its candidate leaves, prompt included.
    visible: how many tokens of the prefix each slot may see.
    segment: of each slot; slots see those of their segment up to themselves.
    window: how many tokens a token sees, itself included.
    softcap: see `ModelConfig.attention_softcap`.
    platform: that it will run on, as `jax.default_backend()` names it.
  """
  kv_heads, rows, queries, head_dim = q.shape
  groups = queries // own_k.shape[2]
  of_query = (jnp.repeat(x, groups, axis=1) for x in (place, visible, segment))
  of_query = [_padded(x, 1)[..., None] for x in of_query]  # [R, Q, 1]
  of_slot = [_padded(x, 1)[:, None, :] for x in (place, segment)]  # [R, 1, W]
  q, own_k, own_v = (_padded(x, 2) for x in (q, own_k, own_v))
  prefix_k, prefix_v = _padded(prefix_k, 1), _padded(prefix_v, 1)
  prefix, own = prefix_k.shape[1], own_k.shape[2]

  query = pl.BlockSpec((None, None, BLOCK, head_dim), lambda k, r, i: (k, r, i, 0))
  query_number = pl.BlockSpec((None, BLOCK, 1), lambda k, r, i: (r, i, 0))
  slot_number = pl.BlockSpec((None, 1, own), lambda k, r, i: (r, 0, 0))
  prefix_block = pl.BlockSpec((None, prefix, head_dim), lambda k, r, i: (k, 0, 0))
  own_block = pl.BlockSpec((None, None, own, head_dim), lambda k, r, i: (k, r, 0, 0))
  one = pl.BlockSpec((1, 1), lambda k, r, i: (0, 0))
  out = pl.pallas_call(
    partial(_kernel, groups=groups, softcap=softcap),
    out_shape=jax.ShapeDtypeStruct(q.shape, jnp.float32),
    grid=(kv_heads, rows, q.shape[2] // BLOCK),
    in_specs=[
      *(one, query, prefix_block, prefix_block, own_block, own_block),
      *(query_number, query_number, query_number, slot_number, slot_number),
    ],
    out_specs=query,
    interpret=platform == "cpu",
    compiler_params=triton.CompilerParams() if platform == "gpu" else None,
  )(window.reshape(1, 1), q, prefix_k, prefix_v, own_k, own_v, *of_query, *of_slot)
  return out[:, :, :queries]


def _padded(x: Array, axis: int) -> Array:
  """Fills an axis up to a multiple of `BLOCK`."""
  widths = [(0, 0)] * x.ndim
  widths[axis] = (0, -x.shape[axis] % BLOCK)
  return jnp.pad(x, widths)


def _kernel(
  *refs,  # window, q, prefix k and v, own k and v, numbers of queries and of slots, out
  groups: int,
  softcap: float | None,
) -> None:
  """One block of queries of one key/value head and row; shapes are those of the blocks above."""
  window, q, prefix_k, prefix_v, own_k, own_v, place, visible, segment, own_place, own_segment = (
    refs[:-1]
  )
  queries, window = q[...].astype(prefix_k.dtype), window[0, 0]
  places, seen, segments = place[...], visible[...], segment[...]  # [BLOCK, 1]
  first = pl.program_id(2) * BLOCK

  def add(state, keys, values, may_see):
    """Takes a block of keys and values into the running softmax; `may_see` is [BLOCK, BLOCK]."""
    top, total, mixed = state
    scores = _product(queries, keys, 1)
    scores = scores if softcap is None else softcap * jnp.tanh(scores / softcap)
    scores = jnp.where(may_see, scores, MASKED)
    new_top = jnp.maximum(top, scores.max(1, keepdims=True))
    weights = jnp.where(may_see, jnp.exp(scores - new_top), 0.0)
    old = jnp.exp(top - new_top)
    total = total * old + weights.sum(1, keepdims=True)
    return new_top, total, mixed * old + _product(weights.astype(values.dtype), values, 0)

  def numbers(block):
    return block * BLOCK + jax.lax.broadcasted_iota(jnp.int32, (1, BLOCK), 1)

  def add_prefix(block, state):
    keys = pl.ds(block * BLOCK, BLOCK)
    may_see = (numbers(block) < seen) & (places - numbers(block) < window)
    return add(state, prefix_k[keys, :], prefix_v[keys, :], may_see)

  def add_own(block, state):
    keys = pl.ds(block * BLOCK, BLOCK)
    slots = jax.lax.div(first + jax.lax.broadcasted_iota(jnp.int32, (BLOCK, 1), 0), groups)
    may_see = (own_segment[:, keys] == segments) & (numbers(block) <= slots)
    may_see &= places - own_place[:, keys] < window
    return add(state, own_k[keys, :], own_v[keys, :], may_see)

  state = (
    jnp.full((BLOCK, 1), MASKED, jnp.float32),
    jnp.zeros((BLOCK, 1), jnp.float32),
    jnp.zeros(queries.shape, jnp.float32),
  )
  state = jax.lax.fori_loop(0, _blocks(jnp.max(seen)), add_prefix, state)
  last_slot = jax.lax.div(first + BLOCK - 1, groups)
  own_blocks = jnp.minimum(_blocks(last_slot + 1), own_k.shape[0] // BLOCK)
  _, total, mixed = jax.lax.fori_loop(0, own_blocks, add_own, state)
  refs[-1][...] = mixed / total  # a query sees itself, so no total is 0


def _blocks(count):
  # Not //, whose care for signs Mosaic lowers only where there is a TPU.
  return jax.lax.div(count + BLOCK - 1, BLOCK)


def _product(a: Array, b: Array, contracted: int) -> Array:
  """a [M, C] times b, whose axis `contracted` is C; in float32."""
  return jax.lax.dot_general(
    a,
    b,
    (((1,), (contracted,)), ((), ())),
    precision=jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None,
    preferred_element_type=jnp.float32,
  )
