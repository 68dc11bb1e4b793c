"""Do orders of deletion find what is needed? Prune ranks against the labels of planted chains."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from greedy_prune_jax.analysis.patterns import DEPTH, LabelledRun, normalised_ranks
from greedy_prune_jax.analysis.report import Section
from greedy_prune_jax.chains.chain import PrunedChain, share_of
from greedy_prune_jax.chains.planted import PIECES, kinds_of_tokens
from greedy_prune_jax.chains.planted_words import Kind
from greedy_prune_jax.reports.intervals import SHARE, column_intervals, mean_interval
from greedy_prune_jax.reports.questions import COUNT_AS_ONE
from greedy_prune_jax.reports.tables import Cell, Table

ALL = "all that is not needed"
KEEP_RATIOS = (0.9, 0.7, 0.5, 0.3, 0.1)


@dataclasses.dataclass(frozen=True)
class Found:
  """Agreement of one chain's deletion order with its labels.

  Attributes:
    auc: share, for each kind and for `ALL`, of pairs of a needed token and one of that kind of
      which the needed one leaves later; ties count half.
    kept: precision (needed ones among what is kept) and recall (kept ones among what is needed),
      by keep ratio; the precision is NaN where nothing is kept.
  """

  auc: dict[str, float]
  kept: dict[float, tuple[float, float]]


def is_planted(chain: PrunedChain) -> bool:
  """Tells whether a chain says why each of its pieces is there."""
  return PIECES in chain.chain.extra


def find_needed(chain: PrunedChain) -> Found:
  """Holds a chain's deletion order against its labels.

  Raises:
    UserError: the labels are of another text.
  """
  kinds = np.array(kinds_of_tokens(chain.chain.extra[PIECES], chain.reasoning_tokens))
  needed, ranks = kinds == Kind.NEEDED, normalised_ranks(chain)
  others = {str(kind): kinds == kind for kind in Kind if kind != Kind.NEEDED}
  auc = {
    name: ranked_above(ranks, needed, mask)
    for name, mask in (others | {ALL: ~needed}).items()
    if mask.any()
  }
  deepest = len(chain.deletion_order)
  kept = {}
  for ratio in KEEP_RATIOS:
    num_kept = share_of(len(kinds), ratio)
    if 0 < len(kinds) - num_kept <= deepest:
      there = np.isin(np.arange(len(kinds)), chain.kept_positions(num_kept))
      both, num_there = float((there & needed).sum()), int(there.sum())
      kept[ratio] = (both / num_there if num_there else np.nan, both / needed.sum())
  return Found(auc, kept)


def ranked_above(
  ranks: Float[np.ndarray, "N"], ones: Bool[np.ndarray, "N"], others: Bool[np.ndarray, "N"]
) -> float:
  """Share of pairs whose first has the higher rank, ties half: the area under the ROC curve."""
  statistic = stats.mannwhitneyu(ranks[ones], ranks[others]).statistic
  return float(statistic) / (ones.sum() * others.sum())


def needed_section(runs: Sequence[LabelledRun]) -> Section:
  """AUC by kind, precision and recall by keep ratio, of runs on planted chains."""
  auc_rows: list[tuple[Cell, ...]] = []
  kept_rows: list[tuple[Cell, ...]] = []
  for run in runs:
    found = [find_needed(chain) for chain in run.chains]
    for kind in (ALL, *map(str, Kind)):
      values = np.array([of_chain.auc.get(kind, np.nan) for of_chain in found])
      if num_told := int((~np.isnan(values)).sum()):
        auc_rows.append((run.name, kind, *mean_interval(values, run.questions, SHARE), num_told))
    for ratio in KEEP_RATIOS:
      if all(ratio in of_chain.kept for of_chain in found):
        kept = np.array([of_chain.kept[ratio] for of_chain in found])
        num_told = (~np.isnan(kept)).sum(axis=0).tolist()
        intervals = column_intervals(kept, run.questions, SHARE, SHARE)
        kept_rows.append((run.name, ratio, *intervals, *num_told))
  bounds = f"means over chains with 95% intervals (Student's t; {COUNT_AS_ONE})"
  return Section(
    "Is what is needed found?",
    tables=[
      Table(
        "needed_auc",
        f"AUC: share of needed results that leave after a token of a kind, ties half; {bounds}. "
        f"{DEPTH}.",
        ("run", "against", "AUC", "low", "high", "chains"),
        auc_rows,
      ),
      Table(
        "needed_kept",
        f"Needed results among the tokens kept (precision; untold of chains of which nothing is "
        f"kept), and share of them kept (recall); {bounds}.",
        (
          *("run", "keep ratio", "precision", "precision low", "precision high"),
          *("recall", "recall low", "recall high", "chains with precision", "chains"),
        ),
        kept_rows,
      ),
    ],
  )
