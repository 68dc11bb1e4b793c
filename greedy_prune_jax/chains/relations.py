r"""Bounds and equations in answers: `at least 5`, `5 or more` and `x + 2 = 5` do not state 5.

An approximation (`about 5`) states its number, and an equation the value of a name, of a function
or of arithmetic (`x = 5`, `f(2) = 5`, `2 + 3 = 5`, `P(X = 2) = 5`).
"""

import re

# Up to a number: white space, brackets, currencies, emphasis, one word that changes no relation.
_A_NUMBER = (
  r"(?=(?:[\s{}()$£€*_:\\-]|\\text)*"
  r"(?:\b(?:about|around|approximately|roughly|exactly|only|just|the|a)\b[\s{}$£€*_\\-]*)?"
  r"(?:\.?\d|frac))"
)
_COMPARED = (
  r"(?:less|more|fewer|greater|smaller|larger|bigger|higher|lower|older|younger|longer|shorter"
  r"|earlier|later|other)"
)
# From a number to its end: a unit, or a thing that is counted.
_COUNTED = r"(?<=[\d})%])\s{0,3}(?:\\text\s*)?[\s{]{0,4}(?:[a-z]+ ){0,2}"
_AT_LEAST = r"at (?:the )?(?:very )?(?:least|most|minimum|maximum)"
_COMPARISON = rf"{_COMPARED} (?:than(?: or equal to)?|or equal to)"
_BOUND = re.compile(
  rf"\b(?:{_AT_LEAST}|{_COMPARISON}|over|under|above|below|beyond|within|between"
  rf"|exceed(?:s|ed|ing)?|not equal to|anything but|up to|upwards? of|as (?:many|few|much) as"
  rf"|half(?: of)?|(?:third|quarter|root) of|twice|thrice|double|triple)\b{_A_NUMBER}"
  rf"|{_COUNTED}(?:or|and) (?:{_COMPARED}|above|over|up|upwards?|below|under|beyond|better)\b"
  rf"|{_COUNTED}(?:{_AT_LEAST}|upwards?|plus)\b[\s}})$.]*\Z"
  rf"|(?<=\d)\s*(?:\+\s*\Z|(?:squared|cubed|factorial)\b(?! [a-z]))",
  re.IGNORECASE,
)
_SIGNED = re.compile(
  r"!=|=/=|/=|<>|=<|[<>]=?"
  r"|\\(?:not\b|n?(?:leq?|geq?|less|gtr)(?:q|slant)?(?![A-Za-z])|(?:neq?|[lg]t|ll|gg|lesssim|gtrsim)(?![A-Za-z]))"
)
_STATES = (
  r"\A(?:[A-Za-z](?:_\w)?|the (?:answer|value|result|total|sum))?\s*"
  r"\b(?:is (?:exactly )?equal to|equals|equal to|is)\s+(?=[-+$\\.\d])"
)
_APPROXIMATELY = re.compile(
  rf"{_STATES}|"
  r"\A(?:\\(?:text|mbox|mathrm)\s*\{\s*)?"
  r"(?:about|around|approximately|approx\.?|roughly|nearly|almost|exactly|precisely|circa)\s*\}?"
  r"[\s~]*(?=[-+$\\.\d])"
  r"|\A\s*(?:\\(?:approx|simeq|sim|cong|thickapprox)(?![A-Za-z])|~|=)\s*(?=[-+$\\.\d])",
  re.IGNORECASE,
)
_EQUALS = re.compile(r"(?<![<>!/~])=(?![<>])(?![^()]{0,80}\))")  # but not that in P(X = 2)
_SIGN = re.compile(
  r"\s*(?:(?P<less><|\\l)|>|\\g)(?P<equal>=|eq?(?:q|slant)?(?![A-Za-z]))?(?:t(?![A-Za-z]))?\s*"
)
_INDEX = re.compile(r"[_^]\s*(?:\{[^{}]*\}|\(?-?\\?\w+\)?|[*'])|'")
_ARGUMENTS = re.compile(r"(?<=[A-Za-z\s}])(?:\([^()]*\)|\[[^\[\]]*\])")
_COMMAND = re.compile(r"\\(?:text\w*|mbox|mathrm|operatorname)\s*\{[^{}]*\}|\\[A-Za-z]+")


def is_bound(text: str) -> bool:
  r"""Tells whether a text in plain signs bounds a number in words: `at least 5`, `5 or more`."""
  return bool(_BOUND.search(text))


def has_other_relation(text: str) -> bool:
  r"""Tells whether a text has a relation in signs that is no equation: `<`, `\ge`, `!=`."""
  return bool(_SIGNED.search(text))


def stated(text: str) -> str:
  r"""The number in `about 5`, `\approx 5` and `x is 5`; another text as it is."""
  return _APPROXIMATELY.sub("", text)


def sides_of(text: str) -> list[str]:
  """The sides of an equation, or the text alone; equations in brackets are parts of a side."""
  return [side.strip() for side in _EQUALS.split(text)]


def is_name(side: str) -> bool:
  r"""Tells whether a side of an equation is a quantity without a number of its own.

  Such are `x_1`, `f(2)`, `x^2 + y^2`, `\angle ABC`, and not `x + 2`, `3x`. Indices, exponents and
  arguments do not count.
  """
  side = _INDEX.sub("", side)
  side = _COMMAND.sub(" x ", side)
  return bool(re.search(r"[^\W\d_]", side)) and not re.search(r"\d", _ARGUMENTS.sub("", side))


def as_intervals(text: str) -> str:
  r"""Inequalities of a name as an interval, or several: `3 < x \le 5` is `(3,5]`.

  Another text as it is.
  """
  intervals = [_interval(part) for part in text.split(",")]
  return r"\cup ".join(map(str, intervals)) if all(intervals) else text


def _interval(text: str) -> str | None:
  signs = list(_SIGN.finditer(text))
  if not signs or len({bool(sign["less"]) for sign in signs}) > 1:
    return None
  sides = [text[: signs[0].start()]]
  for sign, after in zip(signs, [*signs[1:], None], strict=True):
    sides.append(text[sign.end() : after.start() if after else None])
  closed = [bool(sign["equal"]) for sign in signs]
  if not signs[0]["less"]:
    sides, closed = sides[::-1], closed[::-1]
  if len(sides) == 2:  # x < 5, 5 < x
    sides, closed = (
      ([r"-\infty", *sides], [False, *closed])
      if is_name(sides[0])
      else ([*sides, r"\infty"], [*closed, False])
    )
  if len(sides) != 3 or [is_name(side) for side in sides if "infty" not in side].count(True) != 1:
    return None
  low, name, high = sides
  return f"{'(['[closed[0]]}{low}, {high}{')]'[closed[1]]}" if is_name(name) else None
