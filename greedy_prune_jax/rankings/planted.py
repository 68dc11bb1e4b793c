"""Rankings for studies of planted chains: by their labels, and by chance shared by all chains."""

import numpy as np

from greedy_prune_jax.chains.planted import PIECES, Kind, kinds_of_tokens
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.rankings.interface import (
  RankedTokens,
  RankingInput,
  RankingSettings,
  RankTokens,
  UnrankedError,
  by_importance,
)

# Kinds of pieces, from the first that leaves to the last.
ORACLE_ORDER = (
  Kind.UNPREDICTABLE,
  Kind.DISTRACTOR,
  Kind.CORRECTION,
  Kind.RESTATEMENT,
  Kind.PREDICTABLE,
  Kind.LABEL,
  Kind.COPIED,
  Kind.NEEDED,
)


def oracle(model: Model, settings: RankingSettings) -> RankTokens:
  """Needed results leave last, by the labels of planted chains; of one kind, the first go first."""

  def rank(chain: RankingInput) -> RankedTokens:
    if PIECES not in chain.extra:
      raise UnrankedError(
        f'ranking=oracle: the chain has no "{PIECES}"; expected chains of the set planted'
      )
    kinds = kinds_of_tokens(chain.extra[PIECES], chain.tokens)
    return RankedTokens(by_importance(np.array([ORACLE_ORDER.index(kind) for kind in kinds])))

  return rank


def random_places(model: Model, settings: RankingSettings) -> RankTokens:
  """Units leave in a random order of places, the same for all chains with as many units.

  The difference to `random` shows the effect of losing the same places in all chains.
  """

  def rank(chain: RankingInput) -> RankedTokens:
    num_units = len(chain.sizes)
    draws = np.random.default_rng([settings.seed, num_units]).random(num_units)
    return RankedTokens(by_importance(np.repeat(draws, chain.sizes)))

  return rank
