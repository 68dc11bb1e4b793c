"""Numbers that a rewritten chain has and nobody gave it."""

import ast
import bisect
import re
import unicodedata
from collections.abc import Iterator, Sequence
from fractions import Fraction

from greedy_prune_jax.chains.numbers import OPERATIONS, find_numbers

_HIGHEST_POWER = 64
_MOST_BITS = 4096  # of a power's value; nobody writes longer numbers
_SUM = re.compile(r"[\d.+*/()^%\s-]+")  # the characters of an arithmetic expression
# Digits that are no quantities: of a list's lines, and of powers.
_MARKS = re.compile(
  r"^[^\S\n]*(?:step\s+)?\d+[.):](?=\s)|\^[{(]?[-\N{MINUS SIGN}]?\d+(?:\.\d+)?[)}]?",
  re.MULTILINE | re.IGNORECASE,
)
_POWER = re.compile(r"[⁰¹²³⁴-⁹]+")
# From how people and TeX write arithmetic to how Python does.
_SPELLINGS = (
  (re.compile(r"\\[dt]?frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}"), r"((\1)/(\2))"),
  (re.compile(r"\\text\s*\{[^{}]*\}|\\[,!;: ]|[$£€¥₹]|\\left|\\right"), ""),
  (re.compile(r"\\times|\\cdot|[\N{MULTIPLICATION SIGN}\N{MIDDLE DOT}]|(?<=\w)\s+x\s+(?=\d)"), "*"),
  (re.compile(r"(?<=\d)x(?=\d)"), "*"),
  (re.compile(r"\\div|\N{DIVISION SIGN}"), "/"),
  (re.compile(r"[\N{MINUS SIGN}\N{EN DASH}]"), "-"),
  (re.compile(r"(?<=\d)%\s+of\b|(?<=\d)\s+percent\s+of\b"), "% *"),
  (re.compile(r"\\%"), "%"),
  (re.compile(r"(?<=\d),(?=\d{3}\b)"), ""),
  (re.compile(r"(?<=[\dA-Za-z])\s?/\s?[A-Za-z]{2,}"), ""),  # of units: $20/hour * 3 hours/day
  (re.compile(r"(?<=\d)(?:\s+[A-Za-z]+){1,3}(?=\s*[-*+/)])"), ""),  # units: 3 boxes * 14 eggs
  (re.compile(r"\\approx|\N{ALMOST EQUAL TO}"), "="),
)


def invented_numbers(text: str, given: str) -> list[str]:
  """Numbers of a new chain that are not in what was given, nor follow from one of its equations.

  A number follows from an equation if one side of it is an expression that has the number as its
  value, such as 42 in `6 * 7 = 42`; of a rounded one, if it is within half of its last digit.
  Percentages count as their hundredths too. Numbers in words, those of the lines of a list, and
  powers are not looked at.

  Returns:
    The numbers as they are written, in order, each once.
  """
  text, given = map(_spell_powers, (text, given))
  known = {value for _, value in find_numbers(given)}
  known |= {value / 100 for value in _percentages(given)}
  results = sorted({abs(value) for equation in _equations(text) for value in equation})
  invented: dict[Fraction, str] = {}
  for written, value in find_numbers(_MARKS.sub("", text)):
    if value not in known and not _is_rounded(written, value, results):
      invented.setdefault(value, written)
  return list(invented.values())


def _spell_powers(text: str) -> str:
  return _POWER.sub(lambda match: "^" + unicodedata.normalize("NFKC", match[0]), text)


def _is_rounded(written: str, value: Fraction, results: Sequence[Fraction]) -> bool:
  """Tells whether a number states one of the results, ascending, to the digits that it has."""
  digits = len(written.partition(".")[2])
  # A whole number is exact: 3 is not what 10 / 3 gives.
  error = Fraction(1, 2 * 10**digits) if digits else Fraction(0)
  nearest = bisect.bisect_left(results, value - error)
  return nearest < len(results) and results[nearest] <= value + error


def _percentages(text: str) -> Iterator[Fraction]:
  for match in re.finditer(r"(?<!\d)(\d{1,99}(?:\.\d{1,99})?)\s*(?:\\?%|percent)", text):
    yield Fraction(match[1])


def _equations(text: str) -> Iterator[list[Fraction]]:
  """Of each line's chain of equal sides, the values of those that are expressions."""
  for line in text.splitlines():
    for pattern, spelling in _SPELLINGS:
      line = pattern.sub(spelling, line)
    sides = [_sums(side) for side in line.split("=")]
    # Of the first side the end belongs to the equation, of the last its beginning.
    ends = [sums[-1] for sums in sides[:-1] if sums] + [sums[0] for sums in sides[1:] if sums]
    yield [value for end in ends if (value := evaluate_expression(end)) is not None]


def _sums(side: str) -> list[str]:
  """The expressions of a side, words and units aside: `3 * 4` in `so 3 * 4 eggs`."""
  return [part.strip(" ,.") for part in _SUM.findall(side) if any(x.isdigit() for x in part)]


def evaluate_expression(expression: str) -> Fraction | None:
  """The exact value of an arithmetic expression; None of a number alone, or where it has none."""
  source = re.sub(r"(\d+(?:\.\d+)?)\s*%", r"(\1/100)", expression).replace("^", "**")
  try:
    tree = ast.parse(source.strip(), mode="eval").body
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    return None
  if not isinstance(tree, ast.BinOp):
    return None
  try:
    return _value(tree, source.strip())
  except (ValueError, ZeroDivisionError, OverflowError, RecursionError):
    return None


def _value(node: ast.expr, source: str) -> Fraction:
  if isinstance(node, ast.Constant):
    # From its text: a float would not be exact.
    return Fraction(ast.get_source_segment(source, node) or "")
  if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
    return -_value(node.operand, source)
  if not isinstance(node, ast.BinOp):
    raise ValueError(f"{ast.dump(node)} is no arithmetic")
  left, right = _value(node.left, source), _value(node.right, source)
  if isinstance(node.op, ast.Pow):
    if right.denominator != 1 or abs(right) > _HIGHEST_POWER:
      raise ValueError(f"{right} is too high a power, or none")
    if max(left.numerator.bit_length(), left.denominator.bit_length()) * abs(right) > _MOST_BITS:
      raise ValueError("a power too large to be meant")
    return left ** int(right)
  if type(node.op) not in OPERATIONS:
    raise ValueError(f"{ast.dump(node.op)} is no arithmetic")
  return OPERATIONS[type(node.op)](left, right)
