"""Question sets: from the hub, from local files, or generated, all in one form."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from greedy_prune_jax.chains import answers, rows
from greedy_prune_jax.chains.answers import AnswerForm
from greedy_prune_jax.chains.chain import RECORD_KEYS
from greedy_prune_jax.chains.numbers import canonical_number
from greedy_prune_jax.chains.planted import planted_rows
from greedy_prune_jax.chains.rows import HubSplit, Row
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs import records as fields
from greedy_prune_jax.runs.files import user_path
from greedy_prune_jax.runs.records import Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
  """A question with a known answer.

  Attributes:
    id: the dataset's name and the row, such as `gsm8k/17`.
    question: text of the question.
    system: instruction that names the form of the answer.
    target: the gold answer, without its form: `72`, `\\frac{1}{2}`, `B`.
    rationale: the dataset's own worked solution, or None.
    extra: further keys of the row, such as a subject or a level, but none that a chain's record
      itself has.
  """

  id: str
  question: str
  system: str
  target: str
  rationale: str | None = None
  extra: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuestionSet:
  """Source of a question set's rows, and their meaning.

  Attributes:
    form: form of its answers.
    parse: makes the fields of `Question` that a row decides (all but `id` and `system`).
    splits: places of `train` and `test` on the hub. Empty for a generated set.
    generate: makes a number of rows of a generated set, which has no end, from the number of the
      first row and the options behind `NAME@`. Rows of equal numbers and options are equal.
    has_rationales: True if rows have worked solutions.
  """

  form: AnswerForm
  parse: Callable[[Record], dict[str, Any]]
  splits: Mapping[str, HubSplit] = dataclasses.field(default_factory=dict)
  generate: Callable[[int, int, str], list[Row]] | None = None
  has_rationales: bool = True


def _parse_gsm8k(row: Record) -> dict[str, Any]:
  """A row of GSM8K: a rationale with calculator marks, `####`, and the number."""
  solution = fields.get_text(row, "answer")
  rationale, mark, target = solution.rpartition("####")
  if not mark or not target.strip():
    raise UserError('"answer" has no "#### NUMBER" at its end, as a row of GSM8K has')
  return {
    "question": fields.get_text(row, "question"),
    "target": canonical_number(target),
    "rationale": re.sub(r"<<.*?>>", "", rationale),
    "extra": rest(row, "question", "answer"),
  }


def _parse_math(row: Record) -> dict[str, Any]:
  """A row of MATH, MATH-500, AIME or AMC: `problem`, with `answer`, `solution`, or both."""
  solution = fields.get_optional_text(row, "solution")
  if row.get("answer") is None and solution is not None:
    target = answers.last_boxed(solution)
    if target is None:
      raise UserError('"solution" has no \\boxed{...} and there is no "answer"')
    target = clean_target(target)
  else:
    answer = fields.get(row, "answer", str, int, float)
    target = clean_target(answer) if isinstance(answer, str) else canonical_number(str(answer))
    if not target:
      raise UserError('"answer" is empty')
  return {
    "question": fields.get_text(row, "problem"),
    "target": target,
    "rationale": solution,
    "extra": rest(row, "problem", "solution", "answer"),
  }


_LETTERS = "ABCDEFGHIJ"  # those that `letters` reads


def _parse_mmlu_pro(row: Record) -> dict[str, Any]:
  """A row of MMLU-Pro: `question`, up to ten `options`, and the letter of the right one."""
  options = fields.get_items(row, "options", str)
  if len(options) > len(_LETTERS):
    raise UserError(
      f'"options" has {len(options)} items; expected at most {len(_LETTERS)}, '
      f"{_LETTERS[0]} to {_LETTERS[-1]}, the letters that are read in replies"
    )
  letters = _LETTERS[: len(options)]
  target = fields.get_text(row, "answer").strip()
  if target not in letters or len(target) != 1:
    raise UserError(f'"answer" is {target!r}, not one letter of the {len(options)} options')
  lines = [f"{letter}. {option}" for letter, option in zip(letters, options, strict=True)]
  question = fields.get_text(row, "question")
  return {
    "question": "\n".join([question.strip() + "\n", "Options:", *lines]),
    "target": target,
    "extra": rest(row, "question", "options", "answer", "answer_index", "cot_content"),
  }


def clean_target(text: str) -> str:
  r"""A gold answer without what ends the sentence that it stood in: `\boxed 2.` means 2."""
  return text.strip().rstrip(".,;:").rstrip()


def rest(row: Record, *used: str) -> Record:
  """The row's other keys, without those that a chain's record has for itself."""
  return {key: value for key, value in row.items() if key not in used and key not in RECORD_KEYS}


NUM_GENERATED = 4  # questions of a generated set where a setting says all

QUESTION_SETS: Mapping[str, QuestionSet] = {
  "gsm8k": QuestionSet(
    form=answers.NUMBER,
    parse=_parse_gsm8k,
    splits={split: HubSplit("openai/gsm8k", "main", split) for split in ("train", "test")},
  ),
  "math": QuestionSet(
    form=answers.BOXED,
    parse=_parse_math,
    splits={
      "train": HubSplit("DigitalLearningGmbH/MATH-lighteval", "default", "train"),
      "test": HubSplit("HuggingFaceH4/MATH-500", None, "test"),
    },
  ),
  "mmlu_pro": QuestionSet(
    form=answers.LETTER,
    parse=_parse_mmlu_pro,
    has_rationales=False,
    # The 70 questions of `validation` are the few-shot examples, with a worked solution each.
    splits={
      "train": HubSplit("TIGER-Lab/MMLU-Pro", None, "validation"),
      "test": HubSplit("TIGER-Lab/MMLU-Pro", None, "test"),
    },
  ),
  "aime": QuestionSet(
    form=answers.BOXED,
    parse=_parse_math,
    splits={
      "train": HubSplit("AI-MO/aimo-validation-aime", None, "train"),  # 2022 to 2024
      "test": HubSplit("math-ai/aime25", None, "test"),  # 2025
    },
  ),
  "amc": QuestionSet(
    form=answers.BOXED,
    parse=_parse_math,
    splits={"test": HubSplit("AI-MO/aimo-validation-amc", None, "train")},  # AMC 12, 2022 and 2023
    has_rationales=False,
  ),
  "gsm_symbolic": QuestionSet(form=answers.NUMBER, parse=_parse_gsm8k, generate=rows.gsm_symbolic),
  "planted": QuestionSet(
    # Asked for in few tokens, as models of their own learn it from nothing.
    form=dataclasses.replace(answers.NUMBER, instruction="", write="#### {}".format),
    parse=_parse_gsm8k,
    generate=planted_rows,
  ),
}

# Distance between the first rows of two seeds and splits. reasoning-gym draws row i from i alone,
# so that neighbouring seeds would share nearly all of their questions.
_SEED_BLOCK = 10**7


def split_source(source: str) -> tuple[str, Path | None] | None:
  """`NAME` or `NAME:PATH` as a set's name and a path or None; None where it names no set.

  A generated set may have options: `gsm_symbolic@3,14`.
  """
  if is_generated(source):
    return source.partition("@")[0], None
  name, _, path = source.partition(":")
  if name not in QUESTION_SETS:
    return None
  return name, user_path(path) if path else None


def is_generated(source: str) -> bool:
  """Tells whether a source is made as it is asked for, and so has no end."""
  name = source.partition("@")[0]
  return name in QUESTION_SETS and QUESTION_SETS[name].generate is not None


def rows_to_read(source: str, asked: int, further: int = 0) -> int:
  """Number of a source's rows to read: those asked for and `further` ones; 0: all.

  Of a generated set, which has no end, `NUM_GENERATED` are meant where 0 are asked for.
  """
  if is_generated(source):
    asked = asked or NUM_GENERATED
  return asked and asked + further


def meant_by_zero(source: str) -> float:
  """Number of a source's rows that a setting of 0 asks for: infinity where it means all."""
  return rows_to_read(source, 0) or math.inf


