"""Intervals over questions and seeds: against formulas, and against what they promise."""

import functools
import math

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq
from scipy.special import expit

from greedy_prune_jax.reports.intervals import (
  AMOUNT,
  SHARE,
  accuracy_interval,
  column_intervals,
  crossed_spread,
  holm,
  mean_interval,
  paired_difference,
  score_interval,
  trained_difference,
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
  assert spread.interval() == pytest.approx(
    stats.t.interval(0.95, 2, loc=by_seed.mean(), scale=stats.sem(by_seed))
  )


def test_an_effect_of_questions_alone_counts_as_many_trials_as_there_are_questions():
  by_question = np.array([0.0, 1.0, 1.0, 0.0, 1.0, 1.0])
  spread = crossed_spread(np.repeat(by_question[None], 3, axis=0))
  assert spread.stderr == pytest.approx(stats.sem(by_question))
  assert spread.freedom == pytest.approx(5)


def test_the_seeds_part_is_never_dropped():
  """Seeds that came out alike by chance: their square counts as the residual one, at S - 1."""
  rng = np.random.default_rng(0)
  values = np.empty((3, 400))
  for row in values:  # the same number of right answers for each seed, on other questions
    row[:] = 0
    row[rng.permutation(400)[:160]] = 1
  spread = crossed_spread(values)
  residual = values - values.mean(axis=0)  # seeds have equal means
  rest = (residual**2).sum() / (2 * 399)
  assert spread.stderr >= math.sqrt(rest / values.size)
  assert spread.freedom < 10, "few seeds do not tell much"


@functools.cache
def _shift(accuracy, spread):
  """The mean of normal logits whose mean probability is an accuracy."""
  z = np.random.default_rng(1).normal(0, spread, 100_000)
  return brentq(lambda shift: expit(shift + z).mean() - accuracy, -15, 15)


def _answers(rng, arms, seeds, questions, accuracy, seed_effect, own=0.5):
  """Right or wrong [arms, seeds, questions] by a logistic model: questions, seeds, own questions.

  Args:
    own: difference of arms in the questions that they get right.
  """
  shift = _shift(accuracy, math.sqrt(1.5**2 + own**2 + seed_effect**2))
  easy = rng.normal(0, 1.5, (1, 1, questions)) + rng.normal(0, own, (arms, 1, questions))
  logits = shift + easy + rng.normal(0, seed_effect, (arms, seeds, 1))
  return (rng.random((arms, seeds, questions)) < expit(logits)).astype(float)


GRID = [(a, e) for a in (0.02, 0.15, 0.4, 0.9) for e in (0.0, 0.3, 1.0)]


@pytest.mark.parametrize(("accuracy", "seed_effect"), GRID)
@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_intervals_hold_the_truth_as_often_as_they_say(seeds, accuracy, seed_effect):
  rng = np.random.default_rng(0)
  held = held_difference = 0
  for _ in range(300):
    one, other = _answers(rng, 2, seeds, 80, accuracy, seed_effect)
    found = accuracy_interval(one)
    held += found.low <= accuracy <= found.high
    difference = paired_difference(one, other)
    held_difference += difference.low <= 0 <= difference.high
  assert held / 300 > 0.91  # 3 standard errors below 0.95
  assert held_difference / 300 > 0.91


@pytest.mark.parametrize(("accuracy", "seed_effect"), GRID)
@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 10])
def test_of_eight_equal_arms_hardly_ever_one_is_called_different(seeds, accuracy, seed_effect):
  """The family-wise error of one reference against eight arms, with Holm's p-values."""
  rng = np.random.default_rng(0)
  false, alone = 0, 0
  for _ in range(80):
    reference, *others = _answers(rng, 9, seeds, 80, accuracy, seed_effect)
    p = [paired_difference(reference, other).p for other in others]
    alone += min(p) < 0.05
    false += min(holm(p)) < 0.05
  assert false / 80 < 0.125  # 3 standard errors above 0.05
  assert false <= alone


@pytest.mark.slow
def test_one_by_one_equal_arms_would_be_called_different_often():
  """Without Holm's correction equal arms would often be called different."""
  rng = np.random.default_rng(0)
  alone = 0
  for _ in range(100):
    reference, *others = _answers(rng, 9, 10, 80, 0.4, 0.5)
    alone += min(paired_difference(reference, other).p for other in others) < 0.05
  assert alone / 100 > 0.15


