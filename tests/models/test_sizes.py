"""Sizes of arrays are multiples of what devices need, near what is asked for, and few."""

import pytest

from greedy_prune_jax.models.sizes import bucket


@pytest.mark.parametrize("multiple", [1, 3, 5, 6, 8, 64])
def test_buckets(multiple):
  values = range(1, 3000)
  sizes = [bucket(value, multiple) for value in values]
  assert all(size % multiple == 0 for size in sizes)
  assert all(
    value <= size < max(1.26 * value, value + multiple)
    for value, size in zip(values, sizes, strict=True)
  )
  assert len(set(sizes)) < 48
  assert bucket(0, multiple) == multiple
