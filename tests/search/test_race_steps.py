"""One step of a race: its estimates, windows and scores against what they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from greedy_prune_jax.models.attention import attend_masked
from greedy_prune_jax.models.pretrained import load_model
from greedy_prune_jax.scoring import exact, racing
from greedy_prune_jax.scoring.exact import candidates, delete_units, run_texts
from greedy_prune_jax.scoring.racing import RacePlan, estimated_nlls
from greedy_prune_jax.scoring.scorer import Scorer, run_spans
from greedy_prune_jax.scoring.stream import spans_of, window_lengths
from greedy_prune_jax.search.host import SearchBatch, SearchSettings
from greedy_prune_jax.search.path import PrunePath
from greedy_prune_jax.search.screen import ScreenSettings
from tests.helpers.full_passes import random_segments
from tests.helpers.passes import race_deletions, score_deletions
from tests.helpers.reference import tiny_config, tiny_model

SMALL = ScreenSettings(window=2, margin=0.05)  # random models change little


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
  folder = tmp_path_factory.mktemp("gemma")
  tiny_model(tiny_config("gemma3_text")).save_pretrained(folder)
  return load_model(str(folder), jnp.float32)


def _path(model, seed=0, unit_sizes=None):
  return PrunePath(random_segments(seed, model.config.vocab_size, (9, 16, 4)), 6, unit_sizes)


class _Step:
  """One step of some chains: what the scorer is given."""

  def __init__(self, model, path, objective, *others):
    paths = [path, *others]
    batch = SearchBatch.of(model, paths, SearchSettings(objective, 64, screen=SMALL))
    self.program = batch.program
    self.scorer = Scorer(model.decoder, self.program)
    self.chains = run_texts(self.scorer, batch.start(paths), jnp.ones(len(paths), bool))
    self.of_all = (self.scorer, self.chains)
    self.candidates = candidates(self.chains.texts, jnp.ones(len(paths), bool))

  def marked(self, units):
    """True at some units of the first chain."""
    return jnp.zeros_like(self.candidates).at[0, jnp.asarray(units)].set(True)

  def windows(self, units, window):
    """Changes that windows of some units of the first chain show, summed; and their positions."""
    lengths, skipped = window_lengths(self.chains.texts, window, tail=self.scorer.answer_only)
    lengths = jnp.where(self.marked(units), lengths, 0)
    none = jnp.zeros(len(lengths), int)
    spans = spans_of((none, none), (jnp.zeros_like(lengths), lengths), skipped)
    chains, _ = run_spans(*self.of_all, spans, window)
    changes = chains.changes[0, jnp.asarray(units)].astype(jnp.float32)
    return changes.sum(axis=1), int(lengths.sum())


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["joint", "answer"])
@pytest.mark.parametrize("unit_sizes", [None, (2, 1, 5, 1, 1, 3, 2, 1)])
def test_listed_candidates_score_as_all_do(model, objective, unit_sizes):
  step = _Step(model, _path(model, unit_sizes=unit_sizes), objective)
  every = score_deletions(*step.of_all, step.candidates)[1].nll
  at = np.asarray([5, 0, 3, 4])
  some = score_deletions(*step.of_all, step.marked(at))[1].nll
  np.testing.assert_allclose(some[0, at], every[0, at], atol=1e-5)
  assert np.isinf(np.delete(np.asarray(some[0]), at)).all()


@pytest.mark.slow
def test_a_window_holds_the_first_changes_of_the_exact_score(model):
  step = _Step(model, _path(model), "joint")
  units = np.asarray([0, 5, 11, 15])
  near, positions = step.windows(units, 3)
  assert np.abs(near).min() > 1e-3
  assert positions == 4 * 3  # behind the last token stand three of the answer's four
  chains, _ = score_deletions(*step.of_all, step.marked(units))
  changes, prompt = np.asarray(chains.changes[0], np.float32), 9
  for unit, change in zip(units, near, strict=True):
    behind = changes[unit, prompt + unit + 2 :]
    np.testing.assert_allclose(behind[:3].sum(), change, atol=2e-3)  # changes are in bfloat16
    assert not changes[unit, : prompt + unit + 2].any()


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
      return attend_masked(q, k, v, jnp.asarray(sees & near), None)[0], {}

    decoder = model.decoder
    hidden, _ = decoder.run_layers(decoder.embed(jnp.asarray(ids)), jnp.asarray(positions), attend)
    log_probs = jax.nn.log_softmax(decoder.logits(hidden))
    scored = [(len(whole) + i, s + 1) for i, s in enumerate(sources) if s + 1 >= n]
    before = step.chains.log_probs[0, prompt:]
    change = sum(log_probs[row, whole[prompt + target]] - before[target] for row, target in scored)
    near, _ = step.windows([unit], window)
    np.testing.assert_allclose(near[0], change, rtol=8e-3)  # changes are in bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["joint", "answer"])
def test_estimates_take_over_what_exact_scores_found(model, objective):
  step = _Step(model, _path(model), objective)
  before = np.asarray(estimated_nlls(*step.of_all, step.candidates)[0])
  units = np.asarray([0, 3, 4, 12])
  chains, scored = score_deletions(*step.of_all, step.marked(units))
  estimates = np.asarray(estimated_nlls(step.scorer, chains, step.candidates)[0])
  # Of a unit that was scored, the estimate is its exact score from now on; others stay unchanged.
  np.testing.assert_allclose(estimates[units], scored.nll[0, units], atol=5e-4)
  assert np.abs(estimates - before)[units].max() > 3e-3
  np.testing.assert_array_equal(np.delete(estimates, units), np.delete(before, units))


@pytest.mark.slow
def test_a_deleted_tokens_changes_no_longer_count(model):
  path = _path(model)
  step = _Step(model, path, "joint")
  chains, _ = score_deletions(*step.of_all, step.marked([2, 9]))
  changes, prompt = np.asarray(chains.changes[0], np.float32), 9
  after = delete_units(step.scorer, chains, jnp.asarray([6]), jnp.ones(1, bool))
  moved = np.asarray(after.changes[0], np.float32)
  at = prompt + 6
  np.testing.assert_array_equal(moved[2], np.append(np.delete(changes[2], at), 0))
  np.testing.assert_array_equal(moved[8], np.append(np.delete(changes[9], at), 0))
  # Windows of two behind tokens 4 and 5 meet the gap, and two tokens stand close behind it.
  after = after._replace(stale=jnp.zeros_like(after.stale))
  again = delete_units(step.scorer, after, jnp.asarray([6]), jnp.ones(1, bool))
  np.testing.assert_array_equal(np.flatnonzero(again.stale[0, :14]), [4, 5, 6, 7])


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["joint", "answer"])
def test_a_chain_runs_no_more_because_another_needs_it(model, objective):
  """The first of two chains begins with all that its scores would show."""
  step = _Step(model, _path(model), objective, _path(model, 1))
  of_first = step.candidates & (jnp.arange(2) == 0)[:, None]
  chains, scored = score_deletions(*step.of_all, of_first)
  chains = chains._replace(stale=chains.stale & (jnp.arange(2) == 1)[:, None])
  _, raced = race_deletions(
    step.scorer,
    chains,
    step.candidates,
    jnp.zeros(len(step.candidates), bool),
    RacePlan(margin=0.0),
  )
  assert raced.nll[0].min() == pytest.approx(float(scored.nll[0].min()), abs=1e-6)
  assert raced.positions[0] == 0  # what it runs to its end is known up to there
  assert raced.num_scored.tolist()[0] == 1
  assert raced.positions[1] > 14 * 2


@pytest.mark.slow
def test_the_margin_shrinks_as_a_candidate_runs(model):
  step = _Step(model, _path(model), "joint")
  state, scored = score_deletions(*step.of_all, step.candidates)  # so estimates are exact
  nll, best = np.asarray(scored.nll[0]), int(scored.nll[0].argmin())
  other = next(unit for unit in range(8) if unit != best and np.isfinite(nll[unit]))
  behind = float(nll[other] - nll[best]) * (16 - 1 + 4)  # nats
  plan, nobody = RacePlan(margin=1.5 * behind), jnp.zeros(1, bool)
  turn = exact.first_turn(state, nobody)._replace(candidates=step.marked([best, other]))
  found = jnp.full_like(scored.nll, jnp.inf).at[0, best].set(nll[best])
  turn = turn._replace(scored=turn.scored._replace(nll=found))
  columns = 16 - 1 - other + 3
  for share, runs_on in ((0.0, True), (0.2, True), (0.5, False)):
    front = turn.front.at[0, other].set(int(share * columns))
    _, following = racing._next_round(step.scorer, plan, nobody, state, turn._replace(front=front))
    assert following.chosen[0].nonzero()[0].tolist() == [other] * runs_on
