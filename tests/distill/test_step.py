"""Loss and gradients of packed rows against plain ones, one example at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from greedy_prune_jax.distill import loss as loss_module
from greedy_prune_jax.distill.batches import pack_batch
from greedy_prune_jax.distill.lora import TARGETS, LoraConfig, apply_lora, init_lora, merge_lora
from greedy_prune_jax.distill.loss import completion_nll
from greedy_prune_jax.distill.optimizer import OptimizerSettings, learning_rate, make_optimizer
from greedy_prune_jax.distill.parameters import cast, flat_params, unflat_params, with_params
from greedy_prune_jax.distill.step import init_state, make_evaluate, make_train_step
from tests.helpers.logits import forward_logits
from tests.helpers.made_examples import random_examples
from tests.helpers.tiny_student import close, student, tiny_student_model

LORA = LoraConfig(rank=3, alpha=6.0, targets=tuple(TARGETS))


def plain_nll(model, params, examples):
  """Summed NLL of completions, each example by itself, from whole logits."""
  decoder = with_params(model, params).decoder
  total = 0.0
  for example in examples:
    log_probs = jax.nn.log_softmax(forward_logits(decoder, jnp.asarray(example.token_ids)))
    at = np.arange(example.num_prompt - 1, len(example) - 1)
    total -= log_probs[at, example.token_ids[at + 1]].sum()
  return total


def optimizer_settings(**changes):
  defaults = {
    "optimizer": "adamw",
    "learning_rate": 1e-2,
    "schedule": "cosine",
    "warmup_steps": 2,
    "final_fraction": 0.1,
    "weight_decay": 0.0,
    "b1": 0.9,
    "b2": 0.95,
    "mu_dtype": "",
    "max_grad_norm": 0.0,
  }
  return OptimizerSettings(**(defaults | changes))


@pytest.fixture(params=[{}, {"tied_head": False}, {"logit_softcap": 2.0, "layer_window": (3, 64)}])
def model(request):
  return tiny_student_model(**request.param)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_loss_and_gradients_are_those_of_single_examples(model, remat, monkeypatch):
  monkeypatch.setattr(loss_module, "CPU_HEAD_CHUNK", 40)  # several chunks, the last one not full
  examples = random_examples(5)
  params = flat_params(model.params)
  rows = jax.tree.map(lambda x: jnp.asarray(x[0]), pack_batch(examples, 48).rows)
  found = jax.jit(jax.value_and_grad(student(model, remat=remat).nll))(params, {}, rows)
  expected = jax.jit(jax.value_and_grad(lambda p: plain_nll(model, p, examples)))(params)
  np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
  close(found[1], expected[1], atol=2e-4)


@pytest.mark.slow
def test_evaluation_is_the_same_loss(model):
  examples = random_examples(5)
  params = flat_params(model.params)
  found = make_evaluate(student(model))(params, {}, pack_batch(examples, 48).rows)
  np.testing.assert_allclose(found, plain_nll(model, params, examples), rtol=1e-5)


def updated(model, rows, lora=None, steps=2, **changes):
  weights = flat_params(model.params)
  trained, frozen = (weights, {}) if lora is None else (init_lora(weights, lora, 0), weights)
  trained = jax.tree.map(jnp.copy, trained)
  optimizer = make_optimizer(optimizer_settings(**changes), 10)
  step = make_train_step(student(model, lora), optimizer)
  state, found = init_state(trained, optimizer), []
  for _ in range(steps):
    state, metrics = step(state, frozen, rows)
    found.append(metrics)
  return state, found


@pytest.mark.slow
def test_accumulated_gradients_are_those_of_the_whole_batch():
  model, examples = tiny_student_model(), random_examples(9)
  whole, metrics = updated(model, pack_batch(examples, 48).rows, optimizer="adafactor")
  parts, in_parts = updated(
    model, pack_batch(examples, 48, num_parts=3).rows, optimizer="adafactor"
  )
  close(metrics, in_parts, rtol=1e-4)
  close(whole.trained, parts.trained, atol=1e-5)


@pytest.mark.slow
def test_the_mean_is_over_tokens_and_the_norm_before_clipping():
  model, examples = tiny_student_model(), random_examples(5)
  rows = pack_batch(examples, 48).rows
  tokens = sum(e.num_scored for e in examples)
  mean = jax.value_and_grad(lambda p: plain_nll(model, p, examples) / tokens)
  expected, gradient = mean(flat_params(model.params))
  _, (first,) = updated(model, rows, steps=1, max_grad_norm=1e-3)
  np.testing.assert_allclose(first.loss, expected, rtol=1e-5)
  np.testing.assert_allclose(first.grad_norm, optax.tree.norm(gradient), rtol=1e-4)


@pytest.mark.slow
def test_bfloat16_products_with_float32_masters():
  model, rows = tiny_student_model(), pack_batch(random_examples(5), 48).rows
  params = flat_params(model.params)
  part = jax.tree.map(lambda x: jnp.asarray(x[0]), rows)
  exact = jax.grad(student(model).nll)(params, {}, part)
  rough = jax.grad(student(model, dtype="bfloat16").nll)(params, {}, part)
  assert all(g.dtype == jnp.float32 for g in rough.values())
  for name, gradient in exact.items():
    error = optax.tree.norm(gradient - rough[name]) / optax.global_norm(gradient)
    assert 1e-5 < error < 0.05, name
    assert (rough[name] != rough[name].astype(jnp.bfloat16)).any(), f"{name} was rounded"


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, LORA])
def test_masters_give_the_numbers_of_rounded_weights(lora):
  model, rows = tiny_student_model(), pack_batch(random_examples(5), 48).rows
  weights = flat_params(model.params)
  trained, frozen = (weights, {}) if lora is None else (init_lora(weights, lora, 0), weights)
  trained = jax.tree.map(lambda x: x + 0.1, trained)  # LoRA's would begin as nothing
  found = make_evaluate(student(model, lora, "bfloat16"))(trained, frozen, rows)

  values = cast(trained, jnp.bfloat16)
  if lora is not None:
    values = apply_lora(cast(frozen, jnp.bfloat16), values, lora)
  decoder = nnx.merge(model.graph, unflat_params(model.params, values))
  part = jax.tree.map(lambda x: jnp.asarray(x[0]), rows)
  np.testing.assert_allclose(found, jax.jit(lambda: completion_nll(decoder, part))(), rtol=1e-6)


@pytest.mark.slow
def test_lora_merged_equals_lora_applied():
  model, examples = tiny_student_model(), random_examples(5)
  rows = pack_batch(examples, 48).rows
  weights = flat_params(model.params)
  state, _ = updated(model, rows, LORA, steps=3)
  applied = make_evaluate(student(model, LORA))(state.trained, weights, rows)
  merged = merge_lora(weights, state.trained, LORA)
  plain = make_evaluate(student(model))(merged, {}, rows)
  before = make_evaluate(student(model))(weights, {}, rows)
  np.testing.assert_allclose(applied, plain, rtol=1e-5)
  assert before - plain > 1, "it has learned something"


@pytest.mark.slow
def test_lora_begins_as_the_model_and_only_its_matrices_are_in_the_state():
  model, rows = tiny_student_model(), pack_batch(random_examples(5), 48).rows
  weights = flat_params(model.params)
  matrices = init_lora(weights, LORA, 0)
  applied = make_evaluate(student(model, LORA))(matrices, weights, rows)
  np.testing.assert_allclose(applied, make_evaluate(student(model))(weights, {}, rows), rtol=1e-6)
  state, _ = updated(model, rows, LORA, steps=1)
  assert set(state.trained) == {f"{name}.{part}" for name in TARGETS.values() for part in "ab"}
  assert state.trained["layers.attention.out.a"].shape == (2, 4, 4, 3)
  assert state.trained["layers.attention.q.b"].shape == (2, 3, 4, 4)


@pytest.mark.slow
def test_the_state_is_donated():
  model, rows = tiny_student_model(), pack_batch(random_examples(5), 48).rows
  optimizer = make_optimizer(optimizer_settings(), 10)
  state = init_state(jax.tree.map(jnp.copy, flat_params(model.params)), optimizer)
  make_train_step(student(model), optimizer)(state, {}, rows)
  assert all(x.is_deleted() for x in jax.tree.leaves(state.trained))


def test_schedules():
  cosine = [float(learning_rate(optimizer_settings(), 10)(i)) for i in range(11)]
  np.testing.assert_allclose(cosine[:3], [1e-2 / 3, 2e-2 / 3, 1e-2], rtol=1e-5)
  np.testing.assert_allclose(cosine[6], (1e-2 + 1e-3) / 2, rtol=1e-5)
  np.testing.assert_allclose(cosine[10], 1e-3, rtol=1e-5)  # a step after the last, which has [9]
  constant = learning_rate(optimizer_settings(schedule="constant", warmup_steps=0), 10)
  np.testing.assert_allclose([constant(0), constant(9)], 1e-2, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_the_learning_rate_is_what_the_first_step_changes_a_weight_by(name):
  model, rows = tiny_student_model(), pack_batch(random_examples(5), 48).rows
  state, _ = updated(model, rows, steps=1, optimizer=name)
  rate = float(learning_rate(optimizer_settings(), 10)(0))
  for key in ("layers.mlp.down", "final_norm.scale"):
    change = abs(state.trained[key] - flat_params(model.params)[key])
    np.testing.assert_allclose(np.median(change), rate, rtol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_weight_decay_spares_norms(name):
  model, rows = tiny_student_model(), pack_batch(random_examples(5), 48).rows
  plain, _ = updated(model, rows, steps=1, optimizer=name)
  decayed, _ = updated(model, rows, steps=1, optimizer=name, weight_decay=0.5)
  for key, value in plain.trained.items():
    if key.endswith(".scale"):
      np.testing.assert_array_equal(value, decayed.trained[key])
    else:
      rate = float(learning_rate(optimizer_settings(), 10)(0))
      expected = value - 0.5 * rate * flat_params(model.params)[key]
      np.testing.assert_allclose(decayed.trained[key], expected, atol=1e-6)


@pytest.mark.slow
def test_a_mean_kept_in_fewer_bits_changes_updates_by_its_rounding_alone():
  model, rows = tiny_student_model(), pack_batch(random_examples(5), 48).rows
  plain, _ = updated(model, rows, steps=3)
  rounded, _ = updated(model, rows, steps=3, mu_dtype="bfloat16")
  for kept, dtype in (("mu", "bfloat16"), ("nu", "float32")):
    assert {str(x.dtype) for x in optax.tree.get(rounded.optimizer, kept).values()} == {dtype}
  before = flat_params(model.params)
  changes = [{key: x[key] - before[key] for key in x} for x in (plain.trained, rounded.trained)]
  off = optax.tree.norm(jax.tree.map(jnp.subtract, *changes)) / optax.tree.norm(changes[0])
  assert 0 < off < 2**-8  # half of the last of 8 bits
