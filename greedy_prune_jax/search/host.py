"""The host's side of greedy search: a batch of chains, from where they are down to the end.

The device runs one length bucket at a time (`greedy.prune_steps`); between two buckets, and at
least every so often, the host takes over what was found, so that it can be shown and stored.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.parallel import DATA, axis_size, place_batch
from greedy_prune_jax.scoring.objectives import Objective
from greedy_prune_jax.scoring.packing import Text, pair_width
from greedy_prune_jax.scoring.scorer import AttentionKind, CachedPrompt, Program
from greedy_prune_jax.scoring.shortlist import Estimates, ShortlistPlan, no_estimates
from greedy_prune_jax.search import buckets
from greedy_prune_jax.search.greedy import Steps, prune_steps, start_chains
from greedy_prune_jax.search.path import PrunePath
from greedy_prune_jax.search.screen import ScreenSettings, plan_shortlist, screened_positions


class SearchSettings(NamedTuple):
  """What a search is to do, and how."""

  objective: Objective
  block_positions: int  # positions that go through the model at once, over the whole batch
  seconds_between_reports: float = 30.0
  attention: AttentionKind = "xla"  # how packed rows attend
  screen: ScreenSettings | None = None  # None: every candidate is scored exactly
  check: bool = False  # see `prune_steps`
  deletions_per_step: int = 1  # units that are deleted from one scoring


def prune_paths(
  model: Model,
  paths: Sequence[PrunePath],
  settings: SearchSettings,
  report: Callable[[Sequence[PrunePath]], None] = lambda paths: None,
) -> list[PrunePath]:
  """Searches on every path of one batch until it is finished.

  Args:
    model: the pruner.
    paths: fresh ones, or those of an interrupted run. Chains of like length waste least.
    settings: the search.
    report: gets the longer paths, in the order of `paths`, each time that they have grown.

  Returns:
    The finished paths, in the order of `paths`.
  """
  count = len(paths)
  current = _filled_up(paths, axis_size(model.params, DATA))
  prompts, speed = None, None  # speed: positions per second of the last call
  while not all(path.finished for path in current):
    started = time.monotonic()
    plan = _BatchPlan(model, current, settings)
    prompts = plan.start_prompts() if prompts is None else prompts
    program, floors, pauses = plan.next_bucket(speed)
    steps = prune_steps(
      plan.graph,
      model.inference_params,
      prompts,
      plan.current_texts(program),
      plan.estimates(program),
      *plan.place((np.asarray(floors, np.int32), np.asarray(pauses, np.int32))),
      program=program,
      shortlist=plan.shortlist(program),
      check=settings.check,
      most_deletions=settings.deletions_per_step,
    )
    steps = jax.device_get(steps)
    elapsed = time.monotonic() - started
    num_running = sum(not path.finished for path in current)
    longer = [
      path
      if path.finished
      else _extended(
        path, steps, row, elapsed / num_running, keep_known=settings.screen is not None
      )
      for row, path in enumerate(current)
    ]
    speed = (_positions(longer) - _positions(current)) / elapsed
    current = longer
    report(current[:count])
  return current[:count]


def _positions(paths: Sequence[PrunePath]) -> int:
  return sum(path.positions_scored for path in paths)


def _filled_up(paths: Sequence[PrunePath], multiple: int) -> list[PrunePath]:
  """The paths, and as many finished ones as make their number a multiple."""
  whole = len(paths[0].segments.reasoning)
  nothing_left = dataclasses.replace(paths[0], floor=whole, deleted=(), nll={"joint": (0.0,)})
  return [*paths, *[nothing_left] * (-len(paths) % multiple)]


class _BatchPlan:
  """Sizes and arrays of a batch at each of its stages."""

  def __init__(self, model: Model, paths: Sequence[PrunePath], settings: SearchSettings):
    self.model, self.paths, self.settings = model, paths, settings
    self.num_prompt = max(len(path.segments.prompt) for path in paths)
    longest = max(len(path.segments) for path in paths)
    self.graph = model.graph_for(longest)

  def place(self, arrays: Any) -> Any:
    """Puts arrays with an axis of chains beside the model."""
    return place_batch(arrays, self.model.params)

  def start_prompts(self) -> CachedPrompt:
    """Runs the prompts, once; the cache has no room for texts yet."""
    ids = np.zeros((len(self.paths), buckets.prompt_capacity(self.num_prompt)))
    lengths = [len(path.segments.prompt) for path in self.paths]
    for row, path in zip(ids, self.paths, strict=True):
      row[: len(path.segments.prompt)] = path.segments.prompt
    return start_chains(
      self.graph,
      self.model.inference_params,
      *self.place((ids.astype(np.int32), np.asarray(lengths, np.int32))),
    )

  def _needed_width(self, path: PrunePath, num_reasoning: int) -> int:
    return pair_width(num_reasoning, len(path.segments.answer))

  def next_bucket(self, speed: float | None) -> tuple[Program, list[int], list[int]]:
    """The program for the longest unfinished chain, and how far down each chain goes in it.

    Returns:
      the program; the reasoning tokens at which each chain leaves the bucket; and those, not fewer,
      at which it returns to the host, which changes no result.
    """
    lengths = [len(path.kept) for path in self.paths]
    units = [None if path.unit_sizes is None else len(path.kept_units) for path in self.paths]
    needed = [
      0 if path.finished else self._needed_width(path, n)
      for path, n in zip(self.paths, lengths, strict=True)
    ]
    finest = buckets.finest_width(self.model.platform, screened=self.settings.screen is not None)
    width = buckets.bucket_width(max(needed), finest)
    budget = 0.0 if speed is None else speed * self.settings.seconds_between_reports
    budget /= sum(not path.finished for path in self.paths)
    floors, pauses = [], []
    for path, n, num_units in zip(self.paths, lengths, units, strict=True):
      floor = n if path.finished else path.floor
      if self.settings.deletions_per_step > 1:
        floor = max([floor, *(mark for mark in path.marks if mark < n)])
      floors.append(min(floor, n))
      through = buckets.bucket_floor(width, len(path.segments.answer), finest)
      bucket = max(floors[-1], through)
      size = max(n // (num_units or n or 1), 1)  # of a unit, on average
      cost = self._cost_of_deletion(path, size)
      pauses.append(buckets.affordable_floor(n, min(bucket, n), budget, cost, size))
    program = buckets.plan_program(
      width=width,
      num_prompt=self.num_prompt,
      num_answers=[len(path.segments.answer) for path in self.paths],
      block_positions=self.settings.block_positions,
      objective=self.settings.objective,
      token_units=all(path.unit_sizes is None for path in self.paths),
      attention=self.settings.attention,
      num_units=max(num_units or n for num_units, n in zip(units, lengths, strict=True)),
      finest=finest,
    )
    return program, floors, pauses

  def _cost_of_deletion(self, path: PrunePath, size: int) -> Callable[[int], float]:
    """Positions of a step at so many reasoning tokens, about, over its deletions."""
    screen, answer = self.settings.screen, len(path.segments.answer)
    deletions = self.settings.deletions_per_step

    def positions(num_reasoning: int) -> float:
      if screen is None:
        units = None if path.unit_sizes is None else [size] * (num_reasoning // size)
        step = buckets.step_positions(num_reasoning, answer, units)
      else:
        tail = answer if self.settings.objective == "answer" else 0
        step = screened_positions(num_reasoning, answer, screen, tail, deletions)
      return step / deletions

    return positions

  def shortlist(self, program: Program) -> ShortlistPlan | None:
    """Shortlist plan of a bucket's program; None for an exact search."""
    if self.settings.screen is None:
      return None
    positions = self.settings.block_positions / len(self.paths)
    deletions = self.settings.deletions_per_step
    return plan_shortlist(self.settings.screen, program, positions, deletions)

  def estimates(self, program: Program) -> Estimates:
    """Estimates of the units of each chain, in arrays of the bucket's sizes."""
    arrays = no_estimates((len(self.paths), program.text))
    for row, path in enumerate(self.paths):
      if path.known is not None and not path.finished:
        if other := sorted(set(path.known) - set(arrays)):
          raise UserError(
            f"the workdir's unfinished chains have estimates of another version "
            f"({', '.join(other)}); finish them with that version, or remove the workdir's folder "
            f"unfinished to begin them again"
          )
        for name, known in path.known.items():
          place = (row, slice(len(known))) if isinstance(known, list) else row
          arrays[name][place] = known
    return Estimates(**self.place(arrays))

  def current_texts(self, program: Program) -> Text:
    """The chains as they stand, in arrays of the bucket's sizes."""
    ids = np.zeros((len(self.paths), program.text), np.int32)
    unit_sizes = np.zeros_like(ids)
    counts = np.zeros((3, len(self.paths)), np.int32)  # reasoning, answer, units
    for row, path in enumerate(self.paths):
      kept, units = path.kept, path.kept_units
      text = np.concatenate([path.segments.reasoning[kept], path.segments.answer])
      if path.finished:  # it may be longer than the bucket of those that are not
        text, units = text[: program.text], units[: program.text]
      ids[row, : len(text)] = text
      unit_sizes[row, : len(units)] = [len(unit) for unit in units]
      counts[:, row] = len(kept), len(path.segments.answer), len(units)
    return Text(*self.place((ids, counts[0], counts[1], unit_sizes, counts[2])))


