"""The gated delta rule in chunks against the rule token by token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from greedy_prune_jax.models.delta_rule import (
  DeltaInputs,
  advance_state,
  run_chunks,
  run_tokens,
)
from greedy_prune_jax.models.recurrence import convolve, tokens_before

_ATOL = 1e-5
J, M, P, O = 2, 4, 8, 6  # noqa: E741 - the letters of the module


def random_inputs(seed: int, length: int, *, strongest_decay: float = 3.0) -> DeltaInputs:
  keys = jax.random.split(jax.random.key(seed), 5)
  query, key = (jax.random.normal(k, (length, J, P)) for k in keys[:2])
  return DeltaInputs(
    query=query,
    key=key / jnp.linalg.norm(key, axis=-1, keepdims=True),
    value=jax.random.normal(keys[2], (length, M, O)),
    log_decay=-strongest_decay * jax.random.uniform(keys[3], (length, M)) ** 4,
    rate=jax.nn.sigmoid(2 * jax.random.normal(keys[4], (length, M))),
  )


def random_state(seed: int) -> jax.Array:
  return jax.random.normal(jax.random.key(seed), (M, P, O))


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 7, 8, 9, 16, 37])
@pytest.mark.parametrize("from_nothing", [True, False])
def test_chunks_equal_tokens(length, from_nothing):
  inputs = random_inputs(length, length)
  state = jnp.zeros((M, P, O)) if from_nothing else random_state(1)
  expected, expected_state = run_tokens(inputs, state)
  out, _, last = run_chunks(inputs, state, jnp.zeros(length, jnp.int32), 8)
  np.testing.assert_allclose(out, expected, atol=_ATOL)
  np.testing.assert_allclose(last, expected_state, atol=_ATOL)


def test_small_decays_are_not_lost_beside_large_ones():
  inputs = random_inputs(2, 24)
  large = inputs.log_decay.at[::5].set(-300.0)
  inputs = inputs._replace(log_decay=large)
  expected, expected_state = run_tokens(inputs, random_state(3))
  out, _, last = run_chunks(inputs, random_state(3), jnp.zeros(24, jnp.int32), 8)
  np.testing.assert_allclose(out, expected, atol=1e-6)
  np.testing.assert_allclose(last, expected_state, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [(3, 9, 4), (8, 8), (1, 1, 20), (17, 2)])
def test_sequences_side_by_side_see_nothing_of_each_other(lengths):
  parts = [random_inputs(seed, length) for seed, length in enumerate(lengths)]
  together = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
  sequence = jnp.repeat(jnp.arange(len(lengths)), np.array(lengths))
  first = random_state(4)
  out, _, last = run_chunks(together, first, sequence, 8)
  expected = []
  for number, part in enumerate(parts):
    of_part, state = run_tokens(part, first if number == 0 else jnp.zeros_like(first))
    expected.append(of_part)
  np.testing.assert_allclose(out, jnp.concatenate(expected), atol=_ATOL)
  np.testing.assert_allclose(last, state, atol=_ATOL)


@pytest.mark.parametrize(("start", "stop"), [(0, 12), (3, 12), (3, 3), (5, 6)])
def test_changes_make_the_state_at_any_place(start, stop):
  inputs = random_inputs(5, 12)
  _, change, _ = run_chunks(inputs, random_state(6), jnp.zeros(12, jnp.int32), 4)
  _, before = run_tokens(jax.tree.map(lambda x: x[:start], inputs), random_state(6))
  _, expected = run_tokens(jax.tree.map(lambda x: x[:stop], inputs), random_state(6))
  index = jnp.arange(12)
  counted = (index >= start) & (index < stop)
  state = advance_state(before, inputs.key, change, inputs.log_decay, counted)
  np.testing.assert_allclose(state, expected, atol=_ATOL)


@pytest.mark.slow
def test_gradients_equal_those_of_tokens():
  inputs, state = random_inputs(7, 21), random_state(8)

  def loss(run):
    def of(inputs, state):
      out, last = run(inputs, state)
      return (out**2).sum() + jnp.sin(last).sum()

    return jax.grad(of, argnums=(0, 1))(inputs, state)

  def by_chunks(inputs, state):
    out, _, last = run_chunks(inputs, state, jnp.zeros(21, jnp.int32), 8)
    return out, last

  for ours, expected in zip(
    jax.tree.leaves(loss(by_chunks)), jax.tree.leaves(loss(run_tokens)), strict=True
  ):
    np.testing.assert_allclose(ours, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_convolution_stays_within_a_sequence():
  x = jax.random.normal(jax.random.key(9), (9, 5))
  weight = jax.random.normal(jax.random.key(10), (4, 5))
  lengths = (2, 4, 3)
  sequence = jnp.repeat(jnp.arange(3), np.array(lengths))
  out = convolve(tokens_before(x, sequence, 3), x, weight)
  start = 0
  for length in lengths:
    for place in range(length):
      expected = sum(
        x[start + place - back] * weight[3 - back] for back in range(4) if place - back >= 0
      )
      np.testing.assert_allclose(out[start + place], expected, atol=1e-6)
    start += length
