"""Pruned chains and a tiny model made up for tests."""

import jax
import numpy as np
from flax import nnx

from greedy_prune_jax.chains.chain import Chain, PrunedChain
from greedy_prune_jax.chains.segments import Segments
from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.decoder import Decoder, Model


def pruned_chain(
  tokens,
  order,
  chain_id="c/0",
  *,
  ids=None,
  nll=None,
  question=None,
  answer="a",
  unit_sizes=None,
  move_sizes=None,
):
  """A pruned chain with these token texts and deletion order; the rest is filler."""
  order = tuple(int(position) for position in order)
  flat = tuple(1.0 + 0.1 * step for step in range(len(order) + 1))
  return PrunedChain(
    chain=Chain(
      id=chain_id,
      question=question or f"question of {chain_id}",
      reasoning="".join(tokens),
      answer=answer,
    ),
    pruner="tiny",
    objective="joint",
    search="exact",
    unit="word" if unit_sizes else "token",
    unit_sizes=unit_sizes,
    reasoning_ids=tuple(range(len(tokens))) if ids is None else tuple(int(i) for i in ids),
    reasoning_tokens=tuple(tokens),
    deletion_order=order,
    nll=nll or {"joint": flat, "answer": tuple(np.array(flat) / 2), "reasoning": flat},
    pruned={},
    positions_scored=0,
    seconds=0.0,
    move_sizes=move_sizes,
  )


def tiny_model(seed=0, **changes):
  """A Llama of two layers and three heads with random weights that attend unevenly."""
  sizes = {
    "family": "llama",
    "vocab_size": 40,
    "model_dim": 24,
    "num_layers": 2,
    "num_heads": 3,
    "num_kv_heads": 1,
    "head_dim": 8,
    "mlp_dim": 32,
    "max_positions": 256,
    "norm_eps": 1e-5,
    "tied_head": True,
    "attention_scale": 2.0,
  }
  return Model.from_decoder(Decoder(ModelConfig(**(sizes | changes)), nnx.Rngs(seed)))


def on_mesh(model, shardings):
  """The model where `shardings` puts its parameters; see `load_model`."""
  if shardings is None:
    return model
  places = shardings(model.params)
  return Model(model.config, model.graph, jax.device_put(model.params, places))


def random_segments(num_chains, seed=0, *, least=8, most=30):
  """Chains of random tokens."""
  rng = np.random.default_rng(seed)

  def draw(size):
    return rng.integers(40, size=size).astype(np.int32)

  return [
    Segments(draw(rng.integers(1, 7)), draw(rng.integers(least, most)), draw(rng.integers(1, 6)))
    for _ in range(num_chains)
  ]
