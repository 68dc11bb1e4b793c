"""Equality of mathematical expressions: exact where they are numbers, else by math-verify.

math-verify compares in a worker process: bounded time, from any thread.
"""

import importlib.util
import itertools
import re
from fractions import Fraction

from greedy_prune_jax.chains.normal_text import normal_answer
from greedy_prune_jax.chains.units import split_unit
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.worker import Worker

_DEEPEST = 20  # brackets within each other
_LONGEST = 1000  # characters; a longer expression is equal to the same text alone


def same_expression(value: str, target: str) -> bool:
  r"""Tells whether two expressions in TeX are equal.

  Units and bases of numbers count where both have them (5 km is 5000 m, not 5 m); several values
  are equal only to as many.
  """
  value, target = (_words_as_signs(normal_answer(text)) for text in (value, target))
  if _squeezed(value) == _squeezed(target):
    return True
  if max(len(value), len(target)) > _LONGEST or not value or not target:
    return False
  if max(map(_nesting, (value, target))) > _DEEPEST:  # what parses it takes time exponential in it
    return False
  value, target = (_MEMBER.sub("", text) for text in (value, target))
  ours, theirs = split_unit(value), split_unit(target)
  factor = Fraction(1)
  if ours.dimension and theirs.dimension:
    if ours.dimension != theirs.dimension:
      return False
    factor = ours.factor / theirs.factor
  value, target = ours.number, theirs.number
  if _squeezed(value) == _squeezed(target):
    return factor == 1
  ours_in_base, theirs_in_base = _BASE.fullmatch(value), _BASE.fullmatch(target)
  if ours_in_base and theirs_in_base:
    return _digits_and_base(ours_in_base) == _digits_and_base(theirs_in_base)
  if ours_in_base or theirs_in_base:
    value, target = (_BASE.sub(r"\1", text) for text in (value, target))
  number, gold = _plain_number(value), _plain_number(target)
  if number is not None and gold is not None:
    if {ours.dimension, theirs.dimension} == {None, "share^1"}:  # 5% is 0.05, and is written as 5
      part = Fraction(1, 100) if ours.dimension else Fraction(100)
      return _same_number(number, gold) or _same_number(number * part, gold)
    return _same_number(number * factor, gold)
  if factor != 1:
    value = rf"({value})\cdot\frac{{{factor.numerator}}}{{{factor.denominator}}}"
  values, golds = _values(value), _values(target)
  if len(values) != len(golds) and r"\pm" not in value + target:
    return _one_value_in_several_ways(value, target)
  if not _same_relations(value, target):
    return False
  return MATH_CHECKER.equal(value, target)


def _nesting(text: str) -> int:
  """Counts the brackets that are open at once, at most."""
  steps = ((x in "([{") - (x in ")]}") for x in text)
  return max(itertools.accumulate(steps), default=0)


def _one_value_in_several_ways(value: str, target: str) -> bool:
  """Tells whether a list such as `2 1/2, 5/2`, one value written twice, is the other side's one."""
  if value.startswith(_BRACKETS) or target.startswith(_BRACKETS):
    return False
  pairs = [(one, other) for one in _values(value) for other in _values(target)]
  return len(pairs) <= _MOST_VALUES and all(same_expression(*pair) for pair in pairs)


_BRACKETS = ("(", "[", "{", r"\{")
_MOST_VALUES = 4
_JOINING_WORD = re.compile(
  r"\s*,?\s*(?:\\(?:text|mbox|mathrm|quad)\s*\{?\s*\b(?:or|and)\b\s*\}?|\b(?:or|and)\b)\s*"
)
_WRAPPED_NAME = re.compile(r"\\(?:text|mbox|mathrm)\s*\{\s*\(?([A-Z])\)?\s*\}")
_BASE = re.compile(r"([0-9][0-9A-Fa-f]*)\s*_\s*\{?\s*(?:\\text\s*\{)?\s*(\d+|[a-z]+)\s*\}*")
_MIXED = re.compile(r"(-?)(\d+)\s*\\frac\s*\{?(\d+)\}?\s*\{?(\d+)\}?|(-?)(\d+)\s+(\d+)/(\d+)")
_QUOTIENT = re.compile(
  r"(-?)\\frac\s*(?:\{(-?\d+)\}|(\d))\s*(?:\{(\d+)\}|(\d))|(-?)(\d+)\s*/\s*(\d+)"
)
_DECIMAL = re.compile(r"[-+]?\s*(?:\d{1,3}(?:,\s?\d{3})+|\d+)?(?:\.\d+)?")
_SCIENTIFIC = re.compile(
  r"([-+]?(?:\d+(?:\.\d*)?|\.\d+))\s*(?:[eE]|(?:\\times|\\cdot|\*)\s*10\s*\^)\s*\{?\s*([-+]?\d{1,4})\s*\}?"
)
_TOLERANCE = Fraction(1000001, 10**12)  # 0.333333 is a third


