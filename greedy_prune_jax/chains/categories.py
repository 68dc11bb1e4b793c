"""Functional categories of reasoning tokens, and the interface of what assigns them."""

import enum
import itertools
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from greedy_prune_jax.errors import UserError


class Category(enum.StrEnum):
  """Function of a token in a chain of thought; the names are those of the published viewer."""

  SYMBOLIC_MATH = "SYMBOLIC_MATH"
  VERBAL_MATH = "VERBAL_MATH"
  ENTITY_NAME = "ENTITY_NAME"
  COREFERENCE = "COREFERENCE"
  META_DISCOURSE = "META_DISCOURSE"
  FUNCTION = "FUNCTION"


# The guide that the hand labels follow, the rules implement, and a text model is given.
GUIDE: dict[Category, str] = {
  Category.SYMBOLIC_MATH: (
    "digits, operators, variables, formulas, everything inside LaTeX, signs such as $ % and °, "
    "units and quantities written as symbols (kg, H2O), commas and points inside numbers"
  ),
  Category.VERBAL_MATH: (
    "quantities and operations in words: number words, quantifiers (each, both, half, per), units "
    "(hours, dollars), names of quantities (speed, price, total), comparisons (more than, twice), "
    "verbs that compute or change a quantity (adding, divided, earns, costs)"
  ),
  Category.ENTITY_NAME: (
    "who and what the problem is about: people, things, places, substances, terms of the field, "
    "with the adjectives that belong to them"
  ),
  Category.COREFERENCE: "words that point back: he, her, it, they, this, those",
  Category.META_DISCOURSE: (
    "talk about the reasoning: first, so, therefore, since, let us, we know, the answer is, "
    "option, true, correct"
  ),
  Category.FUNCTION: (
    "grammar and punctuation, white space and line ends, and every word that is none of the above, "
    "such as plain verbs"
  ),
}

# One entry a token: its category, or None where the annotator could not tell.
Labels = tuple[Category | None, ...]


@runtime_checkable
class Annotator(Protocol):
  """Labels the tokens of chains, each from its place in the text."""

  def annotate(self, chains: Sequence[Sequence[str]]) -> Sequence[Labels | None]:
    """Labels of each chain's tokens, which are given as texts that joined make up the reasoning.

    None for a chain that nobody could be asked about; asked again, there may be some.
    """
    ...


def parse_category(name: str) -> Category:
  """The category of that name; a UserError if there is none."""
  try:
    return Category(name)
  except ValueError as error:
    raise UserError(f"unknown category {name!r}; known are {', '.join(Category)}") from error


def token_spans(tokens: Sequence[str]) -> list[tuple[int, int]]:
  """Start and end of each token in the text that they make up, in characters."""
  ends = list(itertools.accumulate(map(len, tokens)))
  return list(zip([0, *ends[:-1]], ends, strict=True)) if ends else []
