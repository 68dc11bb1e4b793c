"""Values in plain signs and TeX."""

import pytest

from greedy_prune_jax.chains.normal_text import normal_answer
from tests.helpers.attacks import limits


@pytest.mark.parametrize(
  ("text", "value"),
  [
    (r"13\,535", "13535"),
    ("2½", r"2 \frac{1}{2}"),
    ("90 °", r"90^\circ"),
    (r"90  ^ {\circ}", r"90^\circ"),
    (r"90 \deg", r"90 \deg"),
    ("90 ^ ∘", r"90^\circ"),
    ("**\\(x² + 1\\).**", "x^{2} + 1"),
    ("7 ✓ ==", "7"),
    (r"7 \checkmark.", "7"),
    (r"\$5 \\ $", r"\$5"),
    (r"7\,\ ", "7"),
    ("a = =", "a = ="),
  ],
)
def test_what_encloses_a_value_goes(text, value):
  assert normal_answer(text) == value


@pytest.mark.parametrize(
  "piece", [".", " ", "\n", "\\! ,", "$", "\\", "5 ", "^ ", "\\,", "✓ ", "= "]
)
def test_long_texts_are_read_in_linear_time(piece):
  text = piece * (200_000 // len(piece))
  with limits(seconds=20):  # squares take minutes
    normal_answer(text)
    normal_answer(f"5{text}5")
