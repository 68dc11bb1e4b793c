"""Intervals by resampling: what few chains say."""

import numpy as np
import pytest

from greedy_prune_jax.reports.bootstrap import LEAST_CHAINS, bootstrap_ratio


def test_of_few_chains_there_are_no_bounds():
  values = np.random.default_rng(0).normal(size=(LEAST_CHAINS, 2))
  counts = np.ones_like(values)
  counts[0, 1] = values[0, 1] = 0  # one chain has no say in the second ratio
  found = bootstrap_ratio(values, counts)
  assert np.isfinite(found.estimate).all()
  for bound in (found.low, found.high):
    np.testing.assert_array_equal(np.isfinite(bound), [True, False])
  assert np.isnan(bootstrap_ratio(values[:-1], counts[:-1]).low).all()


def test_many_tokens_of_one_chain_are_one_chain():
  values, counts = np.zeros(30), np.zeros(30)
  values[0], counts[0] = 90.0, 100.0
  found = bootstrap_ratio(values, counts)
  assert found.estimate == pytest.approx(0.9)
  assert np.isnan([found.low, found.high]).all()


@pytest.mark.slow
def test_bounds_of_fewer_chains_would_hold_the_truth_far_too_seldom(monkeypatch):
  monkeypatch.setattr("greedy_prune_jax.reports.bootstrap.LEAST_CHAINS", 1)
  rng = np.random.default_rng(0)
  held = {}
  for num_chains in (2, 3, LEAST_CHAINS):
    draws = rng.normal(size=(1000, num_chains))
    found = [bootstrap_ratio(draw, np.ones(num_chains), num_samples=400) for draw in draws]
    held[num_chains] = np.mean([interval.low <= 0 <= interval.high for interval in found])
  assert held == pytest.approx({2: 0.5, 3: 0.75, LEAST_CHAINS: 0.88}, abs=0.03)
