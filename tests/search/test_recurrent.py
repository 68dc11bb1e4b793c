"""Deletions through recurrent layers, at borders of chunks too, against full forward passes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from greedy_prune_jax.models.pretrained import load_model
from greedy_prune_jax.models.recurrence import CHUNK
from greedy_prune_jax.scoring.exact import candidates, run_texts
from greedy_prune_jax.scoring.scorer import Scorer
from greedy_prune_jax.search.capacity import Placement, _chain_bytes
from greedy_prune_jax.search.host import SearchBatch, SearchSettings, prune_paths
from greedy_prune_jax.search.path import PrunePath
from greedy_prune_jax.search.screen import ScreenSettings
from greedy_prune_jax.search.texts import score_texts, start_prompt
from tests.helpers.full_passes import full_pass_nlls, full_pass_search, random_segments
from tests.helpers.passes import score_deletions
from tests.helpers.reference import tiny_config, tiny_model

OBJECTIVES = ("joint", "answer")
EVERYTHING = ScreenSettings(window=64, margin=0.0)  # windows reach the end: nothing is estimated
SMALL = ScreenSettings(window=2, margin=0.05)


@pytest.fixture(scope="module")
def load(tmp_path_factory):
  """Makes the same tiny model in transformers and in ours; half of its layers are recurrent."""

  @functools.cache
  def of_family(family):
    layers = ["conv" if family == "lfm2" else "linear_attention", "full_attention"]
    switches = {"num_hidden_layers": 2, "layer_types": layers, "tie_word_embeddings": False}
    reference = tiny_model(tiny_config(family, **switches))
    folder = tmp_path_factory.mktemp(family)
    reference.save_pretrained(folder)
    return reference.float(), load_model(str(folder), jnp.float32)

  return of_family


@pytest.fixture(scope="module", params=["qwen3_5_text", "lfm2"])
def models(load, request):
  """A model of each recurrence, without experts; see `load`."""
  return load(request.param)


def _segments(seed, shape):
  return random_segments(seed, 61, shape)


def _search(model, paths, objective, **settings):
  settings = {"block_positions": 64} | settings
  return prune_paths(model, paths, SearchSettings(objective=objective, **settings))


def _assert_full_passes(reference, path):
  """Each recorded NLL is that of a full pass over the text that was left then."""
  kept = list(range(len(path.segments.reasoning)))
  for step, deleted in enumerate((None, *path.deleted)):
    if deleted is not None:
      kept.remove(deleted)
    joint, answer = full_pass_nlls(
      reference, path.segments, path.segments.reasoning[np.array(kept, int)][None]
    )
    np.testing.assert_allclose(path.nll["joint"][step], joint[0], atol=1e-5)
    np.testing.assert_allclose(path.nll["answer"][step], answer[0], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("family", "block", "objective"),
  [
    ("qwen3_5_text", 64, "joint"),  # as long as a chunk, in the middle of one, a part of one
    ("qwen3_5_text", 48, "joint"),
    ("qwen3_5_text", 48, "answer"),
    ("qwen3_5_text", 16, "answer"),
    ("qwen3_5_moe_text", 48, "joint"),
    ("qwen3_next", 16, "joint"),
    ("lfm2", 64, "joint"),
    ("lfm2", 16, "answer"),
  ],
)
def test_every_deletion_equals_a_full_pass(load, objective, family, block):
  reference, model = load(family)
  # The text goes over two borders, one of them in the reasoning and one behind it.
  paths = [
    PrunePath(_segments(seed, shape), floor=0)
    for seed, shape in enumerate([(CHUNK - 8, 20, 5), (3, 9, 1), (2 * CHUNK - 15, 12, 6)])
  ]
  batch = SearchBatch.of(model, paths, SearchSettings(objective, block))
  scorer = Scorer(model.decoder, batch.program)
  running = jnp.ones(len(paths), bool)

  @jax.jit
  def score(state):
    state = run_texts(scorer, state, running)
    wanted = candidates(state.texts, running)
    return score_deletions(scorer, state, wanted)[1].nll, wanted

  nll, wanted = score(batch.start(paths))
  for row, path in enumerate(paths):
    reasoning = path.segments.reasoning
    units = np.flatnonzero(wanted[row])
    assert len(units) >= len(reasoning) - 2
    left = np.stack([np.delete(reasoning, unit) for unit in units])
    expected = full_pass_nlls(reference, path.segments, left)[OBJECTIVES.index(objective)]
    np.testing.assert_allclose(nll[row, units], expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("objective", "sizes"),  # of blocks, and of what is kept
  [("joint", [(64, 1e9), (16, 0.0)]), ("answer", [(16, 1e9), (16, 0.0)])],
)
def test_searches_over_borders_equal_full_passes(models, objective, sizes):
  reference, model = models
  segments = _segments(5, (CHUNK - 7, 14, 4))
  expected = full_pass_search(reference, segments, objective, floor=5)
  assert min(expected.gaps) > 1e-5
  for block, kept in sizes:
    path = PrunePath(segments, floor=5)
    [path] = _search(model, [path], objective, block_positions=block, kept_bytes=kept)
    assert list(path.deleted) == expected.deleted
    np.testing.assert_allclose(path.nll["joint"], expected.joint, atol=1e-5)
    np.testing.assert_allclose(path.nll["answer"], expected.answer, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_units_and_unequal_chains_equal_full_passes(models, objective):
  reference, model = models
  shapes, sizes = [(CHUNK - 9, 16, 4), (9, 11, 3)], [(2, 1, 5, 1, 1, 3, 2, 1), None]
  chains = [_segments(seed, shape) for seed, shape in enumerate(shapes)]
  paths = [PrunePath(chain, 3, size) for chain, size in zip(chains, sizes, strict=True)]
  for path in _search(model, paths, objective):
    expected = full_pass_search(reference, path.segments, objective, 3, path.unit_sizes)
    assert list(path.deleted) == expected.deleted
    np.testing.assert_allclose(path.nll[objective], getattr(expected, objective), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_races_whose_windows_end_early_hold(models, objective):
  reference, model = models
  segments = _segments(6, (CHUNK - 7, 18, 4))
  found = []
  for kept in (1e9, 0.0):
    path = PrunePath(segments, floor=6)
    [path] = _search(model, [path], objective, screen=SMALL, kept_bytes=kept)
    _assert_full_passes(reference, path)
    found.append(path)
  assert found[0].deleted == found[1].deleted
  assert found[0].positions_scored < found[1].positions_scored
  whole, raced = (PrunePath(segments, floor=6) for _ in range(2))
  [whole] = _search(model, [whole], objective)
  [raced] = _search(model, [raced], objective, screen=EVERYTHING)
  assert whole.deleted == raced.deleted


def test_memory_that_is_planned_is_what_a_chain_takes(models):
  _, model = models
  paths = [PrunePath(_segments(0, (40, 9, 3)), 5)]
  batch = SearchBatch.of(model, paths, SearchSettings("joint", 64, kept_bytes=0.0))
  state, places = jax.eval_shape(lambda: batch.start(paths)), batch.program.places
  caches = jax.tree.leaves((state.text_cache, state.kept_cache, state.borders))
  planned = _chain_bytes(model.config, places, Placement(4, 1, 1, "cpu")) - 2 * places**2
  assert sum(x.size * x.dtype.itemsize for x in caches) == planned


@pytest.mark.slow
def test_texts_against_one_prompt_equal_full_passes(models):
  reference, model = models
  segments = _segments(7, (CHUNK + 6, 9, 3))
  gone = [[0], [8], [3, 4, 5], []]
  nlls = score_texts(model, start_prompt(model, segments, 64), segments, gone, 64)
  for index, positions in enumerate(gone):
    left = np.delete(segments.reasoning, positions)
    joint, answer = full_pass_nlls(reference, segments, left[None])
    np.testing.assert_allclose(nlls.joint[index], joint[0], atol=1e-5)
    np.testing.assert_allclose(nlls.answer[index], answer[0], atol=1e-5)


@pytest.mark.slow
def test_a_chain_without_numbers_leaves_the_others_alone(models):
  _, model = models
  bad = model.decoder.embedding[...].at[60].set(jnp.nan)
  decoder = model.decoder
  decoder.embedding.set_value(bad)
  broken = type(model).from_decoder(decoder)
  good, other = _segments(8, (9, 12, 3)), _segments(9, (9, 12, 3))
  for part in (good, other):
    for ids in (part.prompt, part.reasoning, part.answer):
      ids[ids == 60] = 1
  [alone] = _search(model, [PrunePath(good, floor=6)], "joint")
  other.reasoning[4] = 60
  paths = [PrunePath(other, floor=6), PrunePath(good, floor=6)]
  spoiled, beside = _search(broken, paths, "joint")
  assert beside.deleted == alone.deleted
  assert spoiled.deleted != beside.deleted
