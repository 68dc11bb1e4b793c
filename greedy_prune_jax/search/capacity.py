"""How many chains and positions a device takes at once: from its memory, not by trial."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from greedy_prune_jax.chains.segments import Segments
from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.models.rope import config_for_length
from greedy_prune_jax.parallel import DATA, MODEL, axis_size, device_bytes
from greedy_prune_jax.scoring.likelihood import HEAD_CHUNK
from greedy_prune_jax.scoring.packing import pair_width
from greedy_prune_jax.search import buckets

# On a CPU a scan copies each layer's weights, which many positions must pay for: on two cores
# SmolLM2-135M in bfloat16 ran 750 positions a second in blocks of 512 and 930 in blocks of 1536
# (layers, attention to 256 positions and LM head of packed rows, timed by themselves).
_CPU_BLOCK_POSITIONS = 1536
# On an accelerator, more rows than this no longer make a product faster.
_MOST_BLOCK_POSITIONS = 32_768
_MEMORY_SHARE = 0.7  # of what the weights leave; the rest is the compiler's and fragmentation's


class Capacity(NamedTuple):
  """Tokens that a chain's arrays have room for."""

  width: int  # of a row
  prompt: int
  text: int  # reasoning and answer

  @property
  def prefix(self) -> int:
    """Keys that a row attends to beside its own."""
    return self.prompt + self.text


def choose_batching(
  segments: Sequence[Segments], model: Model, batch_size: int, *, estimates: int = 0
) -> tuple[list[list[int]], int]:
  """Groups chains into batches.

  Args:
    segments: of all chains of the run.
    model: the pruner.
    batch_size: chains a batch; 0 to choose it from the devices' memory.
    estimates: see `plan_batching`.

  Returns:
    Batches of indices into `segments`, of chains of like length where a batch has several; and the
    number of positions to run at once, over a whole batch.
  """
  return plan_batching(
    segments,
    model.config,
    batch_size,
    memory=_free_bytes(model),
    itemsize=jnp.dtype(model.decoder.embedding.dtype).itemsize,
    replicas=axis_size(model.params, DATA),
    split=axis_size(model.params, MODEL),
    estimates=estimates,
  )


def plan_batching(
  segments: Sequence[Segments],
  config: ModelConfig,
  batch_size: int,
  *,
  memory: float | None,
  itemsize: int,
  replicas: int,
  split: int,
  estimates: int = 0,
) -> tuple[list[list[int]], int]:
  """`choose_batching` for a model that need not be loaded.

  Args:
    segments: of all chains of the run.
    config: of the pruner.
    batch_size: chains a batch; 0 to choose it.
    memory: see `free_bytes`.
    itemsize: bytes of a weight.
    replicas: devices, or groups of `split`, that take chains side by side.
    split: devices that share the weights.
    estimates: positions that a screened search runs at once for each chain, whatever the block; see
      `screen.estimate_positions`.
  """
  capacity = _capacity(segments)
  if memory is None:  # a CPU: one chain fills its cores, so more would only take memory
    block_positions, fitting = _CPU_BLOCK_POSITIONS, 1
  else:
    position = buckets.bytes_per_position(config, capacity.prefix, capacity.width, split)
    block_positions = int(min(_MOST_BLOCK_POSITIONS, max(memory / 2 / position, capacity.width)))
    fitting = max(1, int(memory / 2 / _chain_bytes(config, capacity, itemsize, split)))
    fitting = min(fitting, max(1, block_positions // max(capacity.width, estimates)))
  size = batch_size or fitting * replicas
  order = list(range(len(segments)))
  if size > 1:
    order.sort(key=lambda i: len(segments[i].reasoning))
  alike: dict[ModelConfig, list[int]] = {}  # a batch has the angles of its longest chain
  for i in order:
    alike.setdefault(config_for_length(config, len(segments[i])), []).append(i)
  batches = [some[i : i + size] for some in alike.values() for i in range(0, len(some), size)]
  return batches, block_positions * replicas


def batch_bytes(
  segments: Sequence[Segments],
  config: ModelConfig,
  num_chains: int,
  positions: int,
  *,
  itemsize: int,
  split: int,
) -> float:
  """Estimate of what chains and rows take on a device beside the weights, in bytes.

  Args:
    segments: of all chains of the run; the longest decide.
    config: of the pruner.
    num_chains: on the device at once.
    positions: on the device at once.
    itemsize: bytes of a weight.
    split: devices that share the weights.
  """
  capacity = _capacity(segments)
  rows = positions * buckets.bytes_per_position(config, capacity.prefix, capacity.width, split)
  return rows + num_chains * _chain_bytes(config, capacity, itemsize, split)


def _capacity(segments: Sequence[Segments]) -> Capacity:
  """Slots that hold every chain."""
  widest = max(pair_width(len(s.reasoning), len(s.answer)) for s in segments)
  width = buckets.bucket_width(widest, buckets.COARSE)  # the widest that any device takes
  num_prompt = max(len(s.prompt) for s in segments)
  return Capacity(width, buckets.prompt_capacity(num_prompt), buckets.text_capacity(width, 1))


def _chain_bytes(config: ModelConfig, capacity: Capacity, itemsize: int, split: int) -> int:
  """Memory of one chain on each of the `split` devices that heads and vocabulary are split over.

  Its keys and values (prompt, text, a copy in the making), its logits, and what attends where the
  prompts, and at each step the texts, of a whole batch run: scores and their softmax, in float32.
  """
  heads = config.num_kv_heads // split
  keys_values = 3 * 2 * config.num_layers * capacity.prefix * heads * config.head_dim * itemsize
  logits = 2 * 4 * HEAD_CHUNK * config.vocab_size // split
  pairs = max(capacity.prompt**2, capacity.text * capacity.prefix)
  return keys_values + logits + 2 * 4 * config.num_heads // split * pairs


def _free_bytes(model: Model) -> float | None:
  """Memory for everything but the weights on a device; None where the device does not say."""
  stats = jax.local_devices()[0].memory_stats()
  if jax.default_backend() == "cpu" or not stats or "bytes_limit" not in stats:
    return None
  return free_bytes(stats["bytes_limit"], device_bytes(model.params))


def free_bytes(limit: float, weights: float) -> float:
  """Memory to plan with on a device: most of what the weights leave."""
  return _MEMORY_SHARE * (limit - weights)
