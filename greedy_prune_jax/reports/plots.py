"""Plots as files: PNG, SVG and the numbers behind them."""

import dataclasses
import functools
import io
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from greedy_prune_jax.runs.files import explain_os_errors, make_subfolder, replace_file


@dataclasses.dataclass(frozen=True)
class Plot:
  """A drawn figure.

  Attributes:
    name: the files' name, without ending.
    caption: description, with the number of chains.
    figure: matplotlib's.
  """

  name: str
  caption: str
  figure: Figure

  @functools.cached_property
  def svg(self) -> str:
    """The figure as an SVG document; drawn once."""
    buffer = io.StringIO()
    self.figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    return buffer.getvalue()


def tidy(axes: Axes) -> None:
  """Draws a pale grid behind the data, and no frame above or right of it."""
  axes.grid(True, color="#e4e4e4", lw=0.6)
  axes.set_axisbelow(True)
  axes.spines[["top", "right"]].set_visible(False)


def legend_label(name: str) -> str:
  """The name as a label; matplotlib takes labels with a leading underscore for its own."""
  return f" {name}" if name.startswith("_") else name


def shared_legend(figure: Figure, *, above: bool = False) -> None:
  """Draws one legend below the panels, or above, of what any shows: the first need not show all."""
  entries = {}
  for axes in figure.axes:
    for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
      entries.setdefault(label, handle)
  handles, labels = list(entries.values()), list(entries)
  loc = "outside upper center" if above else "outside lower center"
  figure.legend(handles, labels, loc=loc, ncols=4, frameon=False, fontsize=9)


def write_plot(folder: Path, plot: Plot) -> None:
  """Writes `NAME.png` and `NAME.svg`."""
  make_subfolder(folder)
  with explain_os_errors(folder):
    plot.figure.savefig(folder / f"{plot.name}.png", dpi=150, bbox_inches="tight")
  replace_file(folder / f"{plot.name}.svg", plot.svg)
