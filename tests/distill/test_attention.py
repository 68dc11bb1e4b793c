"""Attention of packed rows, and its gradients, against plain attention that JAX differentiates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from greedy_prune_jax.distill.attention import Seen, attend_packed
from greedy_prune_jax.models.attention import attend_masked, causal_mask

NO_WINDOW = 2**30


def made(width, window, dtype=jnp.float32, heads=6, kv_heads=2, dim=8):
  """Queries, keys, values, a gradient for the result, and who sees whom, in rows of two texts."""
  rows = 2
  shapes = [(heads,), (kv_heads,), (kv_heads,), (heads,)]
  keys = jax.random.split(jax.random.key(width), 4)
  q, k, v, d_out = (
    2 * jax.random.normal(key, (rows, width, *shape, dim))
    for key, shape in zip(keys, shapes, strict=True)
  )
  first, second = width // 3, width - 5  # behind the second: padding
  index = np.arange(width)
  segments = np.where(index < first, 1, np.where(index < second, 2, 0))
  starts = np.where(index < first, 0, np.where(index < second, first, second))
  seen = Seen(
    jnp.asarray(np.stack([segments, np.ones_like(index)]), jnp.int32),
    jnp.asarray(np.stack([index - starts, index]), jnp.int32),
    jnp.int32(window),
  )
  return (q * dim**-0.5, k.astype(dtype), v.astype(dtype)), d_out, seen


def plain(softcap, q, k, v, seen, sinks=None):
  mask = causal_mask(seen.positions, seen.positions, seen.window)
  mask &= seen.segments[:, :, None] == seen.segments[:, None, :]
  return attend_masked(q, k, v, mask, softcap, sinks)[0]


def result_and_gradients(attend, softcap, operands, d_out, seen):
  @jax.jit
  def both(operands):
    out, pull = jax.vjp(lambda q, k, v, *sinks: attend(softcap, q, k, v, seen, *sinks), *operands)
    return out, *pull(d_out)

  return both(operands)


# Within a block, several blocks with a narrow last one, and more than there may be of 128.
@pytest.mark.slow
@pytest.mark.parametrize("width", [64, 288, 1056])
@pytest.mark.parametrize(
  ("softcap", "window", "sinks"),
  [(None, NO_WINDOW, ()), (3.0, 40, ()), (None, 40, (-5.0, 0.0, 1.0, 3.0, 5.0, 30.0))],
)
def test_equals_plain_attention(width, softcap, window, sinks):
  operands, d_out, seen = made(width, window)
  operands += (jnp.array(sinks),) if sinks else ()
  ours = result_and_gradients(attend_packed, softcap, operands, d_out, seen)
  theirs = result_and_gradients(plain, softcap, operands, d_out, seen)
  for own, other in zip(ours, theirs, strict=True):
    # Each is as far from the float64 result: both round sums of terms up to the largest.
    np.testing.assert_allclose(own, other, rtol=0, atol=3e-6 * float(jnp.abs(other).max()))


@pytest.mark.slow
def test_texts_of_a_row_do_not_see_each_other():
  (q, k, v), d_out, seen = made(288, NO_WINDOW)
  other = v.at[0, :96].add(1.0)  # the first text of the first row
  one, two = (attend_packed(None, q, k, values, seen) for values in (v, other))
  assert (one[0, :96] != two[0, :96]).all()
  np.testing.assert_array_equal(one[0, 96:], two[0, 96:])
  np.testing.assert_array_equal(one[1], two[1])
  _, pull = jax.vjp(lambda q: attend_packed(None, q, k, v, seen), q)
  first_only = d_out.at[:, 96:].set(0.0)
  assert not pull(first_only)[0][0, 96:].any()


@pytest.mark.slow
def test_bfloat16_keys_keep_float32_results():
  operands, d_out, seen = made(288, NO_WINDOW, jnp.bfloat16)
  rounded = result_and_gradients(attend_packed, None, operands, d_out, seen)
  exact = result_and_gradients(attend_packed, None, made(288, NO_WINDOW)[0], d_out, seen)
  assert [x.dtype for x in rounded] == [jnp.float32, jnp.float32, jnp.bfloat16, jnp.bfloat16]
  for own, other in zip(rounded, exact, strict=True):
    difference = jnp.linalg.norm(own.astype(jnp.float32) - other) / jnp.linalg.norm(other)
    assert 1e-4 < difference < 0.02
