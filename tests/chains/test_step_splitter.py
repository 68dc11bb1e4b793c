"""Steps by rules, and how borders are compared."""

import pytest

from greedy_prune_jax.chains.step_splitter import split_steps
from tests.helpers.attacks import limits

CASES = {
  "a sentence with an equation ends a step, and takes those before it along": [
    "Tom has 3 apples. He buys 4 more. 3 + 4 = 7 apples. ",
    "He eats 2. 7 - 2 = 5.",
  ],
  "lines with equations": ["a = 3\n", "b = 4\n", "a + b = 7"],
  "clauses behind an equation": ["3 + 4 = 7, ", "so he has 7 * 2 = 14; ", "then 14 - 1 = 13."],
  "a clause without an equation before it is none": ["Tom, who sings, so they say, has 3 + 4 = 7."],
  "connectives": [
    "We add. ",
    "Then we stop. ",
    "So it is done. ",
    "Wait, no. ",
    "Let me check it.",
  ],
  "connectives begin with the word alone": ["We add. Sofia thenceforth adds."],
  "paragraphs": ["We add. It helps.\n\n", "We stop."],
  "paragraphs in lines of Windows": ["We add.\r\nIt helps.\r\n\r\n", "We stop."],
  "paragraphs between blanks": ["We add. It helps.\n \n  ", "We stop.\n\n\t", "Done."],
  "abbreviations, initials and numbers of a list end no sentence": [
    "Mr. A. Smith has $3.50, i.e. more.\n1. He pays 1.2 = 1.2 dollars.\n",
    "2. He goes.",
  ],
  "TeX": ["It is $x = \\frac{1}{2}.$ ", "Therefore $y = 3.$"],
  "white space at the end": ["It is so.\n\n"],
  "nothing": [""],
}


@pytest.mark.parametrize("case", CASES)
def test_steps(case):
  assert split_steps("".join(CASES[case])) == CASES[case]


@pytest.mark.slow
@pytest.mark.parametrize(
  "piece",
  ["####\n", ".", "?", '."', "so, and ", "; so ", "a. ", "=", "= ", "=\\", "=\\=", "=$-", " "],
)
@pytest.mark.parametrize("end", ["", "x", "5"])
def test_long_texts_are_split_in_linear_time(piece, end):
  with limits(seconds=20):  # squares take minutes
    assert "".join(split_steps(piece * (400_000 // len(piece)) + end))
