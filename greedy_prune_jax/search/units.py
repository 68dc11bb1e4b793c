"""Units of deletion: the reasoning cut into runs of consecutive tokens.

Units cover the reasoning without gaps. They are found in its text; a token belongs to the unit in
which it starts. So a token that straddles a border (`.\n` of some tokenizers) goes with what is
before the border, and a unit in which no token starts is none.
"""

# Quotes, dashes and stops that look like ASCII ones are what is meant here.
# ruff: noqa: RUF001

from collections.abc import Callable, Sequence

import numpy as np
import regex

from greedy_prune_jax.chains.unbroken import INSIDE, Stretches, unbroken

TOKEN = "token"


def unit_sizes(unit: str, tokens: Sequence[str]) -> tuple[int, ...] | None:
  """Tokens of each unit of a reasoning, in order.

  Args:
    unit: one of `UNITS`.
    tokens: texts of the reasoning tokens; joined they are the reasoning.

  Returns:
    Sizes that add up to the number of tokens; None where every token is a unit.
  """
  return None if unit == TOKEN else sizes_between(_STARTS[unit]("".join(tokens)), tokens)


def sizes_between(starts: Sequence[int], tokens: Sequence[str]) -> tuple[int, ...]:
  """Tokens of each unit, of units that begin at the given places of the text.

  Args:
    starts: places in the joined text, ascending; the first unit begins at 0 in any case.
    tokens: texts of the tokens.
  """
  lengths = np.array([len(token) for token in tokens])
  unit_of_token = np.searchsorted(np.asarray(starts), np.cumsum(lengths) - lengths, side="right")
  _, sizes = np.unique(unit_of_token, return_counts=True)
  return tuple(sizes.tolist())


# Letters, with the marks that some scripts write over or behind them, and digits.
_LETTER = r"[\p{L}\p{M}]"
_WORD = regex.compile(
  rf"""\s*(?:
    \\\p{{L}}+                                    # a command of LaTeX
    | (?:(?<![\w.])\.)?\d+(?:[.,]\d+)*{_LETTER}*  # 1,234.5  .50  2nd  5pm
    | {_LETTER}{{2,}}(?:-{_LETTER}{{2,}})+        # twenty-five, but not x-y
    | (?:\p{{L}}\.){{2,}}                         # i.e.  a.m.
    | [\w\p{{M}}]+(?:['’][\w\p{{M}}]+)*(?:(?<=s)['’](?!\w))?  # don't  Natalia's  the boys'
    | (\S)\1*                                     # a sign, or several of one kind: **  ...
  ) | \s+""",
  regex.VERBOSE,
)


def word_starts(text: str) -> list[int]:
  """Starts of words: each with the white space before it.

  Numbers such as 1,234.5 and LaTeX commands are words. Signs are units of their own, several of the
  same kind together (`...`, `**`), and so is white space that no word follows. In scripts that
  write no spaces a stretch of letters is one word. No word begins within what readers see as one
  character, such as an emoji of several.
  """
  characters = {match.start() for match in regex.finditer(r"\X", text)}
  return [start for match in _WORD.finditer(text) if (start := match.start()) in characters]