@pytest.mark.slow
def test_intervals_over_questions_alone_would_not():
  """Shows the need for the seeds' part of the error."""
  rng = np.random.default_rng(0)
  held = 0
  for _ in range(300):
    one, other = _answers(rng, 2, 3, 50, 0.4, 0.8)
    low, high = crossed_spread((one - other).mean(axis=0, keepdims=True)).interval()
    held += low <= 0 <= high
  assert held / 300 < 0.85


@pytest.mark.slow
def test_over_seeds_alone_would_not_where_arms_differ_in_their_questions():
  """Shows the need for the questions' part of the error, also with many seeds."""
  rng = np.random.default_rng(0)
  held = held_seeds = 0
  for _ in range(300):
    one, other = _answers(rng, 2, 10, 80, 0.4, 0.0, own=1.0)
    by_seed = (one - other).mean(axis=1)
    low, high = stats.t.interval(0.95, 9, loc=by_seed.mean(), scale=stats.sem(by_seed))
    held_seeds += low <= 0 <= high
    difference = paired_difference(one, other)
    held += difference.low <= 0 <= difference.high
  assert held_seeds / 300 < 0.85
  assert held / 300 > 0.91


def test_holm_by_hand():
  assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
  assert holm([0.9, 0.6]) == [1.0, 1.0]
  assert holm([]) == []


def test_what_was_not_compared_does_not_count_by_holm():
  assert holm([0.03, math.nan, 0.01, math.nan]) == pytest.approx(
    [0.03, math.nan, 0.02, math.nan], nan_ok=True
  )


@pytest.mark.parametrize("questions", [1, 80])
def test_of_one_seed_trainings_are_not_called_different(questions):
  found = trained_difference(np.ones((1, questions)), np.zeros((1, questions)))
  assert found == pytest.approx((1, math.nan, math.nan, math.nan), nan_ok=True)
  two = np.ones((2, questions)), np.zeros((2, questions))
  assert trained_difference(*two) == paired_difference(*two)


@pytest.mark.slow
def test_over_questions_alone_equal_arms_would_be_called_different():
  """The need for two seeds: the family-wise error of eight equal arms of one seed each."""
  rng = np.random.default_rng(0)
  false = 0
  for _ in range(80):
    reference, *others = _answers(rng, 9, 1, 400, 0.4, 0.3)
    false += min(holm([paired_difference(reference, other).p for other in others])) < 0.05
  assert false / 80 > 0.4


def test_the_p_value_is_that_of_students_test():
  values = np.array([[0.5, 0.1, -0.2, 0.4, 0.3]])
  assert crossed_spread(values).p_value == pytest.approx(stats.ttest_1samp(values[0], 0).pvalue)
  assert crossed_spread(np.zeros((2, 5))).p_value == 1
  low, high = crossed_spread(values).interval(1 - crossed_spread(values).p_value)
  assert min(abs(low), abs(high)) == pytest.approx(0, abs=1e-9)


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
  assert accuracy_interval(values) == pytest.approx(score_interval(7 / 80, 80))


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


def test_an_interval_ends_where_its_scale_does():
  shares, questions = np.array([0.9, 1.0, 0.95, 1.0]), list("abcd")
  _, low, high = mean_interval(shares, questions)
  assert low is not None
  assert high is not None
  assert high > 1
  assert mean_interval(shares, questions, SHARE) == (shares.mean(), low, 1.0)
  both = np.stack([shares, 1 - shares], axis=1)
  found = column_intervals(both, questions, SHARE, AMOUNT)
  assert found[:3] == [shares.mean(), low, 1.0]
  assert found[3:] == pytest.approx([1 - shares.mean(), 0.0, 1 - low])


@pytest.mark.parametrize("value", [1.0, 0.7, 300.1])  # means of equal values may be off by rounding
def test_values_that_agree_are_no_certainty(value):
  found = mean_interval(np.full(3, value), list("abc"))
  assert found == (pytest.approx(value), None, None)
  assert np.isnan(crossed_spread(np.full((3, 7), value)).interval()).all()
  assert mean_interval(np.array([value]), ["a"]) == (value, None, None)


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
  assert found.p > 0.05


def test_sides_that_never_differed_are_not_called_equal():
  found = paired_difference(np.ones((1, 8)), np.ones((1, 8)))
  assert found.difference == 0
  assert found.low == pytest.approx(-found.high)
  assert 0.2 < found.high < 0.5
