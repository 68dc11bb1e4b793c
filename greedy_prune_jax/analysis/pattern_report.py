"""The report's sections on categories and patterns."""

from collections.abc import Sequence

import numpy as np

from greedy_prune_jax.analysis import patterns
from greedy_prune_jax.analysis.agreement import Agreement
from greedy_prune_jax.analysis.patterns import LabelledRun
from greedy_prune_jax.analysis.plots import plot_lines, plot_map, plot_scores, plot_survival
from greedy_prune_jax.analysis.report import Section
from greedy_prune_jax.chains.categories import Category
from greedy_prune_jax.reports.bootstrap import LEAST_CHAINS, Interval
from greedy_prune_jax.reports.questions import DRAWN_TOGETHER
from greedy_prune_jax.reports.tables import Cell, Table, interval_cells

_INTERVAL = ("estimate", "low", "high")
_FEW = f"{DRAWN_TOGETHER}, and of fewer than {LEAST_CHAINS} there is no interval"
_BOUNDS = f"Bands and bars are 95% intervals from resampled chains; {_FEW}."


def pattern_section(runs: Sequence[LabelledRun]) -> Section:
  """Lays out when each category leaves, run lengths and effects of position, runs side by side."""
  names = [run.name for run in runs]
  on = ", ".join(f"{len(run.chains)} chains of {run.name}" for run in runs)
  shares = patterns.share_grid([chain for run in runs for chain in run.chains])
  survival = [patterns.survival(run, shares) for run in runs]
  ranks = [patterns.rank_by_category(run) for run in runs]
  # Beyond four fifths nearly all of a chain is one gap, whatever was deleted.
  early = shares[shares < 0.81]
  lengths, by_chance = zip(*(patterns.run_lengths(run, early) for run in runs), strict=True)
  places = (np.arange(patterns.NUM_POSITION_BINS) + 0.5) / patterns.NUM_POSITION_BINS
  positions = [patterns.rank_by_position(run) for run in runs]
  plots = [
    plot_survival(
      names,
      shares,
      survival,
      f"Share of each category still there ({on}). {_BOUNDS} Lines without one are thin.",
    ),
    plot_scores(
      "ranks",
      list(map(str, Category)),
      dict(zip(names, ranks, strict=True)),
      f"Mean normalised prune rank of each category ({on}). {patterns.DEPTH}. {_BOUNDS}",
      xlabel="mean normalised prune rank (0 left first, 1 last)",
      reference=0.5,
    ),
    plot_lines(
      "run_lengths",
      names,
      early,
      lengths,
      f"Are neighbours deleted together? Mean length of the gaps that deletions leave, beside "
      f"as many units deleted at random (in a search by runs, runs as long) ({on}). {_BOUNDS}",
      xlabel="share of tokens deleted",
      ylabel="deleted tokens per gap",
      reference=("at random", by_chance),
    ),
    plot_lines(
      "positions",
      names,
      places,
      positions,
      f"Mean normalised prune rank by place in the chain ({on}). {patterns.DEPTH}. {_BOUNDS}",
      xlabel="place in the reasoning (0 begins, 1 ends)",
      ylabel="mean normalised prune rank",
    ),
  ]
  tables = [
    _rank_table(runs, ranks, on),
    *([_difference_table(runs)] if len(runs) > 1 else []),
    _curve_table("survival", names, shares, survival, on),
    _line_table("run_lengths", "share deleted", names, early, lengths, on),
    _line_table("positions", "place", names, places, positions, on),
  ]
  return Section("What leaves when", [_statement(run) for run in runs], plots, tables)


