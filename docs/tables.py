"""Writes the tables whose results are kept in the repository anew: `python -m docs.tables`.

The study's rows lie in docs/study_cpu.md as the command printed them. Every other table is a
transcript: docs/measured.md names its machine, commit and command.
"""

import re
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/measured.md")
_TABLE = re.compile(r"(<!-- table (\w+) -->\n\n).*?(\n<!-- end of table -->\n)", re.DOTALL)


class Study(NamedTuple):
  """Rankings and keep ratios that a table shows, and whether it shows the written tokens."""

  rankings: tuple[str, ...]
  ratios: tuple[str, ...]
  with_tokens: bool


TABLES = {
  "study_short": Study(
    ("greedy_joint", "numbers_first", "keep_first", "keep_last", "random"),
    ("0.9", "0.7", "0.5"),
    with_tokens=False,
  ),
  "study": Study(
    (
      "greedy_joint",
      "numbers_first",
      "keep_last",
      "keep_first",
      "greedy_answer",
      "random",
      "attention",
      "surprisal",
      "gradient",
    ),
    ("0.9", "0.7", "0.5", "0.3"),
    with_tokens=True,
  ),
}


def study_rows() -> dict[tuple[str, str], dict[str, str]]:
  """Rows of students on the templates of their training, by ranking and keep ratio."""
  lines = (ROOT / "docs" / "study_cpu.md").read_text().splitlines()
  cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
  first = next(i for i, row in enumerate(cells) if row[:1] == ["test"])
  last = cells.index([], first)  # further tables come behind it
  rows = [dict(zip(cells[first], row, strict=True)) for row in cells[first + 2 : last]]
  rows = [row for row in rows if row["test"] == "same_templates"]
  return {(row["trained on"], row["keep ratio"]): row for row in rows}


def table(study: Study) -> str:
  """One row a ranking: accuracy with its 95% interval at each keep ratio."""
  rows = study_rows()
  lines = [
    f"| trained on | {' | '.join(study.ratios)} |",
    f"| --- | {' | '.join('--:' for _ in study.ratios)} |",
  ]
  for ranking in study.rankings:
    cells = [_cell(rows[ranking, ratio], study.with_tokens) for ratio in study.ratios]
    lines.append(f"| `{ranking}` | {' | '.join(cells)} |")
  return "\n".join(lines) + "\n"


def _cell(row: dict[str, str], with_tokens: bool) -> str:
  low, high = (_percent(row[name]) for name in ("low", "high"))
  answers = int(row["seeds"]) * int(row["questions"])
  accuracy = 100 * round(float(row["accuracy"]) * answers) / answers  # the row has three digits
  tokens = f", {float(row['reasoning tokens']):.1f}" if with_tokens else ""
  return f"{accuracy:.1f}% ({low} to {high}){tokens}"


def _percent(share: str) -> Decimal:
  return (100 * Decimal(share)).quantize(Decimal(1), ROUND_HALF_UP)


def with_tables(page: str) -> str:
  """A page with the tables of now between its marks `table NAME`."""
  return _TABLE.sub(lambda match: match[1] + table(TABLES[match[2]]) + match[3], page)


if __name__ == "__main__":
  for name in PAGES:
    (ROOT / name).write_text(with_tables((ROOT / name).read_text()))
