"""Greedy search against the published procedure: full forward passes, for every family."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.models.pretrained import load_model
from greedy_prune_jax.scoring import cascade_kernel
from greedy_prune_jax.search.greedy import prune_steps
from greedy_prune_jax.search.host import SearchSettings, prune_paths
from greedy_prune_jax.search.path import PrunePath
from tests.helpers.full_passes import full_pass_nlls, full_pass_search, random_segments
from tests.helpers.reference import FAMILIES, tiny_config, tiny_model

# Both objectives where attention differs; the rest of a layer is the same to either, and of
# recurrent layers `test_recurrent` searches by both.
BOTH = ("llama", "gemma2", "gemma3_text", "gemma4_text", "gpt_oss")
CASES = [(family, "joint") for family in FAMILIES] + [(family, "answer") for family in BOTH]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  """The same tiny model in transformers and in ours."""

  @functools.cache
  def load(family="llama"):
    reference = tiny_model(tiny_config(family))
    folder = tmp_path_factory.mktemp(family)
    reference.save_pretrained(folder)
    return reference.float(), load_model(str(folder), jnp.float32)

  return load


def _search(model, paths, objective, **settings):
  settings = {"block_positions": 64} | settings
  return prune_paths(model, paths, SearchSettings(objective=objective, **settings))


def _assert_equal(path, expected):
  assert min(expected.gaps) > 1e-5  # else the order would hang on rounding
  assert list(path.deleted) == expected.deleted
  np.testing.assert_allclose(path.nll["joint"], expected.joint, atol=2e-5)
  np.testing.assert_allclose(path.nll["answer"], expected.answer, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "objective"), CASES)
def test_search_equals_full_passes(models, family, objective):
  reference, model = models(family)
  segments = random_segments(0, model.config.vocab_size, (9, 14, 4))
  path = PrunePath(segments, floor=9)
  [path] = _search(model, [path], objective)
  _assert_equal(path, full_pass_search(reference, segments, objective, floor=9))


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["joint", "answer"])
def test_a_batch_of_unequal_chains_equals_full_passes(models, objective):
  reference, model = models()
  shapes = [(9, 23, 4), (3, 14, 1), (17, 2, 6), (1, 5, 3)]
  chains = [random_segments(i, model.config.vocab_size, shape) for i, shape in enumerate(shapes)]
  paths = [PrunePath(segments, floor=0) for segments in chains]
  paths = _search(model, paths, objective)
  for path, segments in zip(paths, chains, strict=True):
    _assert_equal(path, full_pass_search(reference, segments, objective, floor=0))


@pytest.mark.slow
def test_what_fills_no_block_is_run_in_smaller_ones(models):
  reference, model = models()
  segments = random_segments(0, model.config.vocab_size, (9, 26, 4))  # suffixes of some 400 tokens
  [path] = _search(model, [PrunePath(segments, floor=23)], "joint", block_positions=256)
  _assert_equal(path, full_pass_search(reference, segments, "joint", floor=23))


@pytest.mark.slow
def test_a_chain_that_is_through_may_be_longer_than_those_that_are_not(models):
  reference, model = models()
  shapes, floors = [(9, 40, 4), (9, 23, 4)], [38, 5]
  chains = [random_segments(i, model.config.vocab_size, shape) for i, shape in enumerate(shapes)]
  paths = [PrunePath(*chain) for chain in zip(chains, floors, strict=True)]
  paths = _search(model, paths, "joint")
  for path, segments, floor in zip(paths, chains, floors, strict=True):
    _assert_equal(path, full_pass_search(reference, segments, "joint", floor=floor))


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["joint", "answer"])
def test_units_of_several_tokens_equal_full_passes(models, objective):
  reference, model = models()
  segments = random_segments(3, model.config.vocab_size, (9, 16, 4))
  unit_sizes = (2, 1, 5, 1, 1, 3, 2, 1)
  path = PrunePath(segments, floor=2, unit_sizes=unit_sizes)
  [path] = _search(model, [path], objective)
  _assert_equal(path, full_pass_search(reference, segments, objective, 2, unit_sizes))


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["joint", "answer"])
def test_a_unit_that_is_all_there_is_can_be_deleted(models, objective):
  reference, model = models()
  segments = random_segments(4, model.config.vocab_size, (9, 7, 4))
  for unit_sizes in ((7,), (3, 4)):
    path = PrunePath(segments, floor=1, unit_sizes=unit_sizes)
    [path] = _search(model, [path], objective)
    _assert_equal(path, full_pass_search(reference, segments, objective, 1, unit_sizes))
    assert len(path.deleted) == 7
    assert path.num_deletions == len(unit_sizes)


@pytest.mark.slow
def test_a_chain_keeps_its_whole_texts_angles_as_it_gets_shorter(tmp_path):
  rope = {"rope_theta": 100.0, "rope_type": "longrope", "factor": 4.0}
  rope |= {"original_max_position_embeddings": 20, "long_factor": [1.0, 2.0, 3.0, 4.0]}
  short = {"short_factor": [1.0, 1.0, 1.0, 1.0]}
  switching, long = (
    tiny_model(tiny_config("llama", rope_parameters=rope | factors)).float()
    for factors in (short, {"short_factor": rope["long_factor"]})
  )
  switching.save_pretrained(tmp_path)
  model = load_model(str(tmp_path), jnp.float32)
  segments = random_segments(0, model.config.vocab_size, (9, 14, 4))  # 27 tokens, and 17 at last
  [path] = _search(model, [PrunePath(segments, floor=4)], "joint")
  _assert_equal(path, full_pass_search(long, segments, "joint", floor=4))
  # By itself the pruned text is a short one.
  left = segments.reasoning[path.kept]
  joint, _ = full_pass_nlls(switching, segments, left[None])
  assert abs(joint[0] - path.nll["joint"][-1]) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
  ("family", "objective", "unit_sizes"),
  [
    ("gemma2", "joint", None),
    ("gpt_oss", "answer", None),
    ("gemma4_text", "joint", None),
    ("llama", "answer", None),
    ("llama", "joint", (2, 1, 5, 1, 3)),
  ],
)
def test_the_attention_kernel_finds_the_same(models, monkeypatch, family, objective, unit_sizes):
  traced, attend = [], cascade_kernel.attend_cascade
  monkeypatch.setattr(
    cascade_kernel, "attend_cascade", lambda *args, **kw: traced.append(1) or attend(*args, **kw)
  )
  _, model = models(family)  # gemma2 has windows and a soft cap, gpt_oss has sinks
  segments = random_segments(7, model.config.vocab_size, (9, 12, 3))
  path = PrunePath(segments, floor=6, unit_sizes=unit_sizes)
  paths = [_search(model, [path], objective, attention=name)[0] for name in ("xla", "pallas")]
  assert traced
  assert paths[1].deleted == paths[0].deleted
  np.testing.assert_allclose(paths[1].nll["joint"], paths[0].nll["joint"], atol=1e-5)
  np.testing.assert_allclose(paths[1].nll["answer"], paths[0].nll["answer"], atol=1e-5)


@pytest.mark.slow
def test_the_lower_of_two_equal_neighbours_goes(models):
  _, model = models()
  segments = random_segments(0, model.config.vocab_size, (4, 6, 2))
  segments.reasoning[:] = segments.reasoning[0]
  path = PrunePath(segments, floor=0)
  [path] = _search(model, [path], "joint")
  assert path.deleted == (0, 1, 2, 3, 4, 5)


@pytest.mark.slow
def test_a_search_that_goes_on_equals_one_that_never_stopped(models):
  _, model = models()
  segments = random_segments(5, model.config.vocab_size, (9, 20, 4))
  whole = PrunePath(segments, floor=4)
  [whole] = _search(model, [whole], "joint")

  first = PrunePath(segments, floor=13)
  [first] = _search(model, [first], "joint")
  positions = first.positions_scored
  second = PrunePath(
    segments, floor=4, deleted=first.deleted, nll=first.nll, positions_scored=positions
  )
  [second] = _search(model, [second], "joint")
  assert second.deleted == whole.deleted
  np.testing.assert_allclose(second.nll["joint"], whole.nll["joint"], atol=1e-6)
  assert len(second.nll["answer"]) == len(whole.nll["answer"]) == 17


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["joint", "answer"])
@pytest.mark.parametrize("unit_sizes", [None, (2, 1, 5, 1, 1, 3, 2, 1)])
def test_what_is_kept_saves_work_and_changes_nothing(models, objective, unit_sizes):
  _, model = models()
  path = PrunePath(random_segments(3, model.config.vocab_size, (9, 16, 4)), 2, unit_sizes)
  column = 2 * model.config.num_layers * model.config.num_kv_heads * model.config.head_dim * 4
  found = [
    _search(model, [path], objective, block_positions=block, kept_bytes=kept)[0]
    for block, kept in ((64, 1e9), (16, 1e9), (64, 128 * column), (16, 0.0))
  ]
  for other in found[1:]:
    assert other.deleted == found[0].deleted
    np.testing.assert_allclose(other.nll["joint"], found[0].nll["joint"], atol=1e-5)
  positions = [path.positions_scored for path in found]
  assert positions[0] == positions[1] < positions[3]


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["joint", "answer"])
def test_positions_are_those_that_nothing_earlier_has_run(models, objective):
  _, model = models()
  segments = random_segments(6, model.config.vocab_size, (7, 4, 3))
  segments.reasoning[:] = [5, 9, 14, 20]  # no two are one candidate
  path = PrunePath(segments, floor=2)
  [path] = _search(model, [path], objective)
  # At first all of prompt and text but the last token, and suffixes of 5, 4, 3, 2.
  positions, kept = 7 + 4 + 3 - 1 + (5 + 4 + 3 + 2), [0, 1, 2, 3]
  for position in path.deleted:
    gap = kept.index(position)
    kept.remove(position)
    behind = len(kept) + 3 - 1  # tokens that run, from the first of reasoning on
    # What would follow the token before the gap, were that deleted, is another token now, and so is
    # what would follow the first behind it: two places before the gap run again.
    old = max(gap - 2, -1)
    if objective == "answer":
      positions += behind - old  # and all behind it
    elif len(kept) > 2:
      positions += gap - old
    if len(kept) > 2:
      # Candidates before the gap go on one token before it (two where the text that they may become
      # needs to know what would follow that one), the others begin anew.
      before = 1 if objective == "answer" else 2
      firsts = [max(gap - before, unit + 1) for unit in range(gap)]
      firsts += [unit + 1 for unit in range(gap, len(kept))]
      positions += sum(behind - first for first in firsts)
  assert path.positions_scored == positions


@pytest.mark.slow
def test_a_nan_stops_its_chain_alone(models):
  _, model = models()
  broken = model.config.vocab_size - 1
  chains = [random_segments(i, broken, (5, 9, 3)) for i in range(2)]
  chains[1].reasoning[4] = broken
  decoder = nnx.clone(model.decoder)  # which shares its weights with the model of other tests
  decoder.embedding[...] = decoder.embedding[...].at[broken].set(jnp.nan)
  paths = [PrunePath(segments, floor=2) for segments in chains]
  paths = _search(Model.from_decoder(decoder), paths, "joint")
  assert paths[0].finite
  assert len(paths[0].deleted) == 7
  assert not paths[1].finite
  assert paths[1].finished
  assert paths[1].deleted == ()


@pytest.mark.slow
def test_one_program_from_the_whole_chain_to_its_end(models):
  _, model = models()
  prune_steps.clear_cache()
  for seed, shape in enumerate([(9, 24, 4), (12, 20, 3)]):
    path = PrunePath(random_segments(seed, model.config.vocab_size, shape), floor=0)
    # Reports after every deletion do not add programs, nor do other lengths.
    _search(model, [path], "answer", seconds_between_reports=0.0)
  assert prune_steps._cache_size() == 1
