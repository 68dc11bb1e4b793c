"""Plots as files: PNG, SVG and the numbers behind them."""

import dataclasses
import functools
import io
from collections.abc import Iterable
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


def shared_legend(figure: Figure, panels: Iterable[Axes], *, ncols: int) -> None:
  """Draws one legend below the panels of what any of them shows: the first need not show all.

  Args:
    panels: the figure's panels; entries come in their order.
    ncols: columns of the legend.
  """
  entries = {}
  for axes in panels:
    for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
      entries.setdefault(label, handle)
  handles, labels = list(entries.values()), list(entries)
  figure.legend(handles, labels, loc="outside lower center", ncols=ncols, frameon=False, fontsize=9)


def write_plot(folder: Path, plot: Plot) -> None:
  """Writes `NAME.png` and `NAME.svg`."""
  make_subfolder(folder)
  with explain_os_errors(folder):
    plot.figure.savefig(folder / f"{plot.name}.png", dpi=150, bbox_inches="tight")
  replace_file(folder / f"{plot.name}.svg", plot.svg)
