"""The generated question set `planted`: chains that carry, piece by piece, why each piece is there.

A question is a sum of several steps modulo a number. Its chain writes the result of each step, and
between the steps things that no answer needs: fillers, restatements, steps that lead nowhere, slips
and their corrections. The key `pieces` of a chain holds `[characters, kind]` for each piece of its
reasoning, in order, so that any order of deletion can be held against what is needed.

Options stand behind an `@`: `planted@english,steps=8,length=200,filler=0`.
"""

import dataclasses
import random
import re
from collections.abc import Callable, Sequence

from greedy_prune_jax.chains.planted_words import VOCABULARIES, Kind, Piece, Vocabulary
from greedy_prune_jax.chains.sources import Row
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.records import Record

PIECES = "pieces"  # key of a chain's record


# What may stand between steps, by the option that says how often.
EXTRAS = {
  "filler": Kind.UNPREDICTABLE,
  "phrase": Kind.PREDICTABLE,
  "restatement": Kind.RESTATEMENT,
  "distractor": Kind.DISTRACTOR,
  "correction": Kind.CORRECTION,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlantedOptions:
  """Size and make-up of a planted chain.

  Attributes:
    vocabulary: a key of `VOCABULARIES`.
    steps: needed results; the difficulty.
    modulus: modulus of the sums, 2 to 10: results are single digits.
    length: words, digits and signs of the reasoning, at least; things that nobody needs are put
      between the steps until it is reached. 0: the steps alone.
    filler: weight with which an unpredictable filler is drawn, against the other extras.
    phrase: weight of a predictable filler.
    restatement: weight of a restatement.
    distractor: weight of a distractor step.
    correction: weight of a self-correction.
  """

  vocabulary: str = "letters"
  steps: int = 5
  modulus: int = 10
  length: int = 60
  filler: float = 1.0
  phrase: float = 1.0
  restatement: float = 1.0
  distractor: float = 1.0
  correction: float = 1.0

  def __post_init__(self):
    expected = {
      "vocabulary": (self.vocabulary in VOCABULARIES, f"one of {', '.join(VOCABULARIES)}"),
      "steps": (1 <= self.steps <= 500, "1 to 500"),
      "modulus": (2 <= self.modulus <= 10, "2 to 10"),
      "length": (0 <= self.length <= 20_000, "0 to 20000"),
    }
    for name in EXTRAS:
      expected[name] = (0 <= getattr(self, name) <= 1000, "a number from 0 to 1000")
    for name, (good, wanted) in expected.items():
      if not good:
        raise UserError(f"planted: {name}={getattr(self, name)}; expected {wanted}")
    # Corrections, of which a step has one, and restatements alone might not reach the length.
    if self.length and not any((self.filler, self.phrase, self.restatement, self.distractor)):
      raise UserError(
        f"planted: length={self.length} with filler, phrase, restatement and distractor all 0; "
        "expected one above 0, or length=0"
      )

  @classmethod
  def parse(cls, text: str) -> "PlantedOptions":
    """Reads `english,steps=8,filler=0`; the vocabulary may stand alone.

    Raises:
      UserError: an option is unknown, or its value is not possible; the message names it.
    """
    kinds: dict[str, Callable] = {f.name: type(f.default) for f in dataclasses.fields(cls)}
    values = {}
    for part in filter(None, text.split(",")):
      name, given, value = part.partition("=")
      if not given:
        name, value = "vocabulary", part
      if name not in kinds:
        raise UserError(f"planted@{text}: {name} is no option; expected {', '.join(kinds)}")
      try:
        values[name] = kinds[name](value)
      except ValueError as error:
        raise UserError(
          f"planted@{text}: {name}={value!r}; expected a {kinds[name].__name__}"
        ) from error
    return cls(**values)


def planted_rows(num_rows: int, first: int, options: str) -> list[Row]:
  """Generated rows: `question`, `answer` (the reasoning, `####`, the result), `pieces`.

  Args:
    num_rows: number of rows, above 0.
    first: number of the first row; equal numbers give equal rows.
    options: text of `PlantedOptions.parse`.
  """
  parsed = PlantedOptions.parse(options)
  return [
    Row(f"planted/{number}", f"planted, question {number}", planted_row(parsed, number))
    for number in range(first, first + num_rows)
  ]


def planted_row(options: PlantedOptions, number: int) -> Record:
  """One row; see `planted_rows`."""
  rng = random.Random(f"{options}/{number}")
  words = VOCABULARIES[options.vocabulary]
  modulus = options.modulus
  start = rng.randrange(modulus)
  operations = [
    (rng.choice(list(words.operators)), rng.randrange(1, modulus)) for _ in range(options.steps)
  ]
  results = [start]
  for sign, operand in operations:
    results.append((results[-1] + (operand if sign == "+" else -operand)) % modulus)
  blocks = [
    _filled(words.step, words, i, results[i], *operations[i], results[i + 1])
    for i in range(options.steps)
  ]
  blocks = _with_extras(blocks, results, words, options, rng)
  pieces = [piece for block in blocks for piece in block]
  if not pieces[-1][0].endswith("\n"):  # the answer has a line of its own
    pieces.append(("\n", Kind.PREDICTABLE))
  asked = "".join(words.operations[sign].format(operand=k) for sign, k in operations)
  reasoning = "".join(text for text, _ in pieces)
  return {
    "question": words.question.format(start=start, operations=asked),
    "answer": f"{reasoning}#### {results[-1]}",
    PIECES: [[len(text), str(kind)] for text, kind in pieces],
  }


def count_words(text: str) -> int:
  """Number of words, digits and signs: the tokens of a tokenizer that knows every word."""
  return len(re.findall(r"[A-Za-z]+|[^A-Za-z ]", text))


def _filled(
  template: Sequence[Piece], words: Vocabulary, i: int, before: int, sign: str, k: int, result: int
) -> list[Piece]:
  """The pieces of step `i`."""
  values = {
    "label": words.labels[i % len(words.labels)],
    "before": before,
    "operator": words.operators[sign],
    "operand": k,
    "result": result,
  }
  return [(text.format(**values), kind) for text, kind in template]


def _with_extras(
  steps: Sequence[Sequence[Piece]],
  results: Sequence[int],
  words: Vocabulary,
  options: PlantedOptions,
  rng: random.Random,
) -> list[list[Piece]]:
  """The steps with drawn extras behind them, or within, until the reasoning is long enough."""
  behind: list[list[Piece]] = [[] for _ in steps]
  corrected: dict[int, Piece] = {}
  letters = words is VOCABULARIES["letters"]
  size = sum(_size(text, letters) for step in steps for text, _ in step)
  weights = [getattr(options, name) for name in EXTRAS]
  while size < options.length:
    [kind] = rng.choices(list(EXTRAS.values()), weights)
    i = rng.randrange(len(steps))
    if kind == Kind.CORRECTION:
      if i in corrected:
        continue
      wrong = (results[i + 1] + rng.randrange(1, options.modulus)) % options.modulus
      piece = corrected[i] = words.correction.format(result=wrong), kind
    else:
      piece = _extra(kind, i, results, words, options, rng), kind
      behind[i].append(piece)
    size += _size(piece[0], letters)
  blocks = []
  for i, step in enumerate(steps):
    place = next(at for at, (_, kind) in enumerate(step) if kind == Kind.NEEDED)
    slip = [corrected[i]] if i in corrected else []
    blocks += [[*step[:place], *slip, *step[place:]], behind[i]]
  return blocks


def _size(text: str, letters: bool) -> int:
  return len(text) if letters else count_words(text)


def _extra(
  kind: Kind,
  i: int,
  results: Sequence[int],
  words: Vocabulary,
  options: PlantedOptions,
  rng: random.Random,
) -> str:
  """Pieces that stand behind step `i`."""
  if kind == Kind.PREDICTABLE:
    return words.phrase
  if kind == Kind.UNPREDICTABLE:
    return words.filler.format(one=rng.choice(words.words), two=rng.choice(words.words))
  if kind == Kind.RESTATEMENT:
    j = rng.randrange(i + 1)
    return words.restatement.format(
      label=words.labels[j % len(words.labels)], result=results[j + 1]
    )
  sign = rng.choice(list(words.operators))
  before, operand = rng.randrange(options.modulus), rng.randrange(1, options.modulus)
  result = (before + (operand if sign == "+" else -operand)) % options.modulus
  return words.distractor.format(
    name=rng.choice(words.names),
    before=before,
    operator=words.operators[sign],
    operand=operand,
    result=result,
  )


def kinds_of_tokens(pieces: Sequence[Sequence], tokens: Sequence[str]) -> list[Kind]:
  """The kind of each token by a chain's pieces: that of most of its characters but white space.

  Raises:
    UserError: pieces and tokens are not of one text.
  """
  of_characters = [kind for size, kind in pieces for _ in range(size)]
  if len(of_characters) != sum(map(len, tokens)):
    raise UserError(
      f'"{PIECES}" covers {len(of_characters)} characters; the tokens have {sum(map(len, tokens))}'
    )
  kinds, start = [], 0
  for token in tokens:
    inside = of_characters[start : start + len(token)]
    shown = [k for k, c in zip(inside, token, strict=True) if not c.isspace()] or inside
    kinds.append(Kind(max(dict.fromkeys(shown), key=shown.count)))
    start += len(token)
  return kinds