_BASE_NAMES = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven")
_BASES = {name: str(base) for base, name in enumerate((*_BASE_NAMES, "twelve"), start=2)}
_MEMBER = re.compile(r"\A\s*[A-Za-z]\s*\\in(?![A-Za-z])\s*")


def _digits_and_base(match: re.Match[str]) -> tuple[str, str]:
  digits, base = match.groups()
  return digits.upper(), _BASES.get(base, base)


def _words_as_signs(text: str) -> str:
  return _WRAPPED_NAME.sub(r"\\text{\1}", _JOINING_WORD.sub(", ", text))


def _squeezed(text: str) -> str:
  return re.sub(r"\s", "", text)


def _plain_number(text: str) -> Fraction | None:
  """The value of a decimal, a quotient or a mixed number of integers; None for anything else."""
  text = text.strip()
  try:
    if match := _SCIENTIFIC.fullmatch(text):
      return Fraction(match[1]) * Fraction(10) ** int(match[2])
    if re.search(r"\d", text) and _DECIMAL.fullmatch(text):
      return Fraction(re.sub(r"[,\s]", "", text))
    if match := _MIXED.fullmatch(text):
      sign, whole, above, below = (part for part in match.groups() if part is not None)
      value = int(whole) + Fraction(int(above), int(below))
      return -value if sign else value
    if match := _QUOTIENT.fullmatch(text):
      sign, above, below = (part for part in match.groups() if part is not None)
      value = Fraction(int(above), int(below))
      return -value if sign else value
  except ArithmeticError:
    pass
  return None


def _same_number(value: Fraction, target: Fraction) -> bool:
  """Exact where both are decimals or neither is, else as close as six digits say."""
  if _terminates(value) == _terminates(target):
    return value == target
  return abs(value - target) <= _TOLERANCE * max(abs(value), abs(target))


def _terminates(value: Fraction) -> bool:
  rest = value.denominator
  for prime in (2, 5):
    while rest % prime == 0:
      rest //= prime
  return rest == 1


_RELATION = re.compile(r"\\(?:ne|neq|le|leq|ge|geq|lt|gt)(?![A-Za-z])|!=|[<>]")


def _values(text: str) -> list[str]:
  """The parts of a text that commas and semicolons separate, outside inner brackets."""
  text = re.sub(r"(?<=\d),\s?(?=\d{3}(?!\d))", "", text).strip()
  if re.match(r"\\?[({\[]", text) and re.search(r"\\?[)}\]]\Z", text):
    text = re.sub(r"\A\\?[({\[]|\\?[)}\]]\Z", "", text)
  parts, depth, start = [], 0, 0
  for match in re.finditer(r"[({\[]|[)}\]]|[,;]", text):
    depth += {"(": 1, "{": 1, "[": 1, ",": 0, ";": 0}.get(match[0], -1)
    if match[0] in ",;" and depth == 0:
      parts.append(text[start : match.start()])
      start = match.end()
  return [*parts, text[start:]]


def _same_relations(value: str, target: str) -> bool:
  """Tells whether an inequality is compared with one, and an equation gives what it ends in."""
  if bool(_RELATION.search(value)) and not _RELATION.search(target):
    return r"\in" in target
  if "=" not in value or "=" in target:
    return True
  for part in _values(value):
    *left, last = part.split("=")
    for side in left:
      is_number = re.search(r"\d", side) and not re.search(r"(?<!\\)\b[A-Za-z]", side)
      if is_number and not same_expression(side, last):
        return False
  return True


class MathChecker:
  """Asks a worker process.

  math-verify limits its time with SIGALRM, which works on the main thread only and cancels alarms
  that others have set; so it runs where neither matters.
  """

  def __init__(self, seconds: float = 10.0):
    """With `seconds` as the time that one comparison may take."""
    self._worker = Worker("greedy_prune_jax.chains.math_worker", seconds)

  def equal(self, value: str, target: str) -> bool:
    """Tells whether `value` states what `target` does, both in TeX.

    False if time or memory ran out.

    Raises:
      UserError: math-verify is not installed.
    """
    if importlib.util.find_spec("math_verify") is None:
      raise UserError(
        "checking answers of MATH, AIME and AMC needs the package math-verify; install it with: "
        "pip install 'greedy_prune_jax[math]'"
      )
    return self._worker.ask({"value": value, "target": target}) is True

  def close(self) -> None:
    """Ends the worker; a later question starts another."""
    self._worker.close()


MATH_CHECKER = MathChecker()
