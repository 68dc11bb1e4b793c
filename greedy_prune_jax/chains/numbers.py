"""Numbers as people and models write them in answers."""

import ast
import operator
import re
import unicodedata
from fractions import Fraction

from greedy_prune_jax.chains.normal_text import in_decimals, normal_answer
from greedy_prune_jax.chains.relations import has_other_relation, is_bound, is_name, sides_of

# `1,234.50`, `12,34,567` (India), `.5`, `-3`; a sign between two things is not the number's.
# Bounded: digits of 90 groups and more are no number, and each would be tried from every place.
_GROUPED = r"(?:\d{1,3}(?:,\d{3}){1,30}|\d{1,2}(?:,\d{2}){1,30},\d{3})"
_PLAIN = rf"(?:{_GROUPED}(?!,?\d)|\d+)(?:\.\d+)?|(?<![A-Za-z])\.\d+"
_DECIMAL = rf"(?:{_PLAIN})(?:[eE][-+]?\d{{1,4}}(?![\w.]))?"
_SIGN = r"(?:(?<![\w)\]])[-+])?"
_NUMBER = re.compile(
  rf"(?P<sign>{_SIGN}\s*)"
  rf"(?:(?P<whole>\d+)\s+(?P<part>\d+/\d+)|(?P<above>{_DECIMAL})\s*/\s*(?P<below>\d+)|"
  rf"(?P<decimal>{_DECIMAL}))"
)
_SCALE = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_POWER_OF_TEN = re.compile(
  r"(?<=\d)\s*(?:\\times|\\cdot|[x*])\s*10\s*(?:\^|\*\*)\s*(?:\{\s*([-+]?\d{1,4})\s*\}|([-+]?\d{1,4}))"
)
_FRACTION = re.compile(r"\\frac\s*(?:\{([^{}]+)\}|(\d))\s*(?:\{([^{}]+)\}|(\d))")
_WRAPPER = re.compile(r"\\(?:text\w*|mathrm|mathit|mbox|operatorname|boxed|fbox)(?![A-Za-z])")
_SIMILAR = re.compile(r"\\(?:approx|simeq|sim|cong|equiv)(?![A-Za-z])|~=|\\=|:=")
_MONEY_SCALE = re.compile(r"([$£€¥₹]\s*[\d.,]+)\s?(?:([kK])|([mM]n?)|([bB]n?))(?!\w)")  # $2.5M
_MINUS = re.compile(r"(?i:\A\W*(?:minus|negative)\s+(?=\W?[.\d\\]))")
# Typography that says nothing about the value; a star between digits multiplies.
_NOISE = re.compile(r"\\[$%#&]|[$£€¥₹{}_`\"'\\]|(?<![\d*])\*+|\*+(?![\d*])")
_POWER_OF_UNIT = re.compile(
  r"(?<![A-Za-z])([cdkm]?m|ft|in|yd|mi|feet|foot|inch(?:es)?|yards?|miles?|units?"
  r"|[a-z]*met(?:er|re)s?)\s*\}?\s*\^\s*\{?[23]\}?"
)
_TIMES_SIGN, _DIVIDED_SIGN = "\N{MULTIPLICATION SIGN}", "\N{DIVISION SIGN}"
# A stroke or a hyphen between letters (km/h, half-hours) is none.
_OPERATOR = re.compile(rf"[+^*{_TIMES_SIGN}{_DIVIDED_SIGN}<>]|(?<![^\W\d_])[/-]|[/-](?![^\W\d_])")
_TIMES = re.compile(r"\\(?:times|cdot)(?![A-Za-z])|(?<=[\d)])\s{0,4}\*\s{0,4}(?=[-$\d(.])")
# `5 - that is all`, `5,-`: the number is over. In `x - 5` a dash subtracts.
_AFTER_DASH = re.compile(r"\s+-+\s+(?=[^\W\d_]{2}).*|\s*-+\s*\Z", re.DOTALL)
_NEGATED = re.compile(r"\b(?:not|isn't|never)\s*\Z", re.IGNORECASE)
_UNKNOWN = re.compile(r"\d\s*[ixyz]\b|[ixyz]\s*\^")  # 3x, 2i
_COMPOUND = re.compile(r"(?<![\w.,-])\d+(?:\.\d+)?-[^\W\d_]+")  # 1-hour
_NAME = re.compile(r"[^\W\d_]\w*(?:_\{?\w+\}?)?(?:\([^()]{0,40}\))?")  # x, x_1, f(2)
# Longer texts are no answers, and Python refuses to read numbers of thousands of digits.
_MAX_CHARACTERS = 500


def parse_number(text: str) -> Fraction | None:
  r"""The one number that a text states, exactly; None if it states none, or several.

  Read as one number: `1,234.50`, `12 500`, `$5.00`, `12 apples`, `50%` (50), `60 km/h`, `$15/hour`,
  `72 cm^2`, `x = 3`, `4 * 5 = 20`, `2½`, `\frac{3}{4}`, `1.8 million`, `1.2e6`, `18 1-hour walks`.
  Not read: `3 hours 20 minutes`, `x = 3, y = 5`, `3 >= 2`, `1,2`, `10 + 5`, `10^2`, `2\pi`.
  """
  if len(text) > _MAX_CHARACTERS:
    return None
  text = _MONEY_SCALE.sub(_scaled_money, text)
  text = _POWER_OF_TEN.sub(lambda m: f"e{m[1] or m[2]}", in_decimals(normal_answer(text)))
  text = _SIMILAR.sub("=", _POWER_OF_UNIT.sub(r"\1", _WRAPPER.sub(" ", text)))
  text = re.sub(r"\\div(?![A-Za-z])", _DIVIDED_SIGN, _TIMES.sub(_TIMES_SIGN, text))
  if has_other_relation(text) or is_bound(text):
    return None
  text = _MINUS.sub("-", _FRACTION.sub(_as_quotient, text))
  sides = sides_of(text)
  value = _last_side(sides)
  return _last_side(sides[::-1]) if value is None and len(sides) == 2 else value  # 5 = x


