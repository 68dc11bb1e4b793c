"""Plots of the report, drawn with matplotlib without a display and kept as PNG and SVG."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from greedy_prune_jax.chains.categories import Category
from greedy_prune_jax.reports.bootstrap import Interval
from greedy_prune_jax.reports.plots import Plot, legend_label, shared_legend, tidy

# Names of runs are shown, not typeset; text in SVG stays text; equal inputs give equal files.
matplotlib.rcParams.update(
  {"text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "greedy_prune_jax"}
)

# Distinct also for colour-blind readers; the line styles repeat the distinction.
CATEGORY_COLOURS = ("#0072b2", "#cc79a7", "#009e73", "#8c6d31", "#d55e00", "#e69f00")
_CATEGORY_STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))
_RUN_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c6d31", "#e69f00")
_RUN_MARKERS = "os^vDPX"  # as many as have no common divisor with the colours: 42 runs differ


def run_style(index: int) -> dict[str, Any]:
  """Colour and marker of the run with this number, in every plot."""
  return {
    "color": _RUN_COLOURS[index % len(_RUN_COLOURS)],
    "marker": _RUN_MARKERS[index % len(_RUN_MARKERS)],
  }


def plot_survival(
  names: Sequence[str], shares: Float[np.ndarray, "S"], curves: Sequence[Interval], caption: str
) -> Plot:
  """Share of each category, and of all, still there against share deleted, one panel a run.

  Args:
    curves: shares [C + 1, S] of each run, from `patterns.survival`.
  """
  columns = min(len(names), 2)
  rows = -(-len(names) // columns)
  figure = Figure(figsize=(5.2 * columns, 3.6 * rows), layout="constrained")
  panels = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
  for axes in panels[len(names) :]:
    axes.set_visible(False)
  for name, interval, axes in zip(names, curves, panels, strict=False):
    for i, category in enumerate(Category):
      if np.isfinite(interval.estimate[i]).any():
        colour, style = CATEGORY_COLOURS[i], _CATEGORY_STYLES[i]
        width = 1.5 if np.isfinite(interval.low[i]).any() else 0.6  # of few chains nothing is known
        axes.plot(
          shares, interval.estimate[i], color=colour, ls=style, lw=width, label=str(category)
        )
        axes.fill_between(shares, interval.low[i], interval.high[i], color=colour, alpha=0.15, lw=0)
    axes.plot(shares, interval.estimate[-1], color="#888888", lw=0.8, label="all tokens")
    axes.set(
      title=name, xlabel="share of tokens deleted", ylabel="share still there", ylim=(0, 1.02)
    )
    axes.tick_params(labelbottom=True)  # also where no panel is below
    tidy(axes)
  shared_legend(figure)
  return Plot("survival", caption, figure)


def plot_lines(
  name: str,
  names: Sequence[str],
  x: Float[np.ndarray, "S"],
  lines: Sequence[Interval],
  caption: str,
  *,
  xlabel: str,
  ylabel: str,
  reference: tuple[str, Sequence[Float[np.ndarray, "S"]]] | None = None,
) -> Plot:
  """One line with its band a run ([S] each); `reference` adds a labelled dashed line to each."""
  figure = Figure(figsize=(6.4, 3.8), layout="constrained")
  axes = figure.subplots()
  for i, (run, interval) in enumerate(zip(names, lines, strict=True)):
    width = max(1.2, 3.2 - 0.8 * i)  # a line that equals an earlier one leaves its edges in sight
    style, label = run_style(i), legend_label(run)
    axes.plot(x, interval.estimate, **style, lw=width, ms=4, label=label)
    axes.fill_between(x, interval.low, interval.high, color=style["color"], alpha=0.15, lw=0)
    if reference is not None:
      label = f"{label}, {reference[0]}"
      axes.plot(x, reference[1][i], **style, mfc="none", ls="--", lw=1, ms=4, label=label)
  axes.set(xlabel=xlabel, ylabel=ylabel)
  tidy(axes)
  if len(names) > 1 or reference is not None:
    shared_legend(figure, above=True)  # where it covers no data
  return Plot(name, caption, figure)


def plot_scores(
  name: str,
  rows: Sequence[str],
  groups: dict[str, Interval],
  caption: str,
  *,
  xlabel: str,
  reference: float = 0.0,
) -> Plot:
  """One point with its interval for each row ([rows] a group), and a line at `reference`."""
  figure = Figure(
    figsize=(6.8, 1.0 + 0.24 * len(rows) * max(len(groups), 1.6)), layout="constrained"
  )
  axes = figure.subplots()
  offsets = (np.arange(len(groups)) - (len(groups) - 1) / 2) * 0.7 / max(len(groups), 1)
  for i, (group, interval) in enumerate(groups.items()):
    _points(axes, interval, np.arange(len(rows)) + offsets[i], run_style(i), legend_label(group))
  axes.axvline(reference, color="#888888", lw=0.8)
  axes.set_yticks(range(len(rows)), rows)
  axes.invert_yaxis()
  axes.set_xlabel(xlabel)
  tidy(axes)
  if len(groups) > 1:
    shared_legend(figure, above=True)
  return Plot(name, caption, figure)


def plot_map(
  name: str,
  values: Float[np.ndarray, "rows columns"] | Int[np.ndarray, "rows columns"],
  caption: str,
  *,
  xlabel: str,
  ylabel: str,
  ticks: Sequence[str] | None = None,
  symmetric: bool = False,
) -> Plot:
  """Values as colours, centred on 0 if `symmetric`; `ticks` of both axes: they are written too."""
  rows, columns = values.shape
  size = 0.26 if ticks is None else 0.55
  figure = Figure(figsize=(2.2 + size * columns, 1.4 + size * rows), layout="constrained")
  axes = figure.subplots()
  limit = float(np.nanmax(np.abs(values))) or 1.0
  low = -limit if symmetric else 0.0
  colours = "RdBu_r" if symmetric else "Blues"
  image = axes.imshow(values, cmap=colours, vmin=low, vmax=limit, aspect="auto")
  figure.colorbar(image, ax=axes)
  axes.set(xlabel=xlabel, ylabel=ylabel)
  if ticks is not None:
    axes.set_xticks(range(columns), ticks, rotation=40, ha="right")
    axes.set_yticks(range(rows), ticks)
    for i, j in np.ndindex(rows, columns):
      ink = "white" if abs(values[i, j]) > 0.6 * limit else "black"
      axes.text(j, i, f"{values[i, j]:g}", ha="center", va="center", color=ink, fontsize=8)
  return Plot(name, caption, figure)


def _points(
  axes: Axes, interval: Interval, y: Float[np.ndarray, "C"], style: dict[str, Any], label: str
) -> None:
  shown = np.isfinite(interval.estimate)
  reach = np.abs(np.stack([interval.low, interval.high]) - interval.estimate)[:, shown]
  axes.errorbar(
    interval.estimate[shown], y[shown], xerr=reach, ls="none", ms=4, label=label, **style
  )
