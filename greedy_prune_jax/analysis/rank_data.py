"""Tokens as rows: features, controls and prune ranks of the chains of one run."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int

from greedy_prune_jax.analysis.feature_store import FeatureStore
from greedy_prune_jax.analysis.patterns import LabelledRun, normalised_ranks
from greedy_prune_jax.rankings.attention_regression import (
  TokenCounts,
  attention_columns,
  control_columns,
)

# Bands of relative depth, from the first layers to the last, that models of any shape have.
NUM_DEPTHS = 4


@dataclasses.dataclass(frozen=True)
class RankData:
  """The reasoning tokens of all chains of a run, one a row.

  Attributes:
    name: the run's name.
    pruner: the model that pruned its chains.
    questions: the chains' questions; chains of one question are never split over folds.
    num_kept: tokens of each chain that were never deleted.
    chain: number of each row's chain.
    rank: normalised prune rank, 0 left first.
    controls: the features named in `CONTROL_NAMES`.
    attention: the columns of `attention_columns`.
    shape: layers, heads, statistics of `attention`.
  """

  name: str
  pruner: str
  ids: tuple[str, ...]
  questions: tuple[str, ...]
  num_kept: Int[np.ndarray, " B"]
  chain: Int[np.ndarray, " T"]
  rank: Float[np.ndarray, " T"]
  controls: Float[np.ndarray, "T C"]
  attention: Float[np.ndarray, "T F"]
  shape: tuple[int, int, int]

  def fingerprint(self, fold_of: Mapping[str, int]) -> str:
    """Tells a run from another of the same name, labels or folds: a hash of what is fitted."""
    folds = [fold_of[question] for question in self.questions]
    digest = hashlib.sha256(json.dumps([self.pruner, self.ids, self.questions, folds]).encode())
    for column in (self.rank, self.controls, self.attention):
      digest.update(column.tobytes())
    return digest.hexdigest()[:16]


def collect_rank_data(run: LabelledRun, store: FeatureStore, counts: TokenCounts) -> RankData:
  """The rows of all chains of a run.

  Raises:
    ValueError: the store is of other chains.
  """
  ids = tuple(chain.chain.id for chain in run.chains)
  if ids != store.ids:
    raise ValueError(f"the features of run {run.name} are of other chains")
  controls, attention, ranks, numbers = [], [], [], []
  for i, (chain, labels) in enumerate(zip(run.chains, run.labels, strict=True)):
    rows = store.rows(i)
    controls.append(
      control_columns(chain.reasoning_ids, labels, np.asarray(store.surprisal[rows]), counts)
    )
    attention.append(attention_columns(np.asarray(store.attention[rows])))
    ranks.append(normalised_ranks(chain))
    numbers.append(np.full(len(ranks[-1]), i))
  return RankData(
    name=run.name,
    pruner=run.chains[0].pruner,
    ids=ids,
    questions=tuple(run.questions),
    num_kept=np.array([len(c.reasoning_ids) - len(c.deletion_order) for c in run.chains]),
    chain=np.concatenate(numbers),
    rank=np.concatenate(ranks),
    controls=np.concatenate(controls),
    attention=np.concatenate(attention),
    shape=store.attention.shape[1:],
  )


def pooled_attention(
  attention: Float[np.ndarray, "T F"], shape: tuple[int, int, int]
) -> Float[np.ndarray, "T P"]:
  """Attention features that models of different shapes share.

  Args:
    attention: statistics of every layer and head, see `attention_columns`.
    shape: numbers of layers, heads, statistics.

  Returns:
    Each statistic's mean over all heads of each of `NUM_DEPTHS` bands of layers; a layer on a
    border counts in both bands.
  """
  over_heads = attention.reshape(-1, *shape).mean(axis=2)  # [T, L, S]
  edges = np.arange(NUM_DEPTHS + 1) * shape[0] / NUM_DEPTHS
  bands = zip(np.floor(edges[:-1]).astype(int), np.ceil(edges[1:]).astype(int), strict=True)
  pooled = np.stack([over_heads[:, low:high].mean(axis=1) for low, high in bands], axis=1)
  return pooled.reshape(len(attention), -1)


def shuffle_within_chains(
  values: Float[np.ndarray, "T F"], chain: Int[np.ndarray, " T"]
) -> Float[np.ndarray, "T F"]:
  """Shuffles the rows of each chain among its tokens: a control that keeps the means of chains."""
  rng = np.random.default_rng(0)
  order = np.lexsort((rng.random(len(chain)), chain))
  where = np.argsort(chain, kind="stable")
  shuffled = np.empty_like(values)
  shuffled[where] = values[order]
  return shuffled