# Formulas that are set off end a sentence before such; some have rows, and tables with rows within.
_SET_OFF = (r"\[", "$$", r"\begin")
_BEGINNING = regex.compile(r"[^\S\n]*(?:\p{Lu}|\$\$|\\\[|\\begin\b)")
_ALIGNED = regex.compile(
  r"\\begin\{((?:align|aligned|gather|gathered|eqnarray|split|multline)\*?)\}"
  rf"{INSIDE}\\end\{{\1\}}",
  regex.DOTALL,
)
_ROW_END = regex.compile(r"\\\\(?:\[[^\[\]]*\])?\s*")
_TABLE = regex.compile(
  rf"\\begin\{{(\w*matrix\*?|cases|array)\}}{INSIDE}\\end\{{\1\}}", regex.DOTALL
)
_CLOSERS = r"""["'”’)\]*_$]*"""
# Lines and stops begin where a run of their characters does, and take all of it: else long runs
# would be gone through from each of their places.
_BORDER = regex.compile(
  rf"""
  (?P<line>(?<!\s)\s*\n)                            # the line's end goes with what it ends
  | (?<![.!?…])[.!?…]++{_CLOSERS}+(?=[^\S\n]++\S)  # spaces begin the next sentence
  | [。！？]+["”’」』）]*(?=[^\S\n]*\S)
  """,
  regex.VERBOSE,
)
# A full stop that ends no sentence: of an abbreviation, or of the number that an item or a heading
# begins with where that is all of the sentence so far.
_ABBREVIATION = regex.compile(
  r"""(?:^|[\s("'“‘\[*])
  (?:Mrs?|Ms|Dr|Prof|St|Jr|Sr|vs|cf|e\.g|i\.e|approx|Figs?|Eqs?|\p{Lu}(?:\.\p{Lu})+)\.\Z""",
  regex.VERBOSE,
)
_ITEM = regex.compile(
  rf"""[\s*_\#>(\-–•]*(?:(?:Step|Case|Part|Method|Option)\s+)?
  (?:\d{{1,3}}|[ivx]{{1,4}}|\p{{L}}(?:\.\s*\p{{Lu}})*)\.{_CLOSERS}""",
  regex.VERBOSE | regex.IGNORECASE,
)
# What goes on with the sentence: a word in lower case, though not the variable of `x = 3`.
_CONTINUATION = regex.compile(r"\s+\p{Ll}(?!\s*[^\p{L}\s'’,.])")
# A factorial in a formula, which goes on behind it.
_FACTORIAL = regex.compile(r"(?:[\d)}\]]|(?<!\p{L})\p{L})!+\Z")
_OPERATOR = regex.compile(
  r"[^\S\n]+(?:[-+/=<>≤≥≈≠×·÷^]|\*(?!\*)|\\(?:cdot|times|div|approx|[lg]eq?|neq?)\b)"
)
_LONGEST_ABBREVIATION = 12  # characters, with what stands before it
_LONGEST_ITEM = 200  # characters, with the white space and signs before it


def sentence_starts(text: str) -> list[int]:
  """Starts of sentences, by rules.

  A sentence ends with its line, and behind `.`, `!` or `?` (and quotes and brackets that close
  there) if white space follows; but not at the full stop of an abbreviation (`Mr.`, `e.g.`) or of
  the number that a sentence begins with (`1.`, `Step 2.`), not before a word in lower case, not
  between a factorial and an operator (`8! / 5!`), and not within a formula that LaTeX sets off
  (`\\[`, `$$`, `\\begin`) or a block of code. Such a formula ends a sentence where another or a
  word with a capital letter follows, and so does each of its rows, if it is aligned. Spaces
  belong to the sentence that they come before, the end of a line and empty lines to the one that
  they end.
  """
  borders = dict.fromkeys(_formula_borders(text), False)
  whole = unbroken(text)
  by_stop = {border.end(): border["line"] is None for border in _BORDER.finditer(text)}
  borders |= {end: stop for end, stop in by_stop.items() if end not in borders and end not in whole}
  starts, blank = [0], 0  # what lies before `blank`, from the last start on, is white space
  for end, stop in sorted(borders.items()):
    if stop:
      ends = _ends(text, starts[-1], end)
    else:
      blank = max(blank, starts[-1])
      while blank < end and text[blank].isspace():
        blank += 1
      ends = blank < end
    if ends and end < len(text):
      starts.append(end)
  return starts


def _formula_borders(text: str) -> list[int]:
  """Ends of formulas that are set off, and of the rows of aligned ones."""
  borders = [
    end
    for start, end in unbroken(text).spans
    if text.startswith(_SET_OFF, start) and _BEGINNING.match(text, end)
  ]
  for formula in _ALIGNED.finditer(text):
    tables = Stretches(match.span() for match in _TABLE.finditer(text, *formula.span()))
    rows = _ROW_END.finditer(text, *formula.span())
    borders += [row.end() for row in rows if row.end() not in tables]
  return borders


def _ends(text: str, start: int, end: int) -> bool:
  """Tells whether a sentence that begins at `start` ends at a stop within a line, before `end`."""
  last = text[max(start, end - _LONGEST_ABBREVIATION) : end]
  return not (
    _ABBREVIATION.search(last)
    or (end - start <= _LONGEST_ITEM and _ITEM.fullmatch(text, start, end))
    or _CONTINUATION.match(text, end)
    or (_FACTORIAL.search(last) and _OPERATOR.match(text, end))
  )


_STARTS: dict[str, Callable[[str], Sequence[int]]] = {
  "word": word_starts,
  "sentence": sentence_starts,
}
UNITS = (TOKEN, *_STARTS)
