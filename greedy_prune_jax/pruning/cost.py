"""The arithmetic of an exact search, counted."""

import numpy as np

from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.scoring.objectives import Objective


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
  # A query at offset o of a run that starts at s sees s + o + 1 positions.
  seen = (lengths * (starts + 1) + lengths * (lengths - 1) // 2).sum()
  scored = lengths.sum()
  if objective == "answer":
    scored = n + num_answer + n * num_answer
  return (
    2.0 * config.matmul_params(head=False) * lengths.sum()
    + 2.0 * config.vocab_size * config.model_dim * scored
    + 4.0 * config.num_layers * config.num_heads * config.head_dim * seen
  )
