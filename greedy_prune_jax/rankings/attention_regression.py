"""Ranking by a regression of prune ranks on attention, which the job analyze fits.

It prunes a new chain from one forward pass.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from jaxtyping import Float, Shaped

from greedy_prune_jax.chains.categories import Category, Labels
from greedy_prune_jax.chains.category_rules import offline_annotator
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.models.safetensors_file import read_safetensors
from greedy_prune_jax.rankings.interface import (
  RankedTokens,
  RankingInput,
  RankingSettings,
  RankTokens,
)
from greedy_prune_jax.runs import records as fields
from greedy_prune_jax.runs.files import explain_os_errors, make_subfolder, user_path
from greedy_prune_jax.runs.json_reader import read_json
from greedy_prune_jax.runs.records import Record
from greedy_prune_jax.scoring.features import ENTROPY, STATISTICS, extract_features

# Most standard deviations between a feature and its mean. A feature that hardly varies in the
# fitted chains can lie hundreds of them away in another chain, and would decide its ranks alone.
_FURTHEST = 10.0


class Ridge(NamedTuple):
  """A fitted linear map: it predicts `standardise(x, mean, scale) @ weights + intercept`."""

  weights: Float[np.ndarray, " F"]
  intercept: float
  mean: Float[np.ndarray, " F"]
  scale: Float[np.ndarray, " F"]
  strength: float

  def predict(self, features: Float[np.ndarray, "T F"]) -> Float[np.ndarray, " T"]:
    """One prediction for each row."""
    return standardise(features, self.mean, self.scale) @ self.weights + self.intercept


def standardise(
  features: Float[np.ndarray, "T F"], mean: Float[np.ndarray, " F"], scale: Float[np.ndarray, " F"]
) -> Float[np.ndarray, "T F"]:
  """Features in standard deviations from their mean, clipped; 0 where the scale is infinite."""
  return np.clip((features - mean) / scale, -_FURTHEST, _FURTHEST)


CONTROLS = {
  "position": ("position", "position squared"),
  "surprisal": ("surprisal",),
  "category": tuple(str(category) for category in Category),
  "frequency": ("log frequency",),
}


CONTROL_NAMES = tuple(name for names in CONTROLS.values() for name in names)


# Attention is compared by its logarithm, so probabilities below this count as this.
_LEAST_PROBABILITY = 1e-6


@dataclasses.dataclass(frozen=True)
class TokenCounts:
  """Counts of each token id among reasoning tokens."""

  counts: Mapping[int, int]  # count of each id that occurs
  total: int  # count of all tokens

  @classmethod
  def of(cls, sequences: Sequence[Sequence[int]]) -> "TokenCounts":
    """Counts the ids of several chains."""
    ids, counts = np.unique(np.concatenate([np.asarray(s) for s in sequences]), return_counts=True)
    return cls(dict(zip(ids.tolist(), counts.tolist(), strict=True)), int(counts.sum()))

  def log_frequency(self, ids: Sequence[int]) -> Float[np.ndarray, " N"]:
    """Natural logarithm of each id's share of all tokens; an unseen id counts as seen once."""
    return np.log([max(self.counts.get(int(i), 0), 1) / self.total for i in ids])


def control_columns(
  ids: Sequence[int], labels: Labels, surprisal: Shaped[np.ndarray, " N"], counts: TokenCounts
) -> Float[np.ndarray, "N C"]:
  """Control features of one chain's tokens, in the order of `CONTROL_NAMES`.

  Positions run from 0 to 1. Surprisals are in nats and centred in the chain. A token without a
  label belongs to no category.
  """
  position = np.linspace(0, 1, len(ids))
  categories = [[label == category for category in Category] for label in labels]
  surprisal = surprisal.astype(np.float64)
  return np.column_stack(
    [position, position**2, surprisal - surprisal.mean(), categories, counts.log_frequency(ids)]
  ).astype(np.float32)


