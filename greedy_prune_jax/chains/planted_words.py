"""Spelling of planted chains: the kinds of their pieces, and the vocabularies."""

import dataclasses
from collections.abc import Mapping, Sequence
from enum import StrEnum


class Kind(StrEnum):
  """Purpose of a piece of the reasoning."""

  NEEDED = "needed result"
  COPIED = "copied operand"
  LABEL = "label"
  PREDICTABLE = "predictable filler"
  UNPREDICTABLE = "unpredictable filler"
  RESTATEMENT = "restatement"
  DISTRACTOR = "distractor step"
  CORRECTION = "self-correction"


Piece = tuple[str, Kind]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocabulary:
  """Spelling of a chain.

  Attributes:
    question: the whole question; `{start}` and `{operations}` are filled in.
    operations: one operation of the question by its sign; `{operand}` is filled in.
    operators: the word for each sign in a step.
    step: pieces of one step; `{label}`, `{before}`, `{operator}`, `{operand}`, `{result}`.
    correction: a wrong result and its withdrawal, directly before the right one; `{result}`.
    restatement: restatement of an earlier step's result, `{label}` and `{result}`.
    distractor: a right step on other numbers, with the fields of a step and a `{name}`.
    phrase: the same each time.
    filler: drawn words go into `{one}` and `{two}`.
    labels: labels of the steps, in order; more steps begin anew.
    names: names of the distractors.
    words: words to fill `filler` with.
  """

  question: str
  operations: Mapping[str, str]
  operators: Mapping[str, str]
  step: Sequence[Piece]
  correction: str
  restatement: str
  distractor: str
  phrase: str
  filler: str
  labels: Sequence[str]
  names: Sequence[str]
  words: Sequence[str]


_SIGNS = {"+": "+", "-": "-"}
_COUNTED = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven")
_COUNTED += ("twelve",)

VOCABULARIES: Mapping[str, Vocabulary] = {
  # Every character is a token of its own.
  "letters": Vocabulary(
    question="{start}{operations}",
    operations={sign: sign + "{operand}" for sign in _SIGNS},
    operators=_SIGNS,
    step=(
      ("{label}", Kind.LABEL),
      ("{before}{operator}{operand}", Kind.COPIED),
      ("=", Kind.PREDICTABLE),
      ("{result}", Kind.NEEDED),
      (";", Kind.PREDICTABLE),
    ),
    correction="{result}?",
    restatement="{label}{result};",
    distractor="{name}{before}{operator}{operand}={result};",
    phrase="__;",
    filler="{one}{two};",
    labels="abcdefghij",
    names="PQRSTU",
    words="klmnoprstuvwxyz",
  ),
  # Words and numbers between spaces.
  "words": Vocabulary(
    question="{start}{operations}",
    operations={"+": " plus {operand}", "-": " minus {operand}"},
    operators={"+": "plus", "-": "minus"},
    step=(
      ("{label}", Kind.LABEL),
      (" {before} {operator} {operand}", Kind.COPIED),
      (" is", Kind.PREDICTABLE),
      (" {result}", Kind.NEEDED),
      (";\n", Kind.PREDICTABLE),
    ),
    correction=" {result} no",
    restatement="{label} was {result};\n",
    distractor="{name} {before} {operator} {operand} is {result};\n",
    phrase="go on;\n",
    filler="{one} {two};\n",
    labels=_COUNTED,
    names=("aside", "elsewhere", "meanwhile", "besides"),
    words=(
      *("kettle", "violet", "harbor", "pencil", "meadow", "copper", "lantern", "saddle"),
      *("willow", "basket", "marble", "feather", "castle", "ribbon", "anchor", "button"),
    ),
  ),
  # Sentences that a model of English has no trouble to read.
  "english": Vocabulary(
    question=(
      "Start with {start}.{operations} After each step keep only the last digit (of a negative "
      "number, add 10). What is left at the end?"
    ),
    operations={"+": " Add {operand}.", "-": " Subtract {operand}."},
    operators={"+": "plus", "-": "minus"},
    step=(
      ("Step {label}:", Kind.LABEL),
      (" {before} {operator} {operand}", Kind.COPIED),
      (" leaves", Kind.PREDICTABLE),
      (" {result}", Kind.NEEDED),
      (".\n", Kind.PREDICTABLE),
    ),
    correction=" {result}, no, that is wrong, it is",
    restatement="As found in step {label}, we had {result}.\n",
    distractor="{name}, {before} {operator} {operand} would leave {result}.\n",
    phrase="Let us go on with the next step.\n",
    filler="The {one} is next to the {two}.\n",
    labels=_COUNTED,
    names=("By the way", "Elsewhere", "For comparison", "In another sum"),
    words=(
      *("kettle", "violet", "harbor", "pencil", "meadow", "copper pot", "lantern", "saddle"),
      *("willow", "basket", "marble", "feather", "castle", "ribbon", "anchor", "button"),
    ),
  ),
}
