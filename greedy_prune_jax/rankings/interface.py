"""Interface of rankings: a chain goes in, the order in which its tokens leave comes out."""

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
  """A ranking cannot order this chain, but may order others."""


class RankingInput(NamedTuple):
  """One chain, as a ranking sees it."""

  chain_id: str
  segments: Segments
  tokens: tuple[str, ...]  # texts of the N reasoning tokens
  unit_sizes: tuple[int, ...] | None = None  # number of tokens of each unit, as in `PrunePath`
  extra: Mapping[str, Any] = {}  # keys of the chain's record that are not in the format

  @property
  def sizes(self) -> tuple[int, ...]:
    """Number of tokens of each unit, also where every token is one."""
    return self.unit_sizes or (1,) * len(self.tokens)


class RankedTokens(NamedTuple):
  """The order in which a ranking lets a chain's reasoning tokens leave."""

  order: list[int]  # all N reasoning positions, first deleted first
  positions_scored: int = 0  # token positions that the pruner ran to find the order

  @classmethod
  def of(
    cls, importance: Shaped[np.ndarray, " N"], chain: RankingInput, positions_scored: int = 0
  ) -> "RankedTokens":
    """Orders a chain by measures of its tokens; see `by_importance`.

    Raises:
      UnrankedError: a measure is NaN, or all are equal though the chain has several units: the
        order would be that of positions alone.
    """
    num_nan = int(np.isnan(importance).sum())
    if num_nan:
      raise UnrankedError(
        f"chain {chain.chain_id}: the ranking's measure is NaN for {num_nan} of {len(importance)} "
        f"tokens; expected numbers. Leave the chain out, or choose another ranking"
      )
    if len(chain.sizes) > 1 and (importance == importance[0]).all():
      raise UnrankedError(
        f"chain {chain.chain_id}: the ranking's measure is {importance[0]:g} for all its "
        f"{len(importance)} tokens, which gives no order; leave the chain out, or choose another "
        f"ranking"
      )
    return cls(by_importance(importance), positions_scored)


RankTokens = Callable[[RankingInput], RankedTokens]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankingSettings:
  """Settings of all rankings; each ranking reads those that it needs.

  Attributes:
    objective: objective that `gradient` differentiates.
    seed: seed of the random rankings.
    attention_layers: layers that `attention` and `answer_attention` read, negative ones counted
      from the last; empty: all.
    attention_heads: heads of these layers; empty: all.
    attention_regression: file of the regression that `attention_regression` reads.
    other_run: workdir whose orders `other_run` follows.
    llmlingua_model: classifier that `llmlingua` runs.
    text_model: teacher that `text_model` asks.
    endpoint: endpoint of that teacher, if it has one.
    keep_ratios: keep ratios to which chains are pruned.
    folder: workdir that stores the teacher's replies; None: a temporary folder.
  """

  objective: Objective = "joint"
  seed: int = 0
  attention_layers: tuple[int, ...] = ()
  attention_heads: tuple[int, ...] = ()
  attention_regression: str = ""
  other_run: str = ""
  llmlingua_model: str = ""
  text_model: str = ""
  endpoint: EndpointSettings | None = None
  keep_ratios: tuple[float, ...] = ()
  folder: Path | None = None


def order_of_units(order: Sequence[int], unit_sizes: Sequence[int]) -> list[int]:
  """Turns an order of tokens into an order of units.

  Units leave in the order of the mean prune rank of their tokens, so that one good token does not
  save a long unit; of equals, the lower unit leaves first. The mean of a long unit lies nearer to
  the middle than that of a short one. A ranking that is to treat both alike gives all tokens of a
  unit the same importance.

  Args:
    order: all N reasoning positions, first deleted first.
    unit_sizes: number of tokens of each unit; they add up to N.

  Returns:
    All N positions, those of each unit one after the other.
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
  """Positions, the least important first; of equals, the lower position first."""
  return [int(position) for position in np.argsort(importance, kind="stable")]