def _extended(
  path: PrunePath, steps: Steps, row: int, seconds: float, *, keep_known: bool
) -> PrunePath:
  """A path with the deletions of one call behind its own; `row` is its place in the batch."""
  count = int(steps.num_deleted[row])
  units, deleted = path.kept_units, list(path.deleted)
  for unit in steps.deleted[row, :count].tolist():
    deleted.extend(units.pop(unit))
  # Item 0 of a call is the chain as the call began: known already, but for the first call.
  first = 1 if path.nll["joint"] else 0
  nll = {
    name: (*path.nll[name], *map(_finite_or_none, values[row, first : count + 1].tolist()))
    for name, values in steps.nll._asdict().items()
  }
  tally = dict(path.tally)
  for name, values in steps.tally._asdict().items():
    of_steps = values[row, :count].tolist() if values.ndim > 1 else [values[row].item()]
    tally[name] = sum(of_steps, tally.get(name, 0))
  longer = dataclasses.replace(
    path,
    deleted=tuple(deleted),
    nll=nll,
    tally=tally,
    finite=bool(steps.finite[row]),
    seconds=path.seconds + seconds,
  )
  positions = int(tally.pop("positions")) + (0 if first else len(path.segments.prompt))
  if not longer.finished:  # the first pass of the next call repeats the last of this one
    positions -= sum(map(len, units)) + len(path.segments.answer) - 1
  known = None
  if keep_known:
    known = {
      name: x[row, : len(units)].tolist() if x.ndim > 1 else x[row].item()
      for name, x in steps.estimates._asdict().items()
    }
  return dataclasses.replace(
    longer, positions_scored=path.positions_scored + positions, known=known
  )


def _finite_or_none(value: float) -> float | None:
  return value if math.isfinite(value) else None
