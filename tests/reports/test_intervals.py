"""Intervals over questions and seeds: against formulas, and against what they promise."""

import math

import numpy as np
import pytest
from scipy import stats

from greedy_prune_jax.reports.intervals import (
  accuracy_interval,
  crossed_spread,
  paired_difference,
  wilson,
)


def test_one_seed_gives_the_standard_error_over_questions():
  values = np.array([[1.0, 0.0, 0.0, 1.0, 1.0]])
  spread = crossed_spread(values)
  assert spread.mean == pytest.approx(0.6)
  assert spread.stderr == pytest.approx(stats.sem(values[0]))
  assert spread.freedom == 4
  low, high = spread.interval()
  assert (low, high) == pytest.approx(
    stats.t.interval(0.95, 4, loc=0.6, scale=stats.sem(values[0]))
  )
  assert math.isnan(crossed_spread(values[:, :1]).stderr)


def test_an_effect_of_seeds_alone_counts_as_many_trials_as_there_are_seeds():
  by_seed = np.array([0.2, 0.4, 0.9])
  spread = crossed_spread(np.repeat(by_seed[:, None], 50, axis=1))
  assert spread.stderr == pytest.approx(stats.sem(by_seed))
  assert spread.freedom == pytest.approx(2)


def test_an_effect_of_questions_alone_counts_as_many_trials_as_there_are_questions():
  by_question = np.array([0.0, 1.0, 1.0, 0.0, 1.0, 1.0])
  spread = crossed_spread(np.repeat(by_question[None], 3, axis=0))
  assert spread.stderr == pytest.approx(stats.sem(by_question))
  assert spread.freedom == pytest.approx(5)


def _answers(rng, seeds, questions, seed_effect):
  """Right or wrong by a logistic model whose questions and seeds differ; two sides [2, S, Q]."""
  easy = rng.normal(0, 1.5, (1, 1, questions))
  logits = -1 + easy + rng.normal(0, seed_effect, (2, seeds, 1))
  return (rng.random((2, seeds, questions)) < 1 / (1 + np.exp(-logits))).astype(float)


@pytest.mark.parametrize("seed_effect", [0.0, 0.5])
def test_the_intervals_hold_the_truth_as_often_as_they_say(seed_effect):
  rng = np.random.default_rng(0)
  many = rng.normal(-1, math.hypot(1.5, seed_effect), 400_000)
  truth = (1 / (1 + np.exp(-many))).mean()
  held = held_difference = 0
  for _ in range(500):
    one, other = _answers(rng, 3, 50, seed_effect)
    found = accuracy_interval(one)
    held += found.low <= truth <= found.high
    difference = paired_difference(one, other)
    held_difference += difference.low <= 0 <= difference.high
  assert held / 500 > 0.925
  assert held_difference / 500 > 0.925


def test_intervals_over_questions_alone_would_not():
  """What the seeds' part of the error is for."""
  rng = np.random.default_rng(0)
  held = 0
  for _ in range(300):
    one, other = _answers(rng, 3, 50, 0.8)
    low, high = crossed_spread((one - other).mean(axis=0, keepdims=True)).interval()
    held += low <= 0 <= high
  assert held / 300 < 0.85


@pytest.mark.parametrize("seeds", [2, 3])
def test_one_right_answer_has_one_interval_wherever_it_stands(seeds):
  """Its mean squares are all equal; rounding must not decide which of them count."""
  found = []
  for place in range(seeds * 80):
    values = np.zeros((seeds, 80))
    values.flat[place] = 1
    found.append(accuracy_interval(values))
  assert found == [pytest.approx(found[0])] * len(found)
  none = accuracy_interval(np.zeros((seeds, 80)))
  assert 0 < found[0].low < found[0].share
  assert none.high <= found[0].high < 1.2 * none.high


def test_of_one_seed_it_is_wilsons():
  values = np.zeros((1, 80))
  values[0, :7] = 1
  assert accuracy_interval(values) == pytest.approx(wilson(7, 80))


def test_more_samples_of_a_question_narrow_the_interval():
  rng = np.random.default_rng(0)
  held = 0
  for _ in range(500):
    chance = rng.uniform(0.2, 0.8, 100)
    values = rng.binomial(16, chance)[None] / 16
    found = accuracy_interval(values, most_trials=1600)
    held += found.low <= 0.5 <= found.high
    assert found.high - found.low < 0.11  # Wilson's of 100 trials is 0.19 wide
  assert 0.925 < held / 500 < 0.99


def test_nothing_right_is_not_certain():
  for seeds in (1, 3):
    found = accuracy_interval(np.zeros((seeds, 20)))
    assert (found.share, found.low) == (0, 0)
    assert found.high == pytest.approx(0.161, abs=1e-3)  # Wilson's for 0 of 20
  assert accuracy_interval(np.ones((1, 20))).low == pytest.approx(0.839, abs=1e-3)


def test_paired_differences_by_bonett_and_price():
  # Of 20 questions 3 are right for one alone, 1 for the other alone.
  one, other = np.zeros((1, 20)), np.zeros((1, 20))
  one[0, :10] = 1
  other[0, :7] = 1
  other[0, 10] = 1
  found = paired_difference(one, other)
  assert found.difference == pytest.approx(2 / 20)
  p, q, n = 4 / 22, 2 / 22, 22
  reach = stats.t.ppf(0.975, n - 1) * math.sqrt((p + q - (p - q) ** 2) / (n - 1))
  assert (found.low, found.high) == pytest.approx((p - q - reach, p - q + reach))


def test_sides_that_never_differed_are_not_called_equal():
  found = paired_difference(np.ones((1, 8)), np.ones((1, 8)))
  assert found.difference == 0
  assert found.low == pytest.approx(-found.high)
  assert 0.2 < found.high < 0.5
