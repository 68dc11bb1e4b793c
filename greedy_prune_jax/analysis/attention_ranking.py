"""A fitted rank regression on disk, and the one-pass pruner that it makes."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Float

from greedy_prune_jax.analysis.categories import Annotator, Labels
from greedy_prune_jax.analysis.features import STATISTICS, extract_features
from greedy_prune_jax.analysis.rank_data import (
  CONTROL_NAMES,
  RankData,
  TokenCounts,
  attention_columns,
  control_columns,
)
from greedy_prune_jax.analysis.rank_regression import assign_folds, design, row_folds
from greedy_prune_jax.analysis.ridge import Ridge, fit_ridge
from greedy_prune_jax.chains.errors import UserError
from greedy_prune_jax.chains.jsonl import explain_os_errors
from greedy_prune_jax.chains.segments import Segments
from greedy_prune_jax.models.decoder import Model

_FEATURE_SET = "controls and attention"


@dataclasses.dataclass(frozen=True)
class AttentionRanking:
  """Predicts prune ranks from one forward pass.

  Attributes:
    ridge: over the controls and the attention of every layer and head.
    counts: token frequencies of the chains that it was fitted to.
    pruner: the model whose attention it reads, and whose orders it learnt.
    annotator: name of the annotator of the categories.
    shape: layers, heads, statistics.
    num_chains: that it was fitted to.
  """

  ridge: Ridge
  counts: TokenCounts
  pruner: str
  annotator: str
  shape: tuple[int, int, int]
  num_chains: int

  def predict(
    self,
    ids: Sequence[int],
    labels: Labels,
    attention: Float[np.ndarray, "N L H S"],
    surprisal: Float[np.ndarray, " N"],
  ) -> Float[np.ndarray, " N"]:
    """Predicted normalised prune rank of each reasoning token of one chain.

    Raises:
      UserError: the attention is of a model of another shape.
    """
    if attention.shape[1:] != self.shape:
      raise UserError(
        f"this regression was fitted to {self.pruner} (layers, heads, statistics: {self.shape}); "
        f"the model has {attention.shape[1:]}; prune with {self.pruner} or fit another"
      )
    columns = [control_columns(ids, labels, surprisal, self.counts), attention_columns(attention)]
    return self.ridge.predict(np.concatenate(columns, axis=1))


def fit_ranking(
  data: RankData, counts: TokenCounts, *, pruner: str, annotator: str
) -> AttentionRanking:
  """Fits to all chains of a run, with the strength that predicts held-out chains best."""
  folds = row_folds(data, assign_folds([data]))
  ridge = fit_ridge(design(data, _FEATURE_SET), data.rank, folds)
  return AttentionRanking(ridge, counts, pruner, annotator, data.shape, len(data.ids))


def deletion_orders(
  ranking: AttentionRanking,
  model: Model,
  annotator: Annotator,
  chains: Sequence[Segments],
  tokens: Sequence[Sequence[str]],
) -> list[list[int]]:
  """Original reasoning positions of each chain, least needed first; ties go to the lower position.

  Args:
    ranking: fitted to the same model.
    model: reads each chain once.
    annotator: the one that the ranking was fitted with.
    chains: go through the model as one batch.
    tokens: texts of each chain's reasoning tokens.
  """
  features = extract_features(model, chains, batch_size=len(chains))
  orders = []
  for chain, labels, (attention, surprisal) in zip(
    chains, annotator.annotate(tokens), features, strict=True
  ):
    labels = labels or (None,) * len(chain.reasoning)
    ranks = ranking.predict(chain.reasoning.tolist(), labels, attention, surprisal)
    orders.append([int(position) for position in np.argsort(ranks, kind="stable")])
  return orders


def save_ranking(path: Path, ranking: AttentionRanking) -> None:
  """Writes `PATH.safetensors`, the numbers, and `PATH.json`, what they mean.

  Raises:
    UserError: the place cannot be written.
  """
  ridge = ranking.ridge
  arrays = {
    "weights": ridge.weights,
    "mean": ridge.mean,
    "scale": ridge.scale,
    "token_ids": np.array(list(ranking.counts.counts), np.int64),
    "token_counts": np.array(list(ranking.counts.counts.values()), np.int64),
  }
  about: dict[str, Any] = {
    "target": "normalised prune rank (0 leaves first, 1 last)",
    "controls": CONTROL_NAMES,
    "statistics": STATISTICS,
    "shape": ranking.shape,
    "intercept": ridge.intercept,
    "strength": ridge.strength,
    "total_tokens": ranking.counts.total,
    "pruner": ranking.pruner,
    "annotator": ranking.annotator,
    "num_chains": ranking.num_chains,
  }
  with explain_os_errors(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    path.with_name(f"{path.name}.safetensors").write_bytes(safetensors.numpy.save(data))
    path.with_name(f"{path.name}.json").write_text(json.dumps(about, indent=1) + "\n")


def load_ranking(path: Path) -> AttentionRanking:
  """Reads what `save_ranking` wrote; `path` may be given with either ending or none.

  Raises:
    UserError: it cannot be read, or was written by a version with other features.
  """
  if path.suffix in (".json", ".safetensors"):
    path = path.with_suffix("")
  try:
    about = json.loads(path.with_name(f"{path.name}.json").read_bytes())
    arrays = safetensors.numpy.load_file(path.with_name(f"{path.name}.safetensors"))
    if (tuple(about["controls"]), tuple(about["statistics"])) != (CONTROL_NAMES, STATISTICS):
      raise UserError(f"{path} was fitted to other features; fit it again with this version")
    ridge = Ridge(
      weights=arrays["weights"],
      intercept=about["intercept"],
      mean=arrays["mean"],
      scale=arrays["scale"],
      strength=about["strength"],
    )
    pairs = zip(arrays["token_ids"].tolist(), arrays["token_counts"].tolist(), strict=True)
    return AttentionRanking(
      ridge=ridge,
      counts=TokenCounts(dict(pairs), about["total_tokens"]),
      pruner=about["pruner"],
      annotator=about["annotator"],
      shape=tuple(about["shape"]),
      num_chains=about["num_chains"],
    )
  except (OSError, KeyError, json.JSONDecodeError, safetensors.SafetensorError) as error:
    raise UserError(
      f"cannot read the attention regression {path} (.json and .safetensors): {error}; the job "
      "analyze writes it"
    ) from error
