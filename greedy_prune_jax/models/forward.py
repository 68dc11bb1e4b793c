"""Plain forward passes of a decoder: whole texts, without or with what the layers kept."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from greedy_prune_jax.models.attention import attend_masked, causal_mask, in_query_blocks
from greedy_prune_jax.models.decoder import Decoder
from greedy_prune_jax.models.recurrence import recur_texts


class KeyValues(NamedTuple):
  """Keys (rotated) and values of every layer, [L, ..., T, K, H], in the weights' dtype."""

  k: Array
  v: Array


# By the names of `ModelConfig.caches`, over the layers of each; and by that of the recurrence the
# `RecurrentCache` of its layers.
Caches = dict[str, Any]


def forward_hidden(
  decoder: Decoder,
  token_ids: Int[Array, "*B T"],
  *,
  return_attention: bool = False,
  lengths: Int[Array, "*B"] | None = None,
) -> tuple[Float[Array, "*B T D"], Caches, Float[Array, "L *B N T T"] | None]:
  """Runs whole texts, right-padded if at all, from position 0.

  Args:
    token_ids: texts; what stands right of a token never reaches it, so right padding needs no mask.
    return_attention: True to return every layer's attention probabilities too. They take L*N*T*T
      floats a text: meant for one text at a time; `attend` gives analyses a hook that need not keep
      them. Without, queries attend in blocks: see `in_query_blocks`.
    lengths: tokens of each text, behind which recurrent layers keep nothing; None: all.

  Returns:
    Normalised hidden states; the caches; and the probabilities or None.
  """
  positions = jnp.broadcast_to(jnp.arange(token_ids.shape[-1]), token_ids.shape)
  softcap = decoder.config.attention_softcap
  kv_dtype = decoder.embedding.dtype

  def attend(q, k, v, window, sinks, cache):
    k, v = k.astype(kv_dtype), v.astype(kv_dtype)
    kept = {cache.name: KeyValues(k, v)} if cache.own else {}

    def attend_from(q, at):
      return attend_masked(q, k, v, causal_mask(at, positions, window), softcap, sinks)

    if return_attention:
      out, probs = attend_from(q, positions)
      return out, kept | {"probs": probs}
    return in_query_blocks(lambda *block: attend_from(*block)[0], q, positions), kept

  recur = None
  if decoder.config.has_recurrence:
    if lengths is None:
      lengths = jnp.full(token_ids.shape[:-1], token_ids.shape[-1])
    recur = recur_texts(decoder.config, lengths, kv_dtype)
  hidden, outputs = decoder.run_layers(decoder.embed(token_ids), positions, attend, recur=recur)
  probs = outputs.pop("probs", None)
  return hidden, outputs, probs
