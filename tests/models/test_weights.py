"""Frozen weights: the same numbers as with others, and no silent gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from greedy_prune_jax.models.decoder import Decoder, Model, merge_decoder
from greedy_prune_jax.models.forward import forward_hidden, forward_logits
from greedy_prune_jax.models.parameters import abstract_model
from greedy_prune_jax.models.weights import bfloat16_as_uint16, uint16_as_bfloat16
from greedy_prune_jax.scoring.likelihood import target_log_probs
from tests.helpers.tiny_student import CONFIG

IDS = jnp.arange(1, 14)


def tiny_model(dtype=jnp.bfloat16) -> Model:
  return Model.from_decoder(Decoder(CONFIG, nnx.Rngs(0), dtype))


def test_arrays_come_back_as_they_were():
  tree = {"bf16": jnp.array([1.5, -0.0, jnp.nan], jnp.bfloat16), "f32": jnp.ones(3)}
  assert bfloat16_as_uint16(tree, "tpu") is tree
  stored = bfloat16_as_uint16(tree, "cpu")
  assert stored["bf16"].dtype == jnp.uint16
  back = uint16_as_bfloat16(stored)
  assert back["f32"] is tree["f32"]
  assert back["bf16"].dtype == jnp.bfloat16
  np.testing.assert_array_equal(np.asarray(back["bf16"], np.float32), [1.5, -0.0, np.nan])


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_programs_are_told_their_platform(monkeypatch, platform):
  model = abstract_model(CONFIG, jnp.bfloat16, platform)
  monkeypatch.setattr(jax, "default_backend", lambda: pytest.fail("asked while tracing"))
  traced = jax.make_jaxpr(lambda params: forward_logits(merge_decoder(model.graph, params), IDS))
  assert ("u16[" in str(traced(model.params))) == (platform == "cpu")


@pytest.mark.slow
def test_a_frozen_model_is_made_once_and_gives_the_same_numbers():
  model = tiny_model()
  assert model.inference_params is model.inference_params
  logits = jax.jit(lambda params: forward_logits(merge_decoder(model.graph, params), IDS))
  np.testing.assert_array_equal(logits(model.inference_params), logits(model.params))


def test_a_gradient_by_frozen_weights_is_an_error():
  model = tiny_model()

  def loss(params):
    decoder = nnx.merge(model.graph, params)
    states, _, _ = forward_hidden(decoder, IDS)
    return target_log_probs(decoder, states, IDS[:, None]).sum()

  if jax.default_backend() == "cpu":
    with pytest.raises(TypeError, match="train float32 ones"):
      jax.grad(loss)(model.params)
