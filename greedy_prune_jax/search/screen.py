"""The settings of a screened search, and how much work they make."""

import dataclasses

from greedy_prune_jax.runs.settings import check_least
from greedy_prune_jax.scoring.scorer import Program
from greedy_prune_jax.scoring.shortlist import ShortlistPlan
from greedy_prune_jax.search import buckets


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScreenSettings:
  """What `config.screen` sets.

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


def plan_shortlist(
  settings: ScreenSettings, program: Program, block_positions: float, deletions: int
) -> ShortlistPlan:
  """How the program of a length bucket screens.

  Args:
    settings: of the search.
    program: of the bucket.
    block_positions: positions that should go through the model at once, for each chain.
    deletions: units that are deleted from one scoring.
  """
  shortlist = _shortlist(settings, deletions)
  return ShortlistPlan(
    window=settings.window,
    shortlist=shortlist,
    rounds=settings.rounds,
    doubt=settings.doubt,
    # Of a size that no other chain of the batch and no device changes: so what is found does not.
    window_block=_window_block(settings),
    # A suffix is half as long as a row, on average, and rows do not come out even. A shortlist
    # fills so few rows that larger blocks would run many empty ones.
    block_rows=max(1, min(int(block_positions / 6 / program.width), shortlist // 2 + 1)),
    by_estimate=deletions > 1 and settings.per_deletion < 1,
  )


def _window_block(settings: ScreenSettings) -> int:
  """Estimates of a chain that run at once."""
  return buckets.round_up(2 * settings.window + 1, 8)


def estimate_positions(settings: ScreenSettings, tail: int) -> int:
  """Token positions of a chain's estimates that run at once.

  Args:
    settings: of the search.
    tail: see `screened_positions`.
  """
  return _window_block(settings) * (settings.window + tail)


def screened_positions(
  num_reasoning: int, num_answer: int, settings: ScreenSettings, tail: int, deletions: int
) -> int:
  """Token positions that one screened step runs, about: text, estimates, and a shortlist.

  Args:
    num_reasoning: tokens now.
    num_answer: A.
    settings: of the search.
    tail: positions of an estimate behind its window: A for `answer`, else 0.
    deletions: units that are deleted from one scoring.
  """
  refreshed = _refreshed(num_reasoning, settings, deletions)
  estimates = min(num_reasoning, refreshed) * (settings.window + tail)
  scored = _shortlist(settings, deletions)
  suffix = num_reasoning // 2 + num_answer - 1
  return round(num_reasoning + num_answer - 1 + estimates + min(scored, num_reasoning) * suffix)


def _refreshed(num_reasoning: int, settings: ScreenSettings, deletions: int) -> float:
  """Estimates of a step: those on both sides of each deletion, and what else fills a block."""
  near = 2 * settings.window + 1
  block = _window_block(settings)
  # Deletions that fall at random share some of their neighbours.
  distinct = num_reasoning * (1 - max(1 - near / max(num_reasoning, 1), 0) ** deletions)
  return block if distinct <= block else distinct + block / 2  # half of the last is empty


def _shortlist(settings: ScreenSettings, deletions: int) -> int:
  """Units that are scored at a time."""
  return settings.shortlist + int(settings.per_deletion * (deletions - 1))
