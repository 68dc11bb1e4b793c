"""The matrix-product peak of this machine, for the share of it that a program reaches."""

import time

import jax
import jax.numpy as jnp


def matmul_peak(dtype=jnp.float32, sizes=(1024, 2048), repeats: int = 5) -> float:
  """FLOP/s of the fastest of some large square products, each the best of `repeats`."""
  best = 0.0
  for size in sizes:
    a = jax.random.normal(jax.random.key(0), (size, size), dtype)
    b = jax.random.normal(jax.random.key(1), (size, size), dtype)
    product = jax.jit(lambda a, b: jnp.dot(a, b, preferred_element_type=jnp.float32))
    product(a, b).block_until_ready()
    for _ in range(repeats):
      started = time.perf_counter()
      product(a, b).block_until_ready()
      best = max(best, 2 * size**3 / (time.perf_counter() - started))
  return best
