"""Runs the rank regressions of a report, keeps their scores on disk, and shows them."""

import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from tqdm import tqdm

from greedy_prune_jax.analysis.plots import plot_map, plot_scores
from greedy_prune_jax.analysis.rank_data import NUM_DEPTHS, RankData
from greedy_prune_jax.analysis.rank_regression import (
  FEATURE_SETS,
  NUM_FOLDS,
  assign_folds,
  head_correlations,
  is_late,
  knows_late,
  predict_unseen,
  score_predictions,
)
from greedy_prune_jax.analysis.report import Section
from greedy_prune_jax.rankings.attention_regression import CONTROL_NAMES, AttentionRanking
from greedy_prune_jax.reports.bootstrap import LEAST_CHAINS, Interval
from greedy_prune_jax.reports.intervals import mean_interval
from greedy_prune_jax.reports.plots import Plot
from greedy_prune_jax.reports.questions import COUNT_AS_ONE, DRAWN_TOGETHER
from greedy_prune_jax.reports.tables import Cell, Table, interval_cells, interval_columns
from greedy_prune_jax.runs.jsonl import JsonlWriter, read_records
from greedy_prune_jax.runs.records import check_form
from greedy_prune_jax.scoring.features import STATISTICS

# Trees take minutes where ridge takes seconds; they answer whether the relation is linear.
_TREE_SETS = ("controls", "attention", "controls and attention")
# What models of any shape share, and what only models of one shape do.
_SHARED_SETS = ("controls", "pooled attention", "controls and pooled attention")
_HEAD_SETS = ("attention", "controls and attention")
_METRICS = ("r2", "spearman", "kendall", "auc")
_KEY = ("fitted to", "tested on", "target", "regressor", "features")
_BY_CHAIN = "spearman by chain"  # of a stored row
# What is told of attention: the gain of the first over the second, chain by chain.
_GAINS = (
  ("controls and attention", "controls"),
  ("controls and attention", "controls and shuffled attention"),
  ("attention", "controls"),
)
_DATA = "data"  # of a stored row: fingerprints of what was fitted to and tested on
_FORM = {**dict.fromkeys(_KEY, str), _DATA: str, "*": (str, float, type(None), list, dict)}


# Scores of a regression; beside cells the correlations of all chains.
Row = dict[str, Any]


class RegressionTask(NamedTuple):
  """One regression; the fields are those of `_KEY`."""

  train: str
  test: str
  target: str
  regressor: str
  features: str


def plan_regressions(
  runs: Sequence[RankData], regressors: Sequence[str], late_share: float
) -> list[RegressionTask]:
  """Every regression of the report: within each run, and by ridge from each run to each other."""
  tasks = []
  for run in runs:
    targets = ("rank", _late_target(late_share)) if knows_late(run, late_share) else ("rank",)
    for target in targets:
      for regressor in regressors:
        for features in FEATURE_SETS if regressor == "ridge" else _TREE_SETS:
          tasks.append(RegressionTask(run.name, run.name, target, regressor, features))
  for train, test in itertools.permutations(runs, 2) if "ridge" in regressors else ():
    sets = _SHARED_SETS + (_HEAD_SETS if train.shape == test.shape else ())
    tasks += [RegressionTask(train.name, test.name, "rank", "ridge", name) for name in sets]
  return tasks


def _late_target(share: float) -> str:
  return f"last {share:g} to leave"


def _without_late_target(runs: Sequence[RankData], late_share: float) -> list[str]:
  """A sentence for each run that says nothing of the last tokens to leave."""
  return [
    f"{run.name}: nothing is said of the {_late_target(late_share)}, as some of its chains keep "
    f"more tokens; that needs a keep ratio of {late_share:g} or less."
    for run in runs
    if not knows_late(run, late_share)
  ]