def load_rows(
  source: str, *, split: str = "train", num_rows: int = 0, seed: int = 0
) -> tuple[str, list[Row]]:
  """The name of the set that `source` means, and its rows in the order that `seed` gives.

  The first rows of a large sample are those of a smaller one of the same seed.

  Args:
    source: `NAME` (from the hub, or generated), `NAME:PATH` (a local file or folder), or a
      generated set with options: `gsm_symbolic@3,14` (of these templates alone),
      `planted@english,steps=8` (see `planted.PlantedOptions`).
    split: `train` or `test`. A local file has no splits; all of it is used.
    num_rows: number of rows; 0: see `rows_to_read`.
    seed: seed of the order, or of the generator.

  Raises:
    UserError: an unknown set or split, or rows that cannot be read from where they should be.
  """
  name_and_path = split_source(source)
  if name_and_path is None:
    raise UserError(
      f"unknown question set {source!r}; expected NAME or NAME:PATH with NAME one of "
      f"{', '.join(QUESTION_SETS)}. Rows at gsm8k:PATH have the keys question and answer (which "
      f"ends in #### NUMBER); at math:PATH, aime:PATH, amc:PATH problem, and answer or solution; "
      f"at mmlu_pro:PATH question, options and answer (a letter)"
    )
  if split not in ("train", "test"):
    raise UserError(f"split={split!r}; expected train or test")
  if num_rows < 0:
    raise UserError(f"{num_rows} questions of {source}; expected a number from 0 (all) on")
  name, path = name_and_path
  hub = QUESTION_SETS[name].splits.get(split)
  if path is not None:
    return name, rows.shuffled(rows.from_path(path, hub, split), num_rows, seed)
  if generate := QUESTION_SETS[name].generate:
    first = (2 * seed + (split == "test")) * _SEED_BLOCK
    return name, generate(rows_to_read(source, num_rows), first, source.partition("@")[2])
  if hub is None:
    raise UserError(f"{name} has no {split} split; it has {', '.join(QUESTION_SETS[name].splits)}")
  return name, rows.shuffled(rows.from_hub(hub, name, split), num_rows, seed)


