"""Numbers that nobody gave a chain."""

from fractions import Fraction

import pytest

from greedy_prune_jax.drp.invented import evaluate_expression, invented_numbers
from tests.helpers.attacks import limits

GIVEN = "Tom has 3 boxes of 14 eggs, 20% broke, each box cost $1,200."


@pytest.mark.parametrize(
  ("text", "invented"),
  [
    ("He has 3 boxes, 1200 each.", []),
    ("He has 50, and 50 again, and 7.5.", ["50", "7.5"]),
    ("3 * 14 = 42 eggs.", []),
    ("3 * 14 = 43 eggs.", ["43"]),
    ("3 boxes x 14 eggs = 42", []),
    ("$3 \\times 14 = 42$, \\frac{14}{3} \\approx 4.67", []),
    ("3 boxes/day * 14 eggs/box = 42 eggs/day", []),
    ("$1,200/box x 3 boxes / week = $3,600/week", []),
    ("14 eggs / (3 eggs/minute) = 4.67, and 3 * (14 eggs + 3 eggs) = 51", []),
    ("14 eggs/box * 3 = 43 eggs, 3/x = 14", ["43"]),
    ("3 * 14 = 42 and 42 - 3 = 39", []),
    ("14 / 3 = 4", ["4"]),  # a whole number is exact
    ("14 / 3 = 4.7", []),
    ("It is 42 = 3 * 14.", []),
    ("20% of 1200 = 240, or 0.2 of it, or 0.3", ["0.3"]),
    ("3^2 = 9", []),
    ("3² = 9, so 9 cm²", []),
    ("3² = 8", ["8"]),
    ("x^{2.5} and Re^0.8 Sc^{0.33}, y^2.", []),
    ("x^{-2}, 3^{-4.5}, 3^\N{MINUS SIGN}4, x^(7), x^(-0.5)", []),
    ("x^2 5, x^{2}5.5", ["5", "5.5"]),  # behind a power
    ("4 = 4", ["4"]),
    ("1. Three boxes\n2) of 14", []),
    ("Step 5: 3 + 14 = 17", []),
    ("3 + 14\n= 17", ["17"]),  # lines stand alone
  ],
)
def test_invented(text, invented):
  assert invented_numbers(text, GIVEN) == invented


@pytest.mark.parametrize(
  ("expression", "value"),
  [
    ("1 + 2 * 3", Fraction(7)),
    ("(1 + 2) * -3", Fraction(-9)),
    ("0.1 + 0.2", Fraction(3, 10)),
    ("50% * 8", Fraction(4)),
    ("2 ** 10", Fraction(1024)),
    ("5", None),
    ("1 / 0", None),
    ("9 ** 9 ** 9", None),
    ("1 +", None),
    ("1 // 2", None),
    ("f(1) + 1", None),
    ("'a' * 9", None),
  ],
)
def test_evaluate(expression, value):
  assert evaluate_expression(expression) == value


def test_powers_that_no_memory_holds_have_no_value():
  tower = "9^64"
  for _ in range(8):
    tower = f"({tower})^64"
  assert evaluate_expression(tower) is None
  assert evaluate_expression("2^10 + 0") == 1024
  assert invented_numbers("+" * 20_000 + " = 5", "") == ["5"]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("text", "given"),
  [
    ("1+1=" * 50_000 + "5", ""),  # each number beside each result
    ("5", "7" * 500_000),  # a percentage from each digit on
    ("12," * 100_000, ""),  # groups of digits from each place on
    ("\n" * 500_000 + "5", ""),  # a list's number behind each line break
  ],
)
def test_long_texts_are_read_in_linear_time(text, given):
  with limits(seconds=20):
    invented_numbers(text, given)


def test_a_percentage_of_more_digits_than_python_reads_is_none():
  assert invented_numbers("5", "7" * 5000 + "% of 5") == []


def test_the_nearest_of_several_results_is_what_a_rounded_number_states():
  text = "10 / 3 = 3.33, 20 / 3 = 6.67, 1 - 5 = -4 and 9 / 2 = 4.6"
  assert invented_numbers(text, "10 3 20 1 5 9 2") == ["4.6"]
