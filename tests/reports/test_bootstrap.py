"""Intervals by resampling: what few chains say."""

import numpy as np
import pytest

from greedy_prune_jax.reports.bootstrap import LEAST_CHAINS, bootstrap_ratio
from greedy_prune_jax.reports.intervals import mean_interval
from greedy_prune_jax.reports.questions import means_by_question


def questions(number, of_each=1):
  """So many questions, each as often as there are chains of it."""
  return [f"question {i // of_each}" for i in range(number * of_each)]


def test_of_few_chains_there_are_no_bounds():
  values = np.random.default_rng(0).normal(size=(LEAST_CHAINS, 2))
  counts = np.ones_like(values)
  counts[0, 1] = values[0, 1] = 0  # one chain has no say in the second ratio
  found = bootstrap_ratio(values, counts, questions(len(values)))
  assert np.isfinite(found.estimate).all()
  for bound in (found.low, found.high):
    np.testing.assert_array_equal(np.isfinite(bound), [True, False])
  assert np.isnan(bootstrap_ratio(values[:-1], counts[:-1], questions(7)).low).all()


def test_many_tokens_of_one_chain_are_one_chain():
  values, counts = np.zeros(30), np.zeros(30)
  values[0], counts[0] = 90.0, 100.0
  found = bootstrap_ratio(values, counts, questions(len(values)))
  assert found.estimate == pytest.approx(0.9)
  assert np.isnan([found.low, found.high]).all()


@pytest.mark.slow
def test_bounds_of_fewer_chains_would_hold_the_truth_far_too_seldom(monkeypatch):
  monkeypatch.setattr("greedy_prune_jax.reports.bootstrap.LEAST_CHAINS", 1)
  rng = np.random.default_rng(0)
  held = {}
  for num_chains in (2, 3, LEAST_CHAINS):
    draws = rng.normal(size=(1000, num_chains))
    found = [
      bootstrap_ratio(draw, np.ones(num_chains), questions(num_chains), num_samples=400)
      for draw in draws
    ]
    held[num_chains] = np.mean([interval.low <= 0 <= interval.high for interval in found])
  assert held == pytest.approx({2: 0.5, 3: 0.75, LEAST_CHAINS: 0.88}, abs=0.03)


def test_chains_of_one_question_are_drawn_together():
  values = np.random.default_rng(0).normal(size=(10, 3))
  counts = np.full_like(values, 2.0)
  once = bootstrap_ratio(values, counts, questions(10))
  copied = bootstrap_ratio(np.repeat(values, 4, 0), np.repeat(counts, 4, 0), questions(10, 4))
  for one, other in zip(once, copied, strict=True):
    np.testing.assert_allclose(one, other)
  few = bootstrap_ratio(np.repeat(values[:7], 4, 0), np.repeat(counts[:7], 4, 0), questions(7, 4))
  assert np.isnan(few.low).all()


def test_means_of_questions_leave_out_what_is_unknown():
  values = np.array([[1.0, np.nan], [3.0, np.nan], [5.0, 7.0], [np.nan, 9.0]])
  found = means_by_question(values, ["b", "b", "a", "a"])
  np.testing.assert_array_equal(found, [[2.0, np.nan], [5.0, 8.0]])
  with pytest.raises(ValueError, match="4 chains have 3 questions"):
    means_by_question(values, ["a", "b", "c"])


@pytest.mark.slow
def test_intervals_of_several_chains_a_question_hold_the_truth():
  """Eight questions of four chains: by chain an interval is as narrow as that of 32 questions."""
  rng = np.random.default_rng(0)
  held = {"by question": 0, "by chain": 0}
  for _ in range(400):
    values = (rng.normal(size=(8, 1)) + rng.normal(size=(8, 4))).ravel()
    for name, named in {"by question": questions(8, 4), "by chain": questions(32)}.items():
      _, low, high = mean_interval(values, named)
      held[name] += low <= 0 <= high
  assert held["by question"] / 400 > 0.92
  assert held["by chain"] / 400 < 0.85
