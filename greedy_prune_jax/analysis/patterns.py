"""Patterns of deletion: survival and rank by category, runs of deletions, place in the chain.

Every statistic is a ratio of sums over chains; its interval comes from resampling chains.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from greedy_prune_jax.analysis.still_right import Verdicts
from greedy_prune_jax.chains.categories import Category, Labels
from greedy_prune_jax.chains.chain import PrunedChain
from greedy_prune_jax.reports.bootstrap import (
  Interval,
  bootstrap_ratio,
  percentile_interval,
  resample_weights,
  weighted_sums,
)

NUM_POSITION_BINS = 10


@dataclasses.dataclass(frozen=True)
class LabelledRun:
  """The pruned chains of one workdir with the labels of their tokens.

  Attributes:
    name: the run's name in the report.
    chains: pruned chains, at least one.
    labels: one entry a chain.
    surprisals: nats of the tokens of each chain; None where they were not computed.
    attention: attention from the answer that each token received, mean over the answer's tokens and
      all layers and heads; None where it was not computed.
    verdicts: lengths at which a model still answers each chain right; None where not read.
  """

  name: str
  chains: Sequence[PrunedChain]
  labels: Sequence[Labels]
  surprisals: Sequence[Sequence[float]] | None = None
  attention: Sequence[Sequence[float]] | None = None
  verdicts: Sequence[Verdicts] | None = None

  def __post_init__(self):
    for chain, labels in zip(self.chains, self.labels, strict=True):
      if len(labels) != len(chain.reasoning_ids):
        raise ValueError(
          f"chain {chain.chain.id} has {len(chain.reasoning_ids)} reasoning tokens and "
          f"{len(labels)} labels"
        )


def common_chains(one: LabelledRun, other: LabelledRun) -> list[tuple[PrunedChain, PrunedChain]]:
  """The chains that both runs have, with the same reasoning."""
  known = {chain.chain.id: chain for chain in other.chains}
  return [
    (chain, known[chain.chain.id])
    for chain in one.chains
    if chain.chain.id in known and known[chain.chain.id].chain.reasoning == chain.chain.reasoning
  ]


def normalised_ranks(chain: PrunedChain) -> Float[np.ndarray, "N"]:
  """Prune ranks divided by N - 1: 0 left first, 1 last.

  Tokens that left together share the mean of their ranks, and so do those that were never deleted.
  """
  num_tokens, num_deleted = len(chain.reasoning_ids), len(chain.deletion_order)
  ranks = np.full(num_tokens, (num_deleted + num_tokens - 1) / 2)
  before = np.array(chain.gone_before)
  for unit in map(list, chain.deletions):
    ranks[unit] = before[unit] + (len(unit) - 1) / 2
  return ranks / max(num_tokens - 1, 1)


def category_masks(labels: Labels) -> Bool[np.ndarray, "C N"]:
  """Masks the tokens of each category, in the order of `Category`."""
  return np.array([[label == category for label in labels] for category in Category])


def share_grid(chains: Sequence[PrunedChain]) -> Float[np.ndarray, "S"]:
  """Shares of tokens deleted, from 0 in steps of 0.05, as far as every chain was pruned."""
  deepest = min(len(chain.deletion_order) / len(chain.reasoning_ids) for chain in chains)
  return np.arange(int(deepest / 0.05 + 1e-9) + 1) * 0.05


def survival(run: LabelledRun, shares: Float[np.ndarray, "S"]) -> Interval:
  """Share of each category's tokens that is still there when a share of all tokens is deleted.

  Returns:
    Arrays [C, S]. Tokens of all chains are pooled.
  """
  kept, total = [], []
  for chain, labels in zip(run.chains, run.labels, strict=True):
    masks = category_masks(labels)
    num_deleted = np.floor(shares * len(chain.reasoning_ids) + 1e-9)
    there = np.array(chain.gone_before)[:, None] >= num_deleted[None, :]  # [N, S]
    kept.append(masks.astype(float) @ there.astype(float))
    total.append(np.broadcast_to(masks.sum(axis=1, dtype=float)[:, None], kept[-1].shape))
  return bootstrap_ratio(np.array(kept), np.array(total))


def rank_by_category(run: LabelledRun) -> Interval:
  """Mean normalised prune rank of each category, [C]; 0.5 is the mean over all tokens."""
  sums, counts = _rank_sums(run)
  return bootstrap_ratio(sums, counts)


def rank_differences(run: LabelledRun, baseline: Category) -> Interval:
  """Mean normalised rank of each category less that of `baseline`, [C], chains resampled together.

  Where an interval leaves 0 out, that category leaves later (above) or earlier (below).
  """
  means, num_chains = _resampled_ranks(*_rank_sums(run))
  place = [list(Category).index(baseline)]
  differences = means - means[:, place]
  return percentile_interval(
    differences[0], differences[1:], np.minimum(num_chains, num_chains[place])
  )


def paired_rank_differences(run: LabelledRun, reference: LabelledRun) -> tuple[Interval, int]:
  """Mean normalised rank of each category less that in another run of the same chains.

  Both runs of a chain are resampled together, so that what chains have in common cancels out.

  Returns:
    Arrays [C], and the number of chains that both runs have; NaN where they have none.
  """
  places = {chain.chain.id: i for i, chain in enumerate(reference.chains)}
  pairs = [(i, places[c.chain.id]) for i, c in enumerate(run.chains) if c.chain.id in places]
  if not pairs:
    return Interval(*np.full((3, len(Category)), np.nan)), 0
  ours, theirs = (list(places) for places in zip(*pairs, strict=True))
  one, num_ones = _resampled_ranks(*(values[ours] for values in _rank_sums(run)))
  other, num_others = _resampled_ranks(*(values[theirs] for values in _rank_sums(reference)))
  differences, num_chains = one - other, np.minimum(num_ones, num_others)
  return percentile_interval(differences[0], differences[1:], num_chains), len(pairs)


def _resampled_ranks(
  sums: Float[np.ndarray, "B C"], counts: Float[np.ndarray, "B C"]
) -> tuple[Float[np.ndarray, "R1 C"], Int[np.ndarray, "C"]]:
  """Mean normalised ranks of categories: of all chains, then of R bootstrap samples.

  Of equally many chains those at the same places are drawn.

  Args:
    sums: sum of each chain's ranks, by category; see `_rank_sums`.
    counts: their numbers.

  Returns:
    The means, and the number of chains that have each category.
  """
  weights = np.concatenate([np.ones((1, len(sums))), resample_weights(len(sums))])
  with np.errstate(divide="ignore", invalid="ignore"):
    means = weighted_sums(weights, sums) / weighted_sums(weights, counts)
  return means, (counts > 0).sum(axis=0)


def _rank_sums(run: LabelledRun) -> tuple[Float[np.ndarray, "B C"], Float[np.ndarray, "B C"]]:
  """Sum of normalised ranks, and number of tokens, of each chain's categories."""
  masks = [category_masks(labels).astype(float) for labels in run.labels]
  ranks = [normalised_ranks(chain) for chain in run.chains]
  sums = np.array([m @ r for m, r in zip(masks, ranks, strict=True)])
  return sums, np.array([m.sum(axis=1) for m in masks])


