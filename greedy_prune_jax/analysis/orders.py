"""Deletion orders as importances of characters, by which runs of any tokenizer can be compared."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from scipy import stats

from greedy_prune_jax.analysis.patterns import (
  LabelledRun,
  common_chains,
  doubled_ranks,
  share_deleted,
)
from greedy_prune_jax.analysis.report import Section
from greedy_prune_jax.chains.chain import PrunedChain
from greedy_prune_jax.reports.intervals import CORRELATION, SHARE, column_intervals
from greedy_prune_jax.reports.questions import COUNT_AS_ONE
from greedy_prune_jax.reports.tables import Table, interval_columns

LAST_SHARE = 0.1  # of the characters, those that leave last


def character_ranks(chain: PrunedChain, depth: float = 1.0) -> Int[np.ndarray, "C"]:
  """Twice the prune rank of each character of the reasoning: that of its token, 0 left first.

  A character that is spelled by several tokens counts for the one that carries its text.

  Args:
    depth: share of the tokens up to which deletions count; see `doubled_ranks`.
  """
  lengths = [len(token) for token in chain.reasoning_tokens]
  return np.repeat(doubled_ranks(chain, depth), lengths)


def order_section(runs: Sequence[LabelledRun]) -> Section:
  """Agreement of the deletion orders of every two runs, over the chains that both have."""
  rows = []
  for i, one in enumerate(runs):
    for other in runs[i + 1 :]:
      pairs = common_chains(one, other)
      if not pairs:
        continue
      found = np.array([order_agreement(*pair) for pair in pairs])
      questions = [mine.chain.question for mine, _ in pairs]
      num_told = (~np.isnan(found[:, [0, 2]])).sum(axis=0).tolist()
      intervals = column_intervals(found, questions, CORRELATION, CORRELATION, SHARE)
      rows.append((one.name, other.name, *intervals, *num_told))
  caption = (
    "Agreement of deletion orders, character by character: Kendall's tau-b and Spearman's rho as "
    f"far as the less deep one of the two went, and the share of the last {LAST_SHARE:.0%} of one "
    f"that is in the last {LAST_SHARE:.0%} of the other (about {LAST_SHARE:g} by chance; untold of "
    "chains of which more characters than that were never deleted, or left at once at its border). "
    "Means over chains with 95% intervals "
    f"(Student's t; {COUNT_AS_ONE}); chains whose order is one tie are left out."
  )
  columns = interval_columns("Kendall", "Spearman", "last tenth")
  return Section(
    "Agreement of deletion orders",
    tables=[
      Table("orders", caption, ("run", "and", *columns, "chains", "chains of last tenth"), rows)
    ],
  )


def order_agreement(one: PrunedChain, other: PrunedChain) -> tuple[float, float, float]:
  """Kendall's tau-b, Spearman's rho and the overlap of the last tenth, of one chain's two orders.

  The correlations are those of the deletions up to the depth that both orders reached: what only
  one of them tells apart is no disagreement.

  NaN where an order is one tie, as that of a chain of one token. The overlap is NaN too where an
  order does not tell the last tenth from what left before: more characters than a tenth tie at its
  border, as those that were never deleted do. Taking the first of these from both orders would call
  any two orders alike.
  """
  depth = min(share_deleted(one), share_deleted(other))
  a, b = character_ranks(one, depth), character_ranks(other, depth)
  if np.ptp(a) == 0 or np.ptp(b) == 0:
    return np.nan, np.nan, np.nan
  return (
    float(np.asarray(stats.kendalltau(a, b)[0])),
    float(np.asarray(stats.spearmanr(a, b)[0])),
    _last_overlap(character_ranks(one), character_ranks(other)),
  )


def _last_overlap(a: Int[np.ndarray, "C"], b: Int[np.ndarray, "C"]) -> float:
  """Share of the last tenth of one order that is in the last tenth of the other, or NaN."""
  num_last = max(1, round(LAST_SHARE * len(a)))
  last = []
  for ranks in (a, b):
    order = np.argsort(-ranks, kind="stable")
    if (ranks == ranks[order[num_last - 1]]).sum() > num_last:
      return np.nan
    last.append(set(order[:num_last].tolist()))
  return len(last[0] & last[1]) / num_last
