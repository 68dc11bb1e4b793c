"""The plot of a study: accuracy against generated reasoning tokens."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from greedy_prune_jax.reports.plots import Plot, shared_legend, tidy
from greedy_prune_jax.study.answers import Answers
from greedy_prune_jax.study.settings import ANSWER_ONLY, NO_PRUNING

# Distinct also for colour-blind readers; markers repeat the distinction.
_COLOURS = (
  *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c6d31"),
  *("#56b4e9", "#e69f00", "#6a51a3", "#882255", "#888888"),
)
_MARKERS = "os^vDPX<>"
_ENDS = {NO_PRUNING: "*", ANSWER_ONLY: "h"}


def plot_study(answers: Sequence[Answers]) -> Plot:
  """A panel a test and student: a line an arm through its keep ratios, the ends by themselves.

  Bars are 95% intervals over questions and seeds of the accuracy, and of the tokens.
  """
  panels = list(dict.fromkeys((cell.test, cell.condition.student) for cell in answers))
  arms = list(
    dict.fromkeys(cell.condition.arm for cell in answers if cell.condition.arm not in _ENDS)
  )
  columns = min(len(panels), 2)
  rows = -(-len(panels) // columns)
  figure = Figure(figsize=(5.6 * columns, 4.2 * rows), layout="constrained")
  grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
  for axes, (test, student) in zip(grid.flat, panels, strict=False):
    there = [cell for cell in answers if (cell.test, cell.condition.student) == (test, student)]
    for arm in (*_ENDS, *arms):
      _draw_arm(axes, [cell for cell in there if cell.condition.arm == arm], arm, arms)
    axes.set(title=f"{student}, {test}", xlabel="generated reasoning tokens", ylabel="accuracy")
    tidy(axes)
  # Shared, and so only once all is drawn: what is set stays as it is. The rim is for points at 0.
  top = grid.flat[0].get_ylim()[1]
  grid.flat[0].set_ylim(-0.02 * top, top)
  for axes in grid.flat[len(panels) :]:
    axes.set_visible(False)
  shared_legend(figure)
  caption = (
    "Accuracy against generated reasoning tokens; each line is one way to choose what is deleted, "
    "each point a keep ratio. Bars: 95% intervals over questions and seeds."
  )
  return Plot("study", caption, figure)


def _draw_arm(axes: Axes, of_arm: Sequence[Answers], arm: str, arms: Sequence[str]) -> None:
  if not of_arm:
    return
  of_arm = sorted(of_arm, key=lambda answers: answers.condition.keep_ratio)
  tokens = [answers.mean_tokens for answers in of_arm]
  accuracies = [answers.accuracy for answers in of_arm]
  is_end = arm in _ENDS
  index = 0 if is_end else arms.index(arm)
  axes.errorbar(
    [mean for mean, _, _ in tokens],
    [accuracy.share for accuracy in accuracies],
    xerr=[[m - low for m, low, _ in tokens], [high - m for m, _, high in tokens]],
    yerr=[[a.share - a.low for a in accuracies], [a.high - a.share for a in accuracies]],
    color="black" if is_end else _COLOURS[index % len(_COLOURS)],
    marker=_ENDS[arm] if is_end else _MARKERS[index % len(_MARKERS)],
    ms=9 if is_end else 5,
    lw=1.2,
    elinewidth=0.6,
    alpha=0.9,
    label=arm.replace("_", " "),
  )
