"""Reasoning text cut into words, numbers, formulas and signs, with their places."""

import dataclasses
from collections.abc import Sequence

import regex


@dataclasses.dataclass(frozen=True)
class Word:
  """One piece of text that gets one label.

  Attributes:
    start: index of its first character in the text.
    text: characters of the word.
    kind: `formula` (LaTeX), `number`, `letters`, `sign` (one other character) or `newline`.
    joined: it follows the piece before it without a blank.
  """

  start: int
  text: str
  kind: str
  joined: bool

  @property
  def end(self) -> int:
    """The place after its last character."""
    return self.start + len(self.text)

  @property
  def lower(self) -> str:
    """Lower-case text with straight apostrophes."""
    return self.text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")


# A dollar sign opens a formula if its partner stands on the same line, no blank stands inside
# either of them, and no digit follows the partner: all else is an amount of money. Formulas are
# bounded: else each of many that never close would be searched to the end of the text.
# Vowel signs and accents of a letter's own belong to it, as joiners do.
_LETTERS = r"[\p{L}\p{Nl}\p{No}][\p{L}\p{M}\p{Nl}\p{No}\u200c\u200d]*"
_PIECES = regex.compile(
  rf"""
  (?P<formula> \\begin\{{(?P<env>[a-z]+\*?)\}}.{{0,5000}}?\\end\{{(?P=env)\}}
             | \\\[.{{0,5000}}?\\\] | \\\(.{{0,5000}}?\\\)
             | \$\$.{{1,5000}}?\$\$ | \$(?=\S)[^$\n]*[^\s$]\$(?!\d)
             | \\[A-Za-z]+(?:_?\{{[^{{}}\n]*\}})* | \\. )
  | (?P<number> \d+(?:[.,]\d+)*(?:st|nd|rd|th)? | \.\d+ )
  | (?P<letters> {_LETTERS}(?:['\u2019]{_LETTERS})? )
  | (?P<newline> \n )
  | (?P<sign> \S )
  """,
  regex.VERBOSE | regex.DOTALL,
)


def split_words(text: str) -> list[Word]:
  """The pieces of a text in order; blanks belong to none of them."""
  words: list[Word] = []
  for match in _PIECES.finditer(text):
    kind = next(name for name in ("formula", "number", "letters", "newline", "sign") if match[name])
    joined = bool(words) and words[-1].end == match.start()
    words.append(Word(match.start(), match[0], kind, joined))
  return words


def word_of_spans(
  words: Sequence[Word], spans: Sequence[tuple[int, int]], text: str
) -> list[int | None]:
  """For each token, the index of the word that its first character which is no blank belongs to.

  None for tokens that are blank or empty. Both words and spans are of the text, and ascending.
  """
  word_of: list[int | None] = []
  current = 0
  for start, end in spans:
    first = next((place for place in range(start, end) if not text[place].isspace()), None)
    if first is None:
      word_of.append(None)
      continue
    while words[current].end <= first:
      current += 1
    word_of.append(current)
  return word_of
