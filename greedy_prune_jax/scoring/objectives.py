"""Objectives, which a deletion should preserve: mean negative log-likelihoods in nats per token."""

from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Objective = Literal["joint", "answer"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)


class ChainNLL(NamedTuple):
  """Mean NLLs of one chain, nats per token. `reasoning` is NaN where no reasoning is left."""

  joint: Float[Array, ""]  # remaining reasoning and answer, given the prompt
  answer: Float[Array, ""]  # answer, given prompt and remaining reasoning
  reasoning: Float[Array, ""]  # remaining reasoning, given the prompt


def chain_nll(
  log_probs: Float[Array, " C"],
  num_reasoning: Int[Array, ""],
  num_answer: Int[Array, ""],
  first: Int[Array, ""] | int = 0,
) -> ChainNLL:
  """NLLs of a text from the log-probability of each token; `first` is the first of reasoning."""
  index = jnp.arange(log_probs.shape[0]) - first
  reasoning = jnp.where((index >= 0) & (index < num_reasoning), log_probs, 0.0).sum()
  in_answer = (index >= num_reasoning) & (index < num_reasoning + num_answer)
  answer = jnp.where(in_answer, log_probs, 0.0).sum()
  return ChainNLL(
    joint=-(reasoning + answer) / (num_reasoning + num_answer),
    answer=-answer / num_answer,
    reasoning=-reasoning / num_reasoning,
  )
