"""Experts: the forms for few tokens, for many, and for batches of many are one function."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from greedy_prune_jax.models import feed_forward
from greedy_prune_jax.models.feed_forward import Experts
from greedy_prune_jax.models.pretrained import load_model
from greedy_prune_jax.parallel import MeshSettings, make_mesh, weight_shardings
from tests.helpers.logits import forward_logits
from tests.helpers.reference import tiny_config, tiny_model, token_ids
from tests.helpers.tiny_student import CONFIG


@pytest.fixture(params=["plain", "biases and clamps", "beside a feed-forward"])
def experts(request):
  config = dataclasses.replace(CONFIG, num_experts=5, experts_per_token=2, expert_dim=12)
  if request.param == "plain":
    return Experts(config, nnx.Rngs(0), jnp.float32)
  if request.param == "beside a feed-forward":
    experts = Experts(
      dataclasses.replace(config, experts_beside_mlp=True), nnx.Rngs(0), jnp.float32
    )
    experts.scale.set_value(jnp.linspace(0.5, 2.0, 5))
    return experts
  config = dataclasses.replace(config, expert_bias=True, glu_limit=0.7, glu_alpha=1.7)
  experts = Experts(config, nnx.Rngs(0), jnp.float32)
  for at, name in enumerate(("router_bias", "gate_bias", "up_bias", "down_bias")):
    bias = getattr(experts, name)
    bias.set_value(jax.random.normal(jax.random.key(at), bias.shape))
  return experts


@pytest.fixture
def tokens():
  return jax.random.normal(jax.random.key(0), (3, 20, CONFIG.model_dim))


def _run(monkeypatch, module, x, *, few):
  monkeypatch.setattr(feed_forward, "FEW_TOKENS", few)
  return module(x)


@pytest.mark.slow
def test_few_and_many_tokens_are_one_function(experts, tokens, monkeypatch):
  dense = _run(monkeypatch, experts, tokens, few=1000)
  grouped = _run(monkeypatch, experts, tokens, few=0)
  np.testing.assert_allclose(grouped, dense, atol=1e-5)
  assert abs(dense).max() > 0.1


@pytest.mark.parametrize(("platform", "sorts"), [("cpu", True), ("cuda", False), ("tpu", False)])
def test_an_accelerator_sorts_more_tokens_only(tokens, platform, sorts):
  experts = Experts(
    dataclasses.replace(CONFIG, num_experts=5, experts_per_token=2, expert_dim=12),
    nnx.Rngs(0),
    jnp.float32,
  )
  few = tokens.reshape(-1, CONFIG.model_dim)
  assert feed_forward.FEW_TOKENS < len(few) < feed_forward.FEW_ON_ACCELERATORS

  def program(x):
    return jax.jit(experts).trace(x).lower(lowering_platforms=(platform,)).as_text()

  assert ("stablehlo.sort" in program(few)) == sorts
  assert "stablehlo.sort" in program(jnp.tile(few, (5, 1)))


@pytest.mark.slow
@pytest.mark.parametrize("num_tokens", [17, 333])
@pytest.mark.parametrize("choices", ["any", "two experts take all", "one takes half"])
def test_blocks_of_rows_are_enough_whatever_tokens_choose(
  experts, choices, num_tokens, monkeypatch
):
  monkeypatch.setattr(feed_forward, "_MOST_ROWS", 8)  # several batches of blocks
  x = jax.random.normal(jax.random.key(0), (num_tokens, CONFIG.model_dim))
  first = jax.random.randint(jax.random.key(1), (num_tokens,), 0, 4)
  pairs = {
    "any": (first, first + 1),
    "two experts take all": (jnp.full(num_tokens, 4), jnp.full(num_tokens, 1)),
    "one takes half": (first, jnp.full(num_tokens, 4)),
  }
  chosen = jnp.stack(pairs[choices], -1)
  weights = jax.random.uniform(jax.random.key(2), chosen.shape)
  of_experts = (experts.gate[...], experts.up[...], experts.down[...])
  grouped = feed_forward.chosen_experts(
    experts.config, x, weights, chosen, (of_experts, experts._biases)
  )
  expected = feed_forward._run_every(
    experts.config, x, weights, chosen, (of_experts, experts._biases)
  )
  np.testing.assert_allclose(grouped, expected, atol=1e-4)
  assert abs(expected).max() > 0.1


def test_memory_is_that_of_rows_and_does_not_grow_with_the_number_of_experts():
  def compiled_bytes(num_experts):
    config = dataclasses.replace(
      CONFIG, num_experts=num_experts, experts_per_token=2, expert_dim=64
    )
    shapes = [(1024, 128), (1024, 2), (1024, 2), *[(num_experts, 128, 64)] * 2]
    x, weights, chosen, gates, ups = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    downs = jax.ShapeDtypeStruct((num_experts, 64, 128), jnp.float32)
    chosen = jax.ShapeDtypeStruct(chosen.shape, jnp.int32)
    run = jax.jit(lambda *args: feed_forward.chosen_experts(config, *args[:3], (args[3:], ())))
    program = run.lower(x, weights, chosen, gates, ups, downs).compile()
    return program.memory_analysis().temp_size_in_bytes

  rows = 4 * 1024 * 2 * (128 + 64)
  assert rows < compiled_bytes(16) < 6 * rows
  assert compiled_bytes(64) < 2 * compiled_bytes(16)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_batch_is_its_items(experts, tokens, axis, monkeypatch):
  run = jax.vmap(lambda x: _run(monkeypatch, experts, x, few=0), axis, axis)
  expected = _run(monkeypatch, experts, tokens, few=1000)
  np.testing.assert_allclose(run(tokens), expected, atol=1e-5)


@pytest.mark.slow
def test_gradients_are_one(experts, tokens, monkeypatch):
  graph, state = nnx.split(experts)

  def loss(state, x, few):
    out = _run(monkeypatch, nnx.merge(graph, state), x, few=few)
    return (out * (out + x)).sum()

  dense = jax.grad(loss, (0, 1))(state, tokens, 1000)
  grouped = jax.grad(loss, (0, 1))(state, tokens, 0)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), grouped, dense)
  of_items = jax.vmap(jax.grad(loss, 1), (None, 0, None))(state, tokens, 0)
  np.testing.assert_allclose(of_items, dense[1], rtol=1e-4, atol=1e-3)
  assert abs(dense[1]).max() > 1


def test_a_token_counts_its_experts_once_and_by_weight(experts, tokens):
  weights, chosen = experts.route(tokens[0])
  if experts.config.experts_beside_mlp:
    weights = weights / experts.scale[...][chosen]
  np.testing.assert_allclose(weights.sum(-1), np.ones(20), atol=1e-6)
  assert all(len(set(row)) == 2 for row in np.asarray(chosen).tolist())


@pytest.mark.slow
@pytest.mark.parametrize("few", [0, 1000])
def test_experts_along_a_mesh_are_those_of_one_device(few, tmp_path, monkeypatch):
  monkeypatch.setattr(feed_forward, "FEW_TOKENS", few)
  config = tiny_config("qwen3_moe", vocab_size=64)
  tiny_model(config).save_pretrained(tmp_path)
  mesh = make_mesh(MeshSettings(data=1, model=2), jax.devices()[:2])
  ids = jnp.asarray(token_ids(config))
  one, many = (
    load_model(str(tmp_path), "float32", shardings=shardings)
    for shardings in (None, weight_shardings(mesh))
  )
  gate = many.decoder.layers.experts.gate.get_value()
  shapes = {shard.data.shape[1:] for shard in gate.addressable_shards}
  assert shapes == {(*gate.shape[1:3], gate.shape[3] // 2)}, "half of every expert each"

  logits = jax.jit(forward_logits)(many.decoder, ids)

  np.testing.assert_allclose(logits, forward_logits(one.decoder, ids), atol=1e-5)
