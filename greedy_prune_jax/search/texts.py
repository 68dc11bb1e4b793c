"""Many texts of one chain scored against its one prompt."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from greedy_prune_jax.chains.segments import Segments
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.models.forward import KeyValues
from greedy_prune_jax.models.sizes import bucket
from greedy_prune_jax.parallel import DATA, axis_size, place_batch
from greedy_prune_jax.scoring.objectives import ChainNLL, chain_nll
from greedy_prune_jax.scoring.packing import Text
from greedy_prune_jax.scoring.scorer import CachedPrompt, run_text, with_room
from greedy_prune_jax.search import buckets
from greedy_prune_jax.search.greedy import start_chains

# Texts are padded to one of few widths, and are so many at once, so that few programs are compiled.
_WIDTH_MULTIPLE, _COUNT_MULTIPLE = 8, 4


@partial(jax.jit, static_argnames="graph")
def score_texts(
  graph: nnx.GraphDef,
  params: nnx.State,
  prompts: CachedPrompt,
  texts: Text,
) -> ChainNLL:
  """NLLs of several texts, [K], that stand behind one prompt.

  Args:
    graph: of the scoring model.
    params: of the scoring model.
    prompts: from `start_chains`, a batch of one.
    texts: reasoning and answer of each, [K, C].
  """
  decoder = nnx.merge(graph, params)
  capacity = prompts.keys_values.k.shape[2] + texts.token_ids.shape[1]
  length, cache, last_hidden = with_room(prompts, capacity)
  prompt = CachedPrompt(length[0], KeyValues(*(x[:, 0] for x in cache)), last_hidden[0])

  def nll(text: Text) -> ChainNLL:
    text_pass = run_text(decoder, prompt, text)
    return chain_nll(text_pass.log_probs, text.num_reasoning, text.num_answer)

  return jax.vmap(nll)(texts)


def start_prompt(model: Model, segments: Segments) -> CachedPrompt:
  """The cached prompt of a chain."""
  num_prompt = len(segments.prompt)
  ids = np.zeros((1, buckets.prompt_capacity(num_prompt)), np.int32)
  ids[0, :num_prompt] = segments.prompt
  lengths = jnp.asarray([num_prompt], jnp.int32)
  return start_chains(model.graph_for(len(segments)), model.params, jnp.asarray(ids), lengths)


def texts_at_once(model: Model, longest: int, num_left: int, block_positions: int) -> int:
  """How many texts of up to `longest` tokens, of which `num_left` are left, should be run at once.

  Where that is more than there are, some are run twice.
  """
  fitting = max(1, block_positions // bucket(longest, _WIDTH_MULTIPLE))
  count = min(fitting, bucket(num_left, _COUNT_MULTIPLE))
  return buckets.round_up(count, axis_size(model.params, DATA))


def texts_without(model: Model, segments: Segments, gone: Sequence[Sequence[int]]) -> Text:
  """Texts of a chain for `score_texts`, of each of which some reasoning positions are gone."""
  texts = [np.delete(segments.reasoning, list(positions)) for positions in gone]
  count, num_answer = len(texts), len(segments.answer)
  width = bucket(max(map(len, texts)) + num_answer, _WIDTH_MULTIPLE)
  ids = np.zeros((count, width), np.int32)
  for row, text in zip(ids, texts, strict=True):
    row[: len(text) + num_answer] = np.concatenate([text, segments.answer])
  num_reasoning = np.array([len(text) for text in texts], np.int32)
  # Units matter to searches alone, which score candidates.
  num_answers, num_units = np.full(count, num_answer, np.int32), np.zeros(count, np.int32)
  arrays = (ids, num_reasoning, num_answers, np.zeros_like(ids), num_units)
  return Text(*place_batch(arrays, model.params))
