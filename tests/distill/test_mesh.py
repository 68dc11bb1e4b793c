"""Training on meshes of 8 simulated devices against one device."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from greedy_prune_jax.distill.batches import pack_batch
from greedy_prune_jax.distill.checkpoints import Checkpoints, TrainProgress
from greedy_prune_jax.distill.lora import TARGETS, LoraConfig, init_lora
from greedy_prune_jax.distill.optimizer import OptimizerSettings, make_optimizer
from greedy_prune_jax.distill.parameters import flat_params, with_params
from greedy_prune_jax.distill.step import Student, init_state, make_evaluate, make_train_step
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.decoder import Decoder, Model
from greedy_prune_jax.models.hf_config import config_from_hf
from greedy_prune_jax.parallel import (
  DATA,
  MeshSettings,
  make_mesh,
  named_shardings,
  partition,
  place_rows,
)
from tests.helpers.made_examples import random_examples
from tests.helpers.reference import tiny_config
from tests.helpers.tiny_student import close, tiny_student_model

LORA = LoraConfig(rank=3, alpha=6.0, targets=tuple(TARGETS))
MODEL = tiny_student_model(vocab_size=64, num_kv_heads=4)
SIZES = {"vocab_size": 64, "num_key_value_heads": 4, "num_hidden_layers": 2}
RECURRENT = {
  "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"]},
  "qwen3_next": {"layer_types": ["linear_attention", "full_attention"]},
  "lfm2": {"layer_types": ["conv", "full_attention"], "conv_bias": True},
}
EXAMPLES = random_examples(18)
STEPS = 4


def optimizer(name="adamw"):
  settings = OptimizerSettings(
    optimizer=name,
    learning_rate=1e-2,
    schedule="constant",
    warmup_steps=2,
    final_fraction=1.0,
    weight_decay=0.1,
    b1=0.9,
    b2=0.95,
    mu_dtype="",
    max_grad_norm=1.0,
  )
  return make_optimizer(settings, STEPS)


def mesh_of_sizes(data, model):
  return make_mesh(MeshSettings(data=data, model=model))


def begun(mesh=None, fully_sharded=False, lora=None, name="adamw", remat="none", model=MODEL):
  """A student, its state before the first step, and its frozen weights, on a mesh."""
  weights = jax.tree.map(jnp.copy, flat_params(model.params))
  trained, frozen = (weights, {}) if lora is None else (init_lora(weights, lora, 0), weights)
  if mesh is not None:
    trained, frozen = (
      jax.device_put(x, named_shardings(x, mesh, fully_sharded=fully_sharded))
      for x in (trained, frozen)
    )
  student = Student(model, lora, jnp.dtype("float32"), remat, mesh)
  return student, init_state(trained, optimizer(name), mesh), frozen


def batch(mesh, num_parts=1):
  multiple = 1 if mesh is None else mesh.shape[DATA]
  return pack_batch(EXAMPLES, 32, num_parts=num_parts, row_multiple=multiple).rows


def trained(mesh=None, num_parts=1, name="adamw", **kwargs):
  """Losses and gradient norms of some steps, and the state after them."""
  student, state, frozen = begun(mesh, name=name, **kwargs)
  step = make_train_step(student, optimizer(name), state)
  rows = place_rows(batch(mesh, num_parts), mesh, axis=1)
  found = []
  for _ in range(STEPS):
    state, metrics = step(state, frozen, rows)
    found.append([float(x) for x in metrics])
  nll = float(make_evaluate(student)(state.trained, frozen, place_rows(batch(mesh), mesh, axis=1)))
  return np.asarray(found), nll, state


@pytest.mark.slow
@pytest.mark.parametrize(
  ("data", "model", "fully_sharded", "kwargs"),
  [
    (8, 1, False, {}),
    (8, 1, True, {"remat": "dots"}),
    (1, 4, False, {"num_parts": 2}),
    (2, 4, False, {"name": "adafactor"}),
    (4, 2, True, {"num_parts": 2}),
    (2, 2, True, {"name": "adafactor"}),
    (8, 1, True, {"lora": LORA}),
    (2, 4, True, {"lora": LORA}),
  ],
)
def test_training_on_a_mesh_equals_training_on_one_device(data, model, fully_sharded, kwargs):
  mesh = mesh_of_sizes(data, model)
  found, nll, state = trained(mesh, fully_sharded=fully_sharded, **kwargs)
  expected, expected_nll, _ = trained(**kwargs)
  np.testing.assert_allclose(found, expected, rtol=2e-4)
  np.testing.assert_allclose(nll, expected_nll, rtol=2e-4)
  assert expected[0, 0] - expected[-1, 0] > 0.05, "it has learned something"
  # Parameters lie where they lay before, and what the optimiser keeps of each beside it.
  for name, x in state.trained.items():
    sharded = fully_sharded and kwargs.get("lora") is None
    assert x.sharding.spec == partition(name, x.shape, mesh, fully_sharded=sharded), name
    if kwargs.get("name") != "adafactor":
      for kept in ("mu", "nu"):
        moment = optax.tree.get(state.optimizer, kept)[name]
        assert moment.sharding.is_equivalent_to(x.sharding, x.ndim), name


@pytest.mark.slow
@pytest.mark.parametrize(
  ("family", "data", "model", "fully_sharded", "lora"),
  [
    *((family, 2, 4, True, None) for family in RECURRENT),
    ("qwen3_5_text", 2, 2, False, LORA),
    ("lfm2", 2, 2, False, LORA),
  ],
)
def test_recurrent_layers_train_on_a_mesh(family, data, model, fully_sharded, lora):
  config = config_from_hf(tiny_config(family, **SIZES, **RECURRENT[family]).to_dict())
  student = Model.from_decoder(Decoder(config, nnx.Rngs(0)))
  kwargs = {"lora": lora, "model": student}
  found, nll, _ = trained(mesh_of_sizes(data, model), fully_sharded=fully_sharded, **kwargs)
  expected, expected_nll, _ = trained(**kwargs)
  np.testing.assert_allclose(found, expected, rtol=2e-4)
  np.testing.assert_allclose(nll, expected_nll, rtol=2e-4)
  assert expected[0, 0] - expected[-1, 0] > 0.05, "it has learned something"


def test_fully_sharded_parameters_take_a_share_of_each_device():
  mesh = mesh_of_sizes(4, 2)
  shares = {}
  for fully_sharded in (False, True):
    _, state, _ = begun(mesh, fully_sharded=fully_sharded)
    arrays = [x for x in jax.tree.leaves(state) if x.ndim > 1 and min(x.shape[1:]) > 2]
    shares[fully_sharded] = sum(x.addressable_shards[0].data.size for x in arrays)
  norms = 3 * sum(x.size for name, x in flat_params(MODEL.params).items() if "norm" in name)
  assert shares[True] - norms < 0.3 * (shares[False] - norms)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, LORA])
def test_a_checkpoint_is_restored_onto_another_mesh(tmp_path, lora):
  expected, _, _ = trained(lora=lora)
  meshes = [(mesh_of_sizes(8, 1), True), (None, False), (mesh_of_sizes(2, 4), False)]
  found = []
  for at, (mesh, fully_sharded) in enumerate(meshes):
    student, state, frozen = begun(mesh, fully_sharded, lora)
    places = jax.tree.map(lambda x: x.sharding, state)
    if at:
      with Checkpoints(tmp_path) as checkpoints:
        state, _ = checkpoints.restore(at, state)
      assert jax.tree.map(lambda x: x.sharding, state) == places
    step = make_train_step(student, optimizer(), state)
    state, metrics = step(state, frozen, place_rows(batch(mesh), mesh, axis=1))
    found.append(float(metrics.loss))
    with Checkpoints(tmp_path) as checkpoints:
      checkpoints.save(state, TrainProgress(data=None))
  np.testing.assert_allclose(found, expected[:3, 0], rtol=2e-4)


def test_a_width_that_does_not_divide_is_named():
  with pytest.raises(UserError) as info:
    partition("layers.mlp.down", [30, 1536, 576], mesh_of_sizes(5, 1), fully_sharded=True)
  assert str(info.value) == (
    "parameter layers.mlp.down of shape [30, 1536, 576]: dimension 2, of size 576, cannot be split "
    "evenly over the mesh axis data of size 5; set mesh.data to a divisor of 576, or "
    "fully_sharded=False"
  )


def test_a_model_on_a_mesh_is_put_together_from_its_shares():
  mesh = mesh_of_sizes(4, 2)
  _, state, _ = begun(mesh, fully_sharded=True)
  close(flat_params(with_params(MODEL, state.trained).params), flat_params(MODEL.params))
