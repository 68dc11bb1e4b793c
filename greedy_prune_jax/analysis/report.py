"""report.html: what was run, and every table and plot with a caption, in one file."""

import base64
import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from greedy_prune_jax.analysis.viewer import render
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.reports.plots import Plot, write_plot
from greedy_prune_jax.reports.tables import Table, format_cell, write_table
from greedy_prune_jax.runs.files import explain_os_errors, replace_file, write_json
from greedy_prune_jax.runs.json_reader import read_json
from greedy_prune_jax.runs.records import check_form

VIEWER = "viewer.html"
_FILES = "report_files.json"
_OWN = re.compile(r"(plots|tables)/[^/\0]+\.(png|svg|csv|json)")


@dataclasses.dataclass(frozen=True)
class Section:
  """A part of the report, shown in this order."""

  title: str
  paragraphs: Sequence[str] = ()
  plots: Sequence[Plot] = ()
  tables: Sequence[Table] = ()


def write_report(
  folder: Path,
  *,
  provenance: Mapping[str, Mapping[str, object]],
  sections: Sequence[Section],
  has_viewer: bool = False,
) -> None:
  """Writes `report.html`, the plots as PNG and SVG, the tables as CSV and JSON.

  What an earlier report wrote and this one has not is removed, its viewer too: tables of other runs
  would pass for this report's.

  Args:
    folder: receives all of them, the latter in `plots` and `tables`.
    has_viewer: True if `VIEWER` was written beside this report.
    provenance: heads and, under each, names and values: configs, versions, devices.
  """
  path = folder / _FILES
  made = _names(sections) | ({VIEWER} if has_viewer else set())
  known = made | _earlier(path)
  write_json(path, {"files": sorted(known)})  # first: a run that is killed leaves none unlisted
  for section in sections:
    for plot in section.plots:
      write_plot(folder / "plots", plot)
    for table in section.tables:
      write_table(folder / "tables", table)
  page = render(
    "report.html.j2",
    provenance=provenance,
    sections=sections,
    format_cell=format_cell,
    image=_image,
  )
  replace_file(folder / "report.html", page)
  for name in known - made:
    with explain_os_errors(folder / name):
      (folder / name).unlink(missing_ok=True)
  write_json(path, {"files": sorted(made)})


def _names(sections: Sequence[Section]) -> set[str]:
  """The files of plots and tables."""
  return {
    f"{kind}/{one.name}.{ending}"
    for section in sections
    for kind, ones, endings in (
      ("plots", section.plots, ("png", "svg")),
      ("tables", section.tables, ("csv", "json")),
    )
    for one in ones
    for ending in endings
  }


def _earlier(path: Path) -> set[str]:
  """The files that a list names, of the forms that `write_report` makes and no others."""
  if not path.exists():
    return set()
  record = read_json(path)
  try:
    check_form(record, {"files": [str]})
  except UserError as error:
    raise UserError(f"{path}: {error}. Remove it, and what is left of earlier reports") from error
  return {name for name in record["files"] if name == VIEWER or _OWN.fullmatch(name)}


def _image(plot: Plot) -> str:
  """The plot as a data URL: as an image, whatever text is in it stays inert."""
  return "data:image/svg+xml;base64," + base64.b64encode(plot.svg.encode()).decode()
