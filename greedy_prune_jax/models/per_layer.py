"""Embeddings that a token has for every layer (Gemma 4, as Gemma 3n before it).

A token's row of a second table, and a projection of its embedding, are added up and cut into L
pieces of width U. Behind its feed-forward each layer gates its piece, and adds what a projection
makes of it to the residual stream.

Axis letters: those of `decoder`; U width of a piece.
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.feed_forward import activated
from greedy_prune_jax.models.norm import RMSNorm
from greedy_prune_jax.models.weights import project, random_weight


class PerLayerEmbedding(nnx.Module):
  """The table and the projection."""

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs, dtype: Any):
    v, d, layers, u = config.vocab_size, config.model_dim, config.num_layers, config.per_layer_dim
    self.table = random_weight(rngs, (v, layers, u), dtype, u)
    self.projection = random_weight(rngs, (d, layers, u), dtype, d)
    self.norm = RMSNorm(u, config=config)

  def __call__(
    self, x: Float[Array, "*B T D"], rows: Float[Array, "*B T L U"]
  ) -> Float[Array, "L *B T U"]:
    """Pieces of all layers, from embeddings and rows of the table."""
    d, u = x.shape[-1], rows.shape[-1]
    projected = self.norm(project("...td,dlu->...tlu", x, self.projection[...]) * d**-0.5)
    return jnp.moveaxis((projected + rows * u**0.5) * 2**-0.5, -2, 0)


class PerLayerGate(nnx.Module):
  """One layer's use of its piece."""

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs, dtype: Any):
    d, u = config.model_dim, config.per_layer_dim
    self.activation = config.activation
    self.gate = random_weight(rngs, (d, u), dtype, d)
    self.out = random_weight(rngs, (u, d), dtype, u)
    self.norm = RMSNorm(d, config=config)

  def __call__(
    self, x: Float[Array, "*B T D"], piece: Float[Array, "*B T U"]
  ) -> Float[Array, "*B T D"]:
    """Returns what to add to the residual stream."""
    gate = activated(self.activation, project("...td,du->...tu", x, self.gate[...]))
    return self.norm(project("...tu,ud->...td", gate * piece, self.out[...]))
