"""The state of a search on one chain, as a value: what was deleted so far, and what that cost."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from greedy_prune_jax.chains.chain import unit_starts
from greedy_prune_jax.chains.segments import Segments


@dataclasses.dataclass(frozen=True)
class PrunePath:
  """Deletions of one chain so far, and their NLLs; a search returns a longer path."""

  segments: Segments  # the chain's tokens
  floor: int  # reasoning tokens at which the search ends
  # Tokens of each unit of the whole reasoning, in order; None: every token is one.
  unit_sizes: tuple[int, ...] | None = None
  deleted: Sequence[int] = ()  # original reasoning positions, first deleted first
  # `joint`, `answer`, `reasoning`: mean NLLs in nats per token; item k after k deletions of a unit.
  # None stands for the NLL of no tokens. Empty until the first step.
  nll: Mapping[str, Sequence[float | None]] = dataclasses.field(
    default_factory=lambda: {"joint": (), "answer": (), "reasoning": ()}
  )
  positions_scored: int = 0  # token positions that have gone through the model
  seconds: float = 0.0  # wall time, a batch's shared evenly among its running chains
  # `Estimates` of the remaining units, from which a screened search continues.
  known: Mapping[str, Any] | None = None
  # `Tally` of all calls, but for positions.
  tally: Mapping[str, float] = dataclasses.field(default_factory=dict)
  # Numbers of tokens left at which the NLL is wanted even where several units are deleted from one
  # scoring; the NLLs between scorings are not known.
  marks: tuple[int, ...] = ()
  finite: bool = True  # False once a NLL was NaN or infinite; the search on this chain has stopped

  @property
  def num_deletions(self) -> int:
    """Units that were deleted."""
    return max(len(self.nll["joint"]) - 1, 0)

  @property
  def sizes(self) -> tuple[int, ...]:
    """Number of tokens of each unit, also where every token is one."""
    return self.unit_sizes or (1,) * len(self.segments.reasoning)

  @property
  def deleted_sizes(self) -> tuple[int, ...]:
    """Number of tokens of each unit that was deleted, first deleted first."""
    size_at = dict(zip(unit_starts(self.sizes), self.sizes, strict=True))
    return tuple(size_at[position] for position in self.deleted if position in size_at)

  @property
  def tokens_gone(self) -> list[int]:
    """Tokens that had left after each number of deletions, from 0 on."""
    return [0, *itertools.accumulate(self.deleted_sizes)]

  @property
  def move_sizes(self) -> tuple[int, ...]:
    """Tokens that left together, of each deletion of a search by runs."""
    gone = self.tokens_gone
    scored = [gone[k] for k, nll in enumerate(self.nll["joint"]) if nll is not None]
    return tuple(after - before for before, after in itertools.pairwise(scored))

  @property
  def digest(self) -> str:
    """Of the whole chain's tokens and units: what was found holds for no other."""
    listed = [[int(token) for token in part] for part in self.segments.parts]
    text = json.dumps([*listed, self.unit_sizes and list(self.unit_sizes)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]

  @property
  def state(self) -> dict[str, Any]:
    """All that a search finds, by field: what to keep of a path in order to go on from it."""
    fields = ("deleted", "nll", "positions_scored", "seconds", "known", "tally")
    return {field: getattr(self, field) for field in fields}

  @property
  def kept(self) -> list[int]:
    """Original positions of the reasoning tokens that are left."""
    gone = set(self.deleted)
    return [i for i in range(len(self.segments.reasoning)) if i not in gone]

  @property
  def kept_units(self) -> list[list[int]]:
    """Original positions of the tokens of each unit that is left."""
    starts, gone = unit_starts(self.sizes), set(self.deleted)
    units = (list(range(start, start + n)) for start, n in zip(starts, self.sizes, strict=True))
    return [unit for unit in units if unit[0] not in gone]

  @property
  def next_mark(self) -> int:
    """Tokens left at the next mark, or at the floor."""
    left = len(self.segments.reasoning) - len(self.deleted)
    return max([self.floor, *(mark for mark in self.marks if mark < left)])

  @property
  def finished(self) -> bool:
    """True when the search has nothing left to do on this chain."""
    left = len(self.segments.reasoning) - len(self.deleted)
    return bool(self.nll["joint"]) and (left <= self.floor or not self.finite)
