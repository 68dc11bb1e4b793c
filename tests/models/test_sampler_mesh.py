"""The sampler on meshes of 8 simulated devices against one device."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from greedy_prune_jax.models import sampler
from greedy_prune_jax.models.decoding import decode, empty_rows
from greedy_prune_jax.models.pretrained import load_model
from greedy_prune_jax.models.sampler import Request, Sampler
from greedy_prune_jax.models.sizes import power_of_two
from greedy_prune_jax.parallel import (
  MeshSettings,
  SearchMeshSettings,
  make_mesh,
  mesh_of,
  weight_shardings,
)
from tests.helpers.reference import tiny_config, tiny_model

MESHES = ((8, 1), (4, 2), (2, 4), (1, 8), (2, 2, 2))
SIZES = {"num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": 64}
MAX_ROWS = 9  # not a power of two times any data axis
STEPS = 5


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  """A tiny model by mesh; () for one device."""
  folder = tmp_path_factory.mktemp("model")
  # With a tied head a random model writes its last token again and again, which tests little.
  config = tiny_config("llama", num_hidden_layers=2, tie_word_embeddings=False, **SIZES)
  tiny_model(config).save_pretrained(folder)

  @functools.cache
  def load(mesh=(), dtype="float32"):
    choose = None
    if mesh:
      settings = MeshSettings(data=mesh[0], model=mesh[1])
      if len(mesh) == 3:  # of a search, whose model writes too where `budget` asks for replies
        settings = SearchMeshSettings(data=mesh[0], sequence=mesh[1], model=mesh[2])
      choose = weight_shardings(make_mesh(settings))
    return load_model(str(folder), jnp.dtype(dtype), shardings=choose)

  return load


def _requests() -> list[Request]:
  """More than there are rows, of unequal lengths, every other one drawn at random."""
  rng = np.random.default_rng(5)
  lengths = rng.integers(1, 20, 24)
  return [
    Request(
      prompt_ids=tuple(rng.integers(0, SIZES["vocab_size"], length).tolist()),
      max_new_tokens=int(rng.integers(1, 40)),
      temperature=i % 2,
      top_p=1 - 0.1 * (i % 4),
      top_k=10 * (i % 3),
      seed=i,
    )
    for i, length in enumerate(lengths)
  ]


def _written(model, requests, max_rows=MAX_ROWS):
  writer = Sampler(model, str, [7], max_rows=max_rows, steps=STEPS)
  samples = dict(writer.sample(requests))
  return [samples[i] for i in range(len(requests))]


@pytest.fixture(scope="module")
def on_one_device(models):
  return _written(models(), _requests())


@pytest.mark.slow
def test_the_requests_say_something(on_one_device):
  assert {sample.finish_reason for sample in on_one_device} == {"stop", "length"}
  greedy = [sample.token_ids for sample in on_one_device[::2]]
  assert len({token_id for ids in greedy for token_id in ids}) > 20


@pytest.fixture
def watched(monkeypatch):
  """Of all that jitted functions give back: shapes of a cache and its texts, whole and a device's.

  They are kept at once, as the arrays are donated to the next call.
  """
  given: list[list[tuple[tuple[int, ...], tuple[int, ...]]]] = []

  def watch(name):
    function = getattr(sampler, name)

    def call(*args, **kwargs):
      out = function(*args, **kwargs)
      rows = out[0] if name == "decode" else out
      given.append([(x.shape, x.sharding.shard_shape(x.shape)) for x in jax.tree.leaves(rows)])
      return out

    monkeypatch.setattr(sampler, name, call)

  for name in ("empty_rows", "admit", "resize", "decode"):
    watch(name)
  return given


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
def test_any_mesh_writes_what_one_device_writes(models, on_one_device, watched, mesh):
  assert _written(models(mesh), _requests()) == on_one_device
  data, *_, split = mesh
  sizes = []
  for keys, values, *texts in watched:
    for (layers, size, heads, *rest), own in (keys, values):
      assert own == (layers, size // data, heads // split, *rest)
    assert all(own == (size // data,) for (size,), own in texts)
    sizes.append(size)
  assert sizes[0] == data * power_of_two(-(-MAX_ROWS // data))
  assert sizes == sorted(sizes, reverse=True)
  assert sizes[-1] < sizes[0]  # rows fell away


@pytest.mark.slow
@pytest.mark.parametrize(
  ("family", "sizes"),
  [
    ("gpt_oss", {"num_local_experts": 8}),
    ("qwen3_5_text", {}),
    ("qwen3_next", {}),
    ("lfm2", {"conv_bias": True}),
  ],
)
def test_sinks_experts_and_recurrence_on_a_mesh(tmp_path, family, sizes):
  config = tiny_config(family, tie_word_embeddings=False, **SIZES, **sizes)
  tiny_model(config).save_pretrained(tmp_path)
  choose = weight_shardings(make_mesh(MeshSettings(data=2, model=2)))
  one, many = (
    _written(load_model(str(tmp_path), "float32", shardings=shardings), _requests()[:6])
    for shardings in (None, choose)
  )
  assert many == one


@pytest.mark.slow
def test_bfloat16_on_a_mesh(models):
  requests = _requests()[:4]
  one, many = (_written(models(mesh, "bfloat16"), requests, 4) for mesh in ((), (4, 2)))
  # Other roundings choose another token now and then, and then all that follows differs.
  assert sum(a == b for a, b in zip(one, many, strict=True)) > len(requests) / 2


def _collectives(model) -> set[tuple[str, str]]:
  """Kind and result of each collective operation of a compiled `decode`."""
  mesh = mesh_of(model.params)
  rows = empty_rows(model.config, 16, 64, "float32", mesh)
  stop_ids = jnp.zeros(1, jnp.int32)
  lowered = decode.lower(
    model.graph, model.inference_params, rows, stop_ids, steps=STEPS, mesh=mesh
  )
  kinds = "all-gather|all-reduce|all-to-all|collective-permute|collective-broadcast|reduce-scatter"
  pattern = re.compile(rf"= (\S+|\(.*?\)) ({kinds})(?:-start)?\(")
  return {(kind, result) for result, kind in pattern.findall(lowered.compile().as_text())}


@pytest.mark.slow
def test_rows_side_by_side_ask_each_other_only_whether_they_are_done(models):
  assert _collectives(models((8, 1))) == {("all-reduce", "pred[]")}


@pytest.mark.slow
def test_shared_weights_and_the_cache_never_travel(models):
  found = _collectives(models((2, 4)))
  rows, vocab, width = 16 // 2, SIZES["vocab_size"], models().config.model_dim
  assert {(kind, result.partition("{")[0]) for kind, result in found} == {
    ("all-reduce", "pred[]"),
    ("all-reduce", f"f32[{rows},1,{width}]"),  # what heads and feed-forward add to a row
    ("all-gather", f"f32[{rows},{vocab}]"),  # logits, where the row's token is chosen
  }
