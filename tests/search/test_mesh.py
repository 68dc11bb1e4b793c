"""Searches on meshes of 8 simulated devices against one device."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.models.pretrained import load_model
from greedy_prune_jax.parallel import (
  MeshSettings,
  SearchMeshSettings,
  make_mesh,
  mesh_of,
  place_batch,
  weight_shardings,
)
from greedy_prune_jax.rankings.follow import follow_ranking
from greedy_prune_jax.rankings.interface import RankingInput, RankingSettings
from greedy_prune_jax.rankings.registry import RANKINGS
from greedy_prune_jax.search import capacity
from greedy_prune_jax.search.capacity import choose_batching, places_of
from greedy_prune_jax.search.greedy import prune_steps
from greedy_prune_jax.search.host import SearchBatch, SearchSettings, prune_paths
from greedy_prune_jax.search.path import PrunePath
from greedy_prune_jax.search.screen import ScreenSettings
from tests.helpers.full_passes import random_segments
from tests.helpers.reference import tiny_config, tiny_model

# Sizes of `data` and `model`, with that of `sequence` between them where it is not 1.
MESHES = ((8, 1), (4, 2), (2, 4), (1, 8), (1, 8, 1), (2, 2, 2))
HEADS = {"num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": 64}
_RECURRENT = {
  "layer_types": ["linear_attention", "full_attention"],
  "linear_num_key_heads": 4,
  "linear_num_value_heads": 8,
}
MORE = {
  "gpt_oss": {"num_local_experts": 8},
  "gemma4_text, experts": {
    "layer_types": ["sliding_attention", "full_attention"],
    "num_global_key_value_heads": 8,
  },
  "qwen3_5_text": _RECURRENT,
  "qwen3_next": {"num_experts": 8, **_RECURRENT},
  "lfm2": {"layer_types": ["conv", "full_attention"], "conv_bias": True},
}
SHARED = ("qwen2", "qwen3", "gemma3_text", "gpt_oss", "qwen3_5_text", "qwen3_next", "lfm2")
SHARED += ("gemma4_text, experts",)
# Five chains: no mesh of several rows is filled by them.
SHAPES = ((9, 9, 4), (3, 11, 1), (17, 2, 6), (1, 5, 3), (5, 7, 3))
BLOCK_POSITIONS = 48  # no other size of the program


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  """A tiny model by family and mesh; () for one device."""

  @functools.cache
  def folder(family):
    path = tmp_path_factory.mktemp(family)
    sizes = {"num_hidden_layers": 2, **HEADS, **MORE.get(family, {})}
    tiny_model(tiny_config(family, **sizes)).save_pretrained(path)
    return path

  @functools.cache
  def load(mesh=(), family="llama"):
    choose = None
    if mesh:
      data, *sequence, split = mesh
      settings = SearchMeshSettings(data=data, sequence=sequence[0] if sequence else 1, model=split)
      choose = weight_shardings(make_mesh(settings))
    return load_model(str(folder(family)), jnp.float32, shardings=choose)

  return load


def _paths(floor=0, shapes=SHAPES):
  return [
    PrunePath(random_segments(seed, HEADS["vocab_size"], shape), floor=floor)
    for seed, shape in enumerate(shapes)
  ]


def _searched(model, objective, screen=None, **kwargs):
  settings = SearchSettings(objective, BLOCK_POSITIONS, screen=screen)
  return prune_paths(model, _paths(**kwargs), settings)


def _assert_same(paths, expected):
  assert len(paths) == len(expected)
  for path, other in zip(paths, expected, strict=True):
    assert path.deleted == other.deleted
    assert path.positions_scored == other.positions_scored
    for name, values in other.nll.items():
      np.testing.assert_allclose(
        np.array(path.nll[name], float), np.array(values, float), rtol=0, atol=1e-5
      )


@pytest.fixture(scope="module")
def on_one_device(models):
  return functools.cache(lambda objective: _searched(models(), objective))


@pytest.mark.slow
@pytest.mark.parametrize(
  ("mesh", "objective"), [*((mesh, "joint") for mesh in MESHES), ((2, 2, 2), "answer")]
)
def test_any_mesh_finds_what_one_device_finds(models, on_one_device, mesh, objective):
  expected = on_one_device(objective)
  programs = prune_steps._cache_size()
  _assert_same(_searched(models(mesh), objective), expected)
  assert prune_steps._cache_size() - programs == 1


@pytest.mark.slow
@pytest.mark.parametrize("family", SHARED)
def test_every_kind_of_parameter_can_be_shared(models, family):
  shapes = ((9, 4, 2), (3, 3, 2))  # of one length bucket
  one = _searched(models((), family), "joint", shapes=shapes)
  _assert_same(_searched(models((2, 2, 2), family), "joint", shapes=shapes), one)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("family", "mesh"),
  [("llama", (4, 1)), ("llama", (1, 8)), ("gpt_oss", (2, 2, 2)), ("gemma4_text, experts", (2, 4))],
)
def test_the_attention_kernel_on_a_mesh(models, family, mesh):
  shapes = ((9, 4, 2), (3, 3, 2))
  one = _searched(models((), family), "joint", shapes=shapes)
  settings = SearchSettings("joint", BLOCK_POSITIONS, attention="pallas")
  _assert_same(prune_paths(models(mesh, family), _paths(shapes=shapes), settings), one)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("family", "mesh"),
  [("qwen3_next", (2, 4)), ("lfm2", (2, 4)), ("lfm2", (4, 1)), ("qwen3_next", (1, 4, 2))],
)
def test_races_through_recurrent_layers(models, family, mesh):
  shapes = ((9, 14, 3), (30, 11, 2), (3, 12, 2))  # for windows that end early
  screen = ScreenSettings(window=2, margin=0.05)
  one = _searched(models((), family), "joint", screen, shapes=shapes)
  assert one[0].tally["num_scored"] < sum(range(1, 15)), "a race leaves candidates out"
  _assert_same(_searched(models(mesh, family), "joint", screen, shapes=shapes), one)


@pytest.mark.slow
def test_a_search_on_a_mesh_goes_on_where_one_device_was(models, on_one_device):
  paths = _paths(floor=7)
  paths = prune_paths(models(), paths, SearchSettings("joint", BLOCK_POSITIONS))
  paths = [dataclasses.replace(path, floor=0) for path in paths]
  paths = prune_paths(models((8, 1)), paths, SearchSettings("joint", BLOCK_POSITIONS))
  for path, whole in zip(paths, on_one_device("joint"), strict=True):
    assert path.deleted == whole.deleted


@pytest.mark.slow
@pytest.mark.parametrize("name", ["surprisal", "gradient", "attention"])
def test_rankings_on_a_mesh(models, name):
  found = []
  for mesh in ((), (2, 2, 2)):
    (path,) = _paths(shapes=SHAPES[:1])
    ranking = RANKINGS[name].make(models(mesh), RankingSettings(objective="joint"))
    chain = RankingInput("a chain", path.segments, ("x",) * SHAPES[0][1])
    settings = SearchSettings("joint", BLOCK_POSITIONS)
    found.append(follow_ranking(models(mesh), path, ranking, chain, settings))
  _assert_same(found[1:], found[:1])


def _collectives(model: Model) -> list[tuple[str, str]]:
  """Kind and result of each collective operation of a compiled search."""
  batch = SearchBatch.of(model, _paths(), SearchSettings("joint", BLOCK_POSITIONS))
  paths = batch.filled_up(_paths())
  active, floors = np.ones(len(paths), bool), np.zeros(len(paths), np.int32)
  lowered = prune_steps.lower(
    model.graph,
    model.params,
    batch.start(paths),
    *place_batch((active, floors, ~active), model.params),
    1.0,
    program=batch.program,
    mesh=mesh_of(model.params),
  )
  kinds = "all-gather|all-reduce|all-to-all|collective-permute|collective-broadcast|reduce-scatter"
  pattern = re.compile(rf"= (\S+|\(.*?\)) ({kinds})(?:-start)?\(")
  return [(kind, result) for result, kind in pattern.findall(lowered.compile().as_text())]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
def test_chains_side_by_side_never_wait_for_each_other(models, family):
  assert _collectives(models((8, 1), family)) == []


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "lfm2", "gpt_oss"])
def test_shared_weights_are_never_put_together(models, family):
  found = _collectives(models((2, 4), family))
  # Sums of what heads, feed-forward and vocabulary contribute; no weight or logit travels.
  assert {kind for kind, _ in found} == {"all-reduce"}
  width, vocabulary = models().config.model_dim, HEADS["vocab_size"]
  shapes = [
    [int(size) for size in shape.split(",") if size]
    for _, result in found
    for shape in re.findall(r"\[([\d,]*)\]", result)
  ]
  rows = [math.prod(shape[:-1]) for shape in shapes if shape[-1:] == [width]]
  assert max(rows) == BLOCK_POSITIONS  # one for each token, however many experts it takes
  assert not any(vocabulary in shape for shape in shapes)


@pytest.mark.parametrize(("mesh", "batch"), [((), 3), ((4, 1), 12)])
def test_a_batch_fills_every_row_of_the_mesh(models, monkeypatch, mesh, batch):
  model = models(mesh) if mesh else models()
  segments = [path.segments for path in _paths()] * 10
  one = capacity._chain_bytes(
    model.config, max(map(places_of, segments)), capacity.Placement(4, 1, 1, "cpu")
  )
  block = capacity._block_bytes(model.config, capacity._MOST_BLOCK_POSITIONS, 1)
  monkeypatch.setattr(capacity, "_free_bytes", lambda model: 2 * block + 2 * 3.5 * one)
  monkeypatch.setattr(capacity, "_block_bytes", lambda *_: 2 * block)
  found = choose_batching(segments, model, 0, [1.0] * 50)
  assert [i for indices in found.batches for i in indices] == list(range(50))
  assert {len(indices) for indices in found.batches[:-1]} == {batch}


def test_a_device_that_holds_a_share_of_the_weights_takes_more_chains(models, monkeypatch):
  segments = [path.segments for path in _paths()] * 10
  monkeypatch.setattr(capacity, "_free_bytes", lambda model: 4e6)
  sizes = [
    len(choose_batching(segments, models(mesh), 0, [1.0] * 50).batches[0]) for mesh in ((), (1, 8))
  ]
  assert sizes[0] < sizes[1]


def test_weights_of_one_device_are_where_they_were(models):
  assert jax.tree.leaves(models().params)[0].devices() == {jax.devices()[0]}
  assert weight_shardings(make_mesh(MeshSettings(data=1, model=1))) is None
