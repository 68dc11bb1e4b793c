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
  share = num_right / total
  centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
  reach = z / (1 + z**2 / total) * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
  # Rounding must not put a bound beyond what it bounds.
  return Proportion(
    share, min(max(centre - reach, 0.0), share), max(min(centre + reach, 1.0), share)
  )
