"""Units behind a number, so that 5 km is 5000 m and is not 5 m."""

import re
from fractions import Fraction
from typing import NamedTuple

_LENGTH = {
  "mm": "1/1000",
  "cm": "1/100",
  "dm": "1/10",
  "m": "1",
  "km": "1000",
  "in": "0.0254",
  "ft": "0.3048",
  "yd": "0.9144",
  "mi": "1609.344",
}
_TABLE: dict[str, dict[str, str]] = {
  "length": _LENGTH,
  "mass": {"mg": "1/1000", "g": "1", "kg": "1000", "lb": "453.59237", "oz": "28.349523125"},
  "time": {
    "ms": "1/1000",
    "s": "1",
    "min": "60",
    "h": "3600",
    "day": "86400",
    "week": "604800",
    "month": "2629746",
    "year": "31556952",
  },
  "volume": {"ml": "1/1000", "l": "1", "gal": "3.785411784"},
  "speed": {"km/h": "5/18", "mph": "0.44704", "m/s": "1", "ft/s": "0.3048", "km/s": "1000"},
  "money": {"dollar": "1", "cent": "1/100"},
  "euro": {"euro": "1"},
  "pound sterling": {"pound sterling": "1"},
  "angle": {"degree": "1", "radian": "57.29577951308232"},
  "share": {"%": "1"},
}
_UNITS = {
  unit: (dimension, Fraction(factor))
  for dimension, units in _TABLE.items()
  for unit, factor in units.items()
}
_SYNONYMS = {
  "millimeter": "mm",
  "centimeter": "cm",
  "decimeter": "dm",
  "meter": "m",
  "kilometer": "km",
  "inch": "in",
  "foot": "ft",
  "feet": "ft",
  "yard": "yd",
  "mile": "mi",
  "gram": "g",
  "kilogram": "kg",
  "milligram": "mg",
  "pound": "lb",
  "ounce": "oz",
  "second": "s",
  "sec": "s",
  "minute": "min",
  "hour": "h",
  "hr": "h",
  "millisecond": "ms",
  "wk": "week",
  "yr": "year",
  "liter": "l",
  "milliliter": "ml",
  "gallon": "gal",
  "mi/h": "mph",
  "mile per hour": "mph",
  "mile/hour": "mph",
  "kph": "km/h",
  "km/hr": "km/h",
  "kilometer per hour": "km/h",
  "meter per second": "m/s",
  "foot per second": "ft/s",
  "feet per second": "ft/s",
  "kilometer per second": "km/s",
  "meter/second": "m/s",
  "$": "dollar",
  "usd": "dollar",
  "¢": "cent",
  "€": "euro",
  "eur": "euro",
  "£": "pound sterling",
  "gbp": "pound sterling",
  "percent": "%",
  "per cent": "%",
  "circ": "degree",
  "deg": "degree",
  "rad": "radian",
  "pct": "%",
}
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_BEHIND = re.compile(
  r"(?P<number>.*?[\d})\]])\s*(?:\\(?:text\w*|mbox|mathrm|operatorname)\s*\{?|\\?(?=%)|\^\\(?=circ)"
  r"|(?<=\d)\s*(?=[A-Za-z]{2}|[A-Za-z]\Z))\s*"
  r"(?P<unit>[A-Za-z%$][A-Za-z/ ]*\.?)\s*\}?\s*(?:\^\s*\{?\s*(?P<power>[23])\s*\}?)?\s*\}?\Z",
  re.DOTALL,
)
_BEFORE = re.compile(r"\\?(?P<unit>[$£€])\s*(?P<number>\d.*)\Z", re.DOTALL)


class Quantity(NamedTuple):
  """A number as it is written, and its unit.

  Attributes:
    number: the text without the unit.
    dimension: such as `length^2`; None where the unit is none that we know.
    factor: multiplier from the unit to its dimension's own.
  """

  number: str
  dimension: str | None
  factor: Fraction


def split_unit(text: str) -> Quantity:
  """Splits a normalised answer into a number and the unit beside it."""
  match = _BEFORE.match(text) or _BEHIND.match(text)
  if match is None:
    return Quantity(text, None, Fraction(1))
  words = match["unit"].rstrip(". ").split()
  groups = match.groupdict()
  power = int(groups.get("power") or 1)
  if words and words[0].lower() in _POWERS:
    power, words = _POWERS[words[0].lower()], words[1:]
  unit = _known(" ".join(words))
  if unit is None:
    return Quantity(text, None, Fraction(1))
  dimension, factor = _UNITS[unit]
  return Quantity(match["number"].strip(), f"{dimension}^{power}", factor**power)


def _known(unit: str) -> str | None:
  for name in (unit, unit.lower(), *(_singular(unit.lower()),)):
    for spelling in (name, name.replace("metre", "meter").replace("litre", "liter")):
      canonical = _SYNONYMS.get(spelling, spelling)
      if canonical in _UNITS:
        return canonical
  return None


def _singular(unit: str) -> str:
  first, _, rest = unit.partition(" per ")
  first = re.sub(r"(?<=inch)es$|(?<!s)s$", "", first)
  return f"{first} per {rest}" if rest else first
