"""Equality of mathematical expressions: exact where they are numbers, else by math-verify.

math-verify compares in a worker process: bounded time, from any thread.
"""

import itertools
import re
from fractions import Fraction
from typing import NamedTuple

from greedy_prune_jax.chains.letters import only_letter
from greedy_prune_jax.chains.normal_text import PREFIXED, in_decimals, normal_answer
from greedy_prune_jax.chains.relations import (
  as_intervals,
  has_other_relation,
  is_bound,
  is_name,
  sides_of,
  stated,
)
from greedy_prune_jax.chains.units import parse_unit, ratio, split_unit
from greedy_prune_jax.errors import check_package
from greedy_prune_jax.runs.worker import Worker

_DEEPEST = 20  # brackets within each other
_LONGEST = 1000  # characters; a longer expression is equal to the same text alone
_LONGEST_WRITTEN = 4000  # the same before it is normalised


def same_expression(value: str, target: str) -> bool:
  r"""Tells whether two expressions in TeX are equal.

  Units and bases of numbers count where both have them (5 km is 5000 m, not 5 m); several values
  are equal only to as many.
  """
  if max(len(value), len(target)) > _LONGEST_WRITTEN:
    return value.strip() == target.strip()
  value, target = (_words_as_signs(stated(normal_answer(text))) for text in (value, target))
  if _squeezed(value) == _squeezed(target):
    return True
  if max(len(value), len(target)) > _LONGEST or not value or not target:
    return False
  if max(map(_nesting, (value, target))) > _DEEPEST:  # what parses it takes time exponential in it
    return False
  if not _BASE.search(f"{value} {target}"):
    value, target = in_decimals(value), in_decimals(target)
  value, target = (PREFIXED.sub(_with_base, text) for text in (value, target))
  if is_bound(value) != is_bound(target):
    return False
  if (letter := _LETTER.fullmatch(target)) and only_letter(value) == letter[1]:
    return True
  value, target = (_MEMBER.sub("", text) for text in (value, target))
  if has_other_relation(value) != has_other_relation(target):
    value, target = as_intervals(value), as_intervals(target)
  if ("=" in value) != ("=" in target):
    value, target = _assigned(value), _assigned(target)
  bases, gold_bases = ([_base(m) for m in _BASE.finditer(text)] for text in (value, target))
  if bases and gold_bases and sorted(bases) != sorted(gold_bases):
    return False
  return _same_quantity(*(_BASE.sub(_digits, text) for text in (value, target)))


def _same_quantity(value: str, target: str) -> bool:
  """Tells whether two numbers are equal in their units, and of the same thing, as far as named."""
  ours, theirs = split_unit(value), split_unit(target)
  factor, angles = Fraction(1), 0
  if ours.unit and theirs.unit:
    found = ratio(ours.unit, theirs.unit)
    if found is None:
      return False
    factor, angles = found
  (value, label), (target, gold_label) = map(_split_label, (ours.number, theirs.number))
  if label and gold_label and label != gold_label and "unit" not in label + gold_label:
    return False
  if angles:
    return _same_values(rf"({value})\cdot(\frac{{\pi}}{{180}})^{{{angles}}}", target)
  if _squeezed(value) == _squeezed(target):
    return factor == 1
  number, gold = _plain_number(value), _plain_number(target)
  if number is None or gold is None:
    if factor != 1:
      value = rf"({value})\cdot\frac{{{factor.numerator}}}{{{factor.denominator}}}"
    return _same_values(value, target)
  if ours.unit != theirs.unit and _SHARE in (ours.unit, theirs.unit):
    part = Fraction(1, 100) if ours.unit else Fraction(100)  # 5% is 0.05, and is written as 5
    return _same_number(number, gold) or _same_number(number.times(part), gold)
  return _same_number(number.times(factor), gold)


