"""Rankings: a chain goes in, the order in which its reasoning tokens leave comes out."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

from greedy_prune_jax.chains.chain import unit_starts
from greedy_prune_jax.chains.segments import Segments
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.scoring.objectives import Objective
from greedy_prune_jax.teachers.settings import EndpointSettings


class UnrankedError(UserError):
  """A ranking cannot order one chain; others it may."""


class RankingInput(NamedTuple):
  """One chain, as rankings see it."""

  chain_id: str
  segments: Segments
  tokens: tuple[str, ...]  # texts of the reasoning tokens, N
  unit_sizes: tuple[int, ...] | None = None  # tokens of each unit, as in `PrunePath`
  extra: Mapping[str, Any] = {}  # further keys of the chain's record


class RankedTokens(NamedTuple):
  """The order in which a chain's reasoning tokens leave, by a ranking."""

  order: list[int]  # all N reasoning positions, first deleted first
  positions_scored: int = 0  # token positions that went through the model for it


RankTokens = Callable[[RankingInput], RankedTokens]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankingSettings:
  """Settings of all rankings; each reads what it needs.

  Attributes:
    objective: objective that `gradient` differentiates.
    seed: seed of the rankings that draw at random.
    attention_layers: layers that `attention` reads, negative ones from the last; empty: all.
    attention_heads: heads of those layers that `attention` reads; empty: all.
    attention_regression: file of the fitted regression that the ranking of this name reads.
    llmlingua_model: the classifier of `llmlingua`.
    text_model: the teacher that compresses for `text_model`.
    endpoint: endpoint of that teacher, if it is at one.
    keep_ratios: keep ratios to which it is asked to compress.
    folder: the workdir, where its replies are stored; None: a temporary one.
  """

  objective: Objective = "joint"
  seed: int = 0
  attention_layers: tuple[int, ...] = ()
  attention_heads: tuple[int, ...] = ()
  attention_regression: str = ""
  llmlingua_model: str = ""
  text_model: str = ""
  endpoint: EndpointSettings | None = None
  keep_ratios: tuple[float, ...] = ()
  folder: Path | None = None


def order_of_units(order: Sequence[int], unit_sizes: Sequence[int]) -> list[int]:
  """The order in which units leave where tokens would leave in a given one.

  A unit's place is the mean of its tokens' prune ranks, so that a long unit does not stay for one
  good token; of equals, the lower unit leaves first. A mean over few tokens lies further from the
  middle than one over many: whoever wants long and short units alike gives all tokens of a unit
  one importance.

  Args:
    order: all N reasoning positions, first deleted first.
    unit_sizes: tokens of each unit, which add up to N.

  Returns:
    All positions, those of a unit one after the other.
  """
  ranks = np.empty(len(order))
  ranks[list(order)] = np.arange(len(order))
  starts = unit_starts(unit_sizes)
  means = np.add.reduceat(ranks, starts) / np.asarray(unit_sizes)
  return [
    position
    for unit in by_importance(means)
    for position in range(starts[unit], starts[unit] + unit_sizes[unit])
  ]


def by_importance(importance: Shaped[np.ndarray, " N"]) -> list[int]:
  """Positions, the least important first; of equals, the lower position."""
  return [int(position) for position in np.argsort(importance, kind="stable")]
