"""Screened search against exact search, and its estimates against what they stand for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.attention import attend_masked
from greedy_prune_jax.models.huggingface import load_huggingface
from greedy_prune_jax.scoring import exact
from greedy_prune_jax.scoring.exact import candidates, run_texts, score_deletions
from greedy_prune_jax.scoring.scorer import Scorer, run_spans
from greedy_prune_jax.scoring.shortlist import (
  STALE,
  Estimates,
  _estimate,
  estimated_nlls,
  estimates_after_deletion,
  no_estimates,
  screen_deletions,
  with_estimates,
)
from greedy_prune_jax.scoring.stream import Text, window_spans
from greedy_prune_jax.search.greedy import prune_steps
from greedy_prune_jax.search.host import SearchSettings, _start, plan_program, prune_paths
from greedy_prune_jax.search.path import PrunePath
from greedy_prune_jax.search.screen import ScreenSettings, plan_shortlist
from greedy_prune_jax.search.work import search_positions
from tests.helpers.full_passes import random_segments
from tests.helpers.reference import tiny_config, tiny_model

# Windows that reach the end, shortlists that hold everything: nothing is estimated then.
EVERYTHING = ScreenSettings(window=64, shortlist=64, rounds=1, doubt=0.0)
SMALL = ScreenSettings(window=2, shortlist=2, rounds=2, doubt=1.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  folder = tmp_path_factory.mktemp("llama")
  tiny_model(tiny_config("llama")).save_pretrained(folder)
  return load_huggingface(folder, jnp.float32)


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
  folder = tmp_path_factory.mktemp("gemma")
  tiny_model(tiny_config("gemma3_text")).save_pretrained(folder)
  return load_huggingface(folder, jnp.float32)


def _path(model, seed=0, shape=(9, 16, 4), floor=6, **fields):
  return PrunePath(random_segments(seed, model.config.vocab_size, shape), floor=floor, **fields)


def _search(model, paths, objective, **settings):
  settings = SearchSettings(objective=objective, block_positions=64, **settings)
  return prune_paths(model, paths, settings)


def _assert_same(path, other):
  assert path.deleted == other.deleted
  for name in ("joint", "answer"):
    np.testing.assert_allclose(path.nll[name], other.nll[name], atol=1e-5)


class _Step:
  """One step of some chains: what the scorer is given."""

  def __init__(self, model, path, objective, *others):
    paths = [path, *others]
    settings = SearchSettings(objective, 64, screen=SMALL)
    self.program = plan_program(model, paths, settings)
    self.scorer = Scorer(model.decoder, self.program)
    chains = _start(model, model.graph, paths, self.program).chains
    self.chains, _ = run_texts(self.scorer, chains, jnp.ones(len(paths), bool))
    self.of_all = (self.scorer, self.chains)
    self.candidates = candidates(self.chains.texts, jnp.ones(len(paths), bool))

  def marked(self, units):
    """True at some units of the first chain."""
    return jnp.zeros_like(self.candidates).at[0, jnp.asarray(units)].set(True)

  def windows(self, units, window):
    """Window changes of some units of the first chain; and the positions it took."""
    spans = window_spans(
      self.chains.texts, self.marked(units), window, tail=self.scorer.answer_only
    )
    _, sums = run_spans(
      *self.of_all, spans, (self.program.rest,), window=window, counted_columns=1000
    )
    return sums.change[0, jnp.asarray(units)], int(spans.length.sum())


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["joint", "answer"])
@pytest.mark.parametrize("unit_sizes", [None, (2, 1, 5, 1, 1, 3, 2, 1)])
def test_listed_candidates_score_as_all_do(model, objective, unit_sizes):
  step = _Step(model, _path(model, unit_sizes=unit_sizes), objective)
  _, every, _, _ = score_deletions(*step.of_all, step.candidates)
  at = np.asarray([5, 0, 3, 4])
  _, some, _, _ = score_deletions(*step.of_all, step.marked(at))
  np.testing.assert_allclose(some[0, at], every[0, at], atol=1e-5)
  assert np.isinf(np.delete(np.asarray(some[0]), at)).all()


@pytest.mark.slow
def test_a_window_holds_the_first_changes_of_the_exact_score(model):
  step = _Step(model, _path(model), "joint")
  units = np.asarray([0, 5, 11, 15])
  _, _, sums, _ = score_deletions(*step.of_all, step.marked(units), 3)
  near, positions = step.windows(units, 3)
  assert np.abs(near).min() > 1e-3
  np.testing.assert_allclose(near, sums.change[0, units], atol=1e-5)
  assert positions == 4 * 3  # behind the last token stand three of the answer's four
  # With a window of everything it is all that deletions change behind the first target.
  _, _, sums, _ = score_deletions(*step.of_all, step.marked(units), 64)
  log_probs, prompt = step.chains.log_probs[0], 9
  behind = [log_probs[prompt + unit + 2 : prompt + 20].sum() for unit in units]
  np.testing.assert_allclose(
    sums.change[0, units] + jnp.asarray(behind), sums.total[0, units], atol=1e-4
  )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model", "gemma"])
def test_the_answer_is_estimated_over_the_untouched_middle(name, request):
  """Against one plain pass over text, window and tail with the mask and the positions in full."""
  model, window = request.getfixturevalue(name), 2
  path = _path(model)
  step = _Step(model, path, "answer")
  segments = path.segments
  prompt, n, answer = len(segments.prompt), 16, segments.answer
  whole = np.concatenate([segments.prompt, segments.reasoning, answer])
  for unit in (0, 4, 12, 13, 15):
    sources = list(range(unit + 1, min(unit + 1 + window, n + 3)))
    sources += list(range(max(unit + 1 + window, n - 1), n + 3))
    middle = range(unit + 1 + window, n - 1)
    moved = [s < unit + 1 + window or not len(middle) for s in sources]
    ids = np.concatenate([whole, whole[prompt + np.asarray(sources)]])
    positions = np.concatenate(
      [np.arange(len(whole)), [prompt + s - m for s, m in zip(sources, moved, strict=True)]]
    )
    sees = np.tril(np.ones((len(ids), len(ids)), bool))
    for row, source in enumerate(sources, start=len(whole)):
      sees[row, prompt + unit : len(whole)] = False
      if source >= unit + 1 + window:
        sees[row, [prompt + j for j in middle]] = True

    def attend(q, k, v, width, sinks, _, sees=sees, positions=positions):
      near = positions[:, None] - positions[None, :] < width
      return attend_masked(q, k, v, jnp.asarray(sees & near), None)[0], None

    decoder = model.decoder
    hidden, _ = decoder.run_layers(decoder.embed(jnp.asarray(ids)), jnp.asarray(positions), attend)
    log_probs = jax.nn.log_softmax(decoder.logits(hidden))
    scored = [(len(whole) + i, s + 1) for i, s in enumerate(sources) if s + 1 >= n]
    before = step.chains.log_probs[0, prompt:]
    change = sum(log_probs[row, whole[prompt + target]] - before[target] for row, target in scored)
    near, _ = step.windows([unit], window)
    np.testing.assert_allclose(near[0], change, atol=2e-5)


def _four_scored(step, objective):
  """Result of the first screening, with exact scores of four candidates."""
  estimates = Estimates(**jax.tree.map(jnp.asarray, no_estimates((1, step.program.units))))
  plan = plan_shortlist(dataclasses.replace(SMALL, shortlist=4, rounds=1), 1)
  return screen_deletions(*step.of_all, estimates, step.candidates, plan)[1]


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["joint", "answer"])
def test_estimates_take_over_what_exact_scores_found(model, objective):
  step = _Step(model, _path(model), objective)
  found = _four_scored(step, objective)
  nll, known = found.nll[0], found.estimates
  scored = np.flatnonzero(np.isfinite(nll))
  assert len(scored) == found.num_scored[0] == 4
  # Of a unit that was scored, the estimate is its exact score from now on.
  estimates = estimated_nlls(*step.of_all, known, step.candidates)[0]
  np.testing.assert_allclose(estimates[scored], nll[scored], atol=1e-5)
  # For the others, what those four had in common beyond their windows counts in full.
  far = np.asarray(known.rest_change)[0, scored]
  assert np.abs(far).max() > 1e-3
  np.testing.assert_allclose(known.mean_rest[0], far.mean(), rtol=1e-5)
  nothing = known._replace(weight=jnp.zeros_like(known.weight), mean_rest=jnp.zeros(1))
  without = estimated_nlls(*step.of_all, nothing, step.candidates)[0]
  others = np.setdiff1d(np.flatnonzero(np.isfinite(without)), scored)
  count = 4 if objective == "answer" else 16 - 1 + 4
  difference = estimates[others] - without[others]
  np.testing.assert_allclose(difference, -far.mean() / count, rtol=1e-3)


@pytest.mark.slow
def test_a_chain_is_estimated_no_further_because_another_needs_it(model):
  step = _Step(model, _path(model), "joint", _path(model, 1))
  fresh = no_estimates((2, step.program.units))
  fresh["age"][0] = np.arange(step.program.units)  # nothing of the first is stale
  _, estimates, _ = _estimate(
    *step.of_all,
    Estimates(**jax.tree.map(jnp.asarray, fresh)),
    step.candidates,
    plan_shortlist(SMALL, 1),
  )
  ages = np.asarray(estimates.age)[:, :16]
  assert np.isin(ages[1], (0, STALE)).all()
  assert (ages[1] == 0).sum() == 14  # but for two equal neighbours, which are no candidates
  np.testing.assert_array_equal(np.flatnonzero(ages[0] == 0), [0, *range(8, 16)])


@pytest.mark.slow
def test_what_is_known_moves_with_the_units(model):
  chains = _Step(model, _path(model), "joint").chains
  size = chains.texts.unit_sizes.shape[1]
  known = jnp.arange(size, dtype=jnp.float32)
  estimates = Estimates(known, 10 * known, known / 100, jnp.zeros(size, int), known[3], known[5])
  chains = exact.delete_units(chains, jnp.asarray([6]), jnp.ones(1, bool))
  left = Text(*(x[0] for x in chains.texts))
  moved = estimates_after_deletion(left, estimates, jnp.int32(6), jnp.int32(9 + 6), reach=2)
  units = [*range(6), *range(7, 16)]
  np.testing.assert_array_equal(moved.window_change[:15], np.asarray(units, float))
  np.testing.assert_array_equal(moved.rest_change[:15], 10 * np.asarray(units, float))
  np.testing.assert_allclose(moved.weight[:15], 0.9 * np.asarray(units) / 100, rtol=1e-6)
  # A window of two behind tokens 3 to 5 holds the gap, and two tokens stand close behind it.
  stale = np.flatnonzero(np.asarray(moved.age[:15]) == STALE)
  np.testing.assert_array_equal(stale, [3, 4, 5, 6, 7])
  assert set(np.delete(np.asarray(moved.age[:15]), stale)) == {1}


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["joint", "answer"])
@pytest.mark.parametrize("unit_sizes", [None, (2, 1, 5, 1, 1, 3, 2, 1)])
def test_a_shortlist_of_everything_is_exact_search(model, objective, unit_sizes):
  paths = [_path(model, unit_sizes=unit_sizes) for _ in range(2)]
  [exact] = _search(model, paths[:1], objective)
  [screened] = _search(model, paths[1:], objective, screen=EVERYTHING)
  paths = [exact, screened]
  _assert_same(*paths)
  # Nothing was estimated but by rounding: all windows reach the end.
  root = (paths[1].tally["squared_error"] / paths[1].tally["num_scored"]) ** 0.5
  assert root < 1e-5


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
    assert checked.tally["num_scored"] <= 8 * 4
  assert missed  # else this test tells nothing


@pytest.mark.slow
def test_doubt_widens_the_shortlist(model):
  scored = []
  for rounds, doubt in ((1, 0.0), (3, 0.0), (3, 1e3)):
    path = _path(model, floor=12)
    settings = dataclasses.replace(SMALL, rounds=rounds, doubt=doubt)
    [path] = _search(model, [path], "joint", screen=settings)
    scored.append(path.tally["num_scored"])
  assert scored[0] == 4 * 2
  assert scored[0] <= scored[1] < scored[2] <= 4 * 6


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
  for start, stop in ((0, 3), (3, 6)):
    left = [i for i in range(20) if i not in path.deleted[:start]]
    places = sorted(left.index(position) for position in path.deleted[start:stop])
    assert min(np.diff(places)) > 1  # none next to another


@pytest.mark.slow
def test_estimates_choose_what_no_exact_score_was_made_for(model):
  # The first of a step's deletions has an exact score; the others only if per_deletion says so.
  screen = dataclasses.replace(SMALL, rounds=1, per_deletion=0.0)
  path = _path(model, 2, (9, 20, 4), floor=8)
  [path] = _search(model, [path], "joint", deletions_per_step=4, screen=screen)
  assert path.tally["num_scored"] == 3 * SMALL.shortlist
  assert sorted([*path.deleted, *path.kept]) == list(range(20))
  assert len(path.deleted) == 12
  assert [i for i, nll in enumerate(path.nll["joint"]) if nll is not None] == [0, 4, 8, 12]
  # Where windows reach the end an estimate misses nothing, and exact scores choose the same.
  near = [dataclasses.replace(EVERYTHING, shortlist=1, per_deletion=0.0), EVERYTHING, None]
  path = _path(model, 2, (9, 20, 4), floor=8)
  paths = [_search(model, [path], "joint", deletions_per_step=4, screen=x)[0] for x in near]
  _assert_same_known(paths[0], paths[1])
  _assert_same_known(paths[0], paths[2])


@pytest.mark.slow
def test_no_estimate_goes_before_the_best_exact_score(model):
  step = _Step(model, _path(model), "joint")
  found = _four_scored(step, "joint")
  # Had the exact scores come out higher, all estimates would be lower than the best of them.
  found = found._replace(nll=found.nll + 10)
  scores = with_estimates(*step.of_all, found, step.candidates)[0]
  best = int(found.nll[0].argmin())
  assert int(scores.argmin()) == best
  estimates = estimated_nlls(*step.of_all, found.estimates, step.candidates)[0]
  expected = np.where(np.isinf(found.nll[0]), estimates, found.nll[0])
  np.testing.assert_array_equal(np.delete(scores, best), np.delete(expected, best))
  assert scores[best] < expected.min()


def _assert_same_known(path, other):
  assert path.deleted == other.deleted
  for name in ("joint", "answer"):
    theirs = np.array(other.nll[name], float)  # None: NaN
    np.testing.assert_allclose(np.array(path.nll[name], float), theirs, atol=1e-5)


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
  screen = ScreenSettings(window=1, shortlist=1, rounds=1, doubt=0.0)
  [path] = _search(model, [path], "joint", screen=screen)
  windows = 6  # one position behind each token
  text, gap = 6 + 3 - 1, path.deleted[0]
  suffix = 6 - 1 - gap + 3 - 1
  left = 5 + 3 - 1 - (max(gap - 2, -1) if gap else -1)  # of the text, from before the gap on
  repeated = 2  # of three equal neighbours two are no candidates of their own
  assert path.positions_scored == 7 + text + windows - repeated + suffix + left


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["joint", "answer"])
@pytest.mark.parametrize("deletions", [1, 3])
def test_the_expected_positions_are_near_those_counted(model, objective, deletions):
  # In one round, since how often a winner is in doubt is not known beforehand.
  screen = ScreenSettings(window=3, shortlist=4, rounds=1, doubt=0.0)
  settings = {"screen": screen, "deletions_per_step": deletions}
  paths = [_path(model, seed, shape=(9, 44, 4), floor=12) for seed in range(4)]
  paths = _search(model, paths, objective, **settings)
  search = SearchSettings(objective=objective, block_positions=64, **settings)
  counted = sum(path.positions_scored for path in paths)
  assert counted == pytest.approx(sum(search_positions(p, search) for p in paths), rel=0.1)


def test_estimates_of_another_version_are_named(model):
  path = dataclasses.replace(_path(model), known={"near": [0.0], "far": [0.0]})
  with pytest.raises(UserError, match=r"estimates of another version \(far, near\).*unfinished"):
    _search(model, [path], "joint", screen=ScreenSettings())
