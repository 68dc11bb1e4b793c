r"""Units behind a number, so that 5 km is 5000 m and is not 5 m.

Units may be products, quotients and powers: `km/h`, `m s^{-1}`, `\frac{m}{s^2}`, `square feet`,
`miles per hour`.
"""

import collections
import re
from fractions import Fraction
from typing import NamedTuple

# Names = value in other units; a unit without a value is a dimension of its own. A name with a star
# takes SI's prefixes in short, and further names of its line take them in full.
_DEFINITIONS = """
PIbyOneEighty
m* meter
in inch = 0.0254 m
ft foot feet = 0.3048 m
yd yard = 0.9144 m
mi mile = 1609.344 m
acre = 4046.8564224 m^2
ha hectare = 10000 m^2
l* L* liter = 1/1000 m^3
cc = 1/1000 l
gal gallon = 3.785411784 l
qt quart = 1/4 gal
pt pint = 1/8 gal
cup = 1/16 gal
tbsp tablespoon = 1/256 gal
tsp teaspoon = 1/768 gal
g* gram gramme
t tonne = 1000 kg
lb pound = 453.59237 g
oz ounce = 1/16 lb
ton = 2000 lb
s* second
sec = 1 s
min minute = 60 s
h hr hour = 3600 s
d day = 86400 s
wk week = 604800 s
month = 2629746 s
yr year = 31556952 s
decade = 10 year
century centuries = 100 year
mph = 1 mi/h
kph kmh kmph = 1 km/h
knot = 1852 m/h
Hz* hertz = 1 s^-1
rpm = 1/60 s^-1
N* newton = 1 kg m s^-2
J* joule = 1 N m
W* watt = 1 J/s
Pa* pascal = 1 N/m^2
bar* = 100000 Pa
atm atmosphere = 101325 Pa
cal* calorie = 4.184 J
eV* electronvolt = 1.602176634e-19 J
A* amp ampere
C coulomb = 1 A s
V* volt = 1 J/C
F farad = 1 C/V
T tesla = 1 kg A^-1 s^-2
ohm* = 1 V/A
K* kelvin
mol* mole
bit*
B* byte = 8 bit
dollar usd $
cent ¢ penny pennies = 1/100 dollar
nickel = 5 cent
dime = 10 cent
euro eur €
gbp £
radian rad
degree deg circ = 1 radian PIbyOneEighty
celsius circC
fahrenheit circF
% percent pct
permille = 1/10 %
"""
_PREFIXES = dict(
  zip("pnumcdkMGT", (f"1e{x}" for x in (-12, -9, -6, -3, -2, -1, 3, 6, 9, 12)), strict=True)
)
_LONG_NAMES = ["pico", "nano", "micro", "milli", "centi", "deci", "kilo", "mega", "giga", "tera"]
_LONG_PREFIXES = dict(zip(_LONG_NAMES, _PREFIXES.values(), strict=True))
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cube": 3, "cu": 3}


class Unit(NamedTuple):
  """A product of base units.

  Attributes:
    dimensions: base units and their powers, sorted by name.
    factor: number of such products that make one unit.
  """

  dimensions: tuple[tuple[str, int], ...]
  factor: Fraction

  def times(self, other: "Unit", power: int) -> "Unit":
    """This unit times a power of another."""
    powers = collections.Counter(dict(self.dimensions))
    for name, exponent in other.dimensions:
      powers[name] += exponent * power
    dimensions = tuple(sorted((name, x) for name, x in powers.items() if x))
    return Unit(dimensions, self.factor * other.factor**power)


def ratio(unit: Unit, other: Unit) -> tuple[Fraction, int] | None:
  """The number of `other` in one `unit`: a factor, and the power of pi / 180 beside it.

  None where they measure different things. An angle's degree is pi / 180 radians.
  """
  powers = collections.Counter(dict(unit.dimensions))
  powers.subtract(dict(other.dimensions))
  angles = powers.pop(_PI_BY_180, 0)
  return None if any(powers.values()) else (unit.factor / other.factor, angles)


_PI_BY_180 = "PIbyOneEighty"


class Quantity(NamedTuple):
  """A number as it is written, and its unit; None where there is none that we know."""

  number: str
  unit: Unit | None


