"""The memory of a training step, reckoned, beside what XLA's CPU backend plans."""

import jax
import jax.numpy as jnp
import pytest
from absl import logging
from flax import nnx

from greedy_prune_jax.distill import memory as memory_module
from greedy_prune_jax.distill.batches import pack_batch
from greedy_prune_jax.distill.lora import TARGETS, LoraConfig, init_lora
from greedy_prune_jax.distill.memory import step_memory, warn_of_memory
from greedy_prune_jax.distill.optimizer import make_optimizer
from greedy_prune_jax.distill.parameters import flat_params
from greedy_prune_jax.distill.step import Student, init_state, make_train_step
from greedy_prune_jax.models.decoder import Decoder, Model
from greedy_prune_jax.models.hf_config import config_from_hf
from tests.distill.test_step import optimizer_settings
from tests.helpers.made_examples import random_examples
from tests.helpers.reference import FAMILIES, tiny_config
from tests.helpers.tiny_student import tiny_student_model

WIDTH = 48


def begun(remat="none", lora=None, vocab_size=61):
  """A student, its state, frozen weights, and a batch."""
  model = tiny_student_model(num_layers=6, vocab_size=vocab_size)
  weights = jax.tree.map(jnp.copy, flat_params(model.params))
  trained, frozen = (weights, {}) if lora is None else (init_lora(weights, lora, 0), weights)
  student = Student(model, lora, jnp.dtype("float32"), remat)
  batch = pack_batch(random_examples(40), WIDTH)
  return student, init_state(trained, make_optimizer(optimizer_settings(), 10)), frozen, batch


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2, alpha=2.0, targets=tuple(TARGETS))])
@pytest.mark.parametrize(("remat", "vocab_size"), [("none", 61), ("full", 61), ("full", 20_000)])
def test_it_is_about_what_is_compiled(remat, vocab_size, lora):
  student, state, frozen, batch = begun(remat, lora, vocab_size)
  found = step_memory(student, state, frozen, *batch.rows.token_ids.shape[1:])
  step = make_train_step(student, make_optimizer(optimizer_settings(), 10))
  compiled = step.lower(state, frozen, batch.rows).compile().memory_analysis()
  inputs = sum(x.nbytes for x in batch.rows) + 2 * 4  # and two counters
  assert abs(found.state + inputs - compiled.argument_size_in_bytes) < 64
  planned = compiled.argument_size_in_bytes + compiled.temp_size_in_bytes
  assert 0.7 < found.total / planned < 1.5


def test_what_is_computed_again_is_not_kept():
  kept = []
  for remat in ("full", "dots", "none"):
    student, state, frozen, batch = begun(remat)
    kept.append(step_memory(student, state, frozen, *batch.rows.token_ids.shape[1:]).kept)
  tokens = batch.rows.token_ids.size
  model = student.model.config
  hidden = 4 * model.model_dim * tokens
  assert model.num_layers * hidden <= kept[0] < (model.num_layers + 4) * hidden
  assert 2 * kept[0] < kept[1] < kept[2]


@pytest.mark.parametrize(("memory", "warns"), [(10**12, False), (10**4, True), (None, False)])
def test_a_step_that_is_larger_than_the_device_is_warned_of(monkeypatch, memory, warns):
  said = []
  monkeypatch.setattr(memory_module, "device_memory", lambda: memory)
  monkeypatch.setattr(logging, "warning", lambda message, *args: said.append(message % args))
  warn_of_memory(*begun())
  assert len(said) == warns
  if warns:
    assert "a step takes about 0.0 GB of each device (state 0.0, " in said[0]
    assert "remat=full" in said[0]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_known_of_every_family_with_rounded_weights(family):
  """In bfloat16 on an accelerator, which no other test of all families trains in."""
  decoder = Decoder(config_from_hf(tiny_config(family).to_dict()), nnx.Rngs(0), platform="gpu")
  model = Model.from_decoder(decoder)
  state = init_state(flat_params(model.params), make_optimizer(optimizer_settings(), 10))
  student = Student(model, None, jnp.dtype("bfloat16"), "full")
  found = step_memory(student, state, {}, rows=8, width=64)
  assert found.gradients / 2 == found.rounded > 0
  assert min(found.kept, found.layer, found.head) > 0
