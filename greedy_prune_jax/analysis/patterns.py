"""Patterns of deletion: survival and rank by category, runs of deletions, place in the chain.

Every statistic is a ratio of sums over chains; its interval comes from resampling questions with
their chains.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from greedy_prune_jax.analysis.still_right import Verdicts
from greedy_prune_jax.chains.categories import Category, Labels
from greedy_prune_jax.chains.chain import PrunedChain, share_of, unit_starts
from greedy_prune_jax.reports.bootstrap import (
  Interval,
  bootstrap_ratio,
  percentile_interval,
  resample_weights,
)
from greedy_prune_jax.reports.questions import sums_by_question

NUM_POSITION_BINS = 10

# In captions, of what is computed from prune ranks.
DEPTH = (
  "Tokens that were never deleted share the mean of the ranks that are left, so runs pruned to "
  "other depths cannot be compared by it"
)


@dataclasses.dataclass(frozen=True)
class LabelledRun:
  """The pruned chains of one workdir with the labels of their tokens.

  Attributes:
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

  @property
  def questions(self) -> list[str]:
    """The question of each chain, by which chains that are not independent are known."""
    return [chain.chain.question for chain in self.chains]

  def __post_init__(self):
    for chain, labels in zip(self.chains, self.labels, strict=True):
      if len(labels) != len(chain.reasoning_ids):
        raise ValueError(
          f"chain {chain.chain.id} has {len(chain.reasoning_ids)} reasoning tokens and "
          f"{len(labels)} labels"
        )


def common_places(one: LabelledRun, other: LabelledRun) -> list[tuple[int, int]]:
  """The places in both runs of the chains that both have.

  Runs of other data have other chains by the same ids, so question and reasoning are compared too.
  """
  known = {text_of(chain): place for place, chain in enumerate(other.chains)}
  texts = map(text_of, one.chains)
  return [(place, known[text]) for place, text in enumerate(texts) if text in known]


def common_chains(one: LabelledRun, other: LabelledRun) -> list[tuple[PrunedChain, PrunedChain]]:
  """The chains that both runs have; see `common_places`."""
  return [(one.chains[i], other.chains[j]) for i, j in common_places(one, other)]


def text_of(chain: PrunedChain) -> tuple[str, str, str]:
  """Id, question and reasoning, which tell a chain from those of other data."""
  return chain.chain.id, chain.chain.question, chain.chain.reasoning


def normalised_ranks(chain: PrunedChain, depth: float = 1.0) -> Float[np.ndarray, "N"]:
  """Prune ranks divided by N - 1: 0 left first, 1 last; see `doubled_ranks`."""
  return doubled_ranks(chain, depth) / max(2 * (len(chain.reasoning_ids) - 1), 1)


def doubled_ranks(chain: PrunedChain, depth: float = 1.0) -> Int[np.ndarray, "N"]:
  """Twice the prune ranks: whole numbers, so that means which should be equal are.

  Tokens that left together share the mean of their ranks, and so do those that were never deleted.
  The less deep a chain was pruned, the more ranks are that mean: compare orders at one depth.

  Args:
    depth: share of the tokens up to which deletions count; later ones are taken for none.
  """
  num_tokens = len(chain.reasoning_ids)
  most = share_of(num_tokens, depth)
  before = np.array(chain.gone_before)
  moves = [list(move) for move in chain.moves if before[move[0]] + len(move) <= most]
  ranks = np.full(num_tokens, sum(map(len, moves)) + num_tokens - 1)
  for move in moves:
    ranks[move] = 2 * before[move] + len(move) - 1
  return ranks


def share_deleted(chain: PrunedChain) -> float:
  """Share of the tokens that were deleted, 1 of a chain without any."""
  return len(chain.deletion_order) / len(chain.reasoning_ids) if chain.reasoning_ids else 1.0


def category_masks(labels: Labels) -> Bool[np.ndarray, "C N"]:
  """Masks the tokens of each category, in the order of `Category`."""
  return np.array([[label == category for label in labels] for category in Category])


def share_grid(chains: Sequence[PrunedChain]) -> Float[np.ndarray, "S"]:
  """Shares of tokens deleted, from 0 in steps of 0.05, as far as every chain was pruned."""
  deepest = min(map(share_deleted, chains))
  return np.arange(share_of(20, deepest) + 1) / 20


def survival(run: LabelledRun, shares: Float[np.ndarray, "S"]) -> Interval:
  """Share of each category's tokens that is still there when a share of all tokens is deleted.

  Returns:
    Arrays [C + 1, S], the last row of tokens of any category: of units and runs more are gone than
    that share, since they leave whole. Tokens of all chains are pooled.
  """
  kept, total = [], []
  for chain, labels in zip(run.chains, run.labels, strict=True):
    masks = np.vstack([category_masks(labels), np.ones(len(labels), bool)])
    num_deleted = np.array([share_of(len(chain.reasoning_ids), share) for share in shares.tolist()])
    there = np.array(chain.gone_before)[:, None] >= num_deleted[None, :]  # [N, S]
    kept.append(masks.astype(float) @ there.astype(float))
    total.append(np.broadcast_to(masks.sum(axis=1, dtype=float)[:, None], kept[-1].shape))
  return bootstrap_ratio(np.array(kept), np.array(total), run.questions)


def rank_by_category(run: LabelledRun) -> Interval:
  """Mean normalised prune rank of each category, [C]; 0.5 is the mean over all tokens.

  Runs that were pruned to other depths cannot be compared by it; see `normalised_ranks`.
  """
  sums, counts = _rank_sums(run)
  return bootstrap_ratio(sums, counts, run.questions)


