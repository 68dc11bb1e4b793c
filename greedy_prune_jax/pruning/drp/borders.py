"""How well two ways to split a text agree."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Agreement(NamedTuple):
  """Borders of two ways to split the same texts; those at a text's ends do not count.

  Attributes:
    common: borders that both have.
    ours: borders of the one.
    theirs: borders of the other.
  """

  common: int
  ours: int
  theirs: int

  @property
  def f1(self) -> float | None:
    """The harmonic mean of precision and recall; None where neither has a border."""
    total = self.ours + self.theirs
    return 2 * self.common / total if total else None


def compare_borders(pairs: Iterable[tuple[Sequence[str], Sequence[str]]]) -> Agreement:
  """Borders over all texts, each given as its parts by either way.

  White space beside a border belongs to neither side.

  Raises:
    ValueError: two lists are not of the same text.
  """
  common = ours = theirs = 0
  for one, other in pairs:
    (left, left_length), (right, right_length) = _borders(one), _borders(other)
    if left_length != right_length:
      raise ValueError(f"parts of {left_length} and of {right_length} characters: not of one text")
    common += len(left & right)
    ours += len(left)
    theirs += len(right)
  return Agreement(common, ours, theirs)


def _borders(parts: Sequence[str]) -> tuple[set[int], int]:
  """Inner borders as numbers of characters before them, and the text's length, in those too."""
  borders, end = set(), 0
  for part in parts:
    borders.add(end)
    end += len("".join(part.split()))
  return borders - {0, end}, end