def _same_values(value: str, target: str) -> bool:
  if _SIDE_BY_SIDE.search(value) or _SIDE_BY_SIDE.search(target):
    return False
  values, golds = _values(value), _values(target)
  if len(values) != len(golds) and r"\pm" not in value + target:
    return _one_value_in_several_ways(value, target)
  return _same_relations(value, target) and MATH_CHECKER.equal(value, target)


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
_NUMBER_NAMES = (
  "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
)
_BASES = {name: base for base, name in enumerate(f"{_NUMBER_NAMES} sixteen".split(), start=2)}
# `2516_8`, `(2516)_{\text{eight}}`, `2516 \text{ (base 8)}`, `FF_{16}`
_DIGITS = r"(?:[0-9][0-9A-Fa-f]*|[0-9A-Fa-f]{2,}(?=\}?\s*_\s*\{?1[1-6]))(?:[.,][0-9A-Fa-f]+)*"
_BASE = re.compile(
  rf"(?<![A-Za-z\\])(?:\((?P<enclosed>{_DIGITS})\)|\\text\s*\{{(?P<text>{_DIGITS})\}}|(?P<bare>{_DIGITS}))"
  r"\s*(?:_\s*\{?\s*|(?=\W{0,4}(?:\\text\s*\{[\s(]*)?(?:in )?base))"
  r"[\s(]*(?:\\(?:text|mathrm|mbox)\s*\{[\s(]*)?(?:in )?(?:base[\s}]*)?"
  rf"(?P<base>\d{{1,2}}|{'|'.join(_BASES)})(?!\w)\s*\)?\s*\}}*\)?"
)
_SCALES = {"dozen": 12, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_SCALE = re.compile(
  rf"(?<=[\d}}])\s*(?:\\(?:text|mbox|mathrm)\s*\{{\s*)?\b({'|'.join(_SCALES)})(?![a-z])(?:\s*\}})?"
)
_LETTER = re.compile(r"\\text\{([A-J])\}")
# A thing that is counted: `5 \text{ apples}`
_LABEL = re.compile(
  r"(?<=[\di})\]])\s*(?:\\(?:text\w*|mbox|mathrm)\s*\{(?P<text>[A-Za-z .'\s]*)\}"
  r"(?:\s*\^\s*\{?\s*[23]\s*\}?)?|\s(?P<words>[A-Za-z]{3,}(?:\s[A-Za-z]+)*))\s*\Z"
)
_SHARE = parse_unit("%")
_MIXED = re.compile(r"(-?)(\d+)\s*\\frac\s*\{?(\d+)\}?\s*\{?(\d+)\}?|(-?)(\d+)\s+(\d+)/(\d+)")
# `3 4`, which math-verify takes for the mixed number 3 + 4; not `3 1/4`, nor `\frac 1 2`.
_SIDE_BY_SIDE = re.compile(r"(?:\A|[^\w\s\\^}.])\s*\d+(?:\.\d+)?\s+\d+(?![\d\s]*/)")
_QUOTIENT = re.compile(
  r"(-?)\\frac\s*(?:\{(-?\d+)\}|(\d))\s*(?:\{(\d+)\}|(\d))|(-?)(\d+)\s*/\s*(\d+)"
)
_DECIMAL = re.compile(r"[-+]?\s*(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?")
_REPEATING = re.compile(r"(-?)(\d*)\.(\d*)\\(?:overline|bar)\s*(?:\{(\d{1,20})\}|(\d))")
_SCIENTIFIC = re.compile(
  r"([-+]?(?:\d+(?:\.\d*)?|\.\d+))\s*(?:[eE]|(?:\\times|\\cdot|\*)\s*10\s*\^)\s*\{?\s*([-+]?\d{1,4})\s*\}?"
)
_TOLERANCE = Fraction(1000001, 10**12)  # 0.333333 is a third


_MEMBER = re.compile(r"\A\s*[A-Za-z]\s*\\in(?![A-Za-z])\s*")


def _assigned(text: str) -> str:
  """The value in `x = 5`, `(a, b) = (3, 5)` or `5 = x`; another text as it is."""
  sides = sides_of(text)
  if len(sides) == 2 and all(sides):
    for name, value in (sides, sides[::-1]):
      if is_name(name):
        return value
  return text


def _with_base(match: re.Match[str]) -> str:
  bases = {"x": 16, "b": 2, "o": 8}
  return f"{match['digits']}_{{{bases[match['prefix'].lower()]}}}"


def _base(match: re.Match[str]) -> int:
  return _BASES.get(match["base"]) or int(match["base"])


def _digits(match: re.Match[str]) -> str:
  return (match["enclosed"] or match["text"] or match["bare"]).upper()


def _words_as_signs(text: str) -> str:
  text = _JOINING_WORD.sub(", ", re.sub(r"\\equiv(?![A-Za-z])|:=", "=", text))
  text = _SCALE.sub(lambda m: rf"\cdot {_SCALES[m[1]]} ", text)
  return _WRAPPED_NAME.sub(r"\\text{\1}", text)


def _split_label(text: str) -> tuple[str, str]:
  """A number and the name, in the singular, of the things that it counts."""
  match = _LABEL.search(text)
  if match is None:
    return text, ""
  words = (match["text"] or match["words"] or "").strip(" .").lower()
  return text[: match.start()], words.removesuffix("s")


def _squeezed(text: str) -> str:
  """The text without white space, but for one space between two digits: `2 1/2` is not 21/2."""
  return re.sub(r"(?<!\d) | (?!\d)", "", " ".join(text.split()))


class _Number(NamedTuple):
  """A number, and whether it is written as a decimal, which may be rounded."""

  value: Fraction
  is_decimal: bool

  def times(self, factor: Fraction) -> "_Number":
    return self._replace(value=self.value * factor)


def _plain_number(text: str) -> _Number | None:
  """The value of a decimal, a quotient or a mixed number of integers; None for anything else."""
  text = text.strip()
  try:
    if match := _SCIENTIFIC.fullmatch(text):
      return _Number(Fraction(match[1]) * Fraction(10) ** int(match[2]), "." in text)
    if re.search(r"\d", text) and _DECIMAL.fullmatch(text):
      return _Number(Fraction(re.sub(r"[,\s]", "", text)), "." in text)
    if match := _REPEATING.fullmatch(text):
      parts = (part for part in match.groups() if part is not None)
      return _Number(_repeating(*parts), False)
    if match := _MIXED.fullmatch(text) or _QUOTIENT.fullmatch(text):
      sign, *whole, above, below = (part for part in match.groups() if part is not None)
      value = sum(map(int, whole)) + Fraction(int(above), int(below))
      return _Number(-value if sign else value, False)
  except ArithmeticError:
    pass
  return None


def _repeating(sign: str, whole: str, fixed: str, period: str) -> Fraction:
  r"""The value of `0.1\overline{6}`, or `0.1\bar{6}`."""
  once = Fraction(int(whole + fixed + period or "0") - int(whole + fixed or "0"))
  value = once / (10 ** len(fixed) * (10 ** len(period) - 1))
  return -value if sign else value


def _same_number(number: _Number, gold: _Number) -> bool:
  """Exact, but a decimal may be a rounded quotient: as close as six digits say."""
  value, target = number.value, gold.value
  if number.is_decimal == gold.is_decimal or _terminates(value) == _terminates(target):
    return value == target
  return abs(value - target) <= _TOLERANCE * max(abs(value), abs(target))


def _terminates(value: Fraction) -> bool:
  rest = value.denominator
  for prime in (2, 5):
    while rest % prime == 0:
      rest //= prime
  return rest == 1


def _values(text: str) -> list[str]:
  """The parts of a text that commas and semicolons separate, outside inner brackets."""
  text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text).strip()
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
  if has_other_relation(value) != has_other_relation(target):
    return False
  if "=" not in value or "=" in target:
    return True
  for part in _values(value):
    *left, last = sides_of(part)
    if not all(is_name(side) or same_expression(side, last) for side in left):
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
    check_package("math-verify", "checking answers of MATH, AIME and AMC", "math")
    return self._worker.ask({"value": value, "target": target}) is True

  def close(self) -> None:
    """Ends the worker; a later question starts another."""
    self._worker.close()


MATH_CHECKER = MathChecker()
