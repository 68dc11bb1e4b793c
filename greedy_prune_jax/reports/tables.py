"""Tables of the report, and their CSV and JSON forms."""

import csv
import dataclasses
import io
import math
import re
from collections.abc import Sequence
from pathlib import Path

from greedy_prune_jax.reports.bootstrap import Interval
from greedy_prune_jax.reports.printing import printable
from greedy_prune_jax.runs.files import make_subfolder, replace_file, write_json

_LONGEST_CELL = 200  # characters

Cell = str | int | float | None


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows under named columns.

  Attributes:
    name: the files' name, without ending.
    caption: description, with the number of chains.
    columns: heads of the columns.
    rows: one cell a column; None where there is nothing to say.
  """

  name: str
  caption: str
  columns: Sequence[str]
  rows: Sequence[Sequence[Cell]]

  def __post_init__(self):
    for row in self.rows:
      if len(row) != len(self.columns):
        raise ValueError(f"table {self.name}: {len(row)} cells under {len(self.columns)} columns")


def interval_columns(*names: str) -> list[str]:
  """Heads of each name's estimate, low and high."""
  return [f"{name}{end}" for name in names for end in ("", " low", " high")]


def interval_cells(interval: Interval, *index: int) -> tuple[float | None, ...]:
  """Estimate, low and high at an index, as cells; NaN becomes None."""
  values = (float(bound[index]) for bound in interval)
  return tuple(None if math.isnan(value) else value for value in values)


def write_table(folder: Path, table: Table) -> None:
  """Writes `NAME.csv`, and `NAME.json`: a caption and a list of objects."""
  make_subfolder(folder)
  lines = io.StringIO(newline="")
  csv.writer(lines).writerows([[_csv_cell(x) for x in row] for row in (table.columns, *table.rows)])
  replace_file(folder / f"{table.name}.csv", lines.getvalue())
  rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
  write_json(folder / f"{table.name}.json", {"caption": table.caption, "rows": rows})


# Where a spreadsheet begins a cell: at the text's beginning, and, as its settings are, behind a
# semicolon, tab or line break; then the signs of formulas, full-width and small ones too.
_FORMULA = re.compile(
  r"((?:\A|[;\t\r\n])[\s\x00-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]*)"
  r"(?=[=+\-@\uff1d\uff0b\uff0d\uff20\ufe62\ufe63\ufe66\ufe6b\u2212])"
)


def _csv_cell(cell: Cell) -> Cell:
  """The cell, a text such that no spreadsheet takes a part of it for a formula and runs it.

  The apostrophe is what spreadsheets themselves mark a text with.
  """
  if not isinstance(cell, str) or re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", cell, re.ASCII):
    return cell
  return _FORMULA.sub(r"\1'", cell)


def format_cell(cell: Cell) -> str:
  """A cell as the report shows it."""
  if cell is None:
    return "\N{EN DASH}"
  short = isinstance(cell, float) and abs(cell) < 999.5  # of which the rest would be 1e+03
  return f"{cell:.3g}" if short else str(cell)


def _in_line(cell: Cell) -> str:
  """A cell on one line, of a length at which a table can still be read."""
  return printable(format_cell(cell), one_line=True, most=_LONGEST_CELL)


def format_table(table: Table) -> str:
  """The table as lines to print, in columns that are aligned on the right."""
  rows = [list(table.columns), *([_in_line(cell) for cell in row] for row in table.rows)]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = (
    "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
  )
  return "\n".join([table.caption, *lines])


def markdown_table(table: Table) -> str:
  """The table in Markdown, under its caption; numbers are aligned on the right."""
  kinds = [any(isinstance(row[i], str) for row in table.rows) for i in range(len(table.columns))]
  rows = [list(table.columns), ["---" if text else "--:" for text in kinds]]
  rows += [[_in_line(cell).replace("|", "\\|") for cell in row] for row in table.rows]
  return "\n".join([f"{table.caption}\n", *(f"| {' | '.join(row)} |" for row in rows)])
