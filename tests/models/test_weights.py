"""Frozen weights: the same numbers as with others, and no silent gradient."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from greedy_prune_jax import accelerators
from greedy_prune_jax.models.decoder import Decoder, Model, merge_decoder
from greedy_prune_jax.models.forward import forward_hidden
from greedy_prune_jax.models.parameters import abstract_model
from greedy_prune_jax.models.weights import (
  MasterWeight,
  bfloat16_as_uint16,
  project,
  uint16_as_bfloat16,
)
from greedy_prune_jax.scoring.likelihood import target_log_probs
from tests.helpers.logits import forward_logits
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


def _products(x_dtype, weight, platforms):
  """The dots of a product as a platform gets them, and those of its gradient."""
  x = jnp.ones((8, 16), x_dtype)

  def loss(x, weight):
    return project("td,df->tf", x, weight).sum()

  found = []
  for function in (loss, jax.grad(loss, (0, 1))):
    text = jax.jit(function).trace(x, weight).lower(lowering_platforms=(platforms,)).as_text()
    found.append([line for line in text.splitlines() if "dot_general" in line])
  return found


def test_float32_is_three_products_in_tf32_on_nvidias_gpus_alone(monkeypatch):
  thrice = "num_primitive_operations = 3"
  float32, bfloat16 = jnp.ones((16, 8)), jnp.ones((16, 8), jnp.bfloat16)
  monkeypatch.setattr(accelerators, "_has_tf32", lambda: True)
  for platform in ("cpu", "tpu", "rocm", "cuda"):
    value, _ = _products(jnp.float32, float32, platform)
    assert [thrice in dot for dot in value] == [platform == "cuda"], platform
  assert not any(thrice in dot for dot in _products(jnp.float32, bfloat16, "cuda")[0])
  for weight, expected in ((float32, False), (MasterWeight(float32, jnp.float32, "gpu"), True)):
    _, gradient = _products(jnp.float32, weight, "cuda")
    assert [thrice in dot for dot in gradient] == [expected] * 2
  monkeypatch.setattr(accelerators, "_has_tf32", lambda: False)
  jax.clear_caches()
  assert not any(thrice in dot for dot in _products(jnp.float32, float32, "cuda")[0])


@pytest.mark.parametrize(
  ("capability", "known"), [("7.5", False), ("8.0", True), ("12.0", True), ("gfx942", False)]
)
def test_gpus_before_tf32_multiply_in_full(monkeypatch, capability, known):
  gpu = SimpleNamespace(platform="gpu", compute_capability=capability)
  monkeypatch.setattr(jax, "local_devices", lambda: [gpu])
  assert accelerators._has_tf32.__wrapped__() == known
