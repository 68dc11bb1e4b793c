"""Ranking by the order that another run found, such as that of a smaller pruner."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from greedy_prune_jax.chains.chain import PrunedChain, share_of, unit_starts
from greedy_prune_jax.chains.reading import read_pruned
from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.rankings.interface import (
  RankedTokens,
  RankingInput,
  RankingSettings,
  RankTokens,
  UnrankedError,
  order_of_units,
)


class _Known(NamedTuple):
  """The part of another run's record that is needed; the record is far larger."""

  reasoning: str  # the chain's, whole
  reached: float  # the lowest keep ratio
  # Tokens that had left when each character's own did; `stayed` for those that never left.
  left_at: Int[np.ndarray, " C"]
  stayed: int  # number of the run's reasoning tokens

  @classmethod
  def of(cls, pruned: PrunedChain) -> "_Known":
    lengths = [len(token) for token in pruned.reasoning_tokens]
    left_at = np.repeat(pruned.gone_before, lengths).astype(np.int32)
    reached = min(map(float, pruned.pruned), default=1.0)
    return cls(pruned.chain.reasoning, reached, left_at, len(pruned.reasoning_ids))


def check_run(config: ModelConfig, settings: RankingSettings) -> None:
  """Raises a UserError where the other run is not there."""
  read_pruned(settings.other_run)  # which reads no line yet


def other_run(model: Model, settings: RankingSettings) -> RankTokens:
  """Tokens leave as their characters did in another run of `prune`, by whichever pruner.

  A token's importance is the mean, over its characters, of the number of tokens that had left
  before; tokens of another tokenizer need not begin and end where this pruner's do. Characters that
  never left count as the last ones.

  Raises:
    UserError: the run cannot be read.
    UnrankedError: raised by `rank`: the run has no such chain, or did not delete as much of it as
      is wanted here. Of equal keep ratios another tokenizer's tokens may hold more characters.
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
    importance = _filled(np.array(means))
    ranked = RankedTokens.of(importance, chain)
    tied = _tied_units(ranked.order, importance >= found.stayed, chain.sizes, lowest)
    if tied:
      raise UnrankedError(
        f"chain {chain.chain_id}: keep ratio {lowest:g} would delete {tied} of "
        f"{len(chain.sizes)} units of text that never left in {folder} and has no order there; "
        f"expected a run with a keep ratio below {found.reached:g}, or higher keep_ratios here"
      )
    return ranked

  return rank


def _tied_units(
  order: Sequence[int], stayed: Bool[np.ndarray, " N"], sizes: Sequence[int], lowest: float
) -> int:
  """Number of units without any token that left in the other run which leave here all the same.

  Args:
    order: all N positions, first deleted first.
    stayed: True for tokens whose characters all stayed.
    sizes: number of tokens of each unit.
    lowest: the lowest keep ratio.
  """
  size_at = dict(zip(unit_starts(sizes), sizes, strict=True))
  by_units = order_of_units(order, sizes)
  gone = tied = 0
  while len(order) - gone > share_of(len(order), lowest):
    unit = by_units[gone : gone + size_at[by_units[gone]]]
    tied += bool(stayed[unit].all())
    gone += len(unit)
  return tied


def _filled(values: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
  """Values with the last number before it in place of each NaN; the next one at the beginning."""
  known = np.flatnonzero(~np.isnan(values))
  place = np.searchsorted(known, np.arange(len(values)), side="right") - 1
  return values[known[np.maximum(place, 0)]]