def attention_columns(attention: Shaped[np.ndarray, "N L H S"]) -> Float[np.ndarray, "N F"]:
  """Attention statistics of one chain as features.

  All but the entropy are logarithms. All are centred in the chain: prune ranks are relative to the
  chain, and a head's mean attention depends on the chain's length.
  """
  # In float64 a statistic that is equal for all tokens gives exactly 0. In float32 it would give
  # rounding errors, which standardising enlarges.
  values = attention.astype(np.float64)
  is_entropy = np.arange(len(STATISTICS)) == ENTROPY
  logs = np.log(np.maximum(values, _LEAST_PROBABILITY))
  chosen = np.where(is_entropy, values, logs).reshape(len(values), -1)
  return (chosen - chosen.mean(axis=0)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class AttentionRanking:
  """Predicts prune ranks from one forward pass."""

  ridge: Ridge  # fitted map from the controls and the attention of every layer and head
  counts: TokenCounts  # token frequencies in the fitted chains
  pruner: str  # model that made the deletion orders, and whose attention is read
  annotator: str  # name of the annotator of the categories
  shape: tuple[int, int, int]  # numbers of layers, heads and statistics
  num_chains: int  # number of fitted chains

  def predict(
    self,
    ids: Sequence[int],
    labels: Labels,
    attention: Float[np.ndarray, "N L H S"],
    surprisal: Float[np.ndarray, " N"],
  ) -> Float[np.ndarray, " N"]:
    """Predicts the normalised prune rank of each reasoning token of one chain.

    Raises:
      UserError: the attention comes from a model of another shape.
    """
    if attention.shape[1:] != self.shape:
      raise UserError(
        f"this regression was fitted to {self.pruner} (layers, heads, statistics: {self.shape}), "
        f"but the model has {attention.shape[1:]}; prune with {self.pruner}, or fit a new one"
      )
    columns = [control_columns(ids, labels, surprisal, self.counts), attention_columns(attention)]
    return self.ridge.predict(np.concatenate(columns, axis=1))


def save_ranking(path: Path, ranking: AttentionRanking) -> None:
  """Writes the numbers to `PATH.safetensors` and their meaning to `PATH.json`."""
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
  make_subfolder(path.parent)
  with explain_os_errors(path):
    data = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    path.with_name(f"{path.name}.safetensors").write_bytes(safetensors.numpy.save(data))
    path.with_name(f"{path.name}.json").write_text(json.dumps(about, indent=1) + "\n")


def load_ranking(path: Path) -> AttentionRanking:
  """Reads the files of `save_ranking`; `path` may have either ending, or none.

  Raises:
    UserError: a file cannot be read, or comes from a version with other features.
  """
  if path.suffix in (".json", ".safetensors"):
    path = path.with_suffix("")
  try:
    about = read_json(path.with_name(f"{path.name}.json"))
    arrays = read_safetensors(path.with_name(f"{path.name}.safetensors"))
    return _checked_ranking(about, arrays)
  except UserError as error:
    raise UserError(
      f"cannot read the attention regression {path} (.json and .safetensors): {error}; the job "
      "analyze writes both files"
    ) from error


_ARRAYS = {"weights": 1, "mean": 1, "scale": 1, "token_ids": 1, "token_counts": 1}  # to their rank


def _checked_ranking(about: Record, arrays: Mapping[str, np.ndarray]) -> AttentionRanking:
  """Makes the ranking from the contents of its two files, which must fit each other."""
  known = fields.get_items(about, "controls", str), fields.get_items(about, "statistics", str)
  if known != (CONTROL_NAMES, STATISTICS):
    raise UserError("it was fitted to other features; fit it again with this version")
  shape = fields.get_items(about, "shape", int)
  wanted = len(CONTROL_NAMES) + math.prod(shape)
  for name, axes in _ARRAYS.items():
    if name not in arrays or arrays[name].ndim != axes or arrays[name].dtype.kind not in "fiu":
      raise UserError(f"it lacks the tensor {name}, a vector of numbers")
    array = arrays[name]
    size = arrays["token_ids"].size if name.startswith("token_") else wanted
    possible = ~np.isnan(array) if name == "scale" else np.isfinite(array)
    if len(array) != size or not possible.all():
      raise UserError(f"tensor {name} has {len(array)} numbers; expected {size}, all finite")
  ridge = Ridge(
    weights=arrays["weights"],
    intercept=fields.get(about, "intercept", float, int),
    mean=arrays["mean"],
    scale=arrays["scale"],
    strength=fields.get(about, "strength", float, int),
  )
  pairs = zip(arrays["token_ids"].tolist(), arrays["token_counts"].tolist(), strict=True)
  return AttentionRanking(
    ridge=ridge,
    counts=TokenCounts(dict(pairs), fields.get(about, "total_tokens", int)),
    pruner=fields.get_text(about, "pruner"),
    annotator=fields.get_text(about, "annotator"),
    shape=shape,
    num_chains=fields.get(about, "num_chains", int),
  )


def check_file(config: ModelConfig, settings: RankingSettings) -> None:
  """Raises a UserError where the regression cannot be read, or its annotator is not known."""
  offline_annotator(load_ranking(user_path(settings.attention_regression)).annotator)


def attention_regression(model: Model, settings: RankingSettings) -> RankTokens:
  """The token with the lowest predicted prune rank leaves first.

  The job analyze fits the prediction: it regresses the ranks that greedy search gave to tokens on
  the attention that these tokens receive. Test it on other chains than those that it was fitted to.

  Raises:
    UserError: the regression cannot be read, or belongs to a model of another shape.
  """
  fitted = load_ranking(user_path(settings.attention_regression))
  annotator = offline_annotator(fitted.annotator)

  def rank(chain: RankingInput) -> RankedTokens:
    [(attention, surprisal)] = extract_features(model, [chain.segments], batch_size=1)
    [labels] = annotator.annotate([chain.tokens])
    labels = labels or (None,) * len(chain.tokens)
    ids = chain.segments.reasoning.tolist()
    ranks = fitted.predict(ids, labels, attention, surprisal)
    return RankedTokens.of(ranks, chain, len(chain.segments))

  return rank
