"""The search's program for `accelerators`, on shapes alone: one block of one step.

A search runs its blocks again and again, and how many is not written in its program. So costs are
those of a single block of candidates, filled by whole chains (in a race, of one in each round): the
loops around it count once, those over the text and over what is left of a block not at all, nor
what a call does once before its first step and behind its last, and attention's loop over blocks of
keys as often as the longest of the block's tiles needs, since all of them go round together.
"""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec as P

from benchmarks.accelerator_programs import Place, Program
from greedy_prune_jax.chains.segments import Segments
from greedy_prune_jax.models.config import FULL_ATTENTION, ModelConfig
from greedy_prune_jax.models.decoder import Decoder
from greedy_prune_jax.parallel import DATA, device_bytes
from greedy_prune_jax.scoring import exact, scorer, stream
from greedy_prune_jax.scoring.likelihood import HEAD_CHUNK
from greedy_prune_jax.scoring.racing import RacePlan
from greedy_prune_jax.scoring.tiles import KEY_BLOCK, common_intervals, key_intervals
from greedy_prune_jax.search.capacity import (
  Placement,
  batch_bytes,
  places_of,
  plan_batching,
  suffix_positions,
)
from greedy_prune_jax.search.greedy import chain_specs, prune_steps, start_search
from greedy_prune_jax.search.host import SearchSettings, plan_program
from greedy_prune_jax.search.path import PrunePath
from greedy_prune_jax.search.screen import ScreenSettings

_NUM_PROMPT, _NUM_ANSWER = 120, 12