def run_regressions(
  path: Path, runs: Sequence[RankData], regressors: Sequence[str], late_share: float
) -> list[Row]:
  """Scores of every regression, those that an earlier call stored in `path` included.

  Stored scores count only where the data of both runs, and their folds, are still the same.

  Returns:
    One row a regression: `_KEY`, estimate, low and high of each metric, and `_BY_CHAIN`.
  """
  for sentence in _without_late_target(runs, late_share):
    logging.warning(sentence)
  run_of = {run.name: run for run in runs}
  fold_of = assign_folds(runs)  # those of a run may be others beside other runs
  fingerprints = {run.name: run.fingerprint(fold_of) for run in runs}
  data_of = {
    task: f"{fingerprints[task.train]} {fingerprints[task.test]}"
    for task in plan_regressions(runs, regressors, late_share)
  }
  with JsonlWriter(path) as stored:
    known: dict[RegressionTask, Row] = {}
    for record in read_records(path, check=partial(check_form, form=_FORM)):
      task = RegressionTask(*(record[key] for key in _KEY))
      if record.pop(_DATA, None) == data_of.get(task, ""):
        known[task] = record
    for task in tqdm([task for task in data_of if task not in known], desc="regressions"):
      train, test = run_of[task.train], run_of[task.test]
      share = None if task.target == "rank" else late_share
      predictions = predict_unseen(
        train, test, fold_of, task.features, regressor=task.regressor, late_share=share
      )
      target = test.rank if share is None else is_late(test, share).astype(float)
      scores = score_predictions(target, predictions, test.chain, test.questions)
      row: Row = dict(zip(_KEY, task, strict=True))
      for metric in _METRICS:
        cells = interval_cells(getattr(scores, metric))
        row |= dict(zip(interval_columns(metric), cells, strict=True))
      row[_BY_CHAIN] = [x if np.isfinite(x) else None for x in scores.spearman_by_chain.tolist()]
      stored.write(row | {_DATA: data_of[task]})
      known[task] = row
  return [known[task] for task in data_of]


def regression_section(
  runs: Sequence[RankData],
  rankings: Sequence[AttentionRanking],
  rows: Sequence[Row],
  late_share: float,
) -> Section:
  """Scores, which heads carry them, and what is carried from one run to another.

  Args:
    rankings: fitted to each.
    rows: scores from `run_regressions`.
    late_share: the share of tokens that the scores count as late.
  """
  within = [row for row in rows if row["fitted to"] == row["tested on"]]
  on = ", ".join(f"{len(run.ids)} chains ({len(run.rank)} tokens) of {run.name}" for run in runs)
  tested = (
    f"{NUM_FOLDS} folds by question; 95% intervals from resampled chains, of {LEAST_CHAINS} or "
    f"more; {DRAWN_TOGETHER}; {on}."
  )
  ranks = [row for row in within if row["target"] == "rank"]
  plots = [
    _score_plot(
      ranks,
      runs,
      metric,
      f"{label} of predicted and true prune ranks on unseen chains, by what "
      f"they are predicted from. {tested}",
      label,
    )
    for metric, label in (("r2", "R2"), ("spearman", "Mean Spearman correlation within chains"))
  ]
  for i, (run, ranking) in enumerate(zip(runs, rankings, strict=True)):
    plots += _head_maps(i, run, ranking)
  columns = [column for column in rows[0] if column != _BY_CHAIN]
  tables = [
    Table(
      "regressions",
      f"Every regression and what it reaches. {tested}",
      columns,
      [[row[column] for column in columns] for row in within],
    ),
    _gain_table(ranks, {run.name: run.questions for run in runs}),
    _head_table(runs),
  ]
  if len(rows) > len(within):
    across = [row for row in rows if row["target"] == "rank" and row["regressor"] == "ridge"]
    chosen = [row for row in across if row["features"] in _SHARED_SETS + _HEAD_SETS]
    shown = [*_KEY[:2], "features", *columns[len(_KEY) : len(_KEY) + 6]]
    caption = (
      "From one run to another: ridge fitted to the chains of the first outside a fold, tested on "
      "the second's chains in it. Pooled attention is the mean over the heads of each of "
      f"{NUM_DEPTHS} bands of layers, which any two models share. {tested}"
    )
    cells = [[row[column] for column in shown] for row in chosen]
    tables.append(Table("transfer", caption, shown, cells))
  paragraphs = _findings(runs, ranks) + _without_late_target(runs, late_share)
  return Section("Can attention predict the order?", paragraphs, plots, tables)


