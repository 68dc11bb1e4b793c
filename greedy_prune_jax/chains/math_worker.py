"""Compares mathematical expressions with math-verify, in a process of its own.

SymPy can neither be interrupted reliably from within nor trusted to come to an end.
"""

import dataclasses
import logging
import math
from typing import Any, cast

from greedy_prune_jax.runs.worker import answer_requests

_MAX_BYTES = 4 << 30  # SymPy will work out 9**9**9 if it is asked to


_DIGITS = 40  # of numbers that are compared
# 0.333333 is a third; numbers of which both or neither are decimals are equal to many more digits.
_ROUNDED, _SAME, _EXACT = 1.000001e-6, 1e-12, 1e-30


def _equal(value: str, target: str) -> bool:
  # Without its own limits, which need signals that we use ourselves; and of TeX alone: its other
  # readers take one number out of what they cannot parse.
  from math_verify import LatexExtractionConfig, parse, verify

  # Its removal of units takes variables for such: 3s and 3t would be 3.
  config = LatexExtractionConfig()
  config = dataclasses.replace(
    config, normalization_config=dataclasses.replace(config.normalization_config, units=False)
  )
  gold, given = (
    parse(f"\\boxed{{{text}}}", [config], parsing_timeout=0) for text in (target, value)
  )
  return verify(gold, given, timeout_seconds=0)


def _compare_relatively() -> None:
  """Replaces math-verify's comparison of numbers, which rounds to six decimals.

  There 1.6e-19 equals 9.1e-31, since both round to 0.
  """
  from math_verify import grader
  from sympy import Basic, Float

  compare_matrices = grader.sympy_numeric_eq

  def equal(a: Any, b: Any, float_rounding: int, numeric_precision: int) -> bool:
    if not (isinstance(a, Basic) and isinstance(b, Basic)):
      return compare_matrices(a, b, float_rounding, numeric_precision)
    percents = [grader.get_pct_val(x) for x in (a, b)]
    if all(x is not None for x in percents) or (
      any(x is not None for x in percents) and not a.has(Float) and not b.has(Float)
    ):
      a, b = (grader.get_pct_val(x, x) for x in (a, b))  # 9% is what 9 is
    one, other = (cast(Any, grader.safe_sympy_doit(x)) for x in (a, b))
    return _close(one, other)

  grader.sympy_numeric_eq = equal


def _close(a: Any, b: Any) -> bool:
  """Tells whether two expressions of SymPy are equal: exactly, or relatively for numbers."""
  from sympy import Float, N, nsimplify

  if a.free_symbols or b.free_symbols:
    return bool(nsimplify(a - b, rational=True).expand() == 0)
  decimals = a.has(Float) + b.has(Float)
  if not decimals and a.is_Rational and b.is_Rational:
    return bool(a == b)
  tolerance = (_EXACT, _ROUNDED, _SAME)[decimals]
  try:
    one, other, difference = (abs(complex(N(x, _DIGITS))) for x in (a, b, a - b))
  except (TypeError, ValueError, OverflowError):
    return False
  if not math.isfinite(one + other):
    return bool(a == b)
  return difference <= tolerance * max(one, other)


def _answer(request: dict[str, str]) -> bool:
  try:
    return bool(_equal(request["value"], request["target"]))
  except (MemoryError, RecursionError, ArithmeticError, ValueError):
    return False


if __name__ == "__main__":
  logging.disable()  # math-verify warns that the limits are ours
  _compare_relatively()
  _equal("1", "1")  # imports SymPy, which takes seconds that no request should pay for
  answer_requests(_answer, _MAX_BYTES)
