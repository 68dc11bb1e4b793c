"""Rankings by measures of each reasoning token from one forward pass of the pruner."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from greedy_prune_jax.chains.segments import Segments
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.rankings.interface import (
  RankedTokens,
  RankingInput,
  RankingSettings,
  RankTokens,
  by_importance,
)
from greedy_prune_jax.scoring.features import STATISTICS, extract_features


def surprisal(model: Model, settings: RankingSettings) -> RankTokens:
  """The most predictable token leaves first.

  Source: self-information as in Selective Context, arXiv 2310.06201. There whole phrases leave, by
  the mean of their tokens, and the text is scored alone. Here tokens leave one by one, and are
  predicted from the question and the reasoning before them.
  """

  def rank(chain: RankingInput) -> RankedTokens:
    [(_, values)] = extract_features(model, [chain.segments], batch_size=1)
    return RankedTokens.of(values, chain, len(chain.segments))

  return rank


def attention(model: Model, settings: RankingSettings) -> RankTokens:
  """The token that later positions attend to least leaves first.

  A token's importance is the mean attention probability that the positions behind it (reasoning,
  closing tag and answer) give it, over the chosen layers and heads, in one pass over the whole
  chain.

  Source: accumulated attention as in H2O, arXiv 2306.14048, which evicts from a running cache.
  There the probabilities are summed, which favours early tokens, as they have more positions
  behind them. Here they are averaged, the question's tokens are not ranked, and nothing is updated
  between deletions.
  """
  return _by_attention(model, settings, _from_later)


def answer_attention(model: Model, settings: RankingSettings) -> RankTokens:
  """The token that the answer attends to least leaves first.

  A token's importance is the mean attention probability that the answer's positions give it, over
  the chosen layers and heads. Behind thinking, these are the positions after the closing tag.

  Source: attention of the answer and of the end of thinking, as in arXiv 2604.17297.
  """
  return _by_attention(
    model, settings, lambda features, _: features[..., STATISTICS.index("from answer, mean")]
  )


def surprisal_attention(model: Model, settings: RankingSettings) -> RankTokens:
  """The token that is predictable, and that the answer attends to little, leaves first.

  A token's importance is the mean of its ranks by `surprisal` and by `answer_attention`.

  Source: ours. It found the needed tokens of planted chains better than either measure alone; see
  docs/measured.md.
  """

  def rank(chain: RankingInput) -> RankedTokens:
    [(features, values)] = extract_features(model, [chain.segments], batch_size=1)
    received = features[..., STATISTICS.index("from answer, mean")].mean(axis=(1, 2))
    orders = [RankedTokens.of(importance, chain).order for importance in (values, received)]
    # Ranks of opposite orders add up to equal sums, which is no lack of information.
    ranks = np.sum([np.argsort(order) for order in orders], axis=0)
    return RankedTokens(by_importance(ranks), len(chain.segments))

  return rank


def _by_attention(
  model: Model,
  settings: RankingSettings,
  received: Callable[[Float[np.ndarray, "N L H S"], Segments], Float[np.ndarray, "N L H"]],
) -> RankTokens:
  """Ranks by the attention that `received` computes from a chain's statistics."""
  layers = _chosen("attention_layers", settings.attention_layers, model.config.num_layers)
  heads = _chosen("attention_heads", settings.attention_heads, model.config.num_heads)

  def rank(chain: RankingInput) -> RankedTokens:
    [(features, _)] = extract_features(model, [chain.segments], batch_size=1)
    importance = received(features[:, layers][:, :, heads], chain.segments)
    return RankedTokens.of(importance.mean(axis=(1, 2)), chain, len(chain.segments))

  return rank


def _from_later(
  features: Float[np.ndarray, "N L H S"], segments: Segments
) -> Float[np.ndarray, "N L H"]:
  """Mean attention from all positions behind each token, from the means over parts of them."""
  start, stop = segments.closing
  counts = {
    "from later reasoning, mean": np.arange(len(features))[::-1][:, None, None],
    "from closing tag, mean": stop - start,
    "from answer, mean": len(segments.answer) - stop,
  }
  sums = [features[..., STATISTICS.index(name)] * count for name, count in counts.items()]
  return np.sum(sums, axis=0) / sum(counts.values())


def check_layers_and_heads(config: ModelConfig, settings: RankingSettings) -> None:
  """Raises a UserError where a pruner lacks a chosen layer or head."""
  _chosen("attention_layers", settings.attention_layers, config.num_layers)
  _chosen("attention_heads", settings.attention_heads, config.num_heads)


def _chosen(name: str, wanted: Sequence[int], count: int) -> list[int]:
  """Indices of the wanted layers or heads; all where none are named."""
  if outside := [index for index in wanted if not -count <= index < count]:
    raise UserError(
      f"{name}={tuple(wanted)} has {outside[0]}; the pruner has {count}, so expected numbers from "
      f"0 to {count - 1}, or from -{count} to -1 counted from the last"
    )
  return [index % count for index in wanted] or list(range(count))
