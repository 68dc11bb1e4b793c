"""Many texts of one chain scored against its one prompt."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool

from greedy_prune_jax.chains.segments import Segments
from greedy_prune_jax.models.decoder import Model, merge_decoder
from greedy_prune_jax.models.forward import Caches
from greedy_prune_jax.models.sizes import bucket, power_of_two
from greedy_prune_jax.parallel import (
  DATA,
  SEQUENCE,
  axis_size,
  mesh_of,
  on_mesh,
  place_batch,
  place_rows,
)
from greedy_prune_jax.scoring.exact import run_texts
from greedy_prune_jax.scoring.objectives import ChainNLL, chain_nll
from greedy_prune_jax.scoring.scorer import Program, Scorer, start_state, with_borders
from greedy_prune_jax.scoring.stream import Text
from greedy_prune_jax.search.capacity import block_sizes, places_of

_LENGTH_MULTIPLE, _FEWEST_TEXTS = 8, 4


def score_texts(
  model: Model,
  prompt: Caches,
  segments: Segments,
  gone: Sequence[Sequence[int]],
  block_positions: int,
  count: int | None = None,
) -> ChainNLL:
  """NLLs of a chain's K texts, of each of which some reasoning positions are gone.

  Args:
    prompt: result of `start_prompt`.
    gone: positions, of each text.
    block_positions: positions that go through the model at once.
    count: number of texts for which the program has room, K or more; see `texts_at_once`.
  """
  num_texts = len(gone)
  count = count or num_texts
  gone = [*gone, *[gone[-1]] * (count - num_texts)]
  texts = [
    np.concatenate(
      [segments.prompt, np.delete(segments.reasoning, list(positions)), segments.answer]
    )
    for positions in gone
  ]
  arrays = _arrays(texts, segments, len(segments.answer)), np.arange(count) < num_texts
  placed, wanted = place_batch(arrays, model.params)
  nlls = _score(
    model.graph_for(len(segments)),
    model.inference_params,
    prompt,
    Text(*placed),
    wanted,
    program=_program(model, segments, block_positions, axis_size(model.params, SEQUENCE)),
    mesh=mesh_of(model.params),
  )
  return jax.tree.map(lambda x: x[:num_texts], jax.device_get(nlls))


def start_prompt(model: Model, segments: Segments, block_positions: int) -> Caches:
  """Keys and values of a chain's prompt, in a cache for the whole chain, as bits."""
  texts = Text(*place_rows(_arrays([segments.prompt], segments, 0), None))
  program = _program(model, segments, block_positions)
  return _start(model.graph_for(len(segments)), model.inference_params, texts, program=program)


def _program(
  model: Model, segments: Segments, block_positions: int, slot_shards: int = 1
) -> Program:
  sizes = block_sizes(block_positions, model.platform, slot_shards)
  # Few positions: blocks of the larger size would only be compiled.
  sizes["block"] = sizes["rest"]
  return Program(places=places_of(segments), units=1, kept=0, **sizes)


@partial(jax.jit, static_argnames=("graph", "program"))
def _start(graph: nnx.GraphDef, params: nnx.State, texts: Text, *, program: Program) -> Caches:
  decoder = merge_decoder(graph, params)
  state = start_state(decoder, program, texts)
  state = run_texts(Scorer(decoder, program), state, jnp.ones(1, bool))
  return state.text_cache


@partial(jax.jit, static_argnames=("graph", "program", "mesh"))
def _score(
  graph: nnx.GraphDef,
  params: nnx.State,
  prompt: Caches,
  texts: Text,
  wanted: Bool[Array, " B"],
  *,
  program: Program,
  mesh: Mesh | None,
) -> ChainNLL:
  def score(params: nnx.State, prompt: Caches, texts: Text, wanted: Bool[Array, " B"]) -> ChainNLL:
    decoder, count = merge_decoder(graph, params), texts.num_prompt.shape[0]
    state = start_state(decoder, program, texts)
    known = texts.num_prompt - 1
    cache = jax.tree.map(lambda x: jnp.repeat(x, count, axis=1), prompt)
    state = with_borders(state, cache, jnp.zeros_like(known), known)._replace(text_known=known)
    state = run_texts(Scorer(decoder, program), state, wanted)
    numbers = texts.num_reasoning, texts.num_answer, texts.num_prompt
    return jax.vmap(chain_nll)(state.log_probs, *numbers)

  run = on_mesh(score, mesh, (P(), P(), P(DATA), P(DATA)), P(DATA), (DATA, SEQUENCE))
  return run(params, prompt, texts, wanted)


def texts_at_once(model: Model, longest: int, num_left: int, block_positions: int) -> int:
  """Number of texts to run at once, of up to `longest` tokens, where `num_left` are left.

  It is a power of two for each device, so that few programs are compiled.
  """
  fitting = max(1, block_positions // bucket(longest, _LENGTH_MULTIPLE))
  replicas = axis_size(model.params, DATA)
  of_device = power_of_two(-(-max(num_left, _FEWEST_TEXTS) // replicas))
  return replicas * min(of_device, 1 << (fitting.bit_length() - 1))


def _arrays(
  texts: Sequence[np.ndarray], segments: Segments, num_answer: int
) -> tuple[np.ndarray, ...]:
  """The fields of `Text`."""
  ids = np.zeros((len(texts), places_of(segments)), np.int32)
  for row, text in zip(ids, texts, strict=True):
    row[: len(text)] = text
  num_prompt, count = len(segments.prompt), len(texts)
  num_reasoning = np.array([len(text) for text in texts], np.int32) - num_prompt - num_answer
  whole = np.full(count, num_prompt, np.int32), np.full(count, num_answer, np.int32)
  # Units matter to searches alone, which score candidates.
  units = np.zeros((count, 1), np.int32)
  return ids, whole[0], num_reasoning, whole[1], units, units[:, 0], np.ones(count, np.int32)
