"""Ranking by the order that another run found, such as that of a smaller pruner."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from greedy_prune_jax.chains.chain import PrunedChain
from greedy_prune_jax.chains.reading import read_pruned
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.rankings.interface import (
  RankedTokens,
  RankingInput,
  RankingSettings,
  RankTokens,
  UnrankedError,
  by_importance,
)


class _Known(NamedTuple):
  """The part of another run's record that is needed; the record is far larger.

  Attributes:
    reasoning: the chain's, whole.
    reached: the lowest keep ratio.
    left_at: tokens that had left when each character's own did.
  """

  reasoning: str
  reached: float
  left_at: Int[np.ndarray, " C"]

  @classmethod
  def of(cls, pruned: PrunedChain) -> "_Known":
    lengths = [len(token) for token in pruned.reasoning_tokens]
    left_at = np.repeat(pruned.gone_before, lengths).astype(np.int32)
    reached = min(map(float, pruned.pruned), default=1.0)
    return cls(pruned.chain.reasoning, reached, left_at)


def other_run(model: Model, settings: RankingSettings) -> RankTokens:
  """Tokens leave as their characters did in another run of `prune`, by whichever pruner.

  A token's importance is the mean, over its characters, of the number of tokens that had left
  before; tokens of another tokenizer need not begin and end where this pruner's do. Characters that
  never left count as the last ones.

  Raises:
    UserError: the run cannot be read.
    UnrankedError: raised by `rank`: the run has no such chain, or did not delete as much of it as
      is wanted here.
  """
  folder = settings.other_run
  known = {pruned.chain.id: _Known.of(pruned) for pruned in read_pruned(folder)}
  lowest = min(settings.keep_ratios, default=1.0)

  def rank(chain: RankingInput) -> RankedTokens:
    found = known.get(chain.chain_id)
    if found is None:
      raise UnrankedError(f"chain {chain.chain_id} is not in {folder}; prune it there first")
    if found.reasoning != "".join(chain.tokens):
      raise UnrankedError(
        f"chain {chain.chain_id} has another reasoning in {folder}; expected a run on these chains"
      )
    if found.reached > lowest:
      raise UnrankedError(
        f"chain {chain.chain_id} was pruned to {found.reached:g} in {folder}; expected a run with "
        f"a keep ratio of {lowest:g} or lower, or higher keep_ratios here"
      )
    ends = np.cumsum([len(token) for token in chain.tokens])
    spans = zip([0, *ends[:-1]], ends, strict=True)
    # A character that is spelled by several tokens counts for the one that carries its text; the
    # others stay with what is before them.
    means = [found.left_at[start:end].mean() if end > start else np.nan for start, end in spans]
    return RankedTokens(by_importance(_filled(np.array(means))))

  return rank


def _filled(values: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
  """Values with the last number before it in place of each NaN; the next one at the beginning."""
  known = np.flatnonzero(~np.isnan(values))
  place = np.searchsorted(known, np.arange(len(values)), side="right") - 1
  return values[known[np.maximum(place, 0)]]
