"""report.html: what was run, and every table and plot with a caption, in one file."""

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from greedy_prune_jax.analysis.viewer import render
from greedy_prune_jax.reports.plots import Plot, write_plot
from greedy_prune_jax.reports.tables import Table, format_cell, write_table
from greedy_prune_jax.runs.files import replace_file


@dataclasses.dataclass(frozen=True)
class Section:
  """A part of the report.

  Attributes:
    title: heading.
    paragraphs: plain text.
    plots: shown in order.
    tables: shown after the plots.
  """

  title: str
  paragraphs: Sequence[str] = ()
  plots: Sequence[Plot] = ()
  tables: Sequence[Table] = ()


def write_report(
  folder: Path, *, provenance: Mapping[str, Mapping[str, object]], sections: Sequence[Section]
) -> None:
  """Writes `report.html`, the plots as PNG and SVG, the tables as CSV and JSON.

  Args:
    folder: receives all of them, the latter in `plots` and `tables`.
    provenance: heads and, under each, names and values: configs, versions, devices.
    sections: the report's sections, in their order.
  """
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


def _image(plot: Plot) -> str:
  """The plot as a data URL: as an image, whatever text is in it stays inert."""
  return "data:image/svg+xml;base64," + base64.b64encode(plot.svg.encode()).decode()
