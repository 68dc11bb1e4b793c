"""The settings of a screened search, and how much work they make."""

import dataclasses

from greedy_prune_jax.models.sizes import round_up
from greedy_prune_jax.runs.settings import check_least
from greedy_prune_jax.scoring.shortlist import ShortlistPlan


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScreenSettings:
  """Settings of `config.screen`.

  Attributes:
    window: tokens behind a deletion that are run again for its estimate.
    shortlist: units that are scored exactly at a time.
    rounds: most shortlists of one step.
    doubt: another shortlist is scored while the next estimate is less than so many standard
      deviations of its error, as seen so far, above the best exact score.
    per_deletion: a shortlist is so many units longer for each deletion of a step beyond the first.
      Below 1 there are deletions that no exact score is made for, and estimates choose them.
  """

  window: int = 6
  shortlist: int = 6
  rounds: int = 4
  doubt: float = 0.5
  per_deletion: float = 1.5

  def __post_init__(self):
    check_least(self, 1, "window", "shortlist", "rounds")
    check_least(self, 0, "doubt", "per_deletion")


def plan_shortlist(settings: ScreenSettings, deletions: int) -> ShortlistPlan:
  """Plans the screening of a search that makes so many deletions from one scoring."""
  return ShortlistPlan(
    window=settings.window,
    shortlist=_shortlist(settings, deletions),
    rounds=settings.rounds,
    doubt=settings.doubt,
    refreshed=_refreshed(settings),
    by_estimate=deletions > 1 and settings.per_deletion < 1,
  )


def _refreshed(settings: ScreenSettings) -> int:
  """Estimates that every step makes again: as many as are near one deletion."""
  return round_up(2 * settings.window + 1, 8)


def shortlist_positions(
  num_reasoning: float, num_answer: int, settings: ScreenSettings, deletions: int
) -> float:
  """Token positions of a shortlist: suffixes of candidates anywhere in the chain."""
  scored = min(_shortlist(settings, deletions), num_reasoning)
  return scored * ((num_reasoning - 1) / 2 + num_answer - 1)


def estimate_positions(
  num_reasoning: float, settings: ScreenSettings, tail: int, deletions: int
) -> float:
  """Token positions of the estimates that a step makes again.

  Args:
    num_reasoning: tokens now.
    settings: settings of the search.
    tail: positions of an estimate behind its window: A for `answer`, else 0.
    deletions: units that are deleted from one scoring.
  """
  near = 2 * settings.window + 1
  # Deletions that fall at random share some of their neighbours.
  distinct = num_reasoning * (1 - max(1 - near / max(num_reasoning, 1), 0) ** deletions)
  return min(num_reasoning, max(_refreshed(settings), distinct)) * (settings.window + tail)


def _shortlist(settings: ScreenSettings, deletions: int) -> int:
  """Units that are scored at a time."""
  return settings.shortlist + int(settings.per_deletion * (deletions - 1))
