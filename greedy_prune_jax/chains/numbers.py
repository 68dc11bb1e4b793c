"""Numbers as people and models write them in answers."""

import re
import unicodedata
from decimal import Decimal
from fractions import Fraction

# `1,234.50`, `.5`, `-3`; a sign belongs to the number unless it stands between two things.
_DECIMAL = r"(?:\d{1,3}(?:,\d{3})+(?!,?\d)|\d+)(?:\.\d+)?|\.\d+"
_SIGN = r"(?:(?<![\w)\]])[-+])?"
_NUMBER = re.compile(
  rf"(?P<sign>{_SIGN})\s*"
  rf"(?:(?P<whole>\d+)\s+(?P<part>\d+/\d+)|(?P<above>{_DECIMAL})\s*/\s*(?P<below>\d+)|"
  rf"(?P<decimal>{_DECIMAL}))"
)
_SCALE = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
# Typography and TeX that say nothing about the value. `\frac{1}{2}` is handled beside it; a star
# between digits multiplies.
_NOISE = re.compile(
  r"\\[,!;: $%]|\\(?:text|mathrm|mbox|left|right)\b|[$£€¥₹{}_`\"'\\]|,(?=\s*$)"
  r"|(?<![\d*])\*+|\*+(?![\d*])"
)
_FRACTION = re.compile(r"\\[dt]?frac\s*(?:\{([^{}]+)\}|(\d))\s*(?:\{([^{}]+)\}|(\d))")
_POWER_OF_UNIT = re.compile(
  r"(?<![A-Za-z])([cdkm]?m|ft|in|yd|mi|feet|foot|inch(?:es)?|yards?|miles?|[a-z]*met(?:er|re)s?)"
  r"\s*(?:\^\s*\{?[23]\}?|[²³])"
)
_SUPERSCRIPT = re.compile(r"[⁰¹²³⁴-⁹]+")
# A stroke or a hyphen between letters (km/h, half-hours) is none.
_OPERATOR = re.compile(
  r"[+^*<>\N{MULTIPLICATION SIGN}\N{DIVISION SIGN}]|(?<![^\W\d_])[/-]|[/-](?![^\W\d_])"
)
# Longer texts are no answers, and Python refuses to read numbers of thousands of digits.
_MAX_CHARACTERS = 500


def parse_number(text: str) -> Fraction | None:
  """The one number that a text states, exactly; None if it states none, or several.

  Read as one number: `1,234.50`, `$5.00`, `12 apples`, `50%` (50), `60 km/h`, `$15/hour`,
  `72 cm^2`, `x = 3`, `2 1/2`, `\\frac{3}{4}`, `1.8 million`. Not read: `3 hours 20 minutes`,
  `1,2`, `10 + 5`, `10^2`, `10+John's age`.
  """
  text = _SUPERSCRIPT.sub("^", _POWER_OF_UNIT.sub(r"\1", text))
  text = unicodedata.normalize("NFKC", text).replace("\N{MINUS SIGN}", "-")
  if len(text) > _MAX_CHARACTERS:
    return None
  text = _NOISE.sub("", _FRACTION.sub(_as_quotient, text)).rpartition("=")[2]
  matches = list(_NUMBER.finditer(text))
  if len(matches) != 1:
    return None
  match = matches[0]
  behind = re.sub(r"^/(?=[^\W\d_]{2})", "", text[match.end() :])  # a rate, such as 15/hour
  around = text[: match.start()] + " " + behind
  if _OPERATOR.search(around):
    return None  # part of an expression, not a number with words beside it
  value = _value(match)
  if value is None:
    return None
  scale = re.match(r"\s*(\w+)", text[match.end() :].lower())
  return value * (_SCALE.get(scale[1], 1) if scale else 1)


def _as_quotient(match: re.Match[str]) -> str:
  above, below = (part for part in match.groups() if part)
  return f" {above}/{below}"


def _value(match: re.Match[str]) -> Fraction | None:
  try:
    if match["whole"]:
      value = int(match["whole"]) + Fraction(match["part"])
    else:
      value = Fraction((match["above"] or match["decimal"]).replace(",", ""))
      value /= int(match["below"] or 1)
  except ZeroDivisionError:
    return None
  return -value if match["sign"] == "-" else value


def find_numbers(text: str) -> list[tuple[str, Fraction]]:
  """Every decimal number of a text, as it is written and its value; signs are left out.

  `Half of 1,200.50 is 3/4` has 1,200.50, 3 and 4.
  """
  text = unicodedata.normalize("NFKC", text)
  return [
    (match[0], Fraction(match[0].replace(",", "")))
    for match in re.finditer(_DECIMAL, text)
    if len(match[0]) <= _MAX_CHARACTERS
  ]


def canonical_number(text: str) -> str:
  """A decimal number without thousands separators and trailing zeros; other text as it is.

  `1,000` and `1000.0` both become `1000`; `1,2` is no number, but a list of two.
  """
  text = text.strip()
  if not re.fullmatch(r"-?(\d+|\d{1,3}(,\d{3})+)(\.\d+)?", text):
    return text
  return format(Decimal(text.replace(",", "")).normalize(), "f")
