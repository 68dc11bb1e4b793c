"""Search by runs of units against full forward passes, and against what truncation leaves."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from greedy_prune_jax.models.pretrained import load_model
from greedy_prune_jax.parallel import MeshSettings, make_mesh, weight_shardings
from greedy_prune_jax.scoring import exact, racing
from greedy_prune_jax.scoring.exact import candidates
from greedy_prune_jax.scoring.racing import RacePlan
from greedy_prune_jax.scoring.scorer import Scorer
from greedy_prune_jax.scoring.stream import Text, distinct_candidates
from greedy_prune_jax.search import host
from greedy_prune_jax.search.greedy import with_widths
from greedy_prune_jax.search.host import SearchBatch, SearchSettings
from greedy_prune_jax.search.path import PrunePath
from greedy_prune_jax.search.runs import prune_by_runs
from greedy_prune_jax.search.screen import ScreenSettings
from tests.helpers.full_passes import full_pass_nlls, random_segments
from tests.helpers.passes import race_deletions, score_deletions
from tests.helpers.reference import tiny_config, tiny_model

# Windows that reach the end of every chain, and a margin that ends no race: exact again.
EVERYTHING = ScreenSettings(window=40, margin=1e3)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  """A tiny model in transformers, alone, and on a mesh."""
  reference = tiny_model(
    tiny_config("llama", num_attention_heads=4, num_key_value_heads=2, vocab_size=64)
  )
  folder = tmp_path_factory.mktemp("model")
  reference.save_pretrained(folder)
  choose = weight_shardings(make_mesh(MeshSettings(data=2, model=2)))
  one = load_model(str(folder), jnp.float32)
  return reference.float(), one, load_model(str(folder), jnp.float32, shardings=choose)


def _path(model, seed, shape, marks, unit_sizes=None):
  segments = random_segments(seed, model.config.vocab_size, shape)
  return PrunePath(segments, floor=min(marks), marks=marks, unit_sizes=unit_sizes)


def _flat(units):
  return [*itertools.chain.from_iterable(units)]


class _Oracle:
  """Search by runs as it is described, every text by a full forward pass."""

  def __init__(self, reference, segments, objective):
    self.gaps = []  # of all decisions, by how much the other was behind
    self._score = lambda texts: full_pass_nlls(reference, segments, segments.reasoning[texts])[
      0 if objective == "joint" else 1
    ]

  def _delete_run(self, kept, width):
    """Of lists of positions, one for each unit: those that are left, and those that go."""
    tokens = [len(unit) for unit in kept]
    runs = [
      (i, next(j for j in range(i, len(kept)) if sum(tokens[i : j + 1]) >= width) + 1)
      for i in range(len(kept))
      if sum(tokens[i:]) >= width
    ]
    texts = [kept[:i] + kept[j:] for i, j in runs]
    nlls = np.concatenate([self._score(np.array([_flat(text)], int)) for text in texts])
    best = int(np.flatnonzero(nlls < nlls.min() + 1e-6)[0])
    behind = nlls[nlls > nlls[best] + 1e-6]
    self.gaps.extend(behind.min(initial=np.inf)[None] - nlls[best])
    start, stop = runs[best]
    return texts[best], kept[start:stop], nlls[best]

  def _attempt(self, kept, missing, parts):
    width, gone = -(-missing // parts), []
    while len(_flat(gone)) < missing:
      kept, run, nll = self._delete_run(kept, min(width, missing - len(_flat(gone))))
      gone += run
    return nll, kept, _flat(gone)

  def search(self, path):
    ends = np.cumsum(path.unit_sizes or [1] * len(path.segments.reasoning)).tolist()
    kept = [[*range(*span)] for span in itertools.pairwise([0, *ends])]
    deleted = []
    for mark in sorted(path.marks, reverse=True):
      missing = len(_flat(kept)) - mark
      if missing <= 0:  # went with a unit that the mark before wanted
        continue
      best, parts = self._attempt(kept, missing, 1), 2
      while parts < 2 * missing:
        other = self._attempt(kept, missing, parts)
        gain = best[0] - other[0]
        self.gaps += [abs(gain - 1e-5)] if abs(gain) > 1e-6 else []  # else the same text
        if gain < 1e-5:
          break
        best, parts = other, 2 * parts
      kept, deleted = best[1], deleted + best[2]
    return deleted


@pytest.mark.slow
@pytest.mark.parametrize("units", ["tokens", "longer"])
@pytest.mark.parametrize("objective", ["joint", "answer"])
def test_equals_full_passes_on_any_mesh_several_chains_a_batch(models, objective, units):
  reference, one_device, mesh = models
  shapes = [(9, 17, 4), (3, 22, 1), (14, 5, 6)]
  marks = [(14, 9, 3), (18, 5), (2, 0)]
  longer = [(3, 1, 1, 4, 2, 1, 5), (1, 2) * 7 + (1,), (2, 3)]
  sizes = longer if units == "longer" else [None] * 3
  cases = zip(shapes, marks, sizes, strict=True)
  paths = [_path(one_device, i, *case) for i, case in enumerate(cases)]
  oracles = [_Oracle(reference, path.segments, objective) for path in paths]
  expected = [oracle.search(path) for oracle, path in zip(oracles, paths, strict=True)]
  exact = SearchSettings(objective=objective, block_positions=48)
  # A mesh, and windows over all, meet both objectives and both kinds of unit.
  other = (one_device, exact._replace(screen=EVERYTHING))
  if (units == "longer") == (objective == "joint"):
    other = (mesh, exact)
  for model, settings in ((one_device, exact), other):
    found = prune_by_runs(model, paths, settings)
    for path, oracle, deleted in zip(found, oracles, expected, strict=True):
      assert min(oracle.gaps) > 1e-5  # else the order would hang on rounding
      assert list(path.deleted) == deleted
      _assert_nlls_are_of_the_texts(reference, path)


def _assert_nlls_are_of_the_texts(reference, path):
  whole = len(path.segments.reasoning)
  sizes = path.unit_sizes or (1,) * whole
  size_at = dict(zip(itertools.accumulate((0, *sizes)), sizes, strict=False))
  of_deleted = [size_at[position] for position in path.deleted if position in size_at]
  gone = [0, *itertools.accumulate(of_deleted)]  # tokens, after so many units
  ends = [0, *itertools.accumulate(path.move_sizes)]
  assert (ends[-1], gone[-1]) == (len(path.deleted), len(path.deleted))
  moves = [gone.index(end) for end in ends]
  for name, column in (("joint", 0), ("answer", 1)):
    assert len(path.nll[name]) == moves[-1] + 1
    assert [k for k, nll in enumerate(path.nll[name]) if nll is not None] == moves
    for move in moves:
      kept = sorted(set(range(whole)) - set(path.deleted[: gone[move]]))
      nlls = full_pass_nlls(reference, path.segments, path.segments.reasoning[kept][None])
      assert path.nll[name][move] == pytest.approx(nlls[column].item(), abs=2e-5)
  for mark in path.marks:  # the first text that is short enough is one of those with a NLL
    assert next(k for k, tokens in enumerate(gone) if whole - tokens <= mark) in moves


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["joint", "answer"])
@pytest.mark.parametrize("unit_sizes", [None, (3, 1, 1, 4, 2, 1, 5)])
def test_runs_have_their_scores_after_a_deletion_too(models, unit_sizes, objective):
  reference, model, _ = models
  path = _path(model, 3, (9, 17, 4), (2,), unit_sizes)
  settings = SearchSettings(objective=objective, block_positions=48, kept_bytes=0.0)
  batch = SearchBatch.of(model, [path], settings)
  chains = with_widths(batch.start([path], run_texts=True), jnp.array([3]))
  scorer, everyone = Scorer(model.decoder, batch.program), jnp.array([True])

  @jax.jit
  def delete_and_score(chains, unit):
    chains = exact.delete_units(scorer, chains, unit, everyone)
    chains = exact.run_texts(scorer, chains, everyone)
    wanted = candidates(chains.texts, everyone)
    chains, scored = score_deletions(scorer, chains, wanted)
    return chains, scored.nll, wanted

  ends = np.cumsum(unit_sizes or [1] * 17).tolist()
  units = [[*range(*span)] for span in itertools.pairwise([0, *ends])]
  for unit in (4, 2):
    size = host._units_deleted(units, unit, 3)
    chains, nlls, wanted = delete_and_score(chains, jnp.array([unit]))
    del units[unit : unit + size]
    for first in np.flatnonzero(wanted[0]).tolist():
      left = units[:first] + units[first + host._units_deleted(units, first, 3) :]
      text = path.segments.reasoning[_flat(left)][None]
      full = full_pass_nlls(reference, path.segments, text)[0 if objective == "joint" else 1]
      assert nlls[0, first] == pytest.approx(full.item(), abs=2e-5)


@pytest.mark.slow
def test_what_truncation_leaves_at_the_first_mark_is_never_better(models):
  reference, model, _ = models
  for seed in range(4):
    path = _path(model, seed, (9, 16, 4), (11,))
    [found] = prune_by_runs(model, [path], SearchSettings("joint", block_positions=48))
    truncated = path.segments.reasoning[np.array([range(11), range(5, 16)])]
    joint, _ = full_pass_nlls(reference, path.segments, truncated)
    assert found.nll["joint"][-1] <= joint.min() + 1e-5


@pytest.mark.slow
def test_truncations_run_to_their_ends_whatever_their_estimates(models):
  _, model, _ = models
  settings = SearchSettings(
    "joint", block_positions=128, kept_bytes=0.0, screen=ScreenSettings(window=1, margin=0.0)
  )
  path = _path(model, 0, (9, 200, 4), (60,))
  batch = SearchBatch.of(model, [path], settings)
  chains = with_widths(batch.start([path], run_texts=True), jnp.array([140]))
  scorer = Scorer(model.decoder, batch.program)
  wanted = candidates(chains.texts, jnp.array([True]))
  race = jax.jit(lambda *args: race_deletions(scorer, *args, RacePlan(margin=0.0, runs=True)))
  scored = []
  for ends in (True, False):
    _, raced = race(chains, wanted, jnp.array([ends]))
    scored.append({*np.flatnonzero(np.isfinite(raced.nll[0])).tolist()})
  assert {0, 60} < scored[0]
  assert [len(units) for units in scored] == [4, 2]  # one round of a long run
  assert not scored[1] & {0, 60}


@pytest.mark.slow
def test_a_small_race_finds_texts_about_as_likely(models):
  _, model, _ = models
  paths = [_path(model, seed, (9, 40, 4), (30, 20, 10)) for seed in range(4)]
  exact = SearchSettings("joint", block_positions=64)
  raced = prune_by_runs(model, paths, exact._replace(screen=ScreenSettings(window=2, margin=0.1)))
  found = prune_by_runs(model, paths, exact)
  work = [sum(path.positions_scored for path in some) for some in (raced, found)]
  assert work[0] < 0.6 * work[1]
  for path in raced:
    assert path.known is None  # of runs of one size, and of use to no other
    assert path.tally["num_scored"] > 0
  last = [np.mean([path.nll["joint"][-1] for path in some]) for some in (raced, found)]
  assert last[0] < 1.1 * last[1]


@pytest.mark.slow
def test_a_search_that_was_cut_off_at_a_mark_ends_as_one_that_was_not(models):
  _, model, _ = models
  path = _path(model, 5, (9, 20, 4), (15, 9, 4))
  settings = SearchSettings("joint", block_positions=48)
  stored = []
  [whole] = prune_by_runs(model, [path], settings, lambda paths: stored.extend(paths))
  lengths = [len(path.kept) for path in stored]
  assert sorted(set(lengths), reverse=True) == [20, 15, 9, 4]
  [resumed] = prune_by_runs(model, [stored[lengths.index(15)]], settings)
  assert resumed.deleted == whole.deleted
  assert resumed.move_sizes == whole.move_sizes
  np.testing.assert_allclose(
    np.array(resumed.nll["joint"], float), np.array(whole.nll["joint"], float), atol=2e-6
  )


@pytest.mark.slow
def test_what_attempts_cost_is_told_on_the_way_to_a_mark(models):
  _, model, mesh = models
  paths = [_path(model, seed, (9, 20, 4), (10,)) for seed in range(3)]
  settings = SearchSettings("joint", block_positions=48)
  for pruner in (model, mesh):  # the mesh takes a chain more than there are
    stored = []
    prune_by_runs(pruner, paths, settings, stored.append)
    for row in zip(*stored, strict=True):
      costs = [path.positions_scored for path in row]
      assert costs == sorted(costs)
      assert len({*costs[:-1]}) > 2  # before anything is deleted for good
      assert [len(path.deleted) for path in row] == [*[0] * (len(row) - 1), 10]
      assert costs[-2] == costs[-1]


@pytest.mark.slow
def test_runs_are_no_more_than_wanted(models):
  _, model, _ = models
  path = _path(model, 5, (9, 20, 4), (10,))
  found = {}
  for most in (0, 1, 2, 3, 5):
    settings = SearchSettings("joint", block_positions=48, max_runs=most)
    [found[most]] = prune_by_runs(model, [path], settings)
  assert len(found[0].move_sizes) > 2  # so a limit of two matters
  assert [found[most].move_sizes for most in (1, 2)] == [(10,), (5, 5)]
  assert found[3].deleted == found[2].deleted  # runs are doubled
  costs = [found[most].positions_scored for most in (1, 2, 3, 5)]
  assert costs[0] < costs[1] == costs[2] < costs[3] <= found[0].positions_scored


@pytest.mark.slow
def test_a_second_look_finds_what_a_window_does_not_see(models, monkeypatch):
  _, model, _ = models
  paths = [_path(model, seed, (9, 300, 4), (150,)) for seed in range(6)]
  settings = SearchSettings(
    "joint", block_positions=128, screen=ScreenSettings(window=1), max_runs=1
  )
  looked = prune_by_runs(model, paths, settings)
  monkeypatch.setattr(racing, "LOOKED_AT", 1)
  jax.clear_caches()
  blind = prune_by_runs(model, paths, settings)
  jax.clear_caches()
  nlls = [[path.nll["joint"][-1] for path in some] for some in (looked, blind)]
  assert nlls[0] != nlls[1]
  assert np.mean(nlls[0]) < np.mean(nlls[1])


def test_long_runs_begin_at_each_64th_of_their_width():
  tokens = [5] * 290 + [1] * 10  # all of the reasoning is equal
  text = Text(*(jnp.int32(x) for x in (tokens, 1, 284, 3, [1] * 284 + [0] * 6, 284, 1)))
  for width, starts in (
    (1, [0]),
    (127, [0]),
    (128, [*range(0, 157, 2)]),
    (200, [*range(0, 84, 3), 84]),
    (284, [0]),
  ):
    found = distinct_candidates(text._replace(width=jnp.int32(width)))
    assert np.flatnonzero(found).tolist() == starts


@pytest.mark.slow
def test_a_race_of_short_runs_is_the_same_beside_long_ones(models):
  _, model, _ = models
  path = _path(model, 0, (9, 60, 4), (30,))
  long = _path(model, 3, (9, 300, 4), (150,))  # one round of a race, where short runs have four
  race = SearchSettings("joint", block_positions=128, screen=ScreenSettings(window=2, margin=9.0))
  [alone] = prune_by_runs(model, [path], race)
  beside, _ = prune_by_runs(model, [path, long], race)
  assert beside.deleted == alone.deleted
  assert beside.tally["num_scored"] == alone.tally["num_scored"]
