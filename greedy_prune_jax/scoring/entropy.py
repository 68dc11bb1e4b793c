"""Entropy of the model's next-token distribution before each reasoning token, from one pass."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from greedy_prune_jax.chains.segments import Segments
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.models.forward import forward_hidden
from greedy_prune_jax.models.sizes import round_up
from greedy_prune_jax.scoring.likelihood import HEAD_CHUNK


def token_entropies(model: Model, segments: Segments) -> Float[np.ndarray, " N"]:
  """Entropies in nats, [N]: how undecided the model is where each reasoning token comes."""
  token_ids = np.zeros(round_up(len(segments), HEAD_CHUNK), np.int32)  # few sizes: few programs
  token_ids[: len(segments)] = np.concatenate(segments.parts)
  entropies = jax.device_get(
    _entropies(model.graph_for(len(segments)), model.params, jnp.asarray(token_ids))
  )
  begin = len(segments.prompt)
  return entropies[begin - 1 : begin - 1 + len(segments.reasoning)]


@partial(jax.jit, static_argnames="graph")
def _entropies(
  graph: nnx.GraphDef, params: nnx.State, token_ids: Int[Array, " T"]
) -> Float[Array, " T"]:
  """Entropy of the distribution behind each position; logits of `HEAD_CHUNK` positions at once."""
  decoder = nnx.merge(graph, params)
  hidden, _, _ = forward_hidden(decoder, token_ids)

  def one_chunk(chunk):
    log_probs = jax.nn.log_softmax(decoder.logits(chunk).astype(jnp.float32), axis=-1)
    return -(jnp.exp(log_probs) * log_probs).sum(axis=-1)

  chunks = hidden.reshape(-1, HEAD_CHUNK, hidden.shape[-1])
  return jax.lax.map(one_chunk, chunks).reshape(-1)
