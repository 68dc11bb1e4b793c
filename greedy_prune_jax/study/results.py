"""Answers of a study's students, as tables with intervals over questions and seeds."""

import dataclasses
import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from greedy_prune_jax.evaluation.run import read_evaluation
from greedy_prune_jax.evaluation.scores import question_means
from greedy_prune_jax.reports.intervals import (
  Proportion,
  accuracy_interval,
  crossed_spread,
  paired_difference,
)
from greedy_prune_jax.reports.tables import Cell, Table
from greedy_prune_jax.runs.records import Record
from greedy_prune_jax.study.plan import Condition
from greedy_prune_jax.study.settings import ANSWER_ONLY, NO_PRUNING


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
  """Answers of one condition's students, a seed each, in one test.

  Attributes:
    condition: the students' condition.
    test: its name.
    seeds: seeds of the students that are done.
    correct: share of right samples, by seed and question.
    tokens: generated reasoning tokens, likewise.
    cut_off: share of samples that were cut off.
    unparsed: share of samples in which no answer was found.
    median_tokens: over all samples.
  """

  condition: Condition
  test: str
  seeds: tuple[int, ...]
  correct: Float[np.ndarray, "S Q"]
  tokens: Float[np.ndarray, "S Q"]
  cut_off: float
  unparsed: float
  median_tokens: float

  @property
  def accuracy(self) -> Proportion:
    """With its interval over questions and seeds."""
    return accuracy_interval(self.correct)

  @property
  def mean_tokens(self) -> tuple[float, float, float]:
    """Generated reasoning tokens with their interval over questions and seeds."""
    spread = crossed_spread(self.tokens)
    return (spread.mean, *spread.interval())


def read_answers(
  folder: Path, condition: Condition, seeds: Sequence[int], test: str
) -> Answers | None:
  """The answers of a condition's students.

  Args:
    folder: the study's folder.
    condition: the students' condition.
    seeds: seeds of the students that are done.
    test: name of the test.

  Returns:
    None if there is no such student.
  """
  if not seeds:
    return None
  by_seed = [_by_question(folder / condition.folder(seed) / "evaluate" / test) for seed in seeds]
  samples = [s for records in by_seed for record in records for s in record["samples"]]
  return Answers(
    condition=condition,
    test=test,
    seeds=tuple(seeds),
    correct=np.stack([question_means(records, "correct") for records in by_seed]),
    tokens=np.stack([question_means(records, "reasoning_tokens") for records in by_seed]),
    cut_off=statistics.fmean(sample["finish_reason"] == "length" for sample in samples),
    unparsed=statistics.fmean(sample["value"] is None for sample in samples),
    median_tokens=float(statistics.median(sample["reasoning_tokens"] for sample in samples)),
  )


def _by_question(workdir: Path) -> list[Record]:
  return sorted(read_evaluation(workdir), key=lambda record: record["question_id"])


def study_table(answers: Sequence[Answers]) -> Table:
  """A row for the students of each condition in each test."""
  rows = []
  for cell in answers:
    rows.append(
      (
        *(cell.test, cell.condition.student, cell.condition.arm, cell.condition.keep_ratio),
        *cell.accuracy,
        *(_number(value) for value in cell.mean_tokens),
        *(cell.median_tokens, cell.cut_off, cell.unparsed),
        *(len(cell.seeds), cell.correct.shape[1]),
      )
    )
  return Table(
    name="study",
    caption="Accuracy and generated reasoning tokens of students, with 95% intervals over "
    "questions and seeds (of one seed: over questions alone). Intervals hold for each row by "
    "itself, not for all rows at once.",
    columns=(
      *("test", "student", "trained on", "keep ratio"),
      *("accuracy", "low", "high"),
      *("reasoning tokens", "tokens low", "tokens high", "median"),
      *("cut off", "no answer found", "seeds", "questions"),
    ),
    rows=rows,
  )


def differences_table(answers: Sequence[Answers], reference: str) -> Table:
  """An arm, `reference`, against every other at its keep ratio, and against both ends.

  Edited and ready chains, which have one length, are compared at every ratio but 0 of the others.
  """
  rows: list[tuple[Cell, ...]] = []
  for one, other in itertools.product(answers, answers):
    if one.condition.arm != reference or other.condition.arm == reference:
      continue
    if (one.test, one.condition.student) != (other.test, other.condition.student):
      continue
    if not _comparable(one.condition, other.condition):
      continue
    if row := _difference(one, other):
      rows.append(row)
  return Table(
    name="differences",
    caption=f"Accuracy of students on {reference} minus that of students on another, on the same "
    "questions with the same seeds, with 95% intervals over questions and seeds; and the "
    "difference of generated reasoning tokens, since only at equal length is it the chains' doing.",
    columns=(
      *("test", "student", "trained on", "keep ratio", "against", "against's ratio"),
      *("difference", "low", "high"),
      *("tokens' difference", "tokens low", "tokens high", "seeds", "questions"),
    ),
    rows=rows,
  )


def _comparable(one: Condition, other: Condition) -> bool:
  ratios = one.keep_ratio, other.keep_ratio
  whole = 1 in ratios and 0 not in ratios  # one of the two has chains of one length
  return ratios[0] == ratios[1] or whole or other.arm in (NO_PRUNING, ANSWER_ONLY)


def _difference(one: Answers, other: Answers) -> tuple[Cell, ...] | None:
  """A row of the table of differences; None where they have no seed in common."""
  seeds = [seed for seed in one.seeds if seed in other.seeds]
  if not seeds:
    return None
  mine = [one.seeds.index(seed) for seed in seeds]
  theirs = [other.seeds.index(seed) for seed in seeds]
  tokens = crossed_spread(one.tokens[mine] - other.tokens[theirs])
  return (
    *(one.test, one.condition.student, one.condition.arm, one.condition.keep_ratio),
    *(other.condition.arm, other.condition.keep_ratio),
    *paired_difference(one.correct[mine], other.correct[theirs]),
    *(_number(value) for value in (tokens.mean, *tokens.interval())),
    *(len(seeds), one.correct.shape[1]),
  )


def _number(value: float) -> float | None:
  return None if np.isnan(value) else float(value)
