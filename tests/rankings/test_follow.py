"""NLLs along given orders against full forward passes; going on from where a run stopped."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.models.pretrained import load_model
from greedy_prune_jax.rankings.follow import follow_ranking, path_positions
from greedy_prune_jax.rankings.interface import RankedTokens, RankingInput, order_of_units
from greedy_prune_jax.search.host import SearchSettings
from greedy_prune_jax.search.path import PrunePath
from greedy_prune_jax.search.texts import _score, texts_at_once
from tests.helpers.full_passes import full_pass_nlls, random_segments
from tests.helpers.reference import tiny_config, tiny_model

SETTINGS = SearchSettings(objective="joint", block_positions=48)  # 3 texts of 16 positions at once
ORDER = [3, 11, 0, 7, 8, 2, 10, 1, 5, 9, 4, 6]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  """The same tiny model in transformers and in ours; its layers have windows of 5 tokens."""
  reference = tiny_model(tiny_config("gemma3_text"))
  folder = tmp_path_factory.mktemp("model")
  reference.save_pretrained(folder)
  return reference.float(), load_model(str(folder), jnp.float32)


def follow(model, path, order=ORDER, settings=SETTINGS, report=lambda path: None):
  chain = RankingInput("c", path.segments, ("",) * len(path.segments.reasoning))
  return follow_ranking(
    model, path, lambda _: RankedTokens(list(order), 100), chain, settings, report
  )


@pytest.mark.slow
@pytest.mark.parametrize("floor", [0, 5])
def test_a_path_equals_full_passes(models, floor):
  reference, model = models
  segments = random_segments(0, model.config.vocab_size, (9, 12, 4))
  path = PrunePath(segments, floor)
  path = follow(model, path)
  assert path.finished
  assert path.deleted == tuple(ORDER[: 12 - floor])
  for k in range(12 - floor + 1):
    kept = np.delete(segments.reasoning, ORDER[:k])
    joint, answer = full_pass_nlls(reference, segments, kept[None])
    np.testing.assert_allclose(path.nll["joint"][k], joint[0], atol=2e-5)
    np.testing.assert_allclose(path.nll["answer"][k], answer[0], atol=2e-5)
    if len(kept):
      reasoning = (joint[0] * (len(kept) + 4) - answer[0] * 4) / len(kept)
      np.testing.assert_allclose(path.nll["reasoning"][k], reasoning, atol=5e-5)
    else:
      assert path.nll["reasoning"][k] is None
  assert len(path.nll["joint"]) == len(path.nll["reasoning"]) == 12 - floor + 1
  # The ranking's own, the prompt, and each text but for its last token.
  assert path.positions_scored == 100 + 9 + sum(n + 3 for n in range(floor, 13))


@pytest.mark.parametrize(
  ("every", "marks", "sizes", "scored"),
  [
    (4, (7, 2), None, [0, 4, 5, 9, 10]),
    (100, (7, 2), None, [0, 5, 10]),
    (2, (7, 2), (2, 1, 3, 1, 5), [0, 2, 4]),  # after which 12, 5 and 1 tokens are left
  ],
)
def test_texts_between_steps_are_not_scored(models, every, marks, sizes, scored):
  _, model = models
  segments = random_segments(0, model.config.vocab_size, (9, 12, 4))
  whole, path = (PrunePath(segments, 2, sizes, marks=marks) for _ in range(2))
  whole = follow(model, whole)
  expected = path_positions(path, every)
  path = follow(model, path, settings=SETTINGS._replace(deletions_per_step=every))
  assert path.deleted == whole.deleted
  for name, values in whole.nll.items():
    assert len(path.nll[name]) == len(values)
    assert [k for k, value in enumerate(path.nll[name]) if value is not None] == scored
    for k in scored:
      np.testing.assert_allclose(path.nll[name][k], values[k], atol=1e-5)
  assert path.positions_scored < whole.positions_scored
  if sizes is None:
    assert path.positions_scored == 100 + expected


@pytest.mark.slow
def test_a_path_with_texts_between_goes_on_where_it_stopped(models):
  _, model = models
  segments = random_segments(1, model.config.vocab_size, (9, 12, 4))
  settings = SETTINGS._replace(deletions_per_step=2, block_positions=40)
  whole = PrunePath(segments, 2, marks=(7,))
  whole = follow(model, whole, settings=settings)
  states = stops(model, segments, settings=settings, marks=(7,))
  assert len(states) > 2
  for state in states:
    path = PrunePath(segments, 2, marks=(7,), **state)
    path = follow(model, path, settings=settings)
    assert path.deleted == whole.deleted
    assert path.positions_scored == whole.positions_scored
    assert [value is None for value in path.nll["joint"]] == [
      value is None for value in whole.nll["joint"]
    ]


SIZES = (2, 1, 3, 1, 5)
# Mean ranks of the units in ORDER: tokens 0-1 4.5, 2 5, 3-5 6.33, 6 11, 7-11 4.6.
UNIT_ORDER = [0, 1, 7, 8, 9, 10, 11, 2, 3, 4, 5, 6]


def test_units_leave_in_the_order_of_their_mean_ranks(models):
  reference, model = models
  assert order_of_units(ORDER, SIZES) == UNIT_ORDER
  assert order_of_units(ORDER, (1,) * 12) == ORDER
  segments = random_segments(0, model.config.vocab_size, (9, 12, 4))
  path = PrunePath(segments, 2, SIZES)
  expected = path_positions(path)
  path = follow(model, path)
  assert path.deleted == tuple(UNIT_ORDER[:11])
  assert path.num_deletions == 4
  gone = [0, 2, 7, 8, 11]
  for k, num_gone in enumerate(gone):
    kept = np.delete(segments.reasoning, UNIT_ORDER[:num_gone])
    joint, answer = full_pass_nlls(reference, segments, kept[None])
    np.testing.assert_allclose(path.nll["joint"][k], joint[0], atol=2e-5)
    np.testing.assert_allclose(path.nll["answer"][k], answer[0], atol=2e-5)
  assert path.positions_scored == 100 + 9 + sum(12 - num_gone + 3 for num_gone in gone)
  assert path.positions_scored - 100 == pytest.approx(expected, rel=0.2)


def test_a_path_of_units_that_goes_on_equals_one_that_never_stopped(models):
  _, model = models
  segments = random_segments(1, model.config.vocab_size, (9, 12, 4))
  whole = PrunePath(segments, 0, SIZES)
  whole = follow(model, whole)
  states = stops(model, segments, 0, SIZES)
  assert [len(state["deleted"]) for state in states] == [2, 8, 12]
  path = PrunePath(segments, 0, SIZES, **states[0])
  path = follow(model, path)
  assert path.deleted == whole.deleted
  assert path.positions_scored == whole.positions_scored
  np.testing.assert_allclose(path.nll["joint"], whole.nll["joint"], atol=1e-6)


def stops(model, segments, floor=2, unit_sizes=None, settings=SETTINGS, marks=()):
  """States to resume from, each time that the path reports."""
  path, found = PrunePath(segments, floor, unit_sizes, marks=marks), []

  def report(longer):
    state = dataclasses.asdict(longer)
    found.append({name: state[name] for name in ("deleted", "nll", "positions_scored", "seconds")})

  follow(model, path, settings=settings._replace(seconds_between_reports=-1.0), report=report)
  return found


def test_a_path_that_goes_on_equals_one_that_never_stopped(models):
  _, model = models
  segments = random_segments(1, model.config.vocab_size, (9, 12, 4))
  whole = PrunePath(segments, 2)
  whole = follow(model, whole)
  states = stops(model, segments)
  assert [len(state["deleted"]) for state in states] == [1, 3, 5, 7, 10]
  for state in states:
    path = PrunePath(segments, 2, **state)
    path = follow(model, path)
    assert path.deleted == whole.deleted
    assert path.positions_scored == whole.positions_scored
    for name, values in whole.nll.items():
      np.testing.assert_allclose(path.nll[name], values, atol=1e-6)


def test_what_was_deleted_stays_deleted_if_another_device_ranks_otherwise(models):
  reference, model = models
  segments = random_segments(1, model.config.vocab_size, (9, 12, 4))
  path = PrunePath(segments, 2, **stops(model, segments)[2])
  path = follow(model, path, sorted(ORDER))
  assert path.deleted == tuple(ORDER[:5] + sorted(ORDER[5:])[:5])
  kept = segments.reasoning[path.kept]
  joint, _ = full_pass_nlls(reference, segments, kept[None])
  np.testing.assert_allclose(path.nll["joint"][-1], joint[0], atol=2e-5)


def test_a_nan_stops_a_path_where_it_is(models):
  _, model = models
  broken = model.config.vocab_size - 1
  decoder = nnx.clone(model.decoder)  # which shares its weights with the model of other tests
  decoder.embedding[...] = decoder.embedding[...].at[broken].set(jnp.nan)
  path = PrunePath(random_segments(2, broken, (5, 12, 3)), 2)
  path.segments.reasoning[4] = broken
  path = follow(Model.from_decoder(decoder), path)
  assert not path.finite
  assert path.finished
  assert path.deleted == ()


@pytest.mark.parametrize(
  ("num_left", "block_positions", "count"), [(100, 48, 2), (5, 4800, 8), (17, 4800, 32), (1, 8, 1)]
)
def test_texts_are_run_in_few_sizes(models, num_left, block_positions, count):
  assert texts_at_once(models[1], 16, num_left, block_positions) == count


@pytest.mark.slow
def test_texts_of_like_length_share_a_program(models):
  _, model = models
  _score.clear_cache()
  for seed in range(2):
    follow(model, PrunePath(random_segments(seed, model.config.vocab_size, (9, 12, 4)), 0))
  assert _score._cache_size() == 2  # texts of up to 16 tokens, two at once, and of up to 8
