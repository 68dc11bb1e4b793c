"""Logits of whole texts at once, [.., T, V]: for tests and small models."""

from jaxtyping import Array, Float, Int

from greedy_prune_jax.models.decoder import Decoder
from greedy_prune_jax.models.forward import forward_hidden


def forward_logits(decoder: Decoder, token_ids: Int[Array, "*B T"]) -> Float[Array, "*B T V"]:
  hidden, _, _ = forward_hidden(decoder, token_ids)
  return decoder.logits(hidden)