def parse_question(name: str, row: Record, default_id: str) -> Question:
  """The question in one row of the set `name`; `default_id` is used where the row has no id.

  Raises:
    UserError: the row is not of the set's form; the message names the key.
  """
  question_set = QUESTION_SETS[name]
  given_id = row.get("id")
  parsed = question_set.parse(row)
  if not question_set.form.is_target(parsed["target"]):
    raise UserError(f'"answer" gives the target {parsed["target"]!r}, which is not one number')
  return Question(
    id=given_id if given_id and isinstance(given_id, str) else default_id,
    system=fields.get_optional_text(row, "system") or question_set.form.instruction,
    **parsed,
  )


def load_questions(
  source: str, *, split: str = "train", num_questions: int = 0, seed: int = 0
) -> list[Question]:
  """Questions of the set that `source` means; the arguments are those of `load_rows`.

  Raises:
    UserError: see `load_rows`; a row is not of the set's form, the message names it and the key; or
      two rows have one id.
  """
  name, set_rows = load_rows(source, split=split, num_rows=num_questions, seed=seed)
  questions: dict[str, Question] = {}
  for row in set_rows:
    try:
      question = parse_question(name, row.record(), row.id)
    except UserError as error:
      raise UserError(f"{row.place}: {error}") from error
    if question.id in questions:
      raise UserError(f"{row.place}: another row has the id {question.id!r}; ids must be unique")
    questions[question.id] = question
  return list(questions.values())
