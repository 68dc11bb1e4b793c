"""Shares of things that are right, with their confidence intervals."""

import math
import statistics
from typing import NamedTuple


class Proportion(NamedTuple):
  """A share and the bounds of its confidence interval, all from 0 to 1."""

  share: float
  low: float
  high: float


def wilson(num_right: int, total: int, level: float = 0.95) -> Proportion:
  """The share `num_right / total` with Wilson's score interval.

  Unlike resampling, it does not call a share of 0 or 1 certain, whatever the number of trials.

  Args:
    num_right: of independent trials; of chains, say, that each give one answer.
    total: number of trials, at least 1.
    level: coverage of the interval.

  Source: Wilson 1927, Probable inference, the law of succession, and statistical inference.
  """
  z = statistics.NormalDist().inv_cdf((1 + level) / 2)
  return score_interval(num_right / total, total, z)


def score_interval(share: float, trials: float, z: float) -> Proportion:
  """Wilson's interval of a share, for a number of trials that need not be whole.

  Args:
    share: from 0 to 1.
    trials: how many independent ones the share is worth.
    z: quantile of the standardised error.
  """
  centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
  reach = (
    z / (1 + z**2 / trials) * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
  )
  # Rounding must not put a bound beyond what it bounds.
  return Proportion(
    share, min(max(centre - reach, 0.0), share), max(min(centre + reach, 1.0), share)
  )
