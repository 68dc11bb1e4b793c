"""Buckets are walked through downwards, each wide enough and none much too wide; batches."""

import numpy as np
import pytest

from greedy_prune_jax.models.hf_config import config_from_hf
from greedy_prune_jax.scoring.packing import num_rows, pair_width
from greedy_prune_jax.search import buckets
from greedy_prune_jax.search.capacity import plan_batching
from greedy_prune_jax.search.screen import ScreenSettings, estimate_positions
from tests.helpers.full_passes import random_segments


@pytest.mark.parametrize(("finest", "most"), [(buckets.FINE, 60), (buckets.COARSE, 52)])
def test_widths_are_a_ladder_with_little_waste(finest, most):
  widths = sorted({buckets.bucket_width(needed, finest) for needed in range(1, 5000)})
  assert widths[:3] == [finest, 2 * finest, 3 * finest]
  for narrow, wide in zip([0, *widths], widths, strict=False):
    assert buckets.narrower_bucket(wide, finest) == narrow
  for needed in range(1, 5000):
    width = buckets.bucket_width(needed, finest)
    assert needed <= width < needed + max(finest, needed / 8 + 1)
  assert len(widths) < most


@pytest.mark.parametrize("finest", [buckets.FINE, buckets.COARSE])
@pytest.mark.parametrize("num_answer", [1, 4, 30])
def test_a_chain_leaves_a_bucket_where_the_next_one_fits(num_answer, finest):
  for tokens in range(1, 400):
    width = buckets.bucket_width(pair_width(tokens, num_answer), finest)
    floor = buckets.bucket_floor(width, num_answer, finest)
    assert floor < tokens
    assert floor == 0 or buckets.bucket_width(pair_width(floor, num_answer), finest) < width
    assert buckets.bucket_width(pair_width(floor + 1, num_answer), finest) == width


def test_affordable_floor_makes_a_step_and_keeps_to_the_budget():
  def cost(tokens):
    return buckets.step_positions(tokens, 3, None)

  assert buckets.affordable_floor(10, 4, 0.0, cost) == 9
  assert buckets.affordable_floor(10, 10, 1e9, cost) == 10
  assert buckets.affordable_floor(10, 4, 1e9, cost) == 4
  first_three = sum(map(cost, (10, 9, 8)))
  assert buckets.affordable_floor(10, 4, float(first_three), cost) == 7