_LONGEST = 80  # characters of a unit
_START = re.compile(
  r"\\(?:text\w*|mbox|mathrm|operatorname|frac|mu|Omega)(?![A-Za-z])|\\?%|\^\\circ"
  r"|(?<![A-Za-z\\])[A-Za-z\u00a2\u00b5\u03bc\u2030\u03a9\u20ac\u00a3]+"
)
_BEFORE = re.compile(r"\\?(?P<unit>[$£€])\s*(?P<number>[\d.].*)\Z", re.DOTALL)
_ALL_TEXT = re.compile(r"\\(?:text\w*|mbox|mathrm)\s*\{(\d[^{}]*)\}")
# Bare letters are a unit only behind a plain number, and one letter only where it is none of those
# that variables have.
_PLAIN_NUMBER = re.compile(r"(?:[-+\d.,/{}\s]|\\frac|\\cdot)*")
_BARE_LETTERS = frozenset("mgshlL")


def split_unit(text: str) -> Quantity:
  """Splits a normalised answer into a number and the unit beside it."""
  if match := _BEFORE.match(text):
    return Quantity(match["number"].strip(), parse_unit(match["unit"]))
  text = inside[1] if (inside := _ALL_TEXT.fullmatch(text)) else text
  for start in _START.finditer(text, max(0, len(text) - _LONGEST)):
    number, rest = text[: start.start()].rstrip(), text[start.start() :]
    if not re.search(r"\d|\\pi", number):
      continue
    if start[0].isalpha() and not (
      _PLAIN_NUMBER.fullmatch(number) and (len(rest) > 1 or rest in _BARE_LETTERS)
    ):
      continue
    unit = parse_unit(rest)
    if unit is not None:
      return Quantity(number, unit)
  return Quantity(text, None)


_FRACTION = re.compile(r"\\frac\s*\{((?:[^{}]|\{[^{}]*\})*)\}\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_WRAPPER = re.compile(r"\\(?:text\w*|mbox|mathrm|operatorname)(?![A-Za-z])")
_TOKEN = re.compile(
  r"(?P<divide>/|\bper\b(?! ?cent))|(?P<times>\\cdot|\\times|\*|\.)"
  r"|(?P<name>per ?cent|[A-Za-z%$\u00a2\u2030\u20ac\u00a3]+)(?:\s*\^\s*(?P<power>-?\d{1,2})(?!\d))?"
)


def parse_unit(text: str) -> Unit | None:
  r"""The unit that a text is, such as `\text{ km}/\text{h}`; None if a part of it is unknown."""
  text = _FRACTION.sub(r" \1 / \2 ", text.replace(r"^\circ", "circ").replace("\\%", "%"))
  text = re.sub(r"\\mu(?![A-Za-z])\s*|[\u00b5\u03bc]", "u", _WRAPPER.sub(" ", text))
  text = re.sub(r"[{}]", " ", re.sub(r"[\s{}]*\\Omega(?![A-Za-z])|\u03a9", "ohm", text))
  text = re.sub(
    r"([A-Za-z]+) (square|cube)d\b", r"\2 \1", re.sub(r"(?<=circ) +(?=[CF]\b)", "", text)
  )
  unit, sign, power, end = Unit((), Fraction(1)), 1, 1, 0
  for match in _TOKEN.finditer(text):
    if text[end : match.start()].strip():
      return None
    end = match.end()
    if match["divide"]:
      sign = -1
    elif match["name"] and match["name"].lower() in _POWERS:
      power = _POWERS[match["name"].lower()]
    elif match["name"]:
      part = _named(match["name"])
      if part is None:
        return None
      unit = unit.times(part, sign * power * int(match["power"] or 1))
      power = 1
  return None if text[end:].strip() or not unit.dimensions else unit


def _named(name: str) -> Unit | None:
  """The unit of a name: a symbol as it is written, a word in any case and number."""
  if unit := _UNITS.get(name):
    return unit
  word = name.lower().replace("metre", "meter").replace("litre", "liter").replace(" ", "")
  singular = re.sub(r"(?<=inch)es\Z|(?<=[a-z]{2})s\Z", "", word)
  return _UNITS.get(word) or _UNITS.get(singular)


def _read_definitions(text: str) -> None:
  for line in text.strip().splitlines():
    names, _, value = line.partition(" = ")
    number, _, of = value.partition(" ")
    first = names.split()[0].rstrip("*")
    base = parse_unit(of) if of else Unit(((first, 1),), Fraction(1))
    assert base is not None, line
    unit = Unit(base.dimensions, base.factor * Fraction(number or 1))
    for name in names.split():
      _UNITS[name.rstrip("*")] = unit
      prefixes = _PREFIXES if name.endswith("*") else _LONG_PREFIXES if "*" in names else {}
      for prefix, value in prefixes.items():
        scaled = Unit(unit.dimensions, unit.factor * Fraction(value))
        _UNITS[prefix + name.rstrip("*")] = scaled


_UNITS: dict[str, Unit] = {}
_read_definitions(_DEFINITIONS)
