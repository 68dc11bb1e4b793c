"""Confidence intervals of accuracies and of their differences, over questions and seeds.

Both are drawn from many that might have been: the questions of a test, and the seeds of trainings.
All students of a comparison answer the same questions, so values come as a table [S, Q] of S seeds
by Q questions (S = 1 where there is one student), and what they have in common drops out of
differences.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from greedy_prune_jax.reports.questions import means_by_question

LEVEL = 0.95
LEAST_SEEDS = 2  # of trainings, below which nothing tells how much seeds matter

Scale = tuple[float, float]  # least and greatest value that there can be
ANY_NUMBER: Scale = (-math.inf, math.inf)
AMOUNT: Scale = (0.0, math.inf)
SHARE: Scale = (0.0, 1.0)
CORRELATION: Scale = (-1.0, 1.0)
_ROUNDING = 1e-12  # of a mean of equal values, relative


class Spread(NamedTuple):
  """Uncertainty of a mean.

  Attributes:
    mean: over seeds and questions.
    stderr: standard error of the mean; NaN where a single question cannot tell.
    freedom: degrees of freedom of the error.
  """

  mean: float
  stderr: float
  freedom: float

  def interval(self, level: float = LEVEL, *, scale: Scale = ANY_NUMBER) -> tuple[float, float]:
    """Student's t interval of the mean, cut where the values' scale ends.

    NaN where the values do not tell: of a single question, and where no value differs from another,
    as few that agree by chance are no certainty.
    """
    if not self.stderr > _ROUNDING * (1 + abs(self.mean)):
      return math.nan, math.nan
    reach = quantile(self.freedom, level) * self.stderr
    return max(self.mean - reach, scale[0]), min(self.mean + reach, scale[1])

  @property
  def p_value(self) -> float:
    """Two-sided p-value of a mean of 0."""
    if not self.stderr:
      return float(self.mean == 0)
    return 2 * float(stats.t.sf(abs(self.mean) / self.stderr, self.freedom))


def crossed_spread(values: Float[np.ndarray, "S Q"]) -> Spread:
  """The mean of a table whose rows (seeds) and columns (questions) are both drawn at random.

  The variance of the mean is that of a two-way layout with random effects, from its mean squares.
  The seeds' mean square is always in it, with its S - 1 degrees of freedom, and never below the
  residual one: where it is small, that is a chance of few seeds. The questions' part counts as zero
  where it comes out below. Simulated differences of 2 to 90%, 3 to 10 seeds and 80 or 400 questions
  lay in at least 93.5% of the 95% intervals; in as few as 89% of those by a t over seeds' means,
  which takes the questions for all that there are. Degrees of freedom by Satterthwaite's
  approximation. With one seed, how much seeds matter is unknown, and not in the error: such an
  error is of those very students, and tells nothing of what they were trained on.

  Args:
    values: one value a seed and question.

  Source: Searle, Casella and McCulloch 1992, Variance components, chapter 4.
  """
  seeds, questions = values.shape
  mean = float(values.mean())
  if questions == 1:
    return Spread(mean, math.nan, math.nan)
  by_question = values.mean(axis=0)
  if seeds == 1:
    return Spread(mean, float(by_question.std(ddof=1)) / math.sqrt(questions), questions - 1)
  by_seed = values.mean(axis=1)
  residual = values - by_seed[:, None] - by_question[None, :] + mean
  rest_freedom = (seeds - 1) * (questions - 1)
  ms_rest = float((residual**2).sum()) / rest_freedom
  ms_seed = max(questions * float(by_seed.var(ddof=1)), ms_rest)
  ms_question = seeds * float(by_question.var(ddof=1))
  variance, doubt = ms_seed, ms_seed**2 / (seeds - 1)
  # Squares that are equal, as those of a table with one right answer, may differ by rounding.
  if ms_question > ms_rest * (1 + 1e-9):
    variance += ms_question - ms_rest
    doubt += ms_question**2 / (questions - 1) + ms_rest**2 / rest_freedom
  freedom = variance**2 / doubt if doubt else float(seeds - 1)
  return Spread(mean, math.sqrt(variance / (seeds * questions)), freedom)


class Proportion(NamedTuple):
  """A share and the bounds of its confidence interval, all from 0 to 1."""

  share: float
  low: float
  high: float


def accuracy_interval(
  correct: Float[np.ndarray, "S Q"], *, most_trials: int | None = None
) -> Proportion:
  """Mean of values from 0 to 1 with Wilson's interval for as many trials as it is worth.

  The trials are those that would give the standard error of `crossed_spread`, fewer where that
  error is itself not well known, as of few seeds. For them two questions are added, of which every
  seed gets one right and the other wrong: where next to nothing is right, or wrong, the table does
  not tell what answers to one question have in common. Of a single seed with one answer a question
  it is Wilson's interval itself.

  Args:
    correct: shares of right answers, or 0 and 1, a seed and question.
    most_trials: number of answers; the size of the table if each is one.

  Source: the effective sample size of Korn and Graubard 1998, Confidence intervals for proportions
  with small expected number of positive counts estimated from survey data, in Wilson's interval.
  """
  seeds, questions = correct.shape
  added = np.broadcast_to(np.array([1.0, 0.0]), (seeds, 2))
  share, stderr, freedom = crossed_spread(np.concatenate([correct, added], axis=1))
  trials = share * (1 - share) / stderr**2 * questions / (questions + 1)
  trials *= min(1.0, quantile(questions + 1) / quantile(freedom)) ** 2
  return score_interval(float(correct.mean()), min(trials, most_trials or correct.size))


class Difference(NamedTuple):
  """A difference of accuracies with the bounds of its interval, from -1 to 1, and its p-value.

  NaN stands for what cannot be told.
  """

  difference: float
  low: float
  high: float
  p: float


def paired_difference(one: Float[np.ndarray, "S Q"], other: Float[np.ndarray, "S Q"]) -> Difference:
  """Accuracy of one minus that of the other, on the same questions, seed by seed.

  Two questions are added for the interval, of which each side alone gets one right, so that sides
  that never differed on few questions are not called equal. For single students this is Bonett and
  Price's interval with Student's quantile; for several seeds the same in `crossed_spread`.

  Source: Bonett and Price 2012, Adjusted Wald confidence interval for a difference of binomial
  proportions based on paired data.
  """
  differences = one - other
  added = np.broadcast_to(np.array([1.0, -1.0]), (len(differences), 2))
  spread = crossed_spread(np.concatenate([differences, added], axis=1))
  bounds = spread.interval(scale=CORRELATION)
  return Difference(float(differences.mean()), *bounds, spread.p_value)


def trained_difference(
  one: Float[np.ndarray, "S Q"], other: Float[np.ndarray, "S Q"]
) -> Difference:
  """`paired_difference` of what students were trained on, a seed a row.

  Students of one condition differ from seed to seed, so of fewer than two seeds there are neither
  bounds nor a p-value: over questions alone, one of eight equal arms would be called different far
  more often than the p-values say (`tests/reports/test_intervals.py` simulates it).
  """
  found = paired_difference(one, other)
  if len(one) < LEAST_SEEDS:
    return Difference(found.difference, math.nan, math.nan, math.nan)
  return found


def mean_interval(
  values: Float[np.ndarray, "B"], questions: Sequence[str], scale: Scale = ANY_NUMBER
) -> tuple[float | None, float | None, float | None]:
  """Mean over questions of the means of their chains, with its `Spread.interval`.

  NaN values are left out; None stands for what cannot be told.

  Args:
    values: one a chain.
    questions: each chain's question; chains of one are not independent.
    scale: bounds of the values.
  """
  means = means_by_question(values, questions)
  known = means[~np.isnan(means)]
  if not len(known):
    return None, None, None
  spread = crossed_spread(known[None])
  low, high = (None if math.isnan(x) else x for x in spread.interval(scale=scale))
  return spread.mean, low, high


def column_intervals(
  values: Float[np.ndarray, "B M"], questions: Sequence[str], *scales: Scale
) -> list[float | None]:
  """`mean_interval` of each column, each of its scale, all in one row."""
  return [
    bound
    for column, scale in zip(values.T, scales, strict=True)
    for bound in mean_interval(column, questions, scale)
  ]


def holm(p_values: Sequence[float]) -> list[float]:
  """P-values for as many comparisons at once: at most a share `a` of families has one below `a`.

  NaN, of what was not compared, stays NaN and counts for none.

  Source: Holm 1979, A simple sequentially rejective multiple test procedure.
  """
  adjusted, largest = [math.nan] * len(p_values), 0.0
  known = [index for index in np.argsort(p_values) if not math.isnan(p_values[index])]
  for place, index in enumerate(known):
    largest = max(largest, (len(known) - place) * p_values[index])
    adjusted[index] = min(largest, 1.0)
  return adjusted


def quantile(freedom: float, level: float = LEVEL) -> float:
  """Student's two-sided quantile; the normal one for infinitely many degrees of freedom."""
  return float(stats.t.ppf((1 + level) / 2, freedom))


def score_interval(share: float, trials: float) -> Proportion:
  """Wilson's score interval of a share, for a number of trials that need not be whole.

  Unlike resampling, it does not call a share of 0 or 1 certain, whatever the number of trials.

  Args:
    share: observed share, 0 to 1.
    trials: number of independent trials that the share is worth.

  Source: Wilson 1927, Probable inference, the law of succession, and statistical inference.
  """
  z = quantile(math.inf)
  centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
  reach = (
    z / (1 + z**2 / trials) * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
  )
  # Rounding must not put a bound beyond what it bounds.
  return Proportion(
    share, min(max(centre - reach, 0.0), share), max(min(centre + reach, 1.0), share)
  )
