"""Causal attention within the examples of packed rows, with a backward pass written out.

Queries go block by block against the keys up to the block's end, so that what no query may see is
mostly not computed. As in FlashAttention-2 (Dao, arXiv 2307.08691) the backward pass makes the
probabilities again from the logarithms of the softmax's sums: nothing that grows with the square of
a row's width is kept, and neither pass takes a maximum or a sum over scores that the other took.

Letters are those of `models.decoder`, beside R rows, W width of a row; t queries of a block, s keys
that it may see, and m the queries of a block for all heads that share a key, G * t.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from greedy_prune_jax.models.attention import MASKED, causal_mask
from greedy_prune_jax.models.weights import product

# Queries of a block. Fewer skip more of what is masked: rows of 576 took a CPU 109 ms a layer
# as one block, 74 as four, 66 as nine. But blocks are unrolled, and compiled one by one.
_BLOCK = 128
_MOST_BLOCKS = 8
_MULTIPLE = 32


class Seen(NamedTuple):
  """Numbers that decide which positions see which; all int32."""

  segments: Int[Array, "R W"]
  positions: Int[Array, "R W"]
  window: Int[Array, ""]

  def mask(self, start: int, stop: int) -> Bool[Array, "R 1 1 t s"]:
    """True where queries [start, stop) may attend to keys [0, stop)."""
    queries, keys = slice(start, stop), slice(stop)
    causal = causal_mask(self.positions[:, queries], self.positions[:, keys], self.window)
    same = self.segments[:, queries, None] == self.segments[:, None, keys]
    return (causal & same)[:, None, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend_packed(
  softcap: float | None,
  q: Float[Array, "R W N H"],
  k: Float[Array, "R W K H"],
  v: Float[Array, "R W K H"],
  seen: Seen,
  sinks: Float[Array, " N"] | None = None,
) -> Float[Array, "R W N H"]:
  """Softmax attention of scaled queries, in float32; products are of the dtype of k and v.

  Args:
    softcap: scores are softcap * tanh(score / softcap); None: as they are.
    seen: tokens see those before them in their segment, fewer than `window` back.
  """
  return _forward(softcap, q, k, v, seen, sinks)[0]


def _forward(softcap, q, k, v, seen, sinks):
  """The result, and what the backward pass needs of it."""
  keys, values, kv_heads = _by_head(k), _by_head(v), k.shape[2]
  outs, log_sums = [], []
  sink = None if sinks is None else _of_heads(sinks, kv_heads)
  for start, stop in _blocks(q.shape[1]):
    scores, _ = _scores(softcap, _fold(q, kv_heads, start, stop), keys, seen, start, stop)
    top = scores.max(axis=-1, keepdims=True)
    if sink is not None:
      top = jnp.maximum(top, sink)
    weights = jnp.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    if sink is not None:
      total += jnp.exp(sink - top)
    mixed = product("rkms,rksh->rkmh", _merged(weights), values[:, :, :stop])
    outs.append(_unfold(mixed / _merged(total), stop - start))
    log_sums.append(jnp.log(total) + top)
  out = jnp.concatenate(outs, axis=1)
  return out, (q, k, v, seen, sinks, out, jnp.concatenate(log_sums, axis=3))


def _backward(softcap, kept, d_out):
  q, k, v, seen, sinks, out, log_sums = kept
  keys, values, kv_heads = _by_head(k), _by_head(v), k.shape[2]
  d_keys, d_values = jnp.zeros(keys.shape), jnp.zeros(values.shape)
  # What softmax's gradient subtracts: the sum over keys of probability times its gradient.
  along_out = (d_out * out).sum(axis=-1, keepdims=True)
  d_queries = []
  for start, stop in _blocks(q.shape[1]):
    own = _fold(q, kv_heads, start, stop).astype(keys.dtype)
    own_keys, own_values = keys[:, :, :stop], values[:, :, :stop]
    d_mixed = _fold(d_out, kv_heads, start, stop).astype(values.dtype)
    scores, slope = _scores(softcap, own, keys, seen, start, stop)
    probs = jnp.exp(scores - log_sums[:, :, :, start:stop])
    d_probs = product("rkmh,rksh->rkms", d_mixed, own_values).reshape(probs.shape)
    subtracted = _fold(along_out, kv_heads, start, stop).reshape(*probs.shape[:-1], 1)
    d_scores = _merged(probs * (d_probs - subtracted) * slope).astype(keys.dtype)
    d_queries.append(_unfold(product("rkms,rksh->rkmh", d_scores, own_keys), stop - start))
    d_keys = d_keys.at[:, :, :stop].add(product("rkms,rkmh->rksh", d_scores, own))
    d_values = d_values.at[:, :, :stop].add(product("rkms,rkmh->rksh", _merged(probs), d_mixed))
  d_q = jnp.concatenate(d_queries, axis=1).astype(q.dtype)
  d_sinks = None
  if sinks is not None:  # their value is 0, which leaves what is subtracted
    subtracted = _fold(along_out, kv_heads, 0, q.shape[1]).reshape(log_sums.shape)
    probs = jnp.exp(_of_heads(sinks, kv_heads) - log_sums)
    d_sinks = -(probs * subtracted).sum(axis=(0, 3, 4)).reshape(-1).astype(sinks.dtype)
  return d_q, _by_head(d_keys).astype(k.dtype), _by_head(d_values).astype(v.dtype), None, d_sinks


attend_packed.defvjp(_forward, _backward)


def _scores(
  softcap: float | None,
  own: Float[Array, "R K m H"],
  keys: Float[Array, "R K W H"],
  seen: Seen,
  start: int,
  stop: int,
) -> tuple[Array, Array]:
  """Masked scores [R K G t s] of a block, and the slope of the softcap at each (1: no cap)."""
  raw = product("rkmh,rksh->rkms", own, keys[:, :, :stop])
  raw = raw.reshape(*raw.shape[:2], -1, stop - start, stop)
  slope = jnp.float32(1)
  if softcap is not None:
    squashed = jnp.tanh(raw / softcap)
    raw, slope = softcap * squashed, 1 - squashed * squashed
  return jnp.where(seen.mask(start, stop), raw, MASKED), slope


def _of_heads(sinks: Float[Array, " N"], kv_heads: int) -> Float[Array, "1 K G 1 1"]:
  """Sinks beside scores."""
  return sinks.astype(jnp.float32).reshape(1, kv_heads, -1, 1, 1)


def _blocks(width: int) -> list[tuple[int, int]]:
  """Starts and stops of blocks of queries."""
  size = max(_BLOCK, -(-width // (_MOST_BLOCKS * _MULTIPLE)) * _MULTIPLE)
  return [(start, min(start + size, width)) for start in range(0, width, size)]


def _by_head(x: Float[Array, "R W K H"]) -> Float[Array, "R K W H"]:
  """Also its own inverse."""
  return x.swapaxes(1, 2)


def _fold(
  x: Float[Array, "R W N X"], kv_heads: int, start: int, stop: int
) -> Float[Array, "R K m X"]:
  """Queries of a block by the head of their keys, or what belongs to each query."""
  rows, last = x.shape[0], x.shape[-1]
  grouped = x[:, start:stop].reshape(rows, stop - start, kv_heads, -1, last)
  return grouped.transpose(0, 2, 3, 1, 4).reshape(rows, kv_heads, -1, last)


def _unfold(x: Float[Array, "R K m H"], length: int) -> Float[Array, "R t N H"]:
  """Undoes `_fold`."""
  rows, kv_heads, _, width = x.shape
  grouped = x.reshape(rows, kv_heads, -1, length, width).transpose(0, 3, 1, 2, 4)
  return grouped.reshape(rows, length, -1, width)


def _merged(x: Float[Array, "R K G t s"]) -> Float[Array, "R K m s"]:
  return x.reshape(*x.shape[:2], -1, x.shape[-1])
