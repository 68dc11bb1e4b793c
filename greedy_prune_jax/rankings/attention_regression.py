"""Ranking by the attention regression that the analyze job fits: the one-pass pruner."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from jaxtyping import Float, Shaped

from greedy_prune_jax.chains import category_rules  # noqa: F401  registers the annotator `rules`
from greedy_prune_jax.chains.categories import Annotator, Category, Labels, make_annotator
from greedy_prune_jax.chains.segments import Segments
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.models.safetensors_file import read_safetensors
from greedy_prune_jax.rankings.interface import (
  RankedTokens,
  RankingInput,
  RankingSettings,
  RankTokens,
)
from greedy_prune_jax.runs import records as fields
from greedy_prune_jax.runs.files import explain_os_errors, make_subfolder
from greedy_prune_jax.runs.json_reader import read_json
from greedy_prune_jax.runs.records import Record
from greedy_prune_jax.scoring.features import ENTROPY, STATISTICS, extract_features

# Standard deviations that a feature may be away from its mean. One that hardly varies in the rows
# of a fit, and does in another chain, would else be hundreds away there and all that counts.
_FURTHEST = 10.0


class Ridge(NamedTuple):
  """A fitted map: predictions are `standardise(x, mean, scale) @ weights + intercept`."""

  weights: Float[np.ndarray, " F"]
  intercept: float
  mean: Float[np.ndarray, " F"]
  scale: Float[np.ndarray, " F"]
  strength: float

  def predict(self, features: Float[np.ndarray, "T F"]) -> Float[np.ndarray, " T"]:
    """One prediction a row."""
    return standardise(features, self.mean, self.scale) @ self.weights + self.intercept


def standardise(
  features: Float[np.ndarray, "T F"], mean: Float[np.ndarray, " F"], scale: Float[np.ndarray, " F"]
) -> Float[np.ndarray, "T F"]:
  """Features in standard deviations from their mean, cut off at `_FURTHEST`; infinite scale: 0."""
  return np.clip((features - mean) / scale, -_FURTHEST, _FURTHEST)


CONTROLS = {
  "position": ("position", "position squared"),
  "surprisal": ("surprisal",),
  "category": tuple(str(category) for category in Category),
  "frequency": ("log frequency",),
}


CONTROL_NAMES = tuple(name for names in CONTROLS.values() for name in names)


# Attention is compared by its logarithm; probabilities below this are as good as none.
_LEAST_PROBABILITY = 1e-6


@dataclasses.dataclass(frozen=True)
class TokenCounts:
  """Counts of each token id among reasoning tokens.

  Attributes:
    counts: count of each id that occurs.
    total: count of all tokens.
  """

  counts: Mapping[int, int]
  total: int

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
  """Controls of one chain's tokens, in the order of `CONTROL_NAMES`.

  Position is from 0 to 1; surprisal in nats, less its mean in the chain; an unlabelled token is of
  no category.
  """
  position = np.linspace(0, 1, len(ids))
  categories = [[label == category for category in Category] for label in labels]
  surprisal = surprisal.astype(np.float64)
  return np.column_stack(
    [position, position**2, surprisal - surprisal.mean(), categories, counts.log_frequency(ids)]
  ).astype(np.float32)


def attention_columns(attention: Shaped[np.ndarray, "N L H S"]) -> Float[np.ndarray, "N F"]:
  """Attention statistics of one chain as features.

  Logarithms, but for the entropy, less their mean in the chain: ranks are relative to the chain,
  and what a head gives on average depends on the chain's length.
  """
  # float64: what is the same for all tokens must be 0 and not rounding, which has a scale too.
  values = attention.astype(np.float64)
  is_entropy = np.arange(len(STATISTICS)) == ENTROPY
  logs = np.log(np.maximum(values, _LEAST_PROBABILITY))
  chosen = np.where(is_entropy, values, logs).reshape(len(values), -1)
  return (chosen - chosen.mean(axis=0)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class AttentionRanking:
  """Predicts prune ranks from one forward pass.

  Attributes:
    ridge: over the controls and the attention of every layer and head.
    counts: token frequencies of the chains that it was fitted to.
    pruner: the model whose attention it reads, and whose orders it learnt.
    annotator: name of the annotator of the categories.
    shape: layers, heads, statistics.
    num_chains: number of chains that it was fitted to.
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
  make_subfolder(path.parent)
  with explain_os_errors(path):
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
    about = read_json(path.with_name(f"{path.name}.json"))
    arrays = read_safetensors(path.with_name(f"{path.name}.safetensors"))
    return _checked_ranking(about, arrays)
  except UserError as error:
    raise UserError(
      f"cannot read the attention regression {path} (.json and .safetensors): {error}; the job "
      "analyze writes it"
    ) from error


_ARRAYS = {"weights": 1, "mean": 1, "scale": 1, "token_ids": 1, "token_counts": 1}  # and their axes


def _checked_ranking(about: Record, arrays: Mapping[str, np.ndarray]) -> AttentionRanking:
  """The ranking that numbers and what they mean make, which must fit each other."""
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


def attention_regression(model: Model, settings: RankingSettings) -> RankTokens:
  """The token of the lowest predicted prune rank leaves first.

  The ranks that greedy search gave to tokens of other chains, regressed on the attention that they
  receive (see `analysis.attention_ranking`). Chains that it was fitted to are no fair test of it.

  Raises:
    UserError: the regression cannot be read, or is of a model of another shape.
  """
  fitted = load_ranking(Path(settings.attention_regression))
  annotator = make_annotator(fitted.annotator)

  def rank(chain: RankingInput) -> RankedTokens:
    [order] = deletion_orders(fitted, model, annotator, [chain.segments], [chain.tokens])
    return RankedTokens(order, len(chain.segments))

  return rank
