"""Bounds, equations and approximations as answers, in the forms of numbers and of expressions."""

import importlib.util
import itertools

import pytest

from greedy_prune_jax.chains.answers import BOXED, NUMBER, split_response

needs_math_verify = pytest.mark.skipif(
  importlib.util.find_spec("math_verify") is None, reason="needs math-verify"
)

FRAMES = [
  (NUMBER, "#### {}"),
  (NUMBER, "The answer is {}."),
  (NUMBER, '{{"answer": "{}"}}'),
  (BOXED, "\\boxed{{{}}}"),
  (BOXED, "The answer is ${}$."),
]
# In each, N is a number that is not the answer.
BOUNDS = [
  *("at least N", "at most N apples", "At the very least N", "no more than N", "not less than N"),
  *("over N", "under N", "above N", "below N", "up to N", "within N", "beyond N", "exceeds N"),
  *("N or more", "N apples or fewer", "N and above", "N at most", "N apples at least", "N+"),
  *("greater than or equal to N", "bigger than N", "more than about N", "upwards of N", "N plus"),
  *("\\text{at least } N", "\\text{more than }N", "N \\text{ or more}", "N\\text{ at most}"),
  *("x > N", "x<N", "> N", "x >= N", "x <= N", "\\ge N", "\\leq N", "x \\geqslant N", "N > x"),
  *("N \\le x", "3<x<N", "3 \\le x < N", "x \\ne N", "x \\gg N", "\N{LESS-THAN OR EQUAL TO} N"),
  *("x+2=N", "x + 2 = N", "2x = N", "2x+1=N", "x/2 = N", "x - N = 0", "y = x + N", "N = x + 2"),
  *(
    "half of N",
    "twice N",
    "a third of N",
    "x is at least N",
    "from 3 to N",
    "between 3 and N",
    "not N",
  ),
  *("square root of N", "N squared", "N cubed"),
]
STATED = [
  *("N", "x = N", "x=N", "N = x", "f(2) = N", "f(2)=N", "x_1 = N", "y(0) = N", "x + y = N"),
  *("f^{-1}(3) = N", "\\angle ABC = N", "\\overline{AB} = N", "\\triangle = N", "P(X=2) = N"),
  *("E[X] = N", "\\text{Total cost} = N", "x^2 + y^2 = N", "x := N", "x' = N", "\\lambda = N"),
  *("about N", "\\approx N", "x \\approx N", "\N{ALMOST EQUAL TO} N", "approximately N"),
  *(
    "roughly N",
    "around N",
    "nearly N",
    "approx. N",
    "exactly N",
    "\\text{about } N",
    "x is N",
    "equal to N",
  ),
  *("N more", "N more apples", "N less", "N years older", "N times as many"),
]
NUMBERS = ("5", "2.5", "1200")


def verdict(form, written, answer, target):
  if '"answer"' in written:
    answer = answer.replace("\\", "\\\\")
  split = split_response(written.format(answer), form)
  return split is not None and form.is_right(split.value, target)


@needs_math_verify
@pytest.mark.parametrize(("form", "written"), FRAMES)
def test_a_bound_or_an_equation_is_not_its_number(form, written):
  for bound, number in itertools.product(BOUNDS, NUMBERS):
    assert not verdict(form, written, bound.replace("N", number), number), bound


@needs_math_verify
@pytest.mark.parametrize(("form", "written"), FRAMES)
def test_a_name_or_an_approximation_states_its_number(form, written):
  for stated, number in itertools.product(STATED, NUMBERS):
    assert verdict(form, written, stated.replace("N", number), number), stated
    assert not verdict(form, written, stated.replace("N", number), number + "1"), stated


@pytest.mark.parametrize(
  "sum_", ["2+3=5", "2 + 3 = 5", "5 = 2+3", "10/2 = 5", "10/2 = 2 + 3 = 5", "x = 2 + 3 = 5"]
)
def test_arithmetic_states_its_result(sum_):
  for form in (NUMBER, BOXED):
    assert form.is_right(sum_, "5")
    assert not form.is_right(sum_.replace("2", "7"), "5")


@pytest.mark.parametrize("zero", ["x = 0", "0 = x", "0"])
def test_zero_is_a_number(zero):
  assert NUMBER.is_right(zero, "0")


@needs_math_verify
@pytest.mark.parametrize(
  ("value", "target", "right"),
  [
    ("x \\ge 5", "x \\geq 5", True),
    ("x \\ge 5", "[5, \\infty)", True),
    ("x \\ge 5", "(5, \\infty)", False),
    ("5 > x", "(-\\infty, 5)", True),
    ("x > 5", "x \\ge 5", False),
    ("5 < x", "x > 5", True),
    ("x+2=5", "x+2=5", True),
    ("3 < x < 5", "(3, 5)", True),
    ("3 < x \\leq 5", "(3, 5]", True),
    ("5 \\ge x > 3", "(3, 5]", True),
    ("3 < x < 5", "(3, 5]", False),
    ("3 < x < 5", "(5, 3)", False),
    ("-2 \\le x \\le 7", "x \\in [-2,7]", True),
    ("x \\in [-2,7]", "-2 \\le x \\le 7", True),
    ("x < 2 \\text{ or } x > 3", "(-\\infty, 2) \\cup (3, \\infty)", True),
    ("x < 2 \\text{ or } x > 4", "(-\\infty, 2) \\cup (3, \\infty)", False),
    ("3 < x > 5", "(3, 5)", False),
    ("3 < 4 < 5", "(3, 5)", False),
    ("\\text{at least 5}", "5", False),
    ("x = 2y + 3", "2y + 3", True),
  ],
)
def test_relations_are_compared_with_relations(value, target, right):
  assert BOXED.is_right(value, target) is right