def category_counts(run: LabelledRun) -> Int[np.ndarray, "7"]:
  """Number of tokens of each category, then of unlabelled tokens."""
  counts = _rank_sums(run)[1].sum(axis=0).astype(int)
  return np.append(counts, sum(map(len, run.labels)) - counts.sum())


def rank_by_position(run: LabelledRun) -> Interval:
  """Mean normalised prune rank by place in the chain, in tenths of its length, [10]."""
  sums = np.zeros((len(run.chains), NUM_POSITION_BINS))
  counts = np.zeros_like(sums)
  for i, chain in enumerate(run.chains):
    num_tokens = len(chain.reasoning_ids)
    bins = np.arange(num_tokens) * NUM_POSITION_BINS // num_tokens
    sums[i] = np.bincount(bins, normalised_ranks(chain), NUM_POSITION_BINS)
    counts[i] = np.bincount(bins, minlength=NUM_POSITION_BINS)
  return bootstrap_ratio(sums, counts)


def run_lengths(
  run: LabelledRun, shares: Float[np.ndarray, "S"]
) -> tuple[Interval, Float[np.ndarray, "S"]]:
  """Mean length of the gaps that deletions leave, and what random deletions would give.

  Args:
    run: the chains.
    shares: shares of tokens deleted, 0 to 1.

  Returns:
    Deleted tokens per run of neighbouring deleted positions, [S], NaN where nothing is deleted; and
    the same for as many units drawn at random, of which D in U form D (U - D + 1) / U runs on
    average. Tokens of a unit leave together in any order, so chance is not in tokens.
  """
  deleted = np.zeros((len(run.chains), len(shares)))
  runs, random_runs = np.zeros_like(deleted), np.zeros_like(deleted)
  for i, chain in enumerate(run.chains):
    before = np.array(chain.gone_before)
    num_units = len(chain.unit_sizes or chain.reasoning_ids)
    unit_before = before[[unit[0] for unit in chain.deletions]]
    for j, share in enumerate(shares):
      most = int(share * len(before) + 1e-9)
      gone, units_gone = before < most, (unit_before < most).sum()
      deleted[i, j] = gone.sum()
      runs[i, j] = count_runs(gone)
      random_runs[i, j] = units_gone * (num_units - units_gone + 1) / num_units
  by_chance = bootstrap_ratio(deleted, random_runs, num_samples=1).estimate
  return bootstrap_ratio(deleted, runs), by_chance


def count_runs(marked: Bool[np.ndarray, "N"]) -> int:
  """Number of maximal stretches of True."""
  return int(marked[:1].sum() + (marked[1:] & ~marked[:-1]).sum())
