"""Rankings side by side: NLLs and answer accuracy against keep ratio, from runs on the same chains.

    python -m benchmarks.rankings --out=FOLDER [--evaluation=WORKDIR] [NAME=]WORKDIR ...

Each WORKDIR is of one `prune` run (one ranking and objective). It goes by NAME, or else by its
ranking, or, where several have one ranking, by its folder's name. It becomes a line in each panel
of one plot and a block of rows in one table: mean `joint` and `answer` NLL over chains, in nats per
token, with 95% intervals from resampled chains if there are eight or more. Only chains that all
runs have are compared, at keep ratios that all of them came down to: in steps of `--step`, or some
of `--ratios`, which runs need whose NLLs are known at their keep_ratios alone (deletions_per_step
above 1). Differences are to the first workdir named, chain by chain: what chains have in common
drops out of them, so that their intervals tell which ranking is better. `--evaluation` names the
workdir of an `evaluate_pruned` run on the same workdirs, for a further panel and table: the share
of chains whose answer is still reached, with Wilson's 95% intervals.

Writes rankings.png and rankings.svg, the tables rankings and cost, and with an evaluation accuracy,
as CSV and JSON into FOLDER. Prints the tables, and where greedy search is beaten on
its own objective.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import app, flags
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from greedy_prune_jax.chains.chain import PrunedChain, ratio_key, share_of
from greedy_prune_jax.chains.pruned_answers import read_pruned_answers
from greedy_prune_jax.chains.reading import read_pruned, run_of
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.pruning.settings import GREEDY
from greedy_prune_jax.reports.bootstrap import LEAST_CHAINS, Interval, bootstrap_ratio
from greedy_prune_jax.reports.intervals import accuracy_interval, paired_difference
from greedy_prune_jax.reports.plots import Plot, legend_label, write_plot
from greedy_prune_jax.reports.questions import COUNT_AS_ONE, means_by_question
from greedy_prune_jax.reports.tables import (
  Cell,
  Table,
  format_cell,
  format_table,
  interval_cells,
  write_table,
)
from greedy_prune_jax.runs.files import user_path
from greedy_prune_jax.runs.names import split_name
from greedy_prune_jax.runs.records import Record

_OUT = flags.DEFINE_string("out", None, "Folder of the tables and the plot.")
_EVALUATION = flags.DEFINE_string("evaluation", None, "Workdir of an evaluate_pruned run, or none.")
_STEP = flags.DEFINE_float("step", 0.1, "Between the keep ratios compared.")
_RATIOS = flags.DEFINE_list("ratios", None, "Keep ratios compared, in place of those in steps.")

NLLS = ("joint", "answer")
# Distinct also for colour-blind readers; markers and line styles repeat the distinction.
_COLOURS = (
  *("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7"),
  *("#8c6d31", "#56b4e9", "#888888", "#e69f00", "#6a3d9a"),
)
_MARKERS = "osD^vXP*<>"
_USES_OBJECTIVE = (GREEDY, "gradient")


@dataclasses.dataclass
class Run:
  """One prune run: the chains by id, in one order for all runs.

  Attributes:
    name: name in tables and plots.
    ranking: ranking, and objective where that decides its order.
    folder: name of the workdir.
    chains: pruned chains by id.
  """

  name: str
  ranking: str
  folder: str
  chains: dict[str, PrunedChain]

  def nlls(self, ids: Sequence[str], ratios: Sequence[float]) -> Float[np.ndarray, "B R 2"]:
    """Joint and answer NLL of each chain at each keep ratio."""
    return np.array(
      [[[_nll(self.chains[i], name, ratio) for name in NLLS] for ratio in ratios] for i in ids]
    )


def _nll(chain: PrunedChain, name: str, ratio: float) -> float:
  total = len(chain.reasoning_ids)
  value = chain.nll[name][chain.deletions_to(share_of(total, ratio))]
  if value is None:
    raise UserError(
      f"chain {chain.chain.id}: its {name} NLL at keep ratio {ratio:g} was never scored, since its "
      f"run deleted several units a step; name some of its keep_ratios by --ratios, or prune with "
      f"deletions_per_step=1"
    )
  return value


def read_runs(entries: Sequence[str]) -> list[Run]:
  """The runs of `[NAME=]WORKDIR` each; see the module on their names.

  Raises:
    UserError: a workdir has no chains, or those of several rankings, or two runs have one name.
  """
  runs = [_read_run(*split_name(entry, lambda text: user_path(text).exists())) for entry in entries]
  rankings = [run.ranking for run in runs if not run.name]
  for run in runs:
    run.name = run.name or (run.folder if rankings.count(run.ranking) > 1 else run.ranking)
  names = [run.name for run in runs]
  if repeated := sorted({name for name in names if names.count(name) > 1}):
    raise UserError(f"several workdirs go by the name {repeated[0]}; name them apart, as NAME=DIR")
  return runs


def _read_run(name: str, workdir: str) -> Run:
  chains = {chain.chain.id: chain for chain in read_pruned(workdir)}
  names = {ranking_name(c.ranking, c.objective) for c in chains.values()}
  if len(names) != 1:
    raise UserError(f"{workdir} has chains of {sorted(names) or 'no run'}; expected one ranking")
  return Run(name, names.pop(), run_of(workdir).resolve().name, chains)


def ranking_name(ranking: str, objective: str) -> str:
  """Names a run; the objective is named where it decides the order."""
  return f"{ranking} {objective}" if ranking in _USES_OBJECTIVE else ranking


def ratios_in_steps(step: float) -> list[float]:
  """Keep ratios 1, 1 - step, ... down to 0."""
  return [round(1 - i * step, 6) for i in range(int(1 / step + 1e-9) + 1)]


def common_ratios(runs: Sequence[Run], ids: Sequence[str], ratios: Sequence[float]) -> list[float]:
  """Those of the keep ratios that every run came down to on every chain.

  Raises:
    UserError: there is none.
  """
  chains = [run.chains[i] for run in runs for i in ids]
  lengths = [(len(c.reasoning_ids), len(c.deletion_order)) for c in chains]
  common = [
    ratio
    for ratio in ratios
    if all(0 <= total - share_of(total, ratio) <= deletions for total, deletions in lengths)
  ]
  if not common:
    raise UserError(f"the runs did not all come down to any of the keep ratios {list(ratios)}")
  return common


def mean_over_chains(values: Float[np.ndarray, "B ..."], questions: Sequence[str]) -> Interval:
  """Mean over chains with its interval."""
  return bootstrap_ratio(values, np.ones_like(values), questions)


def make_table(
  runs: Sequence[Run],
  ratios: Sequence[float],
  values: Sequence[np.ndarray],
  questions: Sequence[str],
  caption: str,
) -> Table:
  """One row a run and keep ratio; values are [B, R, 2] a run, of chains of B questions."""
  columns = ["ranking", "keep ratio"]
  for name in NLLS:
    columns += [f"{name} NLL", f"{name} low", f"{name} high"]
    columns += [f"{name} difference", f"{name} difference low", f"{name} difference high"]
  rows: list[list[Cell]] = []
  for run, found in zip(runs, values, strict=True):
    means, differences = (
      mean_over_chains(of_chains, questions) for of_chains in (found, found - values[0])
    )
    for r, ratio in enumerate(ratios):
      row: list[Cell] = [run.name, ratio]
      for n in range(len(NLLS)):
        row += [*interval_cells(means, r, n), *interval_cells(differences, r, n)]
      rows.append(row)
  return Table("rankings", caption, columns, rows)


@dataclasses.dataclass(frozen=True)
class Accuracy:
  """Right answers, 1 or 0, at each keep ratio: [B, R] a run, of chains of B questions."""

  ratios: list[float]
  right: list[Float[np.ndarray, "B R"]]
  questions: list[str]

  def interval(self, run: int) -> Interval:
    """Mean over questions of the share of chains at each keep ratio."""
    trials = len(self.questions)
    shares = [accuracy_interval(x[None], most_trials=trials) for x in self._by_question(run).T]
    return Interval(*np.array(shares).T)

  def difference(self, run: int) -> Interval:
    """The share of a run less that of the first, in pairs of questions."""
    pairs = zip(self._by_question(run).T, self._by_question(0).T, strict=True)
    found = [paired_difference(one[None], other[None])[:3] for one, other in pairs]
    return Interval(*np.array(found).T)

  def _by_question(self, run: int) -> Float[np.ndarray, "Q R"]:
    return means_by_question(self.right[run], self.questions)


def read_accuracy(workdir: str, runs: Sequence[Run], ids: Sequence[str]) -> Accuracy:
  """Reads an evaluation's verdicts on the chains compared.

  Raises:
    UserError: it lacks a run or a chain, or its runs have no keep ratio in common.
  """
  records = read_pruned_answers(Path(workdir))
  rankings = [run.ranking for run in runs]
  answers: dict[tuple[str, str], Mapping[str, Record]] = {}
  for run in runs:
    own = [r for r in records if ranking_name(r["ranking"], r["objective"]) == run.ranking]
    named = [record for record in own if record["run"] in (run.name, run.folder)]
    if not named and (rankings.count(run.ranking) > 1 or len({r["run"] for r in own}) > 1):
      own = []  # nothing tells which run's they are
    answers |= {(run.name, record["chain"]): record["answers"] for record in named or own}
  wanted = [(run.name, i) for run in runs for i in ids]
  if missing := [key for key in wanted if key not in answers]:
    name, i = missing[0]
    raise UserError(
      f"{workdir} has no answers for {len(missing)} of the chains, such as {i} by {name}; name all "
      "the workdirs compared in the pruned setting of evaluate_pruned, by the names that they have "
      "here if several are of one ranking"
    )
  common = set.intersection(*(set(answers[key]) for key in wanted))
  ratios = sorted(map(float, common), reverse=True)
  right = [
    np.array([[answers[run.name, i][ratio_key(r)]["correct"] for r in ratios] for i in ids], float)
    for run in runs
  ]
  return Accuracy(ratios, right, [runs[0].chains[i].chain.question for i in ids])


def pruned_accuracy_table(runs: Sequence[Run], accuracy: Accuracy, caption: str) -> Table:
  """One row a run and keep ratio; differences are to the first run."""
  rows = []
  for number, run in enumerate(runs):
    found = accuracy.interval(number)
    differences = accuracy.difference(number)
    for r, ratio in enumerate(accuracy.ratios):
      cells = [float(bound[r]) for interval in (found, differences) for bound in interval]
      rows.append([run.name, ratio, *cells])
  columns = ["ranking", "keep ratio", "accuracy", "low", "high"]
  columns += ["difference", "difference low", "difference high"]
  return Table("accuracy", caption, columns, rows)


def cost_table(runs: Sequence[Run], ids: Sequence[str]) -> Table:
  """One row a run: what it took."""
  caption = (
    "Token positions that went through the model, mean over chains, those for the NLLs along the "
    "path included: what `random` takes is for these alone"
  )
  rows = [[run.name, float(np.mean([run.chains[i].positions_scored for i in ids]))] for run in runs]
  return Table("cost", caption, ["ranking", "positions"], rows)


def make_plot(
  runs: Sequence[Run],
  ratios: Sequence[float],
  values: Sequence[np.ndarray],
  questions: Sequence[str],
  accuracy: Accuracy | None,
  caption: str,
) -> Plot:
  """One panel an NLL, and one for the accuracy if there is one; one line with its band a run."""
  count = len(NLLS) + (accuracy is not None)
  figure = Figure(figsize=(4.6 * count, 4.6), layout="constrained")
  panels = figure.subplots(1, count)
  for n, axes in enumerate(panels[: len(NLLS)]):
    means = [mean_over_chains(found, questions) for found in values]
    lines = [Interval(*(bound[:, n] for bound in interval)) for interval in means]
    _draw(axes, runs, ratios, lines, f"mean {NLLS[n]} NLL, nats per token")
  if accuracy is not None:
    lines = [accuracy.interval(number) for number in range(len(runs))]
    _draw(panels[-1], runs, accuracy.ratios, lines, "share of chains with the right answer")
  handles, labels = panels[0].get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
  return Plot("rankings", caption, figure)


def _draw(
  axes: Axes,
  runs: Sequence[Run],
  ratios: Sequence[float],
  lines: Sequence[Interval],
  ylabel: str,
) -> None:
  for i, (run, (mean, low, high)) in enumerate(zip(runs, lines, strict=True)):
    colour, marker = _COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)]
    style = "-" if run.ranking.startswith(GREEDY) else "--"
    axes.plot(
      ratios, mean, style, color=colour, marker=marker, ms=4, lw=1.4, label=legend_label(run.name)
    )
    axes.fill_between(ratios, low, high, color=colour, alpha=0.08, lw=0)
  axes.invert_xaxis()
  axes.set(xlabel="keep ratio", ylabel=ylabel)
  axes.grid(True, color="#e4e4e4", lw=0.6)
  axes.set_axisbelow(True)
  axes.spines[["top", "right"]].set_visible(False)


def format_nlls(table: Table) -> str:
  """The table's means and intervals as text, ratios beside each other."""
  lines = [table.caption]
  for n, name in enumerate(NLLS):
    ratios = dict.fromkeys(row[1] for row in table.rows)
    lines.append(f"\n{name:24}" + "".join(f"{ratio:>20}" for ratio in ratios))
    for run in dict.fromkeys(row[0] for row in table.rows):
      cells = [row[2 + 6 * n : 5 + 6 * n] for row in table.rows if row[0] == run]
      texts = (f"{mean:.3f} [{_three(low)}, {_three(high)}]" for mean, low, high in cells)
      lines.append(f"{run:24}" + "".join(f"{text:>20}" for text in texts))
  return "\n".join(lines)


