"""Can attention predict the order of deletion? Regressions of prune rank, tested on unseen chains.

Folds are of questions, never of tokens, and a question that several chains or runs have is in the
same fold of each, so that no run is tested on one that any other was fitted to.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from greedy_prune_jax.analysis.rank_data import RankData, pooled_attention, shuffle_within_chains
from greedy_prune_jax.analysis.ridge import fit_ridge
from greedy_prune_jax.chains.chain import share_of
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.rankings.attention_regression import CONTROLS, AttentionRanking, TokenCounts
from greedy_prune_jax.reports.bootstrap import Interval, bootstrap_ratio

NUM_FOLDS = 5

# Name of a set of features: groups of `CONTROLS`, and which attention: none, that of every head,
# that shuffled, or pooled over bands of depth.
FEATURE_SETS: dict[str, tuple[tuple[str, ...], str]] = {
  **{group: ((group,), "none") for group in CONTROLS},
  "controls": (tuple(CONTROLS), "none"),
  "attention": ((), "real"),
  "shuffled attention": ((), "shuffled"),
  "controls and attention": (tuple(CONTROLS), "real"),
  "controls and shuffled attention": (tuple(CONTROLS), "shuffled"),
  "pooled attention": ((), "pooled"),
  "controls and pooled attention": (tuple(CONTROLS), "pooled"),
}


@runtime_checkable
class Regression(Protocol):
  """Something fitted."""

  def predict(self, features: Float[np.ndarray, "T F"]) -> Float[np.ndarray, " T"]:
    """One prediction a row."""
    ...


# (features [T, F], target [T], fold of each row [T]) -> something fitted
Fit = Callable[[np.ndarray, np.ndarray, np.ndarray], Regression]


def fit_trees(
  features: Float[np.ndarray, "T F"], target: Float[np.ndarray, " T"], folds: Int[np.ndarray, " T"]
) -> Regression:
  """Gradient-boosted trees with fixed settings; `folds` is not looked at."""
  from sklearn.ensemble import HistGradientBoostingRegressor

  trees = HistGradientBoostingRegressor(
    learning_rate=0.1,
    max_iter=60,
    max_leaf_nodes=16,
    max_features=0.2,
    # By default from 10,001 rows on, by a tenth of them, of any chain.
    early_stopping=False,  # pyright: ignore[reportArgumentType]
    random_state=0,
  )
  return trees.fit(features, target)


REGRESSORS: dict[str, Fit] = {"ridge": fit_ridge, "trees": fit_trees}


def design(data: RankData, feature_set: str) -> Float[np.ndarray, "T F"]:
  """The columns of a set of features."""
  groups, attention = FEATURE_SETS[feature_set]
  columns = []
  start = 0
  for group, names in CONTROLS.items():
    if group in groups:
      columns.append(data.controls[:, start : start + len(names)])
    start += len(names)
  if attention == "real":
    columns.append(data.attention)
  elif attention == "shuffled":
    columns.append(shuffle_within_chains(data.attention, data.chain))
  elif attention == "pooled":
    columns.append(pooled_attention(data.attention, data.shape))
  return np.concatenate(columns, axis=1)


def assign_folds(runs: Sequence[RankData]) -> dict[str, int]:
  """The fold of each question, the same for all its chains in all runs.

  Each run has questions in every fold, as evenly as those allow that runs before it have.

  Raises:
    UserError: a run has fewer questions than folds.
  """
  pairs = [pair for run in runs for pair in zip(run.questions, run.ids, strict=True)]
  by_id = sorted(pairs, key=lambda pair: pair[1])
  questions = list(dict.fromkeys(question for question, _ in by_id))  # ordered by their first ids
  order = [questions[i] for i in np.random.default_rng(0).permutation(len(questions))]
  fold_of: dict[str, int] = {}
  for run in sorted(runs, key=lambda run: len(set(run.questions))):  # few are hardest to spread
    own = set(run.questions)
    if len(own) < NUM_FOLDS:
      raise UserError(
        f"the chains of {run.name} have {len(own)} questions, which cannot be split into "
        f"{NUM_FOLDS} folds; prune chains of more questions, or leave regression out of parts"
      )
    known = [fold_of[question] for question in own if question in fold_of]
    sizes = np.bincount(np.array(known, int), minlength=NUM_FOLDS)
    for question in order:
      if question in own and question not in fold_of:
        fold_of[question] = int(sizes.argmin())
        sizes[fold_of[question]] += 1
  return fold_of


def row_folds(data: RankData, fold_of: dict[str, int]) -> Int[np.ndarray, " T"]:
  """The fold of each row's question."""
  return np.array([fold_of[question] for question in data.questions])[data.chain]


def knows_late(data: RankData, share: float) -> bool:
  """Tells whether every chain was pruned into the last `share` of its tokens."""
  return bool((data.num_kept <= _num_late(data, share)).all())


def is_late(data: RankData, share: float) -> Bool[np.ndarray, " T"]:
  """Marks the tokens among the last `share` of their chain's to leave.

  Means nothing where `knows_late` is False.
  """
  sizes = np.bincount(data.chain)[data.chain]
  # Ranks, of which units have the mean, are multiples of 0.5: none lies on the border.
  return data.rank * (sizes - 1) > sizes - _num_late(data, share)[data.chain] - 0.25


def _num_late(data: RankData, share: float) -> Int[np.ndarray, " B"]:
  """Number of the last `share` of each chain's tokens."""
  return np.array([share_of(size, share) for size in np.bincount(data.chain).tolist()], int)


