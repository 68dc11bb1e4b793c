"""The arithmetic of pruning, counted before it is done."""

from typing import NamedTuple

import numpy as np

from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.recurrence import CHUNK
from greedy_prune_jax.rankings.follow import path_lengths, path_positions
from greedy_prune_jax.rankings.registry import RANKINGS, ChainSizes
from greedy_prune_jax.search.host import SearchSettings
from greedy_prune_jax.search.path import PrunePath
from greedy_prune_jax.search.work import mean_length, search_positions


class Work(NamedTuple):
  """Work of pruning one chain."""

  positions: float  # token positions that go through the model
  flops: float  # products with weights, of the LM head, and attention's; a multiply-add is two


def positions_flops(
  config: ModelConfig, positions: float, scored: float, mean_length: float
) -> float:
  """FLOPs of token positions of which some are scored, and which see a text of a length on average.

  Counted are products with weights, of the LM head where a target is scored, of recurrences, and
  attention's (as if no window cut it off). Two FLOPs a multiply-add.
  """
  return _flops(config, positions, scored, positions * mean_length)


def _flops(config: ModelConfig, positions: float, scored: float, seen: float) -> float:
  """FLOPs of positions of which some are scored, and which together attend to `seen` positions."""
  return (
    2.0 * (config.matmul_params(head=False) + _recurrent_products(config)) * positions
    + 2.0 * config.vocab_size * config.model_dim * scored
    + 4.0 * config.attention_width * seen
  )


def _recurrent_products(config: ModelConfig) -> int:
  """Multiply-adds of the recurrent layers at one position, beside those with weights.

  Of the convolution, and of a delta rule: a state is read for key and query, and written; a chunk's
  tokens meet each other: keys with keys and queries, decays summed, changes solved for and read.
  """
  p, o = config.delta_key_dim, config.delta_value_dim
  of_head = 3 * p * o + CHUNK * (2 * p + CHUNK + 2 * o)
  convolution = config.conv_width * config.conv_channels
  return len(config.recurrent_layers) * (config.delta_value_heads * of_head + convolution)


def _seen(start, length):
  """Positions that runs of queries attend to: one at offset o of its run sees start + o + 1."""
  return length * (start + 1) + length * (length - 1) / 2


def ranking_work(
  config: ModelConfig, path: PrunePath, ranking: str, deletions_per_step: int = 1
) -> Work:
  """A ranking's own passes, and the NLLs of the texts along the path that it gives.

  `Ranking.other_models` are not counted.
  """
  prompt, reasoning, answer = map(
    len, (path.segments.prompt, path.segments.reasoning, path.segments.answer)
  )
  texts = np.asarray(path_lengths(path, deletions_per_step)) + answer - 1
  flops = _flops(config, texts.sum(), texts.sum(), _seen(prompt, texts).sum())
  flops += _flops(config, prompt, 1, _seen(0, prompt))
  positions = path_positions(path, deletions_per_step)
  sizes = ChainSizes(prompt, reasoning, answer, len(path.sizes))
  for run in RANKINGS[ranking].model_runs(sizes):
    once = _flops(config, run.length, run.scored, _seen(run.start, run.length))
    flops += run.num_texts * run.forward_passes * once
    positions += round(run.num_texts * run.length)
  return Work(positions, flops)


def search_work(config: ModelConfig, path: PrunePath, search: SearchSettings) -> Work:
  """Estimates the work of greedy search on a chain.

  Which deletions come first, and how many candidates a race runs to their ends, is known only
  afterwards; see `search.work` for what is assumed.
  """
  positions = search_positions(path, search)
  scored = float(positions)
  if search.objective == "answer":  # of a window and its tail, or a suffix, the answer alone
    scored *= len(path.segments.answer) / (len(path.segments) - len(path.segments.prompt))
  return Work(positions, positions_flops(config, positions, scored, mean_length(path)))
