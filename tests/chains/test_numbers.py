from fractions import Fraction

import pytest

from greedy_prune_jax.chains.numbers import canonical_number, parse_number


@pytest.mark.parametrize(
  ("text", "number"),
  [
    ("72", 72),
    ("72.0", 72),
    ("-3", -3),
    ("\N{MINUS SIGN}3", -3),
    ("- 5 degrees", -5),
    ("-$5", -5),
    (".5", Fraction(1, 2)),
    ("1,234.50", Fraction(2469, 2)),
    ("$1,000,000.00 dollars", 10**6),
    ("£12,000", 12000),
    ("12 apples", 12),
    ("72.", 72),
    ("(72)", 72),
    ("**42**", 42),
    ("50%", 50),
    ("60 km/h", 60),
    ("5 eggs/day", 5),
    ("$15/hour", 15),
    ("$1,000, so he is rich", 1000),
    ("3750 m^2", 3750),
    ("3750m^{2}", 3750),
    ("72 cm²", 72),
    ("8 cubic feet", 8),
    ("*42*", 42),
    ("3 half-hours", 3),
    ("x = 3", 3),
    ("7/14", Fraction(1, 2)),
    ("2 1/2 cups", Fraction(5, 2)),
    (r"\frac{3}{4}", Fraction(3, 4)),
    (r"\frac12", Fraction(1, 2)),
    (r"\dfrac{1}2", Fraction(1, 2)),
    (r"\$1{,}000", 1000),
    (r"1\,000", 1000),
    (r"\text{72 cups}", 72),
    ("1.8 million", 1800000),
    ("1e5", 100000),
    ("99999999999999999999.5", Fraction(199999999999999999999, 2)),  # past float64
  ],
)
def test_one_number_is_read_exactly(text, number):
  assert parse_number(text) == number


@pytest.mark.parametrize(
  "text",
  [
    "",
    "none",
    "half",
    "1,2",
    "12,345,67",
    "1,2,345",
    "1,23,4567",
    "0 x 12",
    "10 + 5",
    "10+John's age",
    "5-6",
    "x-5",
    "2^10",
    "10²",
    "3x²",
    "2*36",
    "5**3",
    "15/x",
    "1,000,5",
    "12:30",
    "1/0",
    "3 hours 20 minutes",
    "9" * 5000,  # Python refuses to read it
  ],
)
def test_what_is_no_number_or_several_is_not_read(text):
  assert parse_number(text) is None


@pytest.mark.parametrize(
  ("text", "canonical"),
  [
    (" 1,000 ", "1000"),
    ("1000.0", "1000"),
    ("100", "100"),
    ("0.50", "0.5"),
    ("-0.50", "-0.5"),
    ("1,2", "1,2"),
    ("12,34,567", "1234567"),
    ("1,23,4567", "1,23,4567"),
    ("2 apples", "2 apples"),
  ],
)
def test_canonical_number(text, canonical):
  assert canonical_number(text) == canonical
