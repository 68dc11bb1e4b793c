"""Screened search against exact search, and its estimates against what they stand for."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from greedy_prune_jax.chains.segments import Segments
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.scoring import racing
from greedy_prune_jax.search import capacity
from greedy_prune_jax.search.capacity import placement_of
from greedy_prune_jax.search.greedy import prune_steps
from greedy_prune_jax.search.host import SearchSettings, plan_program, prune_paths
from greedy_prune_jax.search.path import PrunePath
from greedy_prune_jax.search.remembered import pack_known, unpack_known
from greedy_prune_jax.search.screen import ScreenSettings, mean_window
from greedy_prune_jax.search.work import search_positions
from tests.helpers.full_passes import full_pass_nlls, random_segments

# Windows that reach the end: nothing is estimated then.
EVERYTHING = ScreenSettings(window=64, margin=0.0)
SMALL = ScreenSettings(window=2, margin=0.05)  # random models change little


def _path(model, seed=0, shape=(9, 16, 4), floor=6, **fields):
  return PrunePath(random_segments(seed, model.config.vocab_size, shape), floor=floor, **fields)


def _search(model, paths, objective, **settings):
  settings = SearchSettings(objective=objective, block_positions=64, **settings)
  return prune_paths(model, paths, settings)


def _assert_same(path, other):
  assert path.deleted == other.deleted
  for name in ("joint", "answer"):
    nlls = (np.array(some.nll[name], float) for some in (path, other))  # None: not known
    np.testing.assert_allclose(*nlls, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["joint", "answer"])
@pytest.mark.parametrize("unit_sizes", [None, (2, 1, 5, 1, 1, 3, 2, 1)])
def test_windows_up_to_the_end_are_exact_search(model, objective, unit_sizes):
  paths = [_path(model, unit_sizes=unit_sizes) for _ in range(2)]
  [exact] = _search(model, paths[:1], objective)
  [screened] = _search(model, paths[1:], objective, screen=EVERYTHING)
  paths = [exact, screened]
  _assert_same(*paths)
  # What was estimated was so from changes close by: a margin of nothing is enough.


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["joint", "answer"])
def test_a_check_finds_what_exact_search_would_have_chosen(model, objective):
  def searched(seed, **settings):
    path = _path(model, seed, floor=8)
    [path] = _search(model, [path], objective, **settings)
    return path

  missed = 0
  for seed in range(3):
    checked = searched(seed, screen=SMALL, check=True)
    _assert_same(searched(seed, screen=SMALL), checked)
    exact = searched(seed)
    same = next((i for i in range(8) if checked.deleted[i] != exact.deleted[i]), 8)
    # Until a winner is missed the paths are one; then the exact one is better, for a step.
    assert (checked.tally["missed"] > 0) == (same < 8)
    assert (checked.tally["lost"] > 0) == (same < 8)
    if same < 8:
      assert exact.nll[objective][same + 1] < checked.nll[objective][same + 1]
    missed += checked.tally["missed"]
    assert checked.tally["steps"] == 8
  assert missed  # else this test tells nothing


@pytest.mark.slow
def test_a_margin_widens_the_race(model):
  scored = []
  for margin in (0.0, 1.0, 1e3):
    path = _path(model, floor=12)
    settings = dataclasses.replace(SMALL, margin=margin)
    [path] = _search(model, [path], "joint", screen=settings)
    scored.append(path.tally["num_scored"])
  assert 4 <= scored[0] < scored[1] < scored[2]
  # With a margin without end all that four rounds can run are run.
  assert scored[2] >= 4 * 12


@pytest.mark.slow
def test_sixteen_candidates_at_most_enter_a_race(model):
  path = _path(model, 0, (9, 40, 4), floor=39)
  [path] = _search(model, [path], "joint", screen=dataclasses.replace(SMALL, margin=1e3))
  # Two go on at a time, and the last two of them may be one that runs and one that is new.
  assert path.tally["num_scored"] in (16, 17)
  assert racing.most_in_race(1, runs=False) == 17


@pytest.mark.slow
def test_upsets_are_estimates_too_high_by_more_than_the_margin(model):
  counts = []
  for margin in (0.0, 1e-3, 1e3):
    settings = dataclasses.replace(SMALL, margin=margin)
    [path] = _search(model, [_path(model)], "joint", screen=settings)
    counts.append(path.tally["upsets"] / path.tally["num_scored"])
  assert counts[0] > counts[2] == 0
  assert 0.1 < counts[0] < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["joint", "answer"])
def test_a_batch_finds_what_its_chains_find_alone(model, objective):
  shapes = [((9, 14, 4), 8), ((3, 12, 1), 7), ((12, 2, 6), 0)]
  together, alone = (
    [_path(model, i, shape, floor) for i, (shape, floor) in enumerate(shapes)] for _ in range(2)
  )
  together = _search(model, together, objective, screen=SMALL)
  alone = [_search(model, [path], objective, screen=SMALL)[0] for path in alone]
  for path, other in zip(together, alone, strict=True):
    _assert_same(path, other)


def _full_nlls(reference, path):
  """Joint NLLs by full passes: of the whole chain, and after each deletion."""
  kept = [
    sorted({*range(len(path.segments.reasoning))} - {*path.deleted[:k]})
    for k in range(len(path.deleted) + 1)
  ]
  texts = [path.segments.reasoning[np.array(k, int)][None] for k in kept]
  return [full_pass_nlls(reference, path.segments, text)[0].item() for text in texts]


@pytest.mark.slow
@pytest.mark.parametrize("deletions", [1, 2])
def test_what_is_kept_of_candidates_changes_only_the_work(reference, model, deletions):
  """Places for all candidates, for all or some of those in the race, and for none."""
  found, programs = [], []
  for columns in (10_000, 3_000, 5 * 128, 0):
    path = _path(model, 7, (9, 90, 4), floor=78)
    kept_bytes = float(columns * capacity._column_bytes(model.config, placement_of(model)))
    settings = SearchSettings("joint", 64, kept_bytes, screen=SMALL, deletions_per_step=deletions)
    programs.append(plan_program(model, [path], settings))
    found += prune_paths(model, [path], settings)
  assert [program.pooled for program in programs] == [False, True, True, True]
  places = [program.kept // program.places for program in programs[1:]]
  most = racing.most_in_race(deletions, runs=False)
  assert places[0] == most > places[1] > places[2] == 0
  for path in found[1:]:
    _assert_same(found[0], path)
    for name in ("num_scored", "upsets", "steps"):
      assert path.tally[name] == found[0].tally[name]
    np.testing.assert_allclose(
      path.tally["squared_error"], found[0].tally["squared_error"], rtol=1e-2
    )
  work = [path.positions_scored for path in found]
  assert work[0] <= work[1] <= work[2] < work[3]
  if deletions == 1:
    np.testing.assert_allclose(found[1].nll["joint"], _full_nlls(reference, found[1]), atol=2e-5)


@pytest.mark.slow
def test_most_that_lose_never_run_to_their_ends(model, monkeypatch):
  """In parts, fewer positions find paths about as likely as at once."""
  found = {}
  for part in (4, 1000):
    monkeypatch.setattr(racing, "_FIRST_PART", part)
    jax.clear_caches()
    paths = [_path(model, seed, (9, 60, 4), floor=45) for seed in range(3)]
    found[part] = prune_paths(model, paths, SearchSettings("joint", 64, screen=SMALL))
  jax.clear_caches()
  work, scored = (
    {part: sum(count(path) for path in paths) for part, paths in found.items()}
    for count in (lambda path: path.positions_scored, lambda path: path.tally["num_scored"])
  )
  assert work[4] < work[1000]
  assert scored[4] < scored[1000]
  last = {part: np.mean([path.nll["joint"][-1] for path in some]) for part, some in found.items()}
  assert last[4] < 1.01 * last[1000]


@pytest.mark.slow
@pytest.mark.parametrize("deletions", [1, 3])
def test_a_search_that_comes_back_often_or_stops_finds_the_same(model, deletions):
  settings = {"screen": SMALL, "deletions_per_step": deletions}
  whole = _path(model, 5, (9, 20, 4), floor=4, marks=(11,))
  [whole] = _search(model, [whole], "joint", **settings)
  often = _path(model, 5, (9, 20, 4), floor=4, marks=(11,))
  [often] = _search(model, [often], "joint", **settings, seconds_between_reports=0.0)

  stopped = _path(model, 5, (9, 20, 4), floor=11, marks=(11,))
  [stopped] = _search(model, [stopped], "joint", **settings)
  fields = ("deleted", "nll", "positions_scored", "known", "tally")
  found = {name: getattr(stopped, name) for name in fields}
  resumed = _path(model, 5, (9, 20, 4), floor=4, marks=(11,), **found)
  [resumed] = _search(model, [resumed], "joint", **settings)
  for path in (often, resumed):
    assert path.deleted == whole.deleted
    for name, values in whole.nll.items():
      theirs = np.array(values, float)
      np.testing.assert_allclose(np.array(path.nll[name], float), theirs, atol=1e-6)
    assert path.tally == pytest.approx(whole.tally, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("screen", [None, SMALL])
def test_several_deletions_from_one_scoring(model, screen):
  path = _path(model, 2, (9, 20, 4), floor=8, marks=(13, 8))
  [path] = _search(model, [path], "joint", deletions_per_step=3, screen=screen)
  assert sorted([*path.deleted, *path.kept]) == list(range(20))
  assert len(path.deleted) == 12
  known = [i for i, nll in enumerate(path.nll["joint"]) if nll is not None]
  # NLLs are known where a scoring began, and where they were asked for: 13 and 8 tokens left.
  assert {0, 7, 12} <= set(known)
  assert len(known) < 13
  if screen is None:  # a shortlist may hold too few that are not neighbours
    assert known == [0, 3, 6, 7, 10, 12]
  # They are those of the texts that were left.
  other = _path(model, 2, (9, 20, 4), floor=13, deleted=path.deleted[:7])
  [other] = _search(model, [other], "joint")
  np.testing.assert_allclose(other.nll["joint"][0], path.nll["joint"][7], atol=1e-5)
  for start, stop in itertools.pairwise(known):
    left = [i for i in range(20) if i not in path.deleted[:start]]
    places = sorted(left.index(position) for position in path.deleted[start:stop])
    assert min(np.diff(places), default=2) > 1  # none next to another


@pytest.mark.slow
def test_more_deletions_than_units_may_be_asked_for(model):
  path = _path(model, 3, floor=2)
  [path] = _search(model, [path], "joint", screen=SMALL, deletions_per_step=100)
  assert len(path.kept) == 2


@pytest.mark.slow
def test_the_first_of_several_deletions_is_the_best(model):
  path = _path(model, 3, floor=13)
  paths = [_search(model, [path], "joint", deletions_per_step=count)[0] for count in (1, 3)]
  assert paths[0].deleted[0] == paths[1].deleted[0]


@pytest.mark.slow
def test_one_program_from_the_whole_chain_to_its_end(model):
  prune_steps.clear_cache()
  for seed in range(2):
    path = _path(model, seed, (9, 40, 4), floor=0)
    _search(model, [path], "answer", screen=SMALL, seconds_between_reports=0.0)
  assert prune_steps._cache_size() == 1


@pytest.mark.slow
def test_positions_are_counted(model):
  path = _path(model, 6, (7, 6, 3), floor=5)
  [path] = _search(model, [path], "joint", screen=ScreenSettings(window=1, margin=1e3))
  tokens = path.segments.reasoning
  repeated = np.append(False, tokens[1:] == tokens[:-1])  # no candidates of their own
  assert repeated.sum() == 2
  suffixes = 6 - 1 - np.arange(6) + 3 - 1
  # The text; and the four candidates, a position of each in its window and the rest behind that,
  # in parts of which none runs twice.
  # What the winner ran is the text that it leaves.
  assert path.positions_scored == 7 + 6 + 3 - 1 + suffixes[~repeated].sum()
  assert path.tally["num_scored"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["joint", "answer"])
@pytest.mark.parametrize("deletions", [1, 3])
def test_the_expected_positions_are_near_those_counted(model, objective, deletions):
  # How many candidates are in doubt is not known beforehand; windows and the text are.
  screen = ScreenSettings(window=8, margin=0.0)
  settings = {"screen": screen, "deletions_per_step": deletions}
  paths = [_path(model, seed, shape=(9, 44, 4), floor=12) for seed in range(4)]
  paths = _search(model, paths, objective, **settings)
  search = SearchSettings(objective=objective, block_positions=64, **settings)
  counted = sum(path.positions_scored for path in paths)
  assert counted == pytest.approx(sum(search_positions(p, search) for p in paths), rel=0.25)


@pytest.mark.parametrize("objective", ["joint", "answer"])
@pytest.mark.parametrize("by_runs", [False, True])
def test_a_race_is_never_expected_to_run_more_than_exact_search(objective, by_runs):
  """Windows end where the text ends, and a margin asks for no candidate twice."""
  parts = (np.zeros(n, np.int32) for n in (9, 30, 4))
  path = PrunePath(Segments(*parts), floor=0)
  exact = SearchSettings(objective=objective, block_positions=64, by_runs=by_runs)
  positions = [
    search_positions(path, exact._replace(screen=ScreenSettings(window=w, margin=m)))
    for w, m in [(4, 0.0), (32, 0.0), (32, 1.0), (1000, 1e6)]
  ]
  assert positions == sorted(positions)
  assert positions[-1] <= search_positions(path, exact)


@pytest.mark.parametrize("window", [1, 8, 40, 1000])
def test_windows_end_where_the_text_ends(window):
  behind = np.arange(40)[::-1]
  assert mean_window(40, window) == pytest.approx(np.minimum(window, behind).mean(), abs=0.5)


@pytest.mark.parametrize("known", [{"near": [0.0]}, {"changes": "AA==", "stale": [0]}])
def test_estimates_of_another_version_are_named(model, known):
  path = dataclasses.replace(_path(model), known=known)
  with pytest.raises(UserError, match=r"estimates of another version.*unfinished"):
    _search(model, [path], "joint", screen=ScreenSettings())


def test_what_is_remembered_is_packed_and_unpacked_without_loss():
  changes = np.random.default_rng(0).normal(size=(5, 7)).astype(jnp.bfloat16)
  stale = np.array([True, False, False, True, False])
  packed = json.loads(json.dumps(pack_known(changes, stale)))
  same, same_stale = unpack_known(packed, (5, 7))
  np.testing.assert_array_equal(same, changes)
  np.testing.assert_array_equal(same_stale, stale)
  for shape in ((5, 6), (6, 7), (2, 7)):
    with pytest.raises(UserError, match="damaged"):
      unpack_known(packed, shape)
  with pytest.raises(UserError, match="damaged"):
    unpack_known(packed | {"stale": [-1]}, (5, 7))
