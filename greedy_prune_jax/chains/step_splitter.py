"""Steps by rules: offline, of any text, and the same each time."""

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
_EQUATION = re.compile(r"(?:=|\\approx|\N{ALMOST EQUAL TO})\s*(?:\\[a-z]*\W)*[-$€£(]*\s*\.?\d")
# Ends of sentences; the white space behind belongs to them.
_SENTENCE_END = re.compile(
  r"(?<![\s(][A-Za-z])"  # initials
  r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bapprox)(?<!\betc)"
  r"(?<!^\d)(?<!\n\d)(?<!\n\d\d)"  # the number of a line in a list
  r"[.!?]+[\"')\]*$]*\s+|\n\s*"
)
# Inside a sentence whose equation is complete, another clause begins another step.
_CLAUSE = re.compile(r"[,;]\s+(?=(?:so|then|therefore|thus|hence|which|and|but|giving)\b)")


def split_steps(text: str) -> list[str]:
  """The steps of a reasoning; joined they are it.

  A step is the sentences that lead up to an equation, and the sentence that has it. It ends sooner
  where a paragraph does, or where the next sentence opens with a connective (so, then, wait). A
  sentence with several equations is divided behind each, where a clause begins.
  """
  steps, step = [], ""
  for piece in _pieces(text):
    complete = _EQUATION.search(step) or step.endswith("\n\n")
    if step.strip() and (complete or _OPENER.match(piece)):
      steps.append(step)
      step = ""
    step += piece
  if step.strip() or not steps:
    return [*steps, step]
  return [*steps[:-1], steps[-1] + step]  # white space alone is no step


def _pieces(text: str) -> Iterator[str]:
  """Sentences, lines, and clauses behind an equation."""
  start = 0
  for end in sorted({match.end() for match in _SENTENCE_END.finditer(text)} | {len(text)}):
    sentence, begun = text[start:end], 0
    for match in _CLAUSE.finditer(sentence):
      if _EQUATION.search(sentence, begun, match.start()):
        yield sentence[begun : match.end()]
        begun = match.end()
    if sentence[begun:]:
      yield sentence[begun:]
    start = end