def prune_step(
  place: Place,
  config: ModelConfig,
  dtype: str,
  *,
  num_reasoning: int,
  screened: bool = False,
  **settings: Any,
) -> Program:
  """A step of a search, with chains and blocks as a run on such a device chooses them.

  Args:
    place: devices.
    config: config of the pruner.
    dtype: dtype of the weights.
    num_reasoning: tokens of each chain.
    screened: races, and not all candidates to their ends.
    **settings: settings of `SearchSettings`.
  """
  model = place.weights(config, dtype)
  sizes = (_NUM_PROMPT, num_reasoning, _NUM_ANSWER)
  segments = Segments(*(np.zeros(size, np.int32) for size in sizes))
  itemsize, weights = jnp.dtype(dtype).itemsize, device_bytes(model.params)
  needed = suffix_positions(segments, None)
  placement = Placement(itemsize, place.data, place.model, place.target.platform, place.sequence)
  memory = 0.9 * place.target.accelerator.memory - weights
  batching = plan_batching([segments] * 64, config, 0, [needed] * 64, memory, placement)
  batching = batching._replace(batches=batching.batches[:1])
  batch = -(-len(batching.batches[0]) // place.data) * place.data
  screen = ScreenSettings() if screened else None
  chosen: dict[str, Any] = {"objective": "joint"} | settings
  search = SearchSettings(
    block_positions=batching.block_positions,
    kept_bytes=batching.kept_bytes,
    screen=screen,
    **chosen,
  )
  program = plan_program(model, [PrunePath(segments, floor=1)] * batch, search)
  of_chains = [place.array((batch,), kind, P(DATA)) for kind in (jnp.bool, jnp.int32, jnp.bool)]
  block = _first_block(program, segments, -(-program.block // needed))
  plan = screen and RacePlan(margin=screen.margin)
  kernel = _kernel_costs(config, program, block, itemsize)
  return Program(
    lambda: prune_steps.trace(
      model.graph,
      model.params,
      _states(place, model, program, segments, batch),
      *of_chains,
      place.array((), jnp.float32),
      program=program,
      mesh=place.mesh,
      plan=plan,
    ),
    flops=_block_flops(config, program.block, block) / (place.model * place.sequence),
    memory=weights + batch_bytes(config, batching, places_of(segments), program.kept, placement),
    trips=lambda source, depth: _trips(program, block, source),
    kernel_costs=tuple(x / (place.model * place.sequence) for x in kernel),
    outside_loops=0.0,  # a call makes steps for half a minute
  )


def _states(
  place: Place, model: Any, program: scorer.Program, segments: Segments, batch: int
) -> Any:
  """Chains of which nothing is known, as they lie on the devices."""
  texts = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), _texts(program, segments, batch)
  )
  shapes = jax.eval_shape(
    lambda params, texts: start_search(model.graph, params, texts, program=program, mesh=None),
    model.params,
    texts,
  )
  return jax.tree.map(
    lambda spec, tree: jax.tree.map(lambda x: place.shape(x, spec), tree),
    chain_specs(shapes),
    shapes,
    is_leaf=lambda x: isinstance(x, P),
  )


def _texts(program: scorer.Program, segments: Segments, batch: int) -> stream.Text:
  counts = [len(segments.prompt), len(segments.reasoning), len(segments.answer)]
  units = (jnp.arange(program.units) < counts[1]).astype(jnp.int32)
  # No two tokens are equal, so every candidate is one of its own.
  one = [jnp.arange(program.places), *counts, units, counts[1], 1]
  return stream.Text(*(jnp.broadcast_to(x, (batch, *jnp.shape(x))) for x in map(jnp.int32, one)))


@dataclasses.dataclass(frozen=True)
class _Block:
  """Sizes of a full block of candidates.

  Attributes:
    key_blocks: rounds of the tiles' loops over keys, on average over the four kinds of keys.
    tile_keys: keys of the blocks that the tiles see, summed over tiles.
    seen: keys that a slot sees, on average.
    counted: slots that meet the LM head.
  """

  key_blocks: float
  tile_keys: float
  seen: float
  counted: float


def _first_block(program: scorer.Program, segments: Segments, chains: int) -> _Block:
  """The first block of a first step, laid out here; sizes of the model do not matter."""
  from benchmarks.shapes import SHAPES

  decoder = Decoder(dataclasses.replace(SHAPES["tiny"], num_layers=1), nnx.Rngs(0))
  texts = _texts(program, segments, chains)
  state = scorer.start_state(decoder, program, texts)
  text_known = jax.vmap(lambda text: text.last)(texts)
  state = state._replace(
    text_known=text_known, old_skips=jnp.stack([text_known, text_known], axis=1)
  )
  spans = exact.suffix_spans(state, exact.candidates(texts, jnp.ones(chains, bool)))
  slots = stream.block_slots(
    texts,
    spans,
    stream.lay_out(spans, program.tile),
    state.kept_offsets,
    jnp.int32(0),
    program.block,
    0,
  )
  window = jnp.int32(FULL_ATTENTION)
  intervals = key_intervals(slots, texts.answer_start - 1, window, program.tile)
  first, last = np.moveaxis(np.asarray(common_intervals(intervals)), -1, 0)
  low, high = np.moveaxis(np.asarray(intervals), 2, 0)
  counts_from = texts.num_prompt if program.objective == "joint" else texts.answer_start
  counted = slots.valid & (slots.source + 1 >= counts_from[slots.chain])
  key_blocks = -(-last // KEY_BLOCK) - first // KEY_BLOCK
  return _Block(
    key_blocks=float(key_blocks.max(axis=0).mean()),
    tile_keys=float(KEY_BLOCK * key_blocks.sum()),
    seen=float(np.maximum(high - low, 0).sum() / program.block),
    counted=float(counted.sum()),
  )


def _block_flops(config: ModelConfig, slots: int, block: _Block) -> float:
  attention = 4.0 * config.num_layers * config.num_heads * config.head_dim * block.seen
  of_slot = 2.0 * config.matmul_params(head=False) + attention
  return slots * of_slot + 2.0 * config.vocab_size * config.model_dim * block.counted


def _kernel_costs(
  config: ModelConfig, program: scorer.Program, block: _Block, itemsize: int
) -> tuple[float, float]:
  """Reckoned FLOPs and bytes of the attention kernel in one layer.

  Each tile reads the keys and values of its blocks once. (A GPU's programs for parts of a tile ask
  for them again, but run side by side, so that they find them in its cache.)
  """
  queries = program.block * config.num_heads * config.head_dim  # numbers in them, and in the result
  keys_values = 2 * block.tile_keys * config.num_kv_heads * config.head_dim
  flops = 4.0 * program.tile * block.tile_keys * config.num_heads * config.head_dim
  return flops, queries * (itemsize + 4.0) + keys_values * itemsize


def _trips(program: scorer.Program, block: _Block, source: str) -> float:
  loop = re.search(r"blocks_(\d+)/while(.*)", source)
  if loop is None:
    return 1.0
  if int(loop[1]) != program.block:
    return 0.0
  if "/attend/" in loop[2]:
    return block.key_blocks
  return 1.0 if not loop[2] else float(-(-block.counted // HEAD_CHUNK))
