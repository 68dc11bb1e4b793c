"""Peaks of this machine: FLOP/s of products, and bytes a second of its memory."""

import time

import jax
import jax.numpy as jnp

from greedy_prune_jax.accelerators import matmul_peak
from greedy_prune_jax.models.decoder import Model

__all__ = ["copy_bandwidth", "decode_bytes", "matmul_peak"]


def copy_bandwidth(num_bytes: int = 2**28, repeats: int = 5) -> float:
  """Bytes a second, read and written, of a large array's copy; the best of `repeats`."""
  array = jnp.zeros(num_bytes // 4, jnp.float32)
  copy = jax.jit(lambda x: x + 1)
  copy(array).block_until_ready()
  seconds = []
  for _ in range(repeats):
    started = time.perf_counter()
    copy(array).block_until_ready()
    seconds.append(time.perf_counter() - started)
  return 2 * array.nbytes / min(seconds)


def decode_bytes(model: Model, rows: int, num_prompt: int, new_tokens: int) -> float:
  """Bytes that writing must read: all weights at each step, and the tokens behind each row."""
  config = model.config
  weights = sum(x.nbytes for x in jax.tree.leaves(model.params))
  itemsize = jnp.dtype(model.decoder.embedding.dtype).itemsize
  per_token = 2 * config.num_layers * config.num_kv_heads * config.head_dim * itemsize
  return new_tokens * (weights + per_token * rows * (num_prompt + new_tokens / 2))