def _gain_table(ranks: Sequence[Row], questions: Mapping[str, Sequence[str]]) -> Table:
  """Gains of one set of features over another in Spearman's correlation, paired by chain."""
  by_key = {tuple(row[key] for key in _KEY): row for row in ranks}
  rows: list[tuple[Cell, ...]] = []
  for run, regressor in dict.fromkeys((row["tested on"], row["regressor"]) for row in ranks):
    for better, base in _GAINS:
      pair = [by_key.get((run, run, "rank", regressor, name)) for name in (better, base)]
      if None in pair:
        continue
      one, other = (np.array(row[_BY_CHAIN], float) for row in pair if row)
      interval = mean_interval(one - other, questions[run], (-2.0, 2.0))
      num_told = int((~np.isnan(one - other)).sum())
      rows.append((run, regressor, better, base, *interval, num_told))
  return Table(
    "gains",
    "Gain in Spearman's correlation within chains of one set of features over another, the same "
    "chains in pairs; means over chains with 95% intervals (Student's t; "
    f"{COUNT_AS_ONE}). Chains of which one of the two has no correlation are left out.",
    ("run", "regressor", "features", "over", "gain", "low", "high", "chains"),
    rows,
  )


def _findings(runs: Sequence[RankData], ranks: Sequence[Row]) -> list[str]:
  """States the gain of attention over the controls in each run, by ridge."""
  sentences = []
  for run in runs:
    by_set = {
      row["features"]: row
      for row in ranks
      if row["fitted to"] == run.name and row["regressor"] == "ridge"
    }
    if not by_set:
      continue
    described = [
      f"{name}: R2 {_interval_words([by_set[name][column] for column in interval_columns('r2')])}"
      for name in ("controls", "controls and shuffled attention", "controls and attention")
    ]
    sentences.append(f"{run.name}, {len(run.ids)} chains, by ridge: {'; '.join(described)}.")
  return sentences


def _interval_words(cells: Sequence[float | None]) -> str:
  """An estimate with its bounds, or that it has none; `unknown` where there is no estimate."""
  value, low, high = cells
  if value is None:
    return "unknown"
  if low is None or high is None:
    return f"{value:.3f} (no interval)"
  return f"{value:.3f} ({low:.3f} to {high:.3f})"


def _score_plot(ranks, runs, metric, caption, label) -> Plot:
  labels = [f"{row['features']}, {row['regressor']}" for row in ranks]
  order = list(dict.fromkeys(labels))
  groups = {}
  for run in runs:
    own = {
      label: row for label, row in zip(labels, ranks, strict=True) if row["fitted to"] == run.name
    }
    groups[run.name] = Interval(
      *(
        np.array([own[label][column] for label in order], float)
        for column in interval_columns(metric)
      )
    )
  return plot_scores(f"regression_{metric}", order, groups, caption, xlabel=label)


def _head_maps(index: int, run: RankData, ranking: AttentionRanking) -> list[Plot]:
  correlations = head_correlations(run)
  strongest = np.abs(correlations).argmax(axis=2)[..., None]
  signed = np.take_along_axis(correlations, strongest, axis=2)[..., 0]
  weights = ranking.ridge.weights[len(CONTROL_NAMES) :].reshape(run.shape)
  axes = {"xlabel": "head", "ylabel": "layer"}
  about = f"{run.name}, {len(run.ids)} chains"
  return [
    plot_map(
      f"heads_correlation_{index}",
      signed,
      f"Spearman's correlation of prune rank with attention, mean over chains: of each head, the "
      f"statistic of the largest size ({about}). Red: tokens with more of it stay longer.",
      symmetric=True,
      **axes,  # pyright: ignore
    ),
    plot_map(
      f"heads_weight_{index}",
      np.sqrt((weights**2).sum(axis=2)),
      f"Size of the ridge weights on each head's standardised statistics, with the controls beside "
      f"them ({about}).",
      **axes,  # pyright: ignore
    ),
  ]


def _head_table(runs: Sequence[RankData]) -> Table:
  rows: list[list[Cell]] = []
  for run in runs:
    correlations = head_correlations(run)
    order = np.argsort(-np.abs(correlations), axis=None)
    for layer, head, statistic in zip(*np.unravel_index(order, correlations.shape), strict=True):
      value = float(correlations[layer, head, statistic])
      rows.append([run.name, int(layer), int(head), STATISTICS[statistic], value])
  caption = "Spearman's correlation of prune rank with each head's statistics, strongest first."
  return Table("heads", caption, ("run", "layer", "head", "statistic", "correlation"), rows)
