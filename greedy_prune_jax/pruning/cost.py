"""The arithmetic of pruning, counted before it is done."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.pruning.progress import exact_positions, search_positions
from greedy_prune_jax.rankings.follow import path_lengths, path_positions
from greedy_prune_jax.rankings.registry import RANKINGS, ChainSizes
from greedy_prune_jax.scoring.objectives import Objective
from greedy_prune_jax.search.host import SearchSettings
from greedy_prune_jax.search.path import PrunePath


class Work(NamedTuple):
  """What pruning one chain takes."""

  positions: float  # token positions that go through the model
  flops: float  # products with weights, of the LM head, and attention's; a multiply-add is two


def step_flops(
  config: ModelConfig, num_prompt: int, num_reasoning: int, num_answer: int, objective: Objective
) -> float:
  """FLOPs of one exact step over single tokens: the text once, and each candidate's suffix.

  Counted are products with weights, of the LM head where a target is scored, and attention's over
  the positions that each query sees (as if no window cut them off). Two FLOPs a multiply-add.
  """
  n, tail = num_reasoning, num_answer - 1
  lengths = np.concatenate([[n + tail], n - 1 - np.arange(n) + tail])
  starts = num_prompt + np.concatenate([[0], np.arange(n)])
  positions = scored = float(lengths.sum())
  if objective == "answer":
    scored = n + num_answer + n * num_answer
  return _flops(config, positions, scored, _seen(starts, lengths).sum())


def _flops(config: ModelConfig, positions: float, scored: float, seen: float) -> float:
  """FLOPs of positions of which some are scored, and which together attend to `seen` positions."""
  return (
    2.0 * config.matmul_params(head=False) * positions
    + 2.0 * config.vocab_size * config.model_dim * scored
    + 4.0 * config.num_layers * config.num_heads * config.head_dim * seen
  )


def _seen(start, length):
  """Positions that runs of queries attend to: one at offset o of its run sees start + o + 1."""
  return length * (start + 1) + length * (length - 1) / 2


def _tokens_left(path: PrunePath) -> Float[np.ndarray, " K"]:
  """Reasoning tokens after 0, 1, ... deletions, down to the floor, of units of one size."""
  num_reasoning = len(path.segments.reasoning)
  units = len(path.unit_sizes or path.segments.reasoning)
  tokens = num_reasoning * np.arange(units, -1, -1) / units
  return tokens[: int((tokens > path.floor).sum()) + 1]


def exact_work(config: ModelConfig, path: PrunePath, objective: Objective) -> Work:
  """Greedy search that scores every candidate; the sums of `step_flops` where units are tokens.

  Longer units are taken to be of one size for the FLOPs, and see `exact_positions`.
  """
  prompt, num_answer = len(path.segments.prompt), len(path.segments.answer)
  tokens = _tokens_left(path)
  texts = tokens + num_answer - 1
  positions, seen = texts.sum(), _seen(prompt, texts).sum()
  scored = (tokens + num_answer if objective == "answer" else texts).sum()

  # Candidate j of u runs behind - size * j positions from prompt + size * j on; sums over j.
  size = len(path.segments.reasoning) / len(path.unit_sizes or path.segments.reasoning)
  u, behind = tokens[:-1] / size, texts[:-1] - size
  j1, j2 = u * (u - 1) / 2, (u - 1) * u * (2 * u - 1) / 6
  lengths, squares = u * behind - size * j1, u * behind**2 - 2 * behind * size * j1 + size**2 * j2
  starts = lengths * (prompt + 1) + size * (behind * j1 - size * j2)  # of length times start + 1
  positions += lengths.sum()
  seen += (starts + (squares - lengths) / 2).sum()
  scored += ((u * num_answer) if objective == "answer" else lengths).sum()
  flops = _flops(config, positions, scored, seen) + _prompt_flops(config, prompt)
  return Work(exact_positions(path), flops)


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
  flops += _prompt_flops(config, prompt)
  positions = path_positions(path, deletions_per_step)
  sizes = ChainSizes(prompt, reasoning, answer, len(path.unit_sizes or path.segments.reasoning))
  for run in RANKINGS[ranking].model_runs(sizes):
    once = _flops(config, run.length, run.scored, _seen(run.start, run.length))
    flops += run.num_texts * run.forward_passes * once
    positions += round(run.num_texts * run.length)
  return Work(positions, flops)


def _prompt_flops(config: ModelConfig, num_prompt: int) -> float:
  return _flops(config, num_prompt, 1, _seen(0, num_prompt))


def search_work(config: ModelConfig, path: PrunePath, search: SearchSettings) -> Work:
  """What greedy search takes on a chain; about, where it is screened or deletes several at once.

  How many shortlists a screened search scores is known only afterwards; `screened_positions` says
  what is assumed. Attention is counted as if every position saw the text at its mean length.
  """
  if search.screen is None and search.deletions_per_step == 1:
    return exact_work(config, path, search.objective)
  positions = search_positions(path, search)
  mean_length = len(path.segments) - (len(path.segments.reasoning) - path.floor) / 2
  scored = positions
  if search.objective == "answer":  # of a window and its tail, or a suffix, the answer alone
    scored *= len(path.segments.answer) / (len(path.segments) - len(path.segments.prompt))
  return Work(positions, _flops(config, positions, scored, positions * mean_length))
