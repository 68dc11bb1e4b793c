"""The memory of a training step, reckoned, beside what XLA's CPU backend plans."""

import jax
import jax.numpy as jnp
import pytest
from absl import logging

from greedy_prune_jax.distill import memory as memory_module
from greedy_prune_jax.distill.batches import pack_batch
from greedy_prune_jax.distill.lora import TARGETS, LoraConfig, init_lora
from greedy_prune_jax.distill.memory import step_memory, warn_of_memory
from greedy_prune_jax.distill.parameters import flat_params
from greedy_prune_jax.distill.step import Student, init_state, make_train_step
from tests.distill.test_step import config, make_optimizer
from tests.helpers.made_examples import random_examples
from tests.helpers.tiny_student import tiny_student_model

WIDTH = 48


def begun(remat="none", lora=None):
  """A student, its state, frozen weights, and a batch."""
  model = tiny_student_model(num_layers=6)
  weights = jax.tree.map(jnp.copy, flat_params(model.params))
  trained, frozen = (weights, {}) if lora is None else (init_lora(weights, lora, 0), weights)
  student = Student(model, lora, jnp.dtype("float32"), remat)
  batch = pack_batch(random_examples(40), WIDTH)
  return student, init_state(trained, make_optimizer(config())), frozen, batch


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2, alpha=2.0, targets=tuple(TARGETS))])
@pytest.mark.parametrize("remat", ["none", "full"])
def test_it_is_about_what_is_compiled(remat, lora):
  student, state, frozen, batch = begun(remat, lora)
  found = step_memory(student, state, frozen, *batch.rows.token_ids.shape[1:])
  step = make_train_step(student, make_optimizer(config()))
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
