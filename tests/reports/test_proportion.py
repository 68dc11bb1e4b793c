import pytest

from greedy_prune_jax.reports.intervals import score_interval


def test_wilson_intervals_are_those_of_the_formula_worked_by_hand():
  # 8 of 10: centre (0.8 + 0.19207) / 1.38415 = 0.71675, reach 0.22661.
  assert score_interval(0.8, 10) == pytest.approx((0.8, 0.49016, 0.94332), abs=1e-5)


def test_all_or_none_of_few_is_not_certain():
  assert score_interval(0.0, 5) == pytest.approx((0, 0, 0.43448), abs=1e-5)
  assert score_interval(1.0, 5) == pytest.approx((1, 0.56552, 1), abs=1e-5)


def test_more_trials_are_narrower():
  few, many = (high - low for _, low, high in (score_interval(0.3, 10), score_interval(0.3, 100)))
  assert few > many
