"""Ranking by the order that another run found, such as that of a smaller pruner."""

import numpy as np
from jaxtyping import Float

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
  known = {pruned.chain.id: pruned for pruned in read_pruned(folder)}
  lowest = min(settings.keep_ratios, default=1.0)

  def rank(chain: RankingInput) -> RankedTokens:
    pruned = known.get(chain.chain_id)
    if pruned is None:
      raise UnrankedError(f"chain {chain.chain_id} is not in {folder}; prune it there first")
    if pruned.chain.reasoning != "".join(chain.tokens):
      raise UnrankedError(
        f"chain {chain.chain_id} has another reasoning in {folder}; expected a run on these chains"
      )
    reached = min(map(float, pruned.pruned), default=1.0)
    if reached > lowest:
      raise UnrankedError(
        f"chain {chain.chain_id} was pruned to {reached:g} in {folder}; expected a run with a keep "
        f"ratio of {lowest:g} or lower, or higher keep_ratios here"
      )
    left_at = _characters_gone_before(pruned)
    ends = np.cumsum([len(token) for token in chain.tokens])
    spans = zip([0, *ends[:-1]], ends, strict=True)
    # A character that is spelled by several tokens counts for the one that carries its text; the
    # others stay with what is before them.
    means = [left_at[start:end].mean() if end > start else np.nan for start, end in spans]
    return RankedTokens(by_importance(_filled(np.array(means))))

  return rank


def _characters_gone_before(pruned: PrunedChain) -> Float[np.ndarray, " C"]:
  """Tokens that had left when each character's own did, [C]."""
  lengths = [len(token) for token in pruned.reasoning_tokens]
  return np.repeat(pruned.gone_before, lengths).astype(float)


def _filled(values: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
  """Values with the last number before it in place of each NaN; the next one at the beginning."""
  known = np.flatnonzero(~np.isnan(values))
  place = np.searchsorted(known, np.arange(len(values)), side="right") - 1
  return values[known[np.maximum(place, 0)]]
