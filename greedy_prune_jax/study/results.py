"""Answers of a study's students, as tables with intervals over questions and seeds."""

import itertools
from collections.abc import Sequence

import numpy as np

from greedy_prune_jax.reports.intervals import (
  LEAST_SEEDS,
  Difference,
  crossed_spread,
  holm,
  trained_difference,
)
from greedy_prune_jax.reports.tables import Cell, Table
from greedy_prune_jax.study.answers import Answers
from greedy_prune_jax.study.matched import matched_rows
from greedy_prune_jax.study.plan import Condition
from greedy_prune_jax.study.settings import ANSWER_ONLY, NO_PRUNING

# Of a comparison: its first cells, the difference, its last cells.
_Compared = tuple[tuple[Cell, ...], Difference, tuple[Cell, ...]]

_FEW_SEEDS = (
  "A difference of one seed has neither interval nor p-value, and does not count among the "
  "differences, as nothing tells how much seeds matter."
)


def all_tables(answers: Sequence[Answers], reference: str) -> tuple[Table, Table, Table]:
  """The table of all conditions, and the differences at equal keep ratio and at equal length."""
  at_ratios = list(_ratio_rows(answers, reference))
  panels = dict.fromkeys((cell.test, cell.condition.student) for cell in answers)
  at_lengths: list[_Compared] = []
  left_out: list[str] = []
  for panel in panels:
    there = [cell for cell in answers if (cell.test, cell.condition.student) == panel]
    rows, reasons = matched_rows(there, reference)
    at_lengths += [((*panel, reference, *head), one, tail) for head, one, tail in rows]
    left_out += [f"{arm} ({', '.join(panel)}: {why})" for arm, why in reasons.items() if reference]
  adjusted = holm([difference.p for _, difference, _ in (*at_ratios, *at_lengths)])
  split = len(at_ratios)
  return (
    study_table(answers),
    _differences_table(reference, _flat(at_ratios, adjusted[:split])),
    _matched_table(reference, _flat(at_lengths, adjusted[split:]), left_out),
  )


def _flat(rows: Sequence[_Compared], adjusted: Sequence[float]) -> list[tuple[Cell, ...]]:
  """Rows with the p-values of all differences of the study at once."""
  return [
    (*head, *map(_number, (*difference[:3], p)), *tail)
    for (head, difference, tail), p in zip(rows, adjusted, strict=True)
  ]


def study_table(answers: Sequence[Answers]) -> Table:
  """A row for the students of each condition in each test."""
  rows = []
  for cell in answers:
    rows.append(
      (
        *(cell.test, cell.condition.student, cell.condition.arm, cell.condition.keep_ratio),
        *(_number(value) for value in cell.mean_tokens),
        *cell.accuracy,
        *(cell.median_tokens, cell.cut_off, cell.unparsed),
        *(len(cell.seeds), cell.correct.shape[1]),
      )
    )
  return Table(
    name="study",
    caption="Accuracy of students and the reasoning tokens that they write, with 95% intervals "
    "over questions and seeds (of one seed: over questions alone). Intervals hold for each row by "
    "itself, not for all rows at once.",
    columns=(
      *("test", "student", "trained on", "keep ratio"),
      *("reasoning tokens", "tokens low", "tokens high"),
      *("accuracy", "low", "high"),
      *("median tokens", "cut off", "no answer found", "seeds", "questions"),
    ),
    rows=rows,
  )


def _none(rows: Sequence[object]) -> str:
  return "" if rows else " There is no row, as there are no two arms to compare."


def _differences_table(reference: str, rows: Sequence[tuple[Cell, ...]]) -> Table:
  return Table(
    name="differences",
    caption=f"Accuracy of students on {reference} minus that of students on another, on the same "
    "questions with the same seeds, with 95% intervals over questions and seeds, p-values for all "
    "differences of the study at once (Holm), and the difference of generated reasoning tokens, "
    f"since only at equal length is it the chains' doing. {_FEW_SEEDS}{_none(rows)}",
    columns=(
      *("test", "student", "trained on", "keep ratio", "against", "against's ratio"),
      *("difference", "low", "high", "p (Holm)"),
      *("tokens' difference", "tokens low", "tokens high", "seeds", "questions"),
    ),
    rows=rows,
  )


def _matched_table(
  reference: str, rows: Sequence[tuple[Cell, ...]], left_out: Sequence[str]
) -> Table:
  return Table(
    name="matched",
    caption=f"Accuracy of students on {reference} minus that of students on another at equal "
    "written length: interpolated in the reasoning tokens that students write, arm by arm and seed "
    "by seed, at lengths that both arms reach; the area is the mean over all such lengths. 95% "
    "intervals over questions and seeds, p-values for all differences of the study at once (Holm). "
    f"Keep ratios that lack seeds of the others are left out of both arms of a pair. {_FEW_SEEDS}"
    + _none(rows)
    + (f" Arms that cannot be compared: {', '.join(left_out)}." if left_out else ""),
    columns=(
      *("test", "student", "trained on", "against", "reasoning tokens"),
      *("difference", "low", "high", "p (Holm)", "accuracy", "against's", "seeds", "questions"),
    ),
    rows=rows,
  )


def _ratio_rows(answers: Sequence[Answers], reference: str) -> list[_Compared]:
  """An arm, `reference`, against every other at its keep ratio, and against both ends.

  Edited and ready chains, which have one length, are compared at every ratio but 0 of the others.
  """
  rows = []
  for one, other in itertools.product(answers, answers):
    if one.condition.arm != reference or other.condition.arm == reference:
      continue
    if (one.test, one.condition.student) != (other.test, other.condition.student):
      continue
    seeds = [seed for seed in one.seeds if seed in other.seeds]
    if seeds and _comparable(one.condition, other.condition):
      rows.append(_compare(one.of_seeds(seeds), other.of_seeds(seeds)))
  return rows


def _comparable(one: Condition, other: Condition) -> bool:
  ratios = one.keep_ratio, other.keep_ratio
  whole = 1 in ratios and 0 not in ratios  # one of the two has chains of one length
  return ratios[0] == ratios[1] or whole or other.arm in (NO_PRUNING, ANSWER_ONLY)


def _compare(one: Answers, other: Answers) -> _Compared:
  tokens = crossed_spread(one.tokens - other.tokens)
  head = one.test, one.condition.student, one.condition.arm, one.condition.keep_ratio
  bounds = tokens.interval() if len(one.seeds) >= LEAST_SEEDS else (np.nan, np.nan)
  tail = (_number(value) for value in (tokens.mean, *bounds))
  return (
    (*head, other.condition.arm, other.condition.keep_ratio),
    trained_difference(one.correct, other.correct),
    (*tail, len(one.seeds), one.correct.shape[1]),
  )


def _number(value: float) -> float | None:
  return None if np.isnan(value) else float(value)