def predict_unseen(
  train: RankData,
  test: RankData,
  fold_of: dict[str, int],
  feature_set: str,
  *,
  regressor: str = "ridge",
  late_share: float | None = None,
) -> Float[np.ndarray, " T"]:
  """Predicts each token of `test` from a fit to the chains of `train` outside its chain's fold.

  Args:
    test: run to predict; may be `train` itself.
    fold_of: folds of both, from `assign_folds`.
    feature_set: a name in `FEATURE_SETS`.
    regressor: `ridge` or `trees`.
    late_share: predict `is_late` of this share instead of the normalised rank.
  """
  target = train.rank if late_share is None else is_late(train, late_share).astype(float)
  features = design(train, feature_set)
  test_features = features if test is train else design(test, feature_set)
  folds, test_folds = row_folds(train, fold_of), row_folds(test, fold_of)
  predictions = np.full(len(test.rank), np.nan)
  for fold in np.unique(test_folds):
    kept, asked = folds != fold, test_folds == fold
    fitted = REGRESSORS[regressor](features[kept], target[kept], folds[kept])
    predictions[asked] = fitted.predict(test_features[asked])
  return predictions


@dataclasses.dataclass(frozen=True)
class PredictionScores:
  """Scores of predictions, each with an interval from resampled questions (arrays of no axis).

  Attributes:
    r2: 1 - squared error / squared distance to the mean over all tokens; below 0 if worse than it.
    spearman: mean over chains of the rank correlation within the chain.
    kendall: mean Kendall's tau-b within chains.
    auc: mean over chains of the share of (late, early) pairs in the right order; NaN for ranks.
    spearman_by_chain: the rank correlations, in the order of the chains' numbers.
  """

  r2: Interval
  spearman: Interval
  kendall: Interval
  auc: Interval
  spearman_by_chain: Float[np.ndarray, " B"]


def score_predictions(
  target: Float[np.ndarray, " T"],
  predictions: Float[np.ndarray, " T"],
  chain: Int[np.ndarray, " T"],
  questions: Sequence[str],
) -> PredictionScores:
  """Scores predictions of a rank, or of 0 and 1; a chain of one value only has no correlation.

  Args:
    chain: number of each row's chain.
    questions: each chain's question.
  """
  around = np.bincount(chain, (target - target.mean()) ** 2)
  squares = np.bincount(chain, (target - predictions) ** 2)
  unexplained = bootstrap_ratio(squares, around, questions)
  r2 = Interval(*(np.asarray(1 - b) for b in (unexplained[0], unexplained[2], unexplained[1])))
  binary = bool(np.isin(target, (0, 1)).all())
  per_chain = np.array(
    [
      _chain_scores(target[rows], predictions[rows], binary)
      for rows in (chain == number for number in np.unique(chain))
    ]
  )
  known = np.isfinite(per_chain)
  means = bootstrap_ratio(np.where(known, per_chain, 0.0), known.astype(float), questions)
  spearman, kendall, auc = (Interval(*(np.asarray(bound[i]) for bound in means)) for i in range(3))
  return PredictionScores(r2, spearman, kendall, auc, per_chain[:, 0])


def _chain_scores(
  target: Float[np.ndarray, " N"], predictions: Float[np.ndarray, " N"], binary: bool
) -> tuple[float, float, float]:
  """Spearman, Kendall and area under the ROC curve of one chain; NaN where undefined."""
  if np.ptp(target) == 0:
    return np.nan, np.nan, np.nan
  # A prediction that tells no tokens apart is no better than chance, which is 0 and not unknown.
  if np.ptp(predictions) == 0:
    return 0.0, 0.0, 0.5 if binary else np.nan
  spearman = float(np.asarray(stats.spearmanr(target, predictions)[0]))
  kendall = float(np.asarray(stats.kendalltau(target, predictions)[0]))
  if not binary:
    return spearman, kendall, np.nan
  late = target == 1
  in_order = stats.mannwhitneyu(predictions[late], predictions[~late])[0]
  return spearman, kendall, float(in_order / (late.sum() * (~late).sum()))


def head_correlations(data: RankData) -> Float[np.ndarray, "L H S"]:
  """Mean over chains of Spearman's correlation of each attention feature with the rank."""
  total = np.zeros(data.attention.shape[1])
  numbers = np.unique(data.chain)
  for number in numbers:
    rows = data.chain == number
    total += _standard_ranks(data.rank[rows]) @ _standard_ranks(data.attention[rows])
  return (total / len(numbers)).reshape(data.shape)


def _standard_ranks(values: Float[np.ndarray, "N *F"]) -> Float[np.ndarray, "N *F"]:
  """Ranks of each column with mean 0 and length 1; constant columns are 0."""
  ranks = stats.rankdata(values, axis=0)
  centred = ranks - ranks.mean(axis=0)
  norm = np.sqrt((centred**2).sum(axis=0))
  return centred / np.where(norm == 0, 1.0, norm)


_RANKING_FEATURES = "controls and attention"


def fit_ranking(
  data: RankData, counts: TokenCounts, *, pruner: str, annotator: str
) -> AttentionRanking:
  """Fits to all chains of a run, with the strength that predicts held-out chains best."""
  folds = row_folds(data, assign_folds([data]))
  ridge = fit_ridge(design(data, _RANKING_FEATURES), data.rank, folds)
  return AttentionRanking(ridge, counts, pruner, annotator, data.shape, len(data.ids))
