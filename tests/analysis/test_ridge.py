import numpy as np
import pytest
from sklearn.linear_model import Ridge as SklearnRidge

from greedy_prune_jax.analysis.ridge import fit_ridge


def correlated_data(rows=400, columns=30, seed=0):
  rng = np.random.default_rng(seed)
  features = rng.normal(size=(rows, columns)) @ rng.normal(size=(columns, columns)) * 3 + 7
  return features, rng


def test_the_solution_is_that_of_scikit_learn():
  features, rng = correlated_data()
  target = features[:, 0] + rng.normal(size=400)
  fitted = fit_ridge(features, target, np.zeros(400, int), strengths=(0.1,))
  standard = (features - features.mean(0)) / features.std(0)
  expected = SklearnRidge(alpha=0.1 * 400).fit(standard, target)
  np.testing.assert_allclose(fitted.weights, expected.coef_, atol=2e-3)
  np.testing.assert_allclose(fitted.predict(features), expected.predict(standard), atol=5e-3)
  # Another strength is further away than the tolerance.
  other = SklearnRidge(alpha=0.3 * 400).fit(standard, target)
  assert np.abs(fitted.predict(features) - other.predict(standard)).max() > 0.05


def test_the_strength_is_the_one_that_predicts_held_out_folds_best():
  features, rng = correlated_data(rows=60)
  target = features[:, 0] + 5 * rng.normal(size=60)
  folds = np.arange(60) % 4
  strengths = (1e-3, 1e-1, 1.0, 10.0, 1000.0)
  standard = (features - features.mean(0)) / features.std(0)
  errors = []
  for strength in strengths:
    error = 0.0
    for fold in range(4):
      held = folds == fold
      fitted = SklearnRidge(alpha=strength * (~held).sum()).fit(standard[~held], target[~held])
      error += ((fitted.predict(standard[held]) - target[held]) ** 2).sum()
    errors.append(error)
  assert fit_ridge(features, target, folds, strengths).strength == strengths[np.argmin(errors)]


@pytest.mark.parametrize("reason", ["one fold", "a constant target", "no finite error"])
def test_where_nothing_can_be_told_the_strength_is_the_greatest(reason):
  features, rng = correlated_data(rows=60)
  folds = np.zeros(60, int) if reason == "one fold" else np.arange(60) % 4
  target = rng.normal(size=60) if reason != "a constant target" else np.full(60, 0.5)
  strengths = (0.1, 1.0, 10.0) if reason != "no finite error" else (np.nan, np.nan, 10.0)
  assert fit_ridge(features, target, folds, strengths).strength == 10.0


def test_a_constant_feature_has_no_say():
  features, _rng = correlated_data(columns=3)
  features[:, 1] = 5.0
  target = features[:, 0].copy()
  fitted = fit_ridge(features, target, np.arange(400) % 4)
  moved = features.copy()
  moved[:, 1] = 1e6
  np.testing.assert_allclose(fitted.predict(moved), target, atol=0.2)


def test_a_feature_that_hardly_varied_has_little_say_where_it_does():
  features, rng = correlated_data(columns=3)
  target = features[:, 0] + rng.normal(size=400)
  features[:, 1] = 0.0
  features[np.argmax(target), 1] = 1e-3
  fitted = fit_ridge(features, target, np.arange(400) % 4)
  moved = features.copy()
  moved[:, 1] = 1.0  # 20,000 standard deviations away
  changes = fitted.predict(moved) - fitted.predict(features)
  assert np.abs(changes).max() < target.std() * 2


def test_more_features_than_rows_do_no_harm_on_unseen_rows():
  """Correlated noise in float32: a strength that cannot be solved for must never be chosen."""
  rng = np.random.default_rng(0)
  common = rng.normal(size=(300, 10))
  features = common @ rng.normal(size=(10, 900)) + 1e-3 * rng.normal(size=(300, 900))
  target = rng.random(300)
  folds = np.arange(200) % 4
  fitted = fit_ridge(features[:200], target[:200], folds, strengths=(1e-9, 1e-7, 1e-2, 1.0, 1e3))
  error = ((fitted.predict(features[200:]) - target[200:]) ** 2).mean()
  assert error < 1.15 * target[200:].var()
