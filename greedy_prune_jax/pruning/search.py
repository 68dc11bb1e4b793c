"""The host's side of greedy search: a batch of chains, from where they are down to the end.

The device runs one length bucket at a time (`greedy.prune_steps`); between two buckets, and at
least every so often, the host takes over what was found, so that it can be shown and stored.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from greedy_prune_jax.chains.segments import Segments
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.parallel import DATA, axis_size, place_batch
from greedy_prune_jax.pruning import buckets
from greedy_prune_jax.pruning.greedy import Steps, prune_steps, start_chains
from greedy_prune_jax.scoring.exact import Sizes
from greedy_prune_jax.scoring.objectives import Objective
from greedy_prune_jax.scoring.packing import Text, row_width
from greedy_prune_jax.scoring.scorer import Attention, Prompt


@dataclasses.dataclass
class PrunePath:
  """What the search has found on one chain so far; grows as the search goes on.

  Attributes:
    segments: the chain's tokens.
    floor: reasoning tokens at which the search ends.
    unit_sizes: tokens of each unit of the whole reasoning, in order; None: every token is one.
    deleted: original reasoning positions, first deleted first.
    nll: `joint`, `answer`, `reasoning`: mean NLLs in nats per token; item k after k deletions of a
      unit. None stands for the NLL of no tokens. Empty until the first step.
    positions_scored: token positions that have gone through the model.
    seconds: wall time, a batch's shared evenly among its running chains.
    finite: False once a NLL was NaN or infinite; the search on this chain has stopped.
  """

  segments: Segments
  floor: int
  unit_sizes: tuple[int, ...] | None = None
  deleted: list[int] = dataclasses.field(default_factory=list)
  nll: dict[str, list[float | None]] = dataclasses.field(
    default_factory=lambda: {"joint": [], "answer": [], "reasoning": []}
  )
  positions_scored: int = 0
  seconds: float = 0.0
  finite: bool = True

  @property
  def num_deletions(self) -> int:
    """Units that were deleted."""
    return max(len(self.nll["joint"]) - 1, 0)

  @property
  def kept(self) -> list[int]:
    """Original positions of the reasoning tokens that are left."""
    gone = set(self.deleted)
    return [i for i in range(len(self.segments.reasoning)) if i not in gone]

  @property
  def kept_units(self) -> list[list[int]]:
    """Original positions of the tokens of each unit that is left."""
    sizes = self.unit_sizes or (1,) * len(self.segments.reasoning)
    stops = np.cumsum(sizes)
    gone = set(self.deleted)
    units = (list(range(stop - size, stop)) for size, stop in zip(sizes, stops, strict=True))
    return [unit for unit in units if unit[0] not in gone]

  @property
  def finished(self) -> bool:
    """Whether the search has nothing left to do on this chain."""
    left = len(self.segments.reasoning) - len(self.deleted)
    return bool(self.nll["joint"]) and (left <= self.floor or not self.finite)


class Settings(NamedTuple):
  """How a search runs; nothing here changes what it finds."""

  objective: Objective
  block_positions: int  # positions that go through the model at once, over the whole batch
  seconds_between_reports: float = 30.0
  attention: Attention = "xla"  # how packed rows attend


def prune_paths(
  model: Model,
  paths: Sequence[PrunePath],
  settings: Settings,
  report: Callable[[], None] = lambda: None,
) -> None:
  """Searches on every path of one batch until it is finished; extends the paths in place.

  Args:
    model: the pruner.
    paths: fresh ones, or with what an earlier run had found. Chains of like length waste least.
    settings: the search.
    report: called each time that the paths have grown.
  """
  paths = _filled_up(paths, axis_size(model.params, DATA))
  plan = _BatchPlan(model, paths, settings)
  prompts = plan.start_prompts()
  speed = None  # positions per second of the last call
  while not all(path.finished for path in paths):
    started = time.monotonic()
    sizes, floors = plan.next_bucket(speed)
    steps = prune_steps(
      model.graph,
      model.params,
      prompts,
      plan.current_texts(sizes),
      plan.place(np.asarray(floors, np.int32)),
      sizes=sizes,
      objective=settings.objective,
    )
    before = sum(path.positions_scored for path in paths)
    running = [path for path in paths if not path.finished]
    _extend(paths, jax.device_get(steps))
    elapsed = time.monotonic() - started
    for path in running:
      path.seconds += elapsed / len(running)
    speed = (sum(path.positions_scored for path in paths) - before) / elapsed
    report()


def _filled_up(paths: Sequence[PrunePath], multiple: int) -> list[PrunePath]:
  """The paths, and as many finished ones as make their number a multiple."""
  whole = len(paths[0].segments.reasoning)
  nothing_left = dataclasses.replace(paths[0], floor=whole, deleted=[], nll={"joint": [0.0]})
  return [*paths, *[nothing_left] * (-len(paths) % multiple)]


class _BatchPlan:
  """Sizes and arrays of a batch at each of its stages."""

  def __init__(self, model: Model, paths: Sequence[PrunePath], settings: Settings):
    self.model, self.paths, self.settings = model, paths, settings
    self.num_prompt = max(len(path.segments.prompt) for path in paths)
    self.max_length = None
    if any(rope.kind in ("dynamic", "longrope") for rope in model.config.ropes):
      self.max_length = max(sum(map(len, dataclasses.astuple(path.segments))) for path in paths)

  def place(self, arrays: Any) -> Any:
    """Puts arrays with an axis of chains beside the model."""
    return place_batch(arrays, self.model.params)

  def start_prompts(self) -> Prompt:
    """Runs the prompts, once; the cache has no room for texts yet."""
    ids = np.zeros((len(self.paths), buckets.round_up(self.num_prompt, buckets.PROMPT_MULTIPLE)))
    lengths = [len(path.segments.prompt) for path in self.paths]
    for row, path in zip(ids, self.paths, strict=True):
      row[: len(path.segments.prompt)] = path.segments.prompt
    return start_chains(
      self.model.graph,
      self.model.params,
      *self.place((ids.astype(np.int32), np.asarray(lengths, np.int32))),
      max_length=self.max_length,
    )

  def _needed_width(self, path: PrunePath, num_reasoning: int) -> int:
    return row_width(num_reasoning, len(path.segments.answer))

  def next_bucket(self, speed: float | None) -> tuple[Sizes, list[int]]:
    """The program for the longest unfinished chain, and how far down each chain goes in it."""
    lengths = [len(path.kept) for path in self.paths]
    units = [None if path.unit_sizes is None else len(path.kept_units) for path in self.paths]
    needed = [
      0 if path.finished else self._needed_width(path, n)
      for path, n in zip(self.paths, lengths, strict=True)
    ]
    width = buckets.bucket_width(max(needed))
    budget = 0.0 if speed is None else speed * self.settings.seconds_between_reports
    budget /= sum(not path.finished for path in self.paths)
    floors = []
    for path, n, num_units in zip(self.paths, lengths, units, strict=True):
      answer = len(path.segments.answer)
      floor = n if path.finished else max(path.floor, buckets.bucket_floor(width, answer))
      floors.append(buckets.affordable_floor(n, answer, min(floor, n), budget, num_units))
    sizes = buckets.plan_sizes(
      width=width,
      num_prompt=self.num_prompt,
      num_answers=[len(path.segments.answer) for path in self.paths],
      block_positions=self.settings.block_positions,
      objective=self.settings.objective,
      max_length=self.max_length,
      token_units=all(path.unit_sizes is None for path in self.paths),
      attention=self.settings.attention,
      num_units=max(num_units or n for num_units, n in zip(units, lengths, strict=True)),
    )
    return sizes, floors

  def current_texts(self, sizes: Sizes) -> Text:
    """The chains as they stand, in arrays of the bucket's sizes."""
    ids = np.zeros((len(self.paths), sizes.text), np.int32)
    unit_sizes = np.zeros_like(ids)
    counts = np.zeros((3, len(self.paths)), np.int32)  # reasoning, answer, units
    for row, path in enumerate(self.paths):
      kept, units = path.kept, path.kept_units
      text = np.concatenate([path.segments.reasoning[kept], path.segments.answer])
      # A chain that is through may be longer than the bucket of those that are not.
      text = text[: sizes.text] if path.finished else text
      ids[row, : len(text)] = text
      unit_sizes[row, : len(units)] = [len(unit) for unit in units]
      counts[:, row] = len(kept), len(path.segments.answer), len(units)
    return Text(*self.place((ids, counts[0], counts[1], unit_sizes, counts[2])))


def _extend(paths: Sequence[PrunePath], steps: Steps) -> None:
  """Adds what one call found to each path that was still running."""
  for row, path in enumerate(paths):
    if path.finished:
      continue
    if not path.nll["joint"]:
      path.positions_scored += len(path.segments.prompt)
    count = int(steps.num_deleted[row])
    units, answer = path.kept_units, len(path.segments.answer)
    for unit in steps.deleted[row, :count].tolist():
      left = sum(map(len, units))
      sizes = None if path.unit_sizes is None else [len(unit) for unit in units]
      path.positions_scored += buckets.step_positions(left, answer, sizes)
      path.deleted.extend(units.pop(unit))
    for name, values in steps.nll._asdict().items():
      known = path.nll[name]
      # Item 0 of a call is the chain as the call found it: known already, but for the first call.
      fresh = values[row, : count + 1][1 if known else 0 :]
      known.extend(float(x) if np.isfinite(x) else None for x in fresh)
    path.finite = bool(steps.finite[row])
    if path.finished and path.finite:
      path.positions_scored += sum(map(len, units)) + answer - 1  # the last pass, for its NLL