def _statement(run: LabelledRun) -> str:
  """States whether symbols and numbers stay, and grammar and talk about the reasoning go first."""
  order = list(Category)
  symbolic = order.index(Category.SYMBOLIC_MATH)
  findings = []
  for category in (Category.FUNCTION, Category.META_DISCOURSE):
    difference = patterns.rank_differences(run, category)
    estimate, low, high = (float(bound[symbolic]) for bound in difference)
    if not np.isfinite(estimate):
      findings.append(f"nothing can be said of {category}, which one of the two has no token of")
      continue
    if not np.isfinite(low):
      findings.append(
        f"nothing can be said of {category}, as chains of fewer than {LEAST_CHAINS} questions have "
        "tokens of both"
      )
      continue
    verdict = (
      "stay longer than" if low > 0 else "leave before" if high < 0 else "cannot be told apart from"
    )
    findings.append(
      f"symbols and numbers {verdict} {category} (mean normalised rank higher by "
      f"{estimate:.3f}, 95% interval {low:.3f} to {high:.3f})"
    )
  return (
    f"{run.name}, {len(run.chains)} chains: {'; '.join(findings)}. The paper's statement is that "
    "symbols and numbers stay, and grammar and meta-discourse go first."
  )


def _rank_table(runs: Sequence[LabelledRun], ranks: Sequence[Interval], on: str) -> Table:
  rows: list[list[Cell]] = []
  for run, interval in zip(runs, ranks, strict=True):
    counts = patterns.category_counts(run)
    for i, category in enumerate(Category):
      rows.append([run.name, str(category), int(counts[i]), *interval_cells(interval, i)])
    rows.append([run.name, "unlabelled", int(counts[-1]), None, None, None])
  caption = (
    f"Mean normalised prune rank of each category with 95% intervals over chains; {_FEW} ({on}). "
    f"{patterns.DEPTH}; `rank_differences` compares them."
  )
  return Table("ranks", caption, ("run", "category", "tokens", *_INTERVAL), rows)


def _difference_table(runs: Sequence[LabelledRun]) -> Table:
  """Ranks of each run's categories less those of the first, on the chains that both have."""
  first, *others = runs
  rows: list[list[Cell]] = []
  for run in others:
    difference, num_chains = patterns.paired_rank_differences(run, first)
    for i, category in enumerate(Category):
      rows.append([run.name, str(category), num_chains, *interval_cells(difference, i)])
  caption = (
    f"Mean normalised prune rank of each category less that in {first.name}, on the same chains, "
    f"each pruned as far as the less deep one of the two was, "
    f"with 95% intervals over chains; {_FEW}. Above 0 it leaves later than there."
  )
  return Table("rank_differences", caption, ("run", "category", "chains", *_INTERVAL), rows)


def _curve_table(name, names, shares, curves, on) -> Table:
  rows = [
    [run, str(category), round(float(share), 3), *interval_cells(interval, i, j)]
    for run, interval in zip(names, curves, strict=True)
    for i, category in enumerate(Category)
    for j, share in enumerate(shares)
  ]
  caption = f"Share of each category still there, with 95% intervals over chains; {_FEW} ({on})."
  return Table(name, caption, ("run", "category", "share deleted", *_INTERVAL), rows)


def _line_table(name, x_name, names, x, lines, on) -> Table:
  rows = [
    [run, round(float(value), 3), *interval_cells(interval, i)]
    for run, interval in zip(names, lines, strict=True)
    for i, value in enumerate(x)
  ]
  caption = f"The values of the plot {name}, with 95% intervals over chains; {_FEW} ({on})."
  return Table(name, caption, ("run", x_name, *_INTERVAL), rows)


def agreement_section(agreements: dict[str, Agreement]) -> Section:
  """Agreement of annotators; keys name the pairs, first annotator first."""
  rows: list[list[Cell]] = []
  plots = []
  for i, (pair, agreement) in enumerate(agreements.items()):
    on = f"{agreement.num_tokens} tokens that both labelled, {agreement.num_unlabelled} left out"
    rows.append([pair, "all", agreement.num_tokens, agreement.accuracy, agreement.kappa])
    for j, category in enumerate(Category):
      used = int(agreement.confusion[j].sum())
      rows.append([pair, str(category), used, None, agreement.kappa_of[category]])
    plots.append(
      plot_map(
        f"confusion_{i}",
        agreement.confusion,
        f"Tokens by category, {pair} ({on}).",
        xlabel="second annotator",
        ylabel="first annotator",
        ticks=[str(category) for category in Category],
      )
    )
  caption = "Cohen's kappa over all categories, and of each against the rest."
  columns = ("annotators", "category", "tokens of the first", "equal", "kappa")
  return Section("Agreement of annotators", (), plots, [Table("agreement", caption, columns, rows)])
