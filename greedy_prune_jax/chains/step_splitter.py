"""Steps by rules: offline, of any text, and the same each time.

Times are linear in the text's length: what repeats in a pattern is possessive or bounded.
"""

import bisect
import re
from collections.abc import Iterator

# What begins a new step, at the beginning of a sentence or line.
_OPENERS = (
  "so|then|next|now|first|firstly|second|secondly|third|thirdly|finally|lastly|therefore|thus|"
  "hence|wait|hmm|but|however|also|alternatively|okay|ok|let me check|let me verify|to check|"
  "to verify|in total|altogether|the answer|the final answer"
)
_OPENER = re.compile(rf"\s*(?:{_OPENERS})\b", re.IGNORECASE)
# A value that something is set equal to: a step with one is complete.
_EQUATION = re.compile(
  r"(?:=|\\approx|\N{ALMOST EQUAL TO})(?=(\s*+(?:\\[a-z]*+\W){0,20}+[-$€£(]*+\s*+\.?\d))"
)
# Ends of sentences; the white space behind belongs to them.
_SENTENCE_END = re.compile(
  r"(?<![\s(][A-Za-z])"  # initials
  r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bapprox)(?<!\betc)"
  r"(?<!^\d)(?<!\n\d)(?<!\n\d\d)"  # the number of a line in a list
  r"[.!?]{1,20}[\"')\]*$]{0,20}\s+|\n\s*"
)
# Inside a sentence whose equation is complete, another clause begins another step.
_CLAUSE = re.compile(r"[,;]\s+(?=(?:so|then|therefore|thus|hence|which|and|but|giving)\b)")


def split_steps(text: str) -> list[str]:
  """The steps of a reasoning; joined they are it.

  A step is the sentences that lead up to an equation, and the sentence that has it. It ends sooner
  where a paragraph does, or where the next sentence opens with a connective (so, then, wait). A
  sentence with several equations is divided behind each, where a clause begins.
  """
  equations = _Equations(text)
  steps, begun, blank, ended = [], 0, True, False
  for start, end in _pieces(text, equations):
    complete = ended or equations.any_in(begun, start)
    if not blank and (complete or _OPENER.match(text, start, end)):
      steps.append(text[begun:start])
      begun, blank = start, True
    said = text[start:end].rstrip()
    ended = text.count("\n", start + len(said), end) > 1  # a paragraph
    blank = blank and not said
  if not blank or not steps:
    return [*steps, text[begun:]]
  return [*steps[:-1], steps[-1] + text[begun:]]  # white space alone is no step


class _Equations:
  """Places of a text's equations."""

  def __init__(self, text: str):
    found = list(_EQUATION.finditer(text))
    self._starts, self._ends = [m.start() for m in found], [m.end(1) for m in found]

  def any_in(self, start: int, end: int) -> bool:
    """Tells whether a span of the text holds a whole one."""
    first = bisect.bisect_left(self._starts, start)
    return first < len(self._ends) and self._ends[first] <= end


def _pieces(text: str, equations: _Equations) -> Iterator[tuple[int, int]]:
  """Spans of sentences, lines, and clauses behind an equation."""
  start = 0
  for end in sorted({match.end() for match in _SENTENCE_END.finditer(text)} | {len(text)}):
    for clause in _CLAUSE.finditer(text, start, end):
      if equations.any_in(start, clause.start()):
        yield start, clause.end()
        start = clause.end()
    if start < end:
      yield start, end
    start = end
