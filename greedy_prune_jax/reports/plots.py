"""Plots as files: PNG, SVG and the numbers behind them."""

import dataclasses
import functools
import io
from pathlib import Path

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


def write_plot(folder: Path, plot: Plot) -> None:
  """Writes `NAME.png` and `NAME.svg`.

  Raises:
    UserError: the folder cannot be written.
  """
  make_subfolder(folder)
  with explain_os_errors(folder):
    plot.figure.savefig(folder / f"{plot.name}.png", dpi=150, bbox_inches="tight")
  replace_file(folder / f"{plot.name}.svg", plot.svg)