def test_affordable_floor_of_units_goes_by_units():
  def cost(tokens):
    return buckets.step_positions(tokens, 3, [3] * (tokens // 3))

  assert buckets.affordable_floor(12, 0, 0.0, cost, size=3) == 9
  assert buckets.affordable_floor(12, 0, float(cost(12) + cost(9)), cost, size=3) == 6
  assert buckets.affordable_floor(12, 5, 1e9, cost, size=3) == 5


def test_step_positions_of_units_are_those_of_their_suffixes():
  assert buckets.step_positions(6, 3, None) == buckets.step_positions(6, 3, [1] * 6)
  # Text 6 + 2; suffixes behind tokens 2, 3 and 6, and two answer tokens each.
  assert buckets.step_positions(6, 3, [2, 1, 3]) == 8 + (4 + 2) + (3 + 2) + (0 + 2)


def test_texts_and_rows_fit_their_bucket():
  for tokens, num_answer in np.random.default_rng(0).integers(1, 300, (200, 2)).tolist():
    width = buckets.bucket_width(pair_width(tokens, num_answer))
    sizes = buckets.plan_program(
      width=width,
      num_prompt=17,
      num_answers=[num_answer, num_answer + 3],
      block_positions=512,
      objective="answer",
      token_units=True,
    )
    assert sizes.text > tokens + num_answer
    assert sizes.prefix >= 17 + sizes.text
    assert sizes.answer >= num_answer + 3
    rows = num_rows(tokens)
    assert -(-rows // sizes.block_rows) * sizes.block_rows < rows + max(2, 1024 / width)


@pytest.mark.slow
def test_chains_of_many_shapes_share_few_programs():
  """Neither each prompt length nor each answer length makes programs of its own."""
  rng = np.random.default_rng(0)
  shapes = rng.integers([20, 60, 6], [120, 320, 14], (200, 3)).tolist()  # N, P, A
  programs = set()
  for tokens, num_prompt, num_answer in shapes:
    while tokens:
      width = buckets.bucket_width(pair_width(tokens, num_answer))
      programs.add(
        buckets.plan_program(
          width=width,
          num_prompt=num_prompt,
          num_answers=[num_answer],
          block_positions=1536,
          objective="joint",
          token_units=True,
        )
      )
      tokens = buckets.bucket_floor(width, num_answer)
  assert len(programs) <= 150  # 357 with one for each answer length, 222 for each 32 prompt tokens


@pytest.mark.parametrize("tokens", [8, 20, 33, 60])
def test_a_block_is_no_larger_than_what_a_short_chain_fills(tokens):
  while tokens:
    width = buckets.bucket_width(pair_width(tokens, 9))
    floor = buckets.bucket_floor(width, 9)
    sizes = buckets.plan_program(
      width=width,
      num_prompt=100,
      num_answers=[9],
      block_positions=1536,
      objective="joint",
      token_units=True,
    )
    rows = np.array([num_rows(n) for n in range(tokens, floor, -1)])
    run = -(-rows // sizes.block_rows) * sizes.block_rows
    assert run.sum() <= 1.5 * rows.sum()
    tokens = floor


def _fitting(shape, **more):
  """Chains of one shape that a device with 80 GB takes at once beside an 8B model in bfloat16."""
  config = config_from_hf(
    {
      "model_type": "llama",
      "hidden_size": 4096,
      "intermediate_size": 14336,
      "num_hidden_layers": 32,
      "num_attention_heads": 32,
      "num_key_value_heads": 8,
      "vocab_size": 128256,
    }
  )
  chains = [random_segments(i, 16, shape) for i in range(200)]
  settings = {"memory": 0.7 * (80e9 - 16e9), "itemsize": 2, "replicas": 1, "split": 1}
  batches, _ = plan_batching(chains, config, 0, **settings, **more)
  return max(map(len, batches))


def test_long_prompts_are_run_in_as_many_chains_as_their_attention_leaves_room_for():
  # Scores and their softmax in float32: 2 * 4 * 32 * 8000^2 bytes, 16.4 GB a chain.
  assert _fitting((8000, 100, 12)) == 1
  assert 2 * 4 * 32 * 4000**2 * _fitting((4000, 100, 12)) < 0.7 * 64e9 / 2
  assert _fitting((200, 100, 12)) > 20


def test_estimates_with_long_answers_count():
  estimates = estimate_positions(ScreenSettings(window=6), tail=300)
  fitting = _fitting((200, 100, 300), estimates=estimates)
  assert 1 < fitting < _fitting((200, 100, 300))
  assert fitting * estimates <= 32_768


def test_a_batch_has_chains_of_the_same_angles():
  rope = {"rope_type": "longrope", "original_max_position_embeddings": 64, "factor": 4.0}
  rope |= {"rope_theta": 1e4, "short_factor": [1.0, 2.0], "long_factor": [1.0, 9.0]}
  model = {"model_type": "llama", "hidden_size": 8, "num_attention_heads": 2}
  config = config_from_hf(model | {"max_position_embeddings": 256, "rope_parameters": rope})
  chains = [random_segments(i, 16, (9, n, 4)) for i, n in enumerate((70, 20, 30, 80, 90))]
  settings = {"memory": None, "itemsize": 4, "replicas": 1, "split": 1}
  batches, _ = plan_batching(chains, config, 4, **settings)
  assert sorted(map(sorted, batches)) == [[0, 3, 4], [1, 2]]
