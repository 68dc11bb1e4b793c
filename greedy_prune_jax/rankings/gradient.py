"""Ranking by the gradient of the objective with respect to each token's attention gate."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from greedy_prune_jax.models.attention import (
  MASKED,
  causal_mask,
  in_query_blocks,
  mix,
  scores,
  softmax_beside,
)
from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.decoder import Decoder, Model
from greedy_prune_jax.models.recurrence import refuse_recurrence
from greedy_prune_jax.models.sizes import round_up
from greedy_prune_jax.rankings.interface import (
  RankedTokens,
  RankingInput,
  RankingSettings,
  RankTokens,
)
from greedy_prune_jax.scoring.likelihood import target_log_probs
from greedy_prune_jax.scoring.objectives import Objective, chain_nll

_LENGTH_MULTIPLE = 64  # texts are padded to multiples of this, so that few programs are compiled
_WHO = "the gradient ranking"


def gradient(model: Model, settings: RankingSettings) -> RankTokens:
  """The token whose hiding would lower the objective most, or raise it least, leaves first.

  Each reasoning token has a gate g. It multiplies the attention that all positions pay to the token
  in all layers and heads, before normalisation. An open gate (g = 1) changes nothing; a closed gate
  (g = 0) hides the token. To first order, closing a gate changes the NLL by minus its derivative at
  g = 1.

  Source: importance of heads by gates, arXiv 1905.10650, applied to tokens. There absolute values
  are taken; here the sign separates tokens that disturb from tokens that help. Hiding is less than
  deletion, which also moves later tokens up and saves predicting the token itself.
  """

  def rank(chain: RankingInput) -> RankedTokens:
    parts, length = chain.segments.parts, len(chain.segments)
    ids = np.zeros(round_up(length, _LENGTH_MULTIPLE), np.int32)
    ids[:length] = np.concatenate(parts)
    gradients = gate_gradient(
      model.graph_for(length),
      model.params,
      jnp.asarray(ids),
      *(jnp.int32(len(part)) for part in parts),
      objective=settings.objective,
    )
    begin, size = len(chain.segments.prompt), len(chain.segments.reasoning)
    of_reasoning = np.asarray(gradients)[begin : begin + size]
    return RankedTokens.of(-of_reasoning, chain, length)

  return rank


def check_pruner(config: ModelConfig, settings: RankingSettings) -> None:
  """Raises a UserError where a pruner has layers that no gate can hide tokens from."""
  refuse_recurrence(config, _WHO)


@partial(jax.jit, static_argnames=("graph", "objective"))
def gate_gradient(
  graph: nnx.GraphDef,
  params: nnx.State,
  token_ids: Int[Array, " T"],
  num_prompt: Int[Array, ""],
  num_reasoning: Int[Array, ""],
  num_answer: Int[Array, ""],
  *,
  objective: Objective,
) -> Float[Array, " T"]:
  """Derivative of a chain's objective with respect to each token's gate, at g = 1.

  Args:
    token_ids: prompt, reasoning, answer, right-padded.
    num_prompt: P.
    num_reasoning: N.
    num_answer: A.
    objective: `joint` or `answer`.

  Returns:
    Derivatives in nats per token, for the tokens of all three segments.
  """
  decoder = nnx.merge(graph, params)
  refuse_recurrence(decoder.config, _WHO)

  def nll(log_gates: Float[Array, " T"]) -> Float[Array, ""]:
    hidden = _gated_hidden(decoder, token_ids, log_gates)
    log_probs = target_log_probs(decoder, hidden, jnp.roll(token_ids, -1)[:, None])[:, 0]
    nlls = chain_nll(jnp.roll(log_probs, 1), num_reasoning, num_answer, num_prompt)
    return getattr(nlls, objective)

  # d/dg = d/d(log g) at g = 1.
  return jax.grad(nll)(jnp.zeros(token_ids.shape[0]))


def _gated_hidden(
  decoder: Decoder,
  token_ids: Int[Array, " T"],
  log_gates: Float[Array, " T"],
) -> Float[Array, "T D"]:
  """Hidden states of a text in which attention to token j is multiplied by exp(log_gates[j])."""
  positions = jnp.arange(token_ids.shape[0])

  def attend(q, k, v, window, sinks, _):
    @jax.checkpoint  # keeps no block's scores for the way back
    def mixed(q, at):
      gated = scores(q, k, decoder.config.attention_softcap) + log_gates[None, None, None, :]
      mask = causal_mask(at, positions, window)[None, None]
      probs = softmax_beside(sinks, jnp.where(mask, gated, MASKED))
      return mix(probs, v)

    return in_query_blocks(mixed, q, positions), {}

  embedded = decoder.embed(token_ids)
  hidden, _ = decoder.run_layers(embedded, positions, attend, wrap_layer=jax.checkpoint)
  return hidden
