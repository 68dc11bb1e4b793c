"""Rankings that run no model: baselines that an informed ranking should beat."""

import hashlib
import unicodedata

import numpy as np

from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.rankings.interface import (
  RankedTokens,
  RankingInput,
  RankingSettings,
  RankTokens,
  by_importance,
)

# Operators of plain text that Unicode does not count as mathematical symbols.
_OPERATORS = frozenset("-*/^%$€£")


def random(model: Model, settings: RankingSettings) -> RankTokens:
  """Units leave in a random order, drawn from the seed and the chain's id.

  So a chain's order depends neither on the other chains nor on its place among them.
  """

  def rank(chain: RankingInput) -> RankedTokens:
    return RankedTokens(by_importance(_draw(chain, settings.seed)))

  return rank


def keep_first(model: Model, settings: RankingSettings) -> RankTokens:
  """The last tokens leave first: truncation, as if the model had been stopped."""
  return lambda chain: RankedTokens(list(range(len(chain.tokens)))[::-1])


def keep_last(model: Model, settings: RankingSettings) -> RankTokens:
  """The first tokens leave first, so that those next to the answer stay."""
  return lambda chain: RankedTokens(list(range(len(chain.tokens))))


def numbers_first(model: Model, settings: RankingSettings) -> RankTokens:
  """Numbers and operators leave last; among these, and among the rest, the order is random.

  `is_numeric` decides by a token's text alone: a number in words is not numeric.
  """

  def rank(chain: RankingInput) -> RankedTokens:
    numeric = np.array([is_numeric(token) for token in chain.tokens])
    return RankedTokens(by_importance(numeric + _draw(chain, settings.seed)))  # drawn from [0, 1)

  return rank


def is_numeric(token: str) -> bool:
  """Tells whether a token has a digit or only operators: ` 42`, `$` and ` +=`, but not `)=`."""
  signs = token.strip()
  return any(character.isdigit() for character in signs) or (
    bool(signs) and all(c in _OPERATORS or unicodedata.category(c) == "Sm" for c in signs)
  )


def _draw(chain: RankingInput, seed: int) -> np.ndarray:
  """A random number in [0, 1) for each token, the same for all tokens of a unit."""
  digest = hashlib.sha256(chain.chain_id.encode()).digest()
  return np.repeat(np.random.default_rng([seed, *digest]).random(len(chain.sizes)), chain.sizes)
