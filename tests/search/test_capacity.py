"""Batches, blocks and what is kept fit the memory, and few programs are compiled."""

import dataclasses
import itertools

import numpy as np
import pytest

from greedy_prune_jax.models.hf_config import config_from_hf
from greedy_prune_jax.models.sizes import bucket
from greedy_prune_jax.scoring.tiles import KEY_BLOCK
from greedy_prune_jax.search import capacity
from greedy_prune_jax.search.capacity import (
  Placement,
  batch_bytes,
  block_sizes,
  kept_columns,
  places_of,
  plan_batching,
  suffix_positions,
)
from tests.helpers.full_passes import random_segments

ONE = Placement(itemsize=2, replicas=1, split=1, platform="gpu")


def _llama_8b():
  return config_from_hf(
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


@pytest.mark.parametrize("shards", [1, 2, 3, 8])
def test_blocks_are_multiples_of_their_tiles_on_each_device(shards):
  for platform in ("cpu", "gpu", "tpu"):
    for positions, races in itertools.product((1, 48, 127, 128, 200, 1536, 32_768), (False, True)):
      sizes = block_sizes(positions, platform, shards, races=races)
      assert sizes["block"] >= (min(positions, 256) if races and platform == "cpu" else positions)
      for size in (sizes["block"], sizes["rest"]):
        assert size % (shards * sizes["tile"]) == 0
        assert size < shards * KEY_BLOCK or size % (shards * KEY_BLOCK) == 0
      assert sizes["rest"] <= sizes["block"]


def test_blocks_of_a_race_are_small_on_a_cpu_alone():
  assert block_sizes(1536, "cpu", races=True)["rest"] == 64
  for platform in ("gpu", "tpu"):
    assert block_sizes(1536, platform, races=True) == block_sizes(1536, platform)


def test_devices_that_share_a_block_make_room_for_what_the_others_run():
  config, segments = _llama_8b(), [random_segments(0, 32, (100, 300, 8))] * 8
  shared = ONE._replace(slot_shards=4)
  alone, among = (
    plan_batching(segments, config, 0, [1e6] * 8, 16e9, placement) for placement in (ONE, shared)
  )
  of_device = among.block_positions // 4
  assert 0 < of_device < alone.block_positions
  places = places_of(segments[0])
  own = batch_bytes(config, among._replace(block_positions=of_device), places, 0, ONE)
  gathered = 3 * of_device * 2 * 32 * 8 * 128 * 2  # keys and values of all layers, 2 bytes each
  assert batch_bytes(config, among, places, 0, shared) - own == gathered


@pytest.mark.parametrize("unit_sizes", [None, (2, 1, 4)])
def test_suffix_positions_are_those_of_all_candidates(unit_sizes):
  segments = random_segments(0, 16, (5, 7, 3))
  stops = np.cumsum(unit_sizes or [1] * 7)
  assert suffix_positions(segments, unit_sizes) == sum(7 - stop + 3 - 1 for stop in stops)


def test_chains_of_many_shapes_share_few_programs():
  """Neither each prompt length nor each answer length makes programs of its own."""
  rng = np.random.default_rng(0)
  shapes = rng.integers([20, 60, 6], [120, 320, 14], (200, 3)).tolist()  # P, N, A
  programs = set()
  for shape in shapes:
    segments = random_segments(0, 16, shape)
    needed = suffix_positions(segments, None)
    kept = kept_columns(_llama_8b(), needed, 1, 1e12, ONE)
    assert kept >= needed
    programs.add((places_of(segments), bucket(shape[1], 64), kept))
  assert len(programs) <= 40


def test_batches_keep_the_order_of_the_input_and_fill_a_few_blocks():
  chains = [random_segments(i, 16, (50, n, 9)) for i, n in enumerate((30, 200, 40, 35, 60, 50, 90))]
  positions = [1000.0, 30_000.0, 1500.0, 1200.0, 3000.0, 2000.0, 4000.0]
  found = plan_batching(chains, _llama_8b(), 0, positions, None, ONE)
  assert len(found.batches) > 2
  assert [i for batch in found.batches for i in batch] == list(range(7))
  enough = capacity._BLOCKS_A_STEP * found.block_positions
  for batch in found.batches[:-1]:
    assert sum(positions[i] for i in batch) >= enough
    assert sum(positions[i] for i in batch[:-1]) < enough
  found = plan_batching(chains, _llama_8b(), 4, positions, None, ONE)
  assert found.batches == [[0, 1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(("prompt", "reasoning"), [(200, 100), (8000, 100), (100, 4000)])
def test_what_is_planned_fits_the_memory(prompt, reasoning):
  config, memory = _llama_8b(), 0.7 * (80e9 - 16e9)
  chains = [random_segments(i, 16, (prompt, reasoning, 12)) for i in range(200)]
  positions = [reasoning * reasoning / 3] * 200
  found = plan_batching(chains, config, 0, positions, memory, ONE)
  most = max(map(len, found.batches))
  assert most >= 1
  places = max(map(places_of, chains))
  needed = suffix_positions(chains[0], None)
  kept = kept_columns(config, needed, most, found.kept_bytes, ONE)
  assert batch_bytes(config, found, places, kept, ONE) <= memory * 1.01
  assert batch_bytes(config, found, places, 0, ONE) < batch_bytes(config, found, places, 900, ONE)
  assert kept % KEY_BLOCK == 0
  assert kept * most * capacity._column_bytes(config, ONE) <= found.kept_bytes


def test_a_tpu_has_room_for_padded_copies_of_narrow_caches():
  """A v5e: SmolLM2's 192 numbers a position lie in 256 beside what they are given in (compiled)."""

  def column(num_kv_heads, head_dim, split, platform):
    config = dataclasses.replace(_llama_8b(), num_kv_heads=num_kv_heads, head_dim=head_dim)
    return capacity._column_bytes(config, ONE._replace(split=split, platform=platform))

  assert column(2, 96, 1, "gpu") == 32 * 2 * 2 * 192
  assert column(2, 96, 1, "tpu") == 32 * 2 * 2 * (192 + 256)
  assert column(8, 64, 4, "tpu") == column(8, 64, 4, "gpu") == 32 * 2 * 2 * 128
  assert column(8, 64, 8, "tpu") == 3 * column(8, 64, 8, "gpu")


def test_a_position_has_room_for_the_rows_of_its_experts():
  config = config_from_hf(
    {
      "model_type": "qwen3_moe",
      "hidden_size": 2048,
      "intermediate_size": 6144,
      "moe_intermediate_size": 768,
      "num_experts": 128,
      "num_experts_per_tok": 8,
      "norm_topk_prob": True,
      "num_hidden_layers": 48,
      "num_attention_heads": 32,
      "num_key_value_heads": 4,
      "head_dim": 128,
      "vocab_size": 151936,
    }
  )
  compiled = 245_934  # bytes a position that a v5e needs for the experts of 4,096
  dense = dataclasses.replace(config, num_experts=0, experts_per_token=0, expert_dim=0)
  rest = capacity.bytes_per_position(dense) - 4 * 3 * dense.mlp_dim
  assert compiled < capacity.bytes_per_position(config) - rest < 1.25 * compiled


def test_a_batch_has_chains_of_the_same_angles():
  rope = {"rope_type": "longrope", "original_max_position_embeddings": 64, "factor": 4.0}
  rope |= {"rope_theta": 1e4, "short_factor": [1.0, 2.0], "long_factor": [1.0, 9.0]}
  model = {"model_type": "llama", "hidden_size": 8, "num_attention_heads": 2}
  config = config_from_hf(model | {"max_position_embeddings": 256, "rope_parameters": rope})
  chains = [random_segments(i, 16, (9, n, 4)) for i, n in enumerate((70, 20, 30, 80, 90))]
  found = plan_batching(chains, config, 4, [1.0] * 5, None, ONE)
  assert found.batches == [[0], [1, 2], [3, 4]]