def rank_differences(run: LabelledRun, baseline: Category) -> Interval:
  """Mean normalised rank of each category less that of `baseline`, [C], chains resampled together.

  Where an interval leaves 0 out, that category leaves later (above) or earlier (below).
  """
  means, num_chains = _resampled_ranks(*_rank_sums(run), run.questions)
  place = [list(Category).index(baseline)]
  differences = means - means[:, place]
  return percentile_interval(
    differences[0], differences[1:], np.minimum(num_chains, num_chains[place])
  )


def paired_rank_differences(run: LabelledRun, reference: LabelledRun) -> tuple[Interval, int]:
  """Mean normalised rank of each category less that in another run of the same chains.

  Both runs of a chain are resampled together, so that what chains have in common cancels out, and
  deletions count as far as both of them went.

  Returns:
    Arrays [C], and the number of chains that both runs have; NaN where they have none.
  """
  pairs = common_places(run, reference)
  if not pairs:
    return Interval(*np.full((3, len(Category)), np.nan)), 0
  ours, theirs = zip(*pairs, strict=True)
  depths = [min(share_deleted(run.chains[i]), share_deleted(reference.chains[j])) for i, j in pairs]
  questions = [run.questions[place] for place in ours]  # of both
  one, num_ones = _resampled_ranks(*_rank_sums(run, ours, depths), questions)
  other, num_others = _resampled_ranks(*_rank_sums(reference, theirs, depths), questions)
  differences, num_chains = one - other, np.minimum(num_ones, num_others)
  return percentile_interval(differences[0], differences[1:], num_chains), len(pairs)


def _resampled_ranks(
  sums: Float[np.ndarray, "B C"], counts: Float[np.ndarray, "B C"], questions: Sequence[str]
) -> tuple[Float[np.ndarray, "R1 C"], Int[np.ndarray, "C"]]:
  """Mean normalised ranks of categories: of all chains, then of R bootstrap samples.

  Of equally many questions those at the same places are drawn.

  Args:
    sums, counts: results of `_rank_sums`.
    questions: the chains' questions; chains of one are drawn together.

  Returns:
    The means, and the number of questions of whose chains some have each category.
  """
  sums, counts = (sums_by_question(values, questions) for values in (sums, counts))
  weights = np.concatenate([np.ones((1, len(sums))), resample_weights(len(sums))])
  with np.errstate(divide="ignore", invalid="ignore"):
    means = np.tensordot(weights, sums, 1) / np.tensordot(weights, counts, 1)
  return means, (counts > 0).sum(axis=0)


def _rank_sums(
  run: LabelledRun, places: Sequence[int] | None = None, depths: Sequence[float] | None = None
) -> tuple[Float[np.ndarray, "B C"], Float[np.ndarray, "B C"]]:
  """Sum of normalised ranks, and number of tokens, of each chain's categories.

  Args:
    places: places of those that count, in their order; None: all.
    depths: share of each one's tokens up to which deletions count; None: all deletions.
  """
  places = range(len(run.chains)) if places is None else places
  depths = [1.0] * len(places) if depths is None else depths
  masks = [category_masks(run.labels[place]).astype(float) for place in places]
  ranks = [
    normalised_ranks(run.chains[place], depth) for place, depth in zip(places, depths, strict=True)
  ]
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
  return bootstrap_ratio(sums, counts, run.questions)


def run_lengths(
  run: LabelledRun, shares: Float[np.ndarray, "S"]
) -> tuple[Interval, Float[np.ndarray, "S"]]:
  """Mean length of the gaps that deletions leave, and what random deletions would give.

  Args:
    shares: shares of tokens deleted, 0 to 1.

  Returns:
    Deleted tokens per run of neighbouring deleted positions, [S], NaN where nothing is deleted; and
    the same for moves drawn at random, of as many units each; see `_gaps_by_chance`.
  """
  deleted = np.zeros((len(run.chains), len(shares)))
  runs, random_runs = np.zeros_like(deleted), np.zeros_like(deleted)
  for i, chain in enumerate(run.chains):
    before, by_chance = np.array(chain.gone_before), _gaps_by_chance(chain)
    move_before = before[[move[0] for move in chain.moves]]
    for j, share in enumerate(shares.tolist()):
      most = share_of(len(before), share)
      gone = before < most
      deleted[i, j] = gone.sum()
      runs[i, j] = count_runs(gone)
      random_runs[i, j] = by_chance[(move_before < most).sum()]
  by_chance = bootstrap_ratio(deleted, random_runs, run.questions, num_samples=1).estimate
  return bootstrap_ratio(deleted, runs, run.questions), by_chance


def _gaps_by_chance(chain: PrunedChain) -> list[float]:
  """Mean number of gaps after 0, 1, ... moves at random, of as many units each as the chain's.

  Tokens of a unit leave together in any order, so chance is not in tokens. A run of m among L units
  that are left closes m + 1 of the L + 1 places where a gap may be, each as likely as the others,
  and opens one: D single units of U leave D (U - D + 1) / U gaps.
  """
  left = len(chain.unit_sizes or chain.reasoning_ids)
  starts = set(unit_starts(chain.unit_sizes)) if chain.unit_sizes else range(left)
  gaps = [0.0]
  for move in chain.moves:
    after = left - sum(position in starts for position in move)
    gaps.append(1 + gaps[-1] * after / (left + 1))
    left = after
  return gaps


def count_runs(marked: Bool[np.ndarray, "N"]) -> int:
  """Number of maximal stretches of True."""
  return int(marked[:1].sum() + (marked[1:] & ~marked[:-1]).sum())
