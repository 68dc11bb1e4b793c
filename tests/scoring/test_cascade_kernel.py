"""The attention kernel, interpreted, against attention over each slot's whole text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from greedy_prune_jax.models.attention import attend_masked
from greedy_prune_jax.scoring.cascade_kernel import attend_cascade

KV_HEADS, GROUPS, HEAD_DIM = 2, 3, 16


def _inputs(rows, width, prefix, dtype, seed=0):
  """Random queries, keys and values, and two segments of unequal length a row."""
  generator = np.random.default_rng(seed)

  def normal(*shape):
    return jnp.asarray(generator.normal(size=shape), dtype)

  start = generator.integers(0, width, rows)  # of the second segment
  slot = np.arange(width)
  segment = (slot[None] >= start[:, None]).astype(np.int32)
  visible = np.where(segment, *generator.integers(0, prefix + 1, (2, rows, 1))).astype(np.int32)
  place = visible + np.where(segment, slot[None] - start[:, None], slot[None])
  return (
    normal(KV_HEADS, rows, width * GROUPS, HEAD_DIM),
    *(normal(KV_HEADS, prefix, HEAD_DIM) for _ in range(2)),
    *(normal(KV_HEADS, rows, width, HEAD_DIM) for _ in range(2)),
    *(jnp.asarray(x, jnp.int32) for x in (place, visible, segment)),
  )


def _reference(inputs, window, softcap):
  """One row at a time: keys of the prefix and of the row side by side, under one mask."""
  q, prefix_k, prefix_v, own_k, own_v, place, visible, segment = inputs
  kv_heads, rows, queries, head_dim = q.shape
  prefix, width = prefix_k.shape[1], own_k.shape[2]
  out = []
  for row in range(rows):
    keys, values = (
      jnp.concatenate([shared, own[:, row]], axis=1).swapaxes(0, 1)
      for shared, own in ((prefix_k, own_k), (prefix_v, own_v))
    )
    at, seen, part = (np.asarray(x[row])[:, None] for x in (place, visible, segment))
    shared, slot = np.arange(prefix)[None], np.arange(width)
    mask = np.concatenate(
      [
        (shared < seen) & (at - shared < window),
        (part == part.T) & (slot[None] <= slot[:, None]) & (at - at.T < window),
      ],
      axis=1,
    )
    by_slot = q[:, row].reshape(kv_heads, width, GROUPS, head_dim).transpose(1, 0, 2, 3)
    by_slot = by_slot.reshape(width, kv_heads * GROUPS, head_dim)
    mixed, _ = attend_masked(by_slot, keys, values, jnp.asarray(mask), softcap)
    mixed = mixed.reshape(width, kv_heads, GROUPS, head_dim).transpose(1, 0, 2, 3)
    out.append(mixed.reshape(kv_heads, queries, head_dim))
  return jnp.stack(out, axis=1)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("rows", "width", "prefix", "window", "softcap"),
  [
    (2, 24, 40, 2**30, None),  # less than a block of anything
    (2, 150, 300, 2**30, None),  # several blocks of each
    (1, 64, 256, 7, 5.0),  # a window shorter than a segment, and a soft cap
    (3, 8, 1, 2**30, None),
  ],
)
@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_it_is_attention(rows, width, prefix, window, softcap, platform):
  inputs = _inputs(rows, width, prefix, jnp.float32)
  found = attend_cascade(
    *inputs, jnp.int32(window), softcap=softcap, platform=platform, interpret=True
  )
  assert found.shape == inputs[0].shape
  np.testing.assert_allclose(found, _reference(inputs, window, softcap), atol=1e-5)


def test_bfloat16_keys_round_operands_alone():
  inputs = _inputs(2, 24, 40, jnp.bfloat16)
  found = attend_cascade(*inputs, jnp.int32(2**30), softcap=None, platform="cpu")
  assert found.dtype == jnp.float32
  exact = _reference([x.astype(jnp.float32) if x.ndim > 2 else x for x in inputs], 2**30, None)
  np.testing.assert_allclose(found, exact, atol=0.02)
  assert np.abs(found - exact).max() > 1e-6


@pytest.mark.parametrize(("platform", "lowering"), [("gpu", "cuda"), ("tpu", "tpu")])
def test_it_lowers_for_accelerators(platform, lowering):
  def shape(x):
    last = 128 if x.ndim > 2 else x.shape[-1]  # heads as wide as real ones
    return jax.ShapeDtypeStruct((2, *x.shape[:-1], last), x.dtype)

  def attend(*inputs):
    return attend_cascade(*inputs, jnp.int32(9), softcap=5.0, platform=platform)

  inputs = map(shape, _inputs(2, 150, 300, jnp.bfloat16))
  lowered = jax.jit(jax.vmap(attend)).trace(*inputs).lower(lowering_platforms=(lowering,))
  assert "custom_call" in lowered.as_text()
