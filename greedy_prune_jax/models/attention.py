"""Plain attention: the full forward pass uses it, and faster forms are held against it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from greedy_prune_jax.models.weights import along, product

QUERY_BLOCK = 256  # queries that attend at a time, where scores would grow with a text's square
MASKED = -1e30  # a score that no softmax notices; finite, so that a fully masked row is not NaN


def softcapped(values: Array, softcap: float | None) -> Array:
  """Scores or logits squashed to between -softcap and softcap; as they are where it is None."""
  return values if softcap is None else softcap * jnp.tanh(values / softcap)


def scores(
  q: Float[Array, "*B T N H"], k: Float[Array, "*B S K H"], softcap: float | None
) -> Float[Array, "*B K G T S"]:
  """Attention scores in float32 of scaled queries, grouped by key/value head, before any mask."""
  kv_heads = k.shape[-2]
  grouped = q.reshape(*q.shape[:-2], kv_heads, q.shape[-2] // kv_heads, q.shape[-1])
  return softcapped(product("...tkgh,...skh->...kgts", grouped, k), softcap)


def softmax_beside(
  sinks: Float[Array, " N"] | None, masked: Float[Array, "*B K G T S"]
) -> Float[Array, "*B K G T S"]:
  """Probabilities of keys, of which each head's sink, a score without a value, takes its share."""
  if sinks is None:
    return jax.nn.softmax(masked, axis=-1)
  sink = along(sinks.astype(jnp.float32).reshape(*masked.shape[-4:-2], 1, 1), masked)
  top = jax.lax.stop_gradient(jnp.maximum(masked.max(axis=-1, keepdims=True), sink))
  weights = jnp.exp(masked - top)
  return weights / (weights.sum(axis=-1, keepdims=True) + jnp.exp(sink - top))


def mix(probs: Float[Array, "*B K G T S"], v: Float[Array, "*B S K H"]) -> Float[Array, "*B T N H"]:
  """Values weighted by probabilities, summed in float32."""
  mixed = product("...kgts,...skh->...tkgh", probs, v)
  return mixed.reshape(*mixed.shape[:-3], -1, mixed.shape[-1])


def attend_masked(
  q: Float[Array, "*B T N H"],
  k: Float[Array, "*B S K H"],
  v: Float[Array, "*B S K H"],
  mask: Bool[Array, "*B T S"],
  softcap: float | None,
  sinks: Float[Array, " N"] | None = None,
) -> tuple[Float[Array, "*B T N H"], Float[Array, "*B N T S"]]:
  """Softmax attention over the positions where `mask` is True, and its probabilities."""
  masked = jnp.where(mask[..., None, None, :, :], scores(q, k, softcap), MASKED)
  probs = softmax_beside(sinks, masked)
  heads = probs.reshape(*probs.shape[:-4], -1, *probs.shape[-2:])
  return mix(probs, v), heads


def causal_mask(
  query_positions: Int[Array, "*B T"], key_positions: Int[Array, "*B S"], window: Int[Array, ""]
) -> Bool[Array, "*B T S"]:
  """True where a query may attend to a key: not after it, and fewer than `window` tokens before."""
  distance = query_positions[..., :, None] - key_positions[..., None, :]
  return (distance >= 0) & (distance < window)


def in_query_blocks(
  attend: Callable[[Array, Array], Array],
  q: Float[Array, "*B T N H"],
  positions: Int[Array, "*B T"],
) -> Float[Array, "*B T N H"]:
  """Attends from `QUERY_BLOCK` queries and their positions at a time, one block after another.

  Scores against S keys then take memory with `QUERY_BLOCK` times S, and not with T times S.
  """
  length = q.shape[-3]
  if length <= QUERY_BLOCK:
    return attend(q, positions)

  def blocks(x: Array, axis: int) -> Array:
    room = [(0, 0)] * x.ndim
    room[axis] = (0, -length % QUERY_BLOCK)
    x = jnp.pad(x, room)
    return jnp.moveaxis(x.reshape(*x.shape[:axis], -1, QUERY_BLOCK, *x.shape[axis + 1 :]), axis, 0)

  axis = q.ndim - 3
  out = jax.lax.map(lambda block: attend(*block), (blocks(q, axis), blocks(positions, axis)))
  out = jnp.moveaxis(out, 0, axis)
  out = out.reshape(*out.shape[:axis], -1, *out.shape[axis + 2 :])
  return jax.lax.slice_in_dim(out, 0, length, axis=axis)
