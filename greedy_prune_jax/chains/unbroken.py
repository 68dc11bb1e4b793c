"""Formulas, drawings and code: stretches of a text that are not cut within."""

import bisect
from collections.abc import Iterable

import regex

# What never closes is searched only so far: else each of many such would be, to the text's end.
INSIDE = r".{0,5000}?"
_UNBROKEN = regex.compile(
  rf"""\\\[{INSIDE}\\\] | \\\({INSIDE}\\\) | \$\${INSIDE}\$\$
  | \\begin\{{(\w+\*?)\}}{INSIDE}\\end\{{\1\}} | ```.*?(?:```|\Z) | \[asy\]{INSIDE}\[/asy\]""",
  regex.VERBOSE | regex.DOTALL,
)


class Stretches:
  """Stretches of a text, as start and end, ascending, none within another."""

  def __init__(self, spans: Iterable[tuple[int, int]]):
    self.spans = list(spans)

  def __contains__(self, place: int) -> bool:
    """Tells whether a place lies within a stretch, not at its ends."""
    return self.outside(place) != place

  def outside(self, place: int) -> int:
    """The start of the stretch within which a place lies; the place if it lies in none."""
    after = bisect.bisect_left(self.spans, (place, 0))
    start, end = self.spans[after - 1] if after else (place, place)
    return start if place < end else place


def unbroken(text: str) -> Stretches:
  """The formulas that are set off, the drawings and the blocks of code of a text."""
  return Stretches(match.span() for match in _UNBROKEN.finditer(text))
