"""Chains and positions that a device takes at once: from its memory, not by trial."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from greedy_prune_jax.accelerators import device_memory
from greedy_prune_jax.chains.segments import Segments
from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.models.recurrence import CHUNK
from greedy_prune_jax.models.rope import config_for_length
from greedy_prune_jax.models.sizes import TPU_LANES, bucket, round_up
from greedy_prune_jax.parallel import DATA, MODEL, SEQUENCE, axis_size, device_bytes
from greedy_prune_jax.scoring.likelihood import HEAD_CHUNK
from greedy_prune_jax.scoring.tiles import KEY_BLOCK

# On a CPU a scan copies each layer's weights, which many positions must pay for: on two cores
# SmolLM2-135M in float32 ran 520 positions a second in blocks of 128, 640 in blocks of 512 and 680
# in blocks of 1536 (a chain of 115 reasoning tokens, whole spans, timed by themselves).
_CPU_BLOCK_POSITIONS = 1536
# A race's passes run some tens of slots: in blocks of 256 and 64 its deletions took 0.16 s for 0.24
# in blocks of 1536 and 128 at 41 and 50 reasoning tokens, 0.38 for 0.43 at 115, and 1.70 for 1.76
# at 280, of the same model on the same cores.
_CPU_RACE_BLOCK_POSITIONS = 256
_CPU_BYTES = 2e9  # for chains and what is kept of their candidates
# On an accelerator, more rows than this no longer make a product faster.
_MOST_BLOCK_POSITIONS = 32_768
_MEMORY_SHARE = 0.7  # of what the weights leave; the rest is the compiler's and fragmentation's
# A step of so many blocks leaves little of its last block empty.
_BLOCKS_A_STEP = 4


class Placement(NamedTuple):
  """Place of a model on the devices of a run."""

  itemsize: int  # bytes of a weight
  replicas: int  # devices, or groups of `split`, that take chains side by side
  split: int  # devices that share the weights
  platform: str  # `cpu`, `gpu` or `tpu`
  slot_shards: int = 1  # devices that share the positions of a chain


def placement_of(model: Model) -> Placement:
  """That of a loaded model."""
  return Placement(
    jnp.dtype(model.decoder.embedding.dtype).itemsize,
    axis_size(model.params, DATA),
    axis_size(model.params, MODEL),
    model.platform,
    axis_size(model.params, SEQUENCE),
  )


class Batching(NamedTuple):
  """Sizes of the batches in which chains are run."""

  batches: list[list[int]]  # indices of the chains that are run together, in their order
  block_positions: int  # that go through the model at once, on the devices that share them
  kept_bytes: float  # on a device, for columns that are kept from step to step


def places_of(segments: Segments) -> int:
  """S for one chain; from few sizes, so that few programs are compiled."""
  return bucket(len(segments) + 1, KEY_BLOCK)


def block_sizes(
  block_positions: int, platform: str, slot_shards: int = 1, *, races: bool = False
) -> dict[str, Any]:
  """Those of `Program`, for a kind of device.

  Args:
    slot_shards: devices that share the slots of a block.
    races: True where most passes run the few candidates of a race.
  """
  on_cpu = platform == "cpu"
  few = races and on_cpu
  if few:
    block_positions = min(block_positions, _CPU_RACE_BLOCK_POSITIONS * slot_shards)
  if block_positions < KEY_BLOCK:
    tile = 16
    block = rest = round_up(block_positions, tile * slot_shards)
  else:
    tile = 64 if on_cpu else KEY_BLOCK
    # Of a device's slots: less than a block of keys, or whole ones.
    block = round_up(block_positions, KEY_BLOCK * slot_shards)
    rest = round_up(block // 12, (tile if few else KEY_BLOCK) * slot_shards)
  sizes = {"block": block, "rest": rest, "tile": tile}
  return {**sizes, "tile_by_tile": on_cpu, "slot_shards": slot_shards}


def suffix_positions(segments: Segments, unit_sizes: Sequence[int] | None) -> int:
  """Columns of all candidates of a whole chain together."""
  left, total = len(segments.reasoning) + len(segments.answer) - 1, 0
  for size in unit_sizes or [1] * len(segments.reasoning):
    left -= size
    total += left
  return total


def choose_batching(
  segments: Sequence[Segments], model: Model, batch_size: int, step_positions: Sequence[float]
) -> Batching:
  """Groups the chains of a run into batches; arguments as of `plan_batching`."""
  return plan_batching(
    segments,
    model.config,
    batch_size,
    step_positions,
    _free_bytes(model),
    placement_of(model),
  )


def plan_batching(
  segments: Sequence[Segments],
  config: ModelConfig,
  batch_size: int,
  step_positions: Sequence[float],
  memory: float | None,
  placement: Placement,
) -> Batching:
  """Groups the chains of a run into batches, for a model that need not be loaded.

  Args:
    segments: segments of all chains of the run.
    batch_size: chains a batch; 0 for as many as fill a few blocks and fit the memory.
    step_positions: token positions that a step of each chain runs, about.
    memory: see `free_bytes`; None on a CPU.
  """
  replicas, split = placement.replicas, placement.split
  chain = _chain_bytes(config, max(map(places_of, segments)), placement)
  if memory is None:
    block_positions, free = _CPU_BLOCK_POSITIONS, _CPU_BYTES
  else:
    of_position = bytes_per_position(config, split) + _gathered_bytes(config, 1, placement)
    most = min(_MOST_BLOCK_POSITIONS, memory / 2 / of_position)
    of_device = max(int(most) // KEY_BLOCK, 1) * KEY_BLOCK
    block_positions = of_device * placement.slot_shards
    free = memory - _block_bytes(config, of_device, split)
    free -= _gathered_bytes(config, of_device, placement)
  size = batch_size or max(1, int(free / 2 / chain)) * replicas
  batches: list[list[int]] = []
  positions, angles = 0.0, None
  for i, some in enumerate(segments):
    of_some = config_for_length(config, len(some))  # the chains of a batch have the same angles
    enough = not batch_size and positions >= _BLOCKS_A_STEP * block_positions * replicas
    if not batches or enough or len(batches[-1]) >= size or of_some != angles:
      batches.append([])
      positions, angles = 0.0, of_some
    batches[-1].append(i)
    positions += step_positions[i]
  most = max(map(len, batches))
  return Batching(batches, block_positions, max(free - -(-most // replicas) * chain, 0.0))


def kept_columns(
  config: ModelConfig, needed: int, chains: int, kept_bytes: float, placement: Placement
) -> int:
  """Columns that each chain of a batch may keep.

  Args:
    needed: columns of all candidates of a chain; 0 where none are to be kept.
    chains: number of chains on a device.
  """
  fitting = int(kept_bytes / chains / _column_bytes(config, placement))
  return min(bucket(needed, 8 * KEY_BLOCK) if needed else 0, fitting // KEY_BLOCK * KEY_BLOCK)


def batch_bytes(
  config: ModelConfig, batching: Batching, places: int, kept: int, placement: Placement
) -> float:
  """Estimate of what chains and blocks take on a device beside the weights, in bytes.

  Args:
    places: see `places_of`; of the longest chain.
    kept: columns that are kept for each chain.
  """
  chains = -(-max(map(len, batching.batches)) // placement.replicas)
  of_chain = _chain_bytes(config, places, placement)
  of_chain += kept * _column_bytes(config, placement)
  of_device = batching.block_positions // placement.slot_shards
  of_block = _block_bytes(config, of_device, placement.split)
  return of_block + _gathered_bytes(config, of_device, placement) + chains * of_chain


def bytes_per_position(config: ModelConfig, split: int = 1) -> int:
  """Estimate of the memory that one position of a block takes while a layer runs, in bytes.

  On each of the `split` devices that heads and feed-forward, but no delta rule, are split over.
  """
  head_dim = max(config.head_dim, config.global_head_dim)
  mixer = (6 * config.num_heads * head_dim + 3 * config.num_heads * KEY_BLOCK) // split
  mixers = config.mixer_of_layers
  if "delta" in mixers:  # channels and what they become; a chunk's decays and products
    of_values = config.delta_value_heads * (config.delta_value_dim + CHUNK)
    mixer = max(mixer, (3 + config.conv_width) * config.conv_channels + 4 * of_values)
  if "conv" in mixers:  # beside channels the gates, and what these give
    mixer = max(mixer, (5 + config.conv_width) * config.conv_channels // split)
  feed_forward = 3 * config.mlp_dim // split
  if config.num_experts:  # a token's rows for its experts, and what these give, on each device
    of_experts = 3 * config.experts_per_token * (config.model_dim + config.expert_dim // split)
    of_experts += 3 * config.shared_expert_dim // split
    both = feed_forward + of_experts if config.experts_beside_mlp else 0
    feed_forward = max(feed_forward, of_experts, both)
  return 4 * (6 * config.model_dim + feed_forward + mixer)


def _block_bytes(config: ModelConfig, positions: int, split: int) -> int:
  """A block of positions, and the logits of those that meet the LM head at once."""
  logits = 2 * 4 * HEAD_CHUNK * config.vocab_size // split
  return positions * bytes_per_position(config, split) + logits


def _gathered_bytes(config: ModelConfig, positions: int, placement: Placement) -> int:
  """Bytes from the others that share a block with a device, of which each runs some positions."""
  return (placement.slot_shards - 1) * positions * _column_bytes(config, placement)


def _column_bytes(config: ModelConfig, placement: Placement) -> int:
  """Bytes that all layers keep of one position: keys and values, or the `Columns` of it."""
  itemsize, split = placement.itemsize, placement.split
  heads = 0
  for cache in config.caches.values():
    width = cache.num_kv_heads * cache.head_dim // split
    if placement.platform == "tpu" and width % TPU_LANES:  # the search runs on a padded copy
      width += round_up(width, TPU_LANES)
    heads += 2 * cache.num_layers * width * itemsize
  if not config.has_recurrence:
    return heads
  if config.recurrence == "conv":
    return heads + len(config.recurrent_layers) * config.conv_channels // split * itemsize
  of_keys = config.delta_key_heads * config.delta_key_dim
  of_values = config.delta_value_heads * config.delta_value_dim
  of_layer = (of_keys + of_values + config.conv_channels) * itemsize + 4 * config.delta_value_heads
  return heads + len(config.recurrent_layers) * of_layer


def _border_bytes(config: ModelConfig, places: int) -> int:
  """States before every `CHUNK`-th place of a text, in every recurrent layer."""
  of_layer = config.delta_value_heads * config.delta_key_dim * config.delta_value_dim
  return 4 * len(config.recurrent_layers) * of_layer * (places // CHUNK)


def _chain_bytes(config: ModelConfig, places: int, placement: Placement) -> int:
  """Bytes that layers keep of one chain's text, and of the longest suffix that a block leaves open.

  And the memory of a race, of as many units as places at most, in bfloat16.
  """
  kept = 2 * places * _column_bytes(config, placement)
  return kept + _border_bytes(config, places) + 2 * places**2


def _free_bytes(model: Model) -> float | None:
  """Memory for everything but the weights on a device; None where the device does not say."""
  limit = device_memory()
  return None if limit is None else free_bytes(limit, device_bytes(model.params))


def free_bytes(limit: float, weights: float) -> float:
  """Memory to plan with on a device: most of what the weights leave."""
  return _MEMORY_SHARE * (limit - weights)