def _three(cell: Cell) -> str:
  """A bound with three digits behind the point, or the sign for none."""
  return f"{cell:.3f}" if isinstance(cell, float) else format_cell(cell)


def where_beaten(
  runs: Sequence[Run], ratios: Sequence[float], values: Sequence[np.ndarray]
) -> list[str]:
  """For each greedy run, where another ranking has a lower mean of the objective that it keeps."""
  lines = []
  for n, objective in enumerate(NLLS):
    means = {run.name: found[:, :, n].mean(axis=0) for run, found in zip(runs, values, strict=True)}
    for name in (run.name for run in runs if run.ranking == ranking_name(GREEDY, objective)):
      beaten = [
        f"{ratio} by {other} ({mean[r]:.3f} < {means[name][r]:.3f})"
        for other, mean in means.items()
        for r, ratio in enumerate(ratios)
        if 0 < ratio < 1 and mean[r] < means[name][r]  # at the ends all leave the same text
      ]
      verdict = f"beaten at {', '.join(beaten)}" if beaten else "lowest at every keep ratio"
      lines.append(f"{name}, mean {objective} NLL: {verdict}")
  return lines


def compare(
  workdirs: Sequence[str], out: Path, wanted: Sequence[float], evaluation: str | None = None
) -> str:
  """Writes tables and plot of several runs at the wanted keep ratios; returns what to print.

  Args:
    workdirs: `[NAME=]WORKDIR` of each run.
    out: folder for tables and plot.
    wanted: keep ratios.
    evaluation: workdir of an `evaluate_pruned` run, or None.

  Raises:
    UserError: the runs cannot be compared.
  """
  runs = read_runs(workdirs)
  ids = _common_ids(runs, workdirs)
  ratios = common_ratios(runs, ids, wanted)
  values = [run.nlls(ids, ratios) for run in runs]
  first = runs[0]
  questions = [first.chains[i].chain.question for i in ids]
  chains = f"{len(ids)} chains, {first.chains[ids[0]].pruner}"
  caption = (
    f"{chains}; mean NLL in nats per token, 95% intervals from resampled chains, of "
    f"{LEAST_CHAINS} or more; {COUNT_AS_ONE}; differences are to {first.name}"
  )
  table = make_table(runs, ratios, values, questions, caption)
  write_table(out, table)
  costs = cost_table(runs, ids)
  write_table(out, costs)
  parts = [format_nlls(table), format_table(costs)]
  accuracy = None
  if evaluation is not None:
    accuracy = read_accuracy(evaluation, runs, ids)
    shares = pruned_accuracy_table(
      runs,
      accuracy,
      f"{chains}; share with the right answer, Wilson's 95% intervals; differences are to "
      f"{first.name}, intervals by Bonett and Price; {COUNT_AS_ONE}",
    )
    write_table(out, shares)
    parts.append(format_table(shares))
  write_plot(out, make_plot(runs, ratios, values, questions, accuracy, caption))
  return "\n\n".join([*parts, "\n".join(where_beaten(runs, ratios, values))])


def _common_ids(runs: Sequence[Run], workdirs: Sequence[str]) -> list[str]:
  """Ids of the chains that all runs have, and have alike."""
  ids = sorted(set.intersection(*(set(run.chains) for run in runs)))
  if not ids:
    raise UserError(f"no chain is in all of {', '.join(workdirs)}")
  for i in ids:
    texts = {(run.chains[i].pruner, run.chains[i].reasoning_ids) for run in runs}
    if len(texts) > 1:
      raise UserError(f"chain {i} differs between the workdirs, in its text or its pruner")
  return ids


def main(argv: Sequence[str]) -> None:
  """Compares the workdirs named on the command line."""
  if len(argv) < 2:
    raise app.UsageError("name the workdirs of the runs to compare")
  wanted = ratios_in_steps(_STEP.value)
  if _RATIOS.value:
    wanted = sorted(map(float, _RATIOS.value), reverse=True)
  try:
    print(compare(argv[1:], Path(_OUT.value or "."), wanted, _EVALUATION.value))
  except UserError as error:
    raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
  flags.mark_flag_as_required("out")
  app.run(main)
