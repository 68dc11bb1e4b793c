"""Attention by blocks of queries: the same numbers, in memory that grows with a text's length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from greedy_prune_jax.models import attention
from greedy_prune_jax.models.decoder import Decoder, Model
from greedy_prune_jax.models.forward import forward_hidden
from greedy_prune_jax.models.hf_config import config_from_hf
from greedy_prune_jax.rankings.gradient import gate_gradient
from tests.helpers.reference import tiny_config


def _model(family, **switches):
  config = config_from_hf(tiny_config(family, **switches).to_dict())
  return Model.from_decoder(Decoder(config, nnx.Rngs(0)))


@pytest.mark.parametrize("shape", [(24,), (2, 21)])
@pytest.mark.parametrize("family", ["gpt_oss", "mistral"])  # with sinks, with a window
def test_queries_in_blocks_see_what_all_at_once_see(family, shape, monkeypatch):
  decoder = _model(family).decoder
  ids = jnp.asarray(np.random.default_rng(0).integers(0, 60, shape))
  whole, caches, _ = forward_hidden(decoder, ids, return_attention=True)
  monkeypatch.setattr(attention, "QUERY_BLOCK", 8)
  found, kept, probs = forward_hidden(decoder, ids)
  assert probs is None
  np.testing.assert_allclose(found, whole, atol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), kept, caches)


@pytest.mark.slow
def test_gradients_of_gates_are_those_of_all_queries_at_once(monkeypatch):
  model = _model("gpt_oss")
  ids = jnp.asarray(np.random.default_rng(0).integers(0, 60, 24))
  found = []
  for block in (256, 8):
    monkeypatch.setattr(attention, "QUERY_BLOCK", block)
    jax.clear_caches()
    sizes = map(jnp.int32, (5, 12, 7))
    found.append(gate_gradient(model.graph, model.params, ids, *sizes, objective="joint"))
  assert np.abs(found[0]).max() > 0.01
  np.testing.assert_allclose(*found, atol=1e-5)


def _forward(model, ids):
  def hidden(params, ids):
    return forward_hidden(nnx.merge(model.graph, params), ids)[0]

  return jax.jit(hidden).lower(model.params, ids)


def _gradient(model, ids):
  sizes = [jax.ShapeDtypeStruct((), jnp.int32)] * 3
  return gate_gradient.lower(model.graph, model.params, ids, *sizes, objective="joint")


@pytest.mark.slow
@pytest.mark.parametrize("lower", [_forward, _gradient])
def test_memory_grows_with_the_length_and_not_with_its_square(lower):
  model = _model("llama", max_position_embeddings=8192)
  planned = []
  for length in (2048, 8192):
    ids = jax.ShapeDtypeStruct((length,), jnp.int32)
    planned.append(lower(model, ids).compile().memory_analysis().temp_size_in_bytes)
  assert planned[1] < 6 * planned[0]
