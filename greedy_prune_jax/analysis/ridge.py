"""Ridge regression in closed form, its strength chosen by cross-validation over chains."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from greedy_prune_jax.rankings.attention_regression import Ridge, standardise

# Strengths tried, relative to the variance of a standardised feature. The least is what float32 can
# still solve for a thousand correlated features; the greatest leaves next to nothing of any.
STRENGTHS = tuple(float(10.0**power) for power in range(-2, 5))


class _Moments(NamedTuple):
  """Sums over the rows of one fold, of features x and target y shifted by constants."""

  rows: Float[Array, ""]
  x: Float[Array, " F"]
  y: Float[Array, ""]
  xx: Float[Array, "F F"]
  xy: Float[Array, " F"]


@jax.jit
def _moments(x: Float[Array, "T F"], y: Float[Array, " T"]) -> _Moments:
  product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
  return _Moments(jnp.float32(len(y)), x.sum(0), y.sum(), product(x.T, x), product(x.T, y))


@jax.jit
def _solve(
  moments: _Moments, strength: Float[Array, ""]
) -> tuple[Float[Array, " F"], Float[Array, ""]]:
  """Weights and intercept that minimise mean squared error + strength * |weights|^2."""
  mean_x, mean_y = moments.x / moments.rows, moments.y / moments.rows
  covariance = moments.xx / moments.rows - jnp.outer(mean_x, mean_x)
  right = moments.xy / moments.rows - mean_x * mean_y
  factor = jax.scipy.linalg.cho_factor(covariance + strength * jnp.eye(len(right)))
  weights = jax.scipy.linalg.cho_solve(factor, right)
  return weights, mean_y - mean_x @ weights


@jax.jit
def _squared_error(
  x: Float[Array, "T F"], y: Float[Array, " T"], weights: Float[Array, " F"], intercept: Array
) -> Float[Array, ""]:
  """Sum of squared errors, from the rows themselves: moments would cancel in float32."""
  fitted = jnp.matmul(x, weights, precision=jax.lax.Precision.HIGHEST) + intercept
  return ((y - fitted) ** 2).sum()


def fit_ridge(
  features: Float[np.ndarray, "T F"],
  target: Float[np.ndarray, " T"],
  folds: Int[np.ndarray, " T"],
  strengths: Sequence[float] = STRENGTHS,
) -> Ridge:
  """Fits with the strength that predicts held-out folds best.

  The product of features with themselves is summed once a fold; leaving a fold out is then a
  subtraction, and each strength one Cholesky factorisation.

  Args:
    features: one row a token.
    folds: number of each row's fold, from 0; all rows of a chain in one.
    strengths: tried, relative to the variance of a standardised feature, from the least. Where held
      out folds tell nothing, as where there is one fold, the greatest is taken.
  """
  mean, scale = features.mean(axis=0), features.std(axis=0)
  scale = np.where(scale > 1e-6 * np.maximum(np.abs(mean), 1e-6), scale, np.inf)  # constants: out
  standard = standardise(features, mean, scale).astype(np.float32)
  offset = float(target.mean())  # small numbers lose less in float32
  shifted = (target - offset).astype(np.float32)
  rows = [(standard[folds == fold], shifted[folds == fold]) for fold in np.unique(folds)]
  parts = [_moments(*fold_rows) for fold_rows in rows]
  total = jax.tree.map(lambda *sums: sum(sums), *parts)
  errors = np.zeros(len(strengths))
  if len(parts) > 1:
    for part, fold_rows in zip(parts, rows, strict=True):
      others = jax.tree.map(jnp.subtract, total, part)
      for i, strength in enumerate(strengths):
        errors[i] += float(_squared_error(*fold_rows, *_solve(others, jnp.float32(strength))))
  # A strength too small for float32 gives NaN, which is the worst there is and not the least.
  errors = np.where(np.isfinite(errors), errors, np.inf)
  best = float(strengths[int(np.flatnonzero(errors == errors.min())[-1])])
  weights, intercept = jax.device_get(_solve(total, jnp.float32(best)))
  return Ridge(np.asarray(weights), float(intercept) + offset, mean, scale, best)
