"""The settings of a screened search, and how much work they make."""

import dataclasses

from greedy_prune_jax.runs.settings import check_least


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScreenSettings:
  """Settings of `config.screen`.

  Attributes:
    window: number of tokens behind a unit that run again after a deletion among or next to them.
    margin: nats by which an estimate may be too high where nothing of a candidate has run yet; a
      larger margin runs more candidates to their ends.
  """

  window: int = 4
  margin: float = 1.0

  def __post_init__(self):
    check_least(self, 1, "window")
    check_least(self, 0, "margin")


def mean_window(num_reasoning: float, window: int) -> float:
  """Positions of a window behind a unit, on average: those near the end of the text are shorter."""
  within = min(window, num_reasoning)
  return within * (1 - within / (2 * max(num_reasoning, 1)))


def window_positions(
  num_reasoning: float, settings: ScreenSettings, tail: int, deletions: int
) -> float:
  """Token positions of the windows that a step runs again.

  Args:
    num_reasoning: tokens now.
    tail: positions behind a window: A for `answer`, else 0.
    deletions: units that are deleted from one scoring.
  """
  near = 2 * settings.window
  # Deletions that fall at random share some of their neighbours.
  distinct = num_reasoning * (1 - max(1 - near / max(num_reasoning, 1), 0) ** deletions)
  # Of those before a deletion half of the window is known.
  return distinct * (mean_window(num_reasoning, settings.window) * 3 / 4 + tail)
