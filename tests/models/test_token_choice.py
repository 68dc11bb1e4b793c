"""Tokens are drawn from just those that are allowed, as often as they should be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from greedy_prune_jax.models.token_choice import Choice, choose_tokens

VOCAB = 300  # more than two blocks, the last one not full
DRAWS = 4000


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
  return np.random.default_rng(0).normal(size=VOCAB).astype(np.float32) * 2


def choose(logits, step=0, **choice):
  rows = len(logits)
  columns = {"seed": 0, "temperature": 1.0, "top_p": 1.0, "top_k": 0} | choice
  dtypes = {"seed": jnp.uint32, "temperature": jnp.float32, "top_p": jnp.float32}
  arrays = {
    name: jnp.broadcast_to(jnp.asarray(value, dtypes.get(name, jnp.int32)), (rows,))
    for name, value in columns.items()
  }
  steps = jnp.broadcast_to(jnp.asarray(step), (rows,))
  return np.asarray(jax.jit(choose_tokens)(jnp.asarray(logits), Choice(**arrays), steps))


def by_transformers(logits, temperature, top_p, top_k) -> np.ndarray:
  """The probabilities of all tokens by the steps of `generate`."""
  steps = [transformers.TemperatureLogitsWarper(temperature)]
  if top_k:
    steps.append(transformers.TopKLogitsWarper(top_k))
  if top_p < 1:
    steps.append(transformers.TopPLogitsWarper(top_p))
  scores = transformers.LogitsProcessorList(steps)(None, torch.tensor(logits)[None])
  return scores.softmax(-1)[0].numpy()


@pytest.mark.slow
@pytest.mark.parametrize(
  ("temperature", "top_p", "top_k"),
  [
    *((1.0, 1.0, 0), (0.7, 1.0, 0), (1.0, 0.8, 0), (1.5, 1.0, 12)),
    *((1.0, 0.6, 5), (1.0, 0.3, 2), (0.8, 0.9, 40), (1.0, 0.9, 1000)),
  ],
)
def test_frequencies_are_those_of_transformers(logits, temperature, top_p, top_k):
  expected = by_transformers(logits, temperature, top_p, top_k)
  allowed = expected > 0

  tokens = choose(
    np.tile(logits, (DRAWS, 1)),
    seed=np.arange(DRAWS),
    temperature=temperature,
    top_p=top_p,
    top_k=top_k,
  )

  counts = np.bincount(tokens, minlength=VOCAB)
  assert not counts[~allowed].any()
  # 4.5 standard deviations, and 3 because the counts of rare tokens have longer tails.
  deviation = np.sqrt(DRAWS * expected * (1 - expected))
  assert (np.abs(counts - DRAWS * expected) <= 4.5 * deviation + 3).all()


def test_top_k_is_a_number_of_tokens_and_allows_equal_ones_together(logits):
  tied = np.sort(logits)[::-1].copy()
  tied[[3, 4, 5]] = tied[3]
  negative, few = np.full(VOCAB, -1e30, np.float32), np.full(VOCAB, -np.inf, np.float32)
  negative[[0, 299]], few[[0, 1]] = [-1e-30, -2e-30], 0.0
  for row, top_k, expected in (
    (tied, 3, {0, 1, 2}),
    (tied, 4, {0, 1, 2, 3, 4, 5}),
    (negative, 2, {0, 299}),
    (few, 5, {0, 1}),
  ):
    drawn = choose(np.tile(row, (400, 1)), seed=np.arange(400), temperature=5.0, top_k=top_k)
    assert set(drawn.tolist()) == expected


def test_temperature_0_takes_the_likeliest_and_the_lower_id_of_equals(logits):
  tied = logits.copy()
  tied[[290, 7, 130]] = logits.max() + 1
  assert choose([tied, logits], temperature=0.0).tolist() == [7, logits.argmax()]


def test_a_top_p_that_float32_does_not_hold_takes_the_likeliest(logits):
  assert choose([logits], top_p=1e-300).tolist() == [logits.argmax()]


@pytest.mark.slow
def test_temperatures_at_the_ends_of_float32_take_the_likeliest_and_any(logits):
  logits[5] = -np.inf
  low = choose(np.tile(logits, (3, 1)), temperature=[1e-45, 1e-38, 1e-33], seed=[0, 1, 2])
  assert (low == logits.argmax()).all()
  high = choose(np.tile(logits, (500, 1)), temperature=np.float32(np.inf), seed=np.arange(500))
  assert 150 < len(set(high.tolist()) - {5}) == len(set(high.tolist()))


def test_rows_have_choices_of_their_own(logits):
  tokens = choose(
    np.tile(logits, (3, 1)), temperature=[0.0, 1.0, 1.0], top_k=[0, 1, 0], seed=[0, 1, 2]
  )
  assert tokens[0] == tokens[1] == logits.argmax() != tokens[2]


def test_seed_and_step_decide_the_draw(logits):
  same = np.tile(logits, (64, 1))
  tokens = choose(same, seed=5, step=np.arange(64))
  assert len(set(tokens)) > 10
  assert len(set(choose(same, seed=np.arange(64), step=3))) > 10
  for step in (0, 17, 63):  # whichever rows are beside it
    assert choose([logits], seed=5, step=step) == tokens[step]


def test_impossible_tokens_are_never_drawn(logits):
  few = np.full(VOCAB, -np.inf, np.float32)
  few[[3, 299]] = 0.0
  tokens = choose(np.tile(few, (200, 1)), seed=np.arange(200), top_p=0.99)
  assert set(tokens.tolist()) == {3, 299}