def _last_side(sides: list[str]) -> Fraction | None:
  """The number that the last side of an equation is; None if the others state another."""
  *left, last = sides
  value = _single_number(last)
  if value is None or not all(_states(side, value, last) for side in left):
    return None
  return value


def _scaled_money(match: re.Match[str]) -> str:
  words = ("thousand", "million", "billion")
  return f"{match[1]} {words[(match.lastindex or 2) - 2]}"


def _as_quotient(match: re.Match[str]) -> str:
  above, below = (part for part in match.groups() if part)
  return f" {above}/{below}"


def _single_number(text: str) -> Fraction | None:
  text = text.replace(r"^\circ", "")
  if re.search(r"\\[A-Za-z]", text):
    return None  # a root, a product, pi
  text = _NOISE.sub("", text)
  without = _COMPOUND.sub(" ", text)
  text = without if _NUMBER.search(without) else text
  matches = list(_NUMBER.finditer(text))
  if len(matches) != 1 or _UNKNOWN.search(text):
    return None
  match = matches[0]
  if match["sign"].strip() and match["sign"][-1].isspace() and text[: match.start()].strip():
    return None  # x - 5
  behind = re.sub(r"^/(?=[^\W\d_]{2})", "", text[match.end() :])  # a rate, such as 15/hour
  behind = _AFTER_DASH.sub("", behind)
  if _NEGATED.search(text[: match.start()]):
    return None
  if _OPERATOR.search(text[: match.start()] + " " + behind):
    return None  # part of an expression, not a number with words beside it
  value = _value(match)
  if value is None:
    return None
  return value * _scale(text[match.end() :])


def _scale(behind: str) -> int:
  """The factor that a word behind a number stands for: `million`, or `k` without a space."""
  if re.match(r"k(?!\w)", behind):
    return 1000
  word = re.match(r"\s*(\w+)", behind.lower())
  return _SCALE.get(word[1], 1) if word else 1


def _value(match: re.Match[str]) -> Fraction | None:
  try:
    if match["whole"]:
      value = int(match["whole"]) + Fraction(match["part"])
    else:
      value = Fraction((match["above"] or match["decimal"]).replace(",", ""))
      value /= int(match["below"] or 1)
  except ZeroDivisionError:
    return None
  return -value if match["sign"].startswith("-") else value


def _states(side: str, value: Fraction, written: str) -> bool:
  """Tells whether one side of an equation is a name, or arithmetic that gives the value.

  The value may be rounded as it is written.
  """
  if is_name(side):
    return True
  side = _NOISE.sub("", side).replace(_TIMES_SIGN, "*").replace(_DIVIDED_SIGN, "/")
  side = _NAME.sub(" ", re.sub(r"(?<=\d)\s*x\s*(?=\d)", "*", side)).replace(",", "").strip()
  if not re.search(r"\d", side):
    return True
  result = _arithmetic(side)
  decimals = re.search(r"\.(\d+)", written)
  tolerance = Fraction(1, 2 * 10 ** len(decimals[1])) if decimals else 0
  return result is not None and abs(result - value) <= tolerance


OPERATIONS = {
  ast.Add: operator.add,
  ast.Sub: operator.sub,
  ast.Mult: operator.mul,
  ast.Div: operator.truediv,
}


def _arithmetic(text: str) -> Fraction | None:
  """The value of sums, products and quotients of decimals; None for anything else."""
  if not re.fullmatch(r"[\d.+\-*/() ]+", text) or not text.isascii():
    return None

  def value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant):
      return Fraction(text[node.col_offset : node.end_col_offset])
    if isinstance(node, ast.UnaryOp):
      return -value(node.operand) if isinstance(node.op, ast.USub) else value(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
      return OPERATIONS[type(node.op)](value(node.left), value(node.right))
    raise ValueError(f"{text!r} is no arithmetic")

  try:
    return value(ast.parse(text, mode="eval").body)
  except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
    return None


def find_numbers(text: str) -> list[tuple[str, Fraction]]:
  """Every decimal number of a text, as it is written and its value; signs are left out.

  `Half of 1,200.50 is 3/4` has 1,200.50, 3 and 4.
  """
  text = unicodedata.normalize("NFKC", text)
  return [
    (match[0], Fraction(match[0].replace(",", "")))
    for match in re.finditer(_PLAIN, text)
    if len(match[0]) <= _MAX_CHARACTERS
  ]


def canonical_number(text: str) -> str:
  """A decimal number without thousands separators and trailing zeros; other text as it is.

  `1,000` and `1000.0` both become `1000`; `1,2` is no number, but a list of two.
  """
  text = text.strip()
  if not re.fullmatch(rf"-?(\d+|{_GROUPED})(\.\d+)?", text):
    return text
  sign, digits = ("-", text[1:]) if text.startswith("-") else ("", text)
  whole, _, decimals = digits.replace(",", "").partition(".")
  whole, decimals = whole.lstrip("0") or "0", decimals.rstrip("0")
  return f"{sign}{whole}.{decimals}" if decimals else sign + whole
