"""Ranking by the attention regression that the analyze job fits: the one-pass pruner."""

from pathlib import Path

from greedy_prune_jax.analysis import rules  # noqa: F401 - registers the annotator "rules"
from greedy_prune_jax.analysis.attention_ranking import deletion_orders, load_ranking
from greedy_prune_jax.analysis.categories import make_annotator
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.pruning.rankings.interface import (
  Ranked,
  Ranking,
  RankingInput,
  RankingSettings,
)


def attention_regression(model: Model, settings: RankingSettings) -> Ranking:
  """The token of the lowest predicted prune rank leaves first.

  The ranks that greedy search gave to tokens of other chains, regressed on the attention that they
  receive (see `analysis.attention_ranking`). Chains that it was fitted to are no fair test of it.

  Raises:
    UserError: the regression cannot be read, or is of a model of another shape.
  """
  fitted = load_ranking(Path(settings.regression))
  annotator = make_annotator(fitted.annotator)

  def rank(chain: RankingInput) -> Ranked:
    [order] = deletion_orders(fitted, model, annotator, [chain.segments], [chain.tokens])
    return Ranked(order, len(chain.segments))

  return rank
