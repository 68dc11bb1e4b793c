"""Writes the tables whose results are kept in the repository anew: `python -m docs.tables`.

Answers of the planted study's students lie in docs/study_planted.parquet, those of students of
another model in docs/study_planted_other.parquet, rows of the CPU study in docs/study_cpu.md as the
command printed them. Every other table is a transcript: docs/measured.md names its machine, commit
and command.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import NamedTuple

from greedy_prune_jax.study.answers import Answers, read_answers
from greedy_prune_jax.study.matched import AREA
from greedy_prune_jax.study.results import all_tables

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/measured.md")
_END = "<!-- end of table -->\n"
_TABLE = re.compile(rf"(<!-- table (\w+) -->\n).*?{_END}", re.DOTALL)


class Accuracy(NamedTuple):
  """Students of one arm and keep ratio: their accuracy with its 95% interval, and their tokens."""

  share: float
  low: float
  high: float
  tokens: float


Accuracies = Mapping[tuple[str, str], Accuracy]  # by arm and keep ratio


@functools.cache
def planted_answers(name: str = "study_planted") -> tuple[Answers, ...]:
  """Those of `configs/study_planted.py`, or of its mode `other`."""
  return tuple(read_answers(ROOT / "docs" / f"{name}.parquet"))


def planted_accuracies() -> Accuracies:
  """Those of `planted_answers`."""
  return _accuracies(planted_answers())


def _accuracies(several: Sequence[Answers]) -> Accuracies:
  return {
    (answers.condition.arm, f"{answers.condition.keep_ratio:g}"): Accuracy(
      *answers.accuracy, answers.mean_tokens[0]
    )
    for answers in several
  }


@functools.cache
def cpu_accuracies() -> Accuracies:
  """Those of `configs/study_cpu.py`, on the templates of the students' training."""
  lines = (ROOT / "docs" / "study_cpu.md").read_text().splitlines()
  cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
  first = next(i for i, row in enumerate(cells) if row[:1] == ["test"])
  last = cells.index([], first)  # further tables come behind it
  rows = [dict(zip(cells[first], row, strict=True)) for row in cells[first + 2 : last]]
  return {
    (row["trained on"], row["keep ratio"]): Accuracy(
      _share(row), float(row["low"]), float(row["high"]), float(row["reasoning tokens"])
    )
    for row in rows
    if row["test"] == "same_templates"
  }


def _share(row: Mapping[str, str]) -> float:
  answers = int(row["seeds"]) * int(row["questions"])
  return round(float(row["accuracy"]) * answers) / answers  # the row has three digits


def accuracy_table(
  study: Callable[[], Accuracies], arms: Sequence[str], ratios: Sequence[str], *, tokens: bool
) -> str:
  """A row an arm: accuracy with its 95% interval at each keep ratio, and tokens if asked."""
  accuracies = study()
  lines = [f"| trained on | {' | '.join(ratios)} |", f"| --- |{' --: |' * len(ratios)}"]
  for arm in arms:
    cells = [_cell(accuracies[arm, ratio], tokens) for ratio in ratios]
    lines.append(f"| `{arm}` | {' | '.join(cells)} |")
  return "\n".join(lines) + "\n"


def _cell(accuracy: Accuracy, tokens: bool) -> str:
  low, high = _percent(accuracy.low), _percent(accuracy.high)
  written = f", {accuracy.tokens:.1f}" if tokens else ""
  return f"{100 * accuracy.share:.1f}% ({low} to {high}){written}"


def _percent(share: float) -> Decimal:
  return (100 * Decimal(repr(share))).quantize(Decimal(1), ROUND_HALF_UP)


def other_table() -> str:
  """Students of the pruner and of another model, on the same chains of the same seeds."""
  others = planted_answers("study_planted_other")
  seeds = others[0].seeds
  own, other = _accuracies([x.of_seeds(seeds) for x in planted_answers()]), _accuracies(others)
  lines = ["| trained on | the pruner | another model |", "| --- | --: | --: |"]
  for key in other:
    arm = f"`{key[0]}`" if key[1] not in ("0", "1") else _UNPRUNED[key[0]]
    lines.append(f"| {arm} | {_cell(own[key], True)} | {_cell(other[key], True)} |")
  return "\n".join(lines) + "\n"


def matched_table() -> str:
  """The planted study's reference against every other arm, over all written lengths in common."""
  table = all_tables(planted_answers(), "greedy_joint")[2]
  rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
  rows = [row for row in rows if str(row["reasoning tokens"]).startswith(AREA)]
  lines = ["| against | tokens | `greedy_joint` | the other | difference | p |"]
  lines.append(f"| --- |{' --: |' * 5}")
  for row in rows:
    one, other, mean, low, high = (
      100 * float(row[name]) for name in ("accuracy", "against's", "difference", "low", "high")
    )
    p = float(row["p (Holm)"])
    cells = (
      *(f"`{row['against']}`", str(row["reasoning tokens"]).removeprefix(f"{AREA} ")),
      *(f"{one:.1f}%", f"{other:.1f}%"),
      *(f"{mean:+.1f} ({low:+.1f} to {high:+.1f})", "below 0.001" if p < 0.001 else f"{p:.3f}"),
    )
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines) + "\n"


_PLANTED = (
  *("oracle", "greedy_joint", "greedy_runs", "numbers_first", "surprisal_attention"),
  *("answer_attention", "surprisal", "step_entropy", "random_places", "random"),
)
_UNPRUNED = {"no_pruning": "whole chains", "answer_only": "answers alone"}
_CPU = (
  *("greedy_joint", "numbers_first", "keep_last", "keep_first", "greedy_answer", "random"),
  *("attention", "surprisal", "gradient"),
)
TABLES: Mapping[str, Callable[[], str]] = {
  "planted_short": functools.partial(
    accuracy_table, planted_accuracies, _PLANTED, ("0.9", "0.7", "0.5"), tokens=False
  ),
  "planted": functools.partial(
    accuracy_table, planted_accuracies, _PLANTED, ("0.9", "0.7", "0.5"), tokens=True
  ),
  "planted_matched": matched_table,
  "planted_other": other_table,
  "study": functools.partial(
    accuracy_table, cpu_accuracies, _CPU, ("0.9", "0.7", "0.5", "0.3"), tokens=True
  ),
}


def with_tables(page: str) -> str:
  """A page with the tables of now between its marks `table NAME`."""
  return _TABLE.sub(lambda match: f"{match[1]}\n{TABLES[match[2]]()}\n{_END}", page)


if __name__ == "__main__":
  for name in PAGES:
    (ROOT / name).write_text(with_tables((ROOT / name).read_text()))
