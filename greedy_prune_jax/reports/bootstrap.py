"""Confidence intervals by resampling questions with their chains.

Neither the tokens of one chain nor several chains of one question are independent.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from greedy_prune_jax.reports.intervals import LEVEL
from greedy_prune_jax.reports.questions import sums_by_question

# Chains of different questions below which there are no bounds: resampled, they look more alike
# than they are. In tests/reports/test_bootstrap.py a 95% interval of eight holds the truth in 88%
# of draws, one of three in 75%, one of two in half of them.
LEAST_CHAINS = 8


class Interval(NamedTuple):
  """Estimates with the bounds of their confidence intervals, arrays of one shape.

  NaN where there was nothing to estimate from; bounds also where that was in fewer chains than
  `LEAST_CHAINS`.
  """

  estimate: Float[np.ndarray, "..."]
  low: Float[np.ndarray, "..."]
  high: Float[np.ndarray, "..."]


def resample_weights(num_chains: int, *, num_samples: int = 2000) -> Float[np.ndarray, "R B"]:
  """Counts of each of B chains in each of R bootstrap samples of B chains.

  They are the same at each call, so that intervals can be compared.
  """
  if num_chains < 1:
    raise ValueError("num_chains=0: there is nothing to resample")
  rng = np.random.default_rng(0)
  uniform = np.full(num_chains, 1 / num_chains)
  return rng.multinomial(num_chains, uniform, size=num_samples).astype(np.float64)


def bootstrap_ratio(
  numerators: Float[np.ndarray, "B ..."],
  denominators: Float[np.ndarray, "B ..."],
  questions: Sequence[str],
  *,
  num_samples: int = 2000,
) -> Interval:
  """Ratio of sums over chains, with a percentile interval from resampled questions.

  A chain without tokens of a kind has 0 in both sums and so no say in that kind's ratio. A ratio
  in which chains of fewer than `LEAST_CHAINS` questions have a say has no bounds.

  Args:
    numerators, denominators: one array a chain.
    questions: each chain's question; chains of one are drawn together.

  Source: Efron and Tibshirani 1993, An introduction to the bootstrap, chapter 13 (percentiles).
  """
  numerators = sums_by_question(numerators, questions)
  denominators = sums_by_question(denominators, questions)
  weights = resample_weights(len(numerators), num_samples=num_samples)
  samples = _ratio(np.tensordot(weights, numerators, 1), np.tensordot(weights, denominators, 1))
  estimate = _ratio(np.asarray(numerators.sum(axis=0)), np.asarray(denominators.sum(axis=0)))
  return percentile_interval(estimate, samples, np.asarray((denominators != 0).sum(axis=0)))


def percentile_interval(
  estimate: Float[np.ndarray, "..."],
  samples: Float[np.ndarray, "R ..."],
  num_chains: Int[np.ndarray, "..."],
) -> Interval:
  """The estimate with the percentiles of its bootstrap samples; undefined samples are left out.

  Args:
    samples: estimates of resampled chains.
    num_chains: chains that have a say in each estimate; of few there are no bounds.
  """
  tail = (1 - LEVEL) / 2
  bounds = np.full((2, *estimate.shape), np.nan)
  defined = np.isfinite(samples).any(axis=0) & (num_chains >= LEAST_CHAINS)
  if defined.any():
    bounds[:, defined] = np.nanquantile(samples[:, defined], [tail, 1 - tail], axis=0)
  return Interval(estimate, np.asarray(bounds[0]), np.asarray(bounds[1]))


def _ratio(
  numerators: Float[np.ndarray, "..."], denominators: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
  with np.errstate(divide="ignore", invalid="ignore"):
    return np.where(denominators == 0, np.nan, numerators / denominators)
