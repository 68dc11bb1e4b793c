"""The host's part of greedy search: it takes a batch of chains from any state down to the end.

The device makes many deletions in one call of `greedy.prune_steps`. Between calls the host reads
the deletions, shows and stores them. The state of the chains stays on the device.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.models.sizes import bucket
from greedy_prune_jax.parallel import DATA, axis_size, mesh_of, place_batch
from greedy_prune_jax.scoring.objectives import Objective
from greedy_prune_jax.scoring.racing import RacePlan, most_in_race
from greedy_prune_jax.scoring.scorer import AttentionKind, ChainState, Program
from greedy_prune_jax.scoring.stream import Text
from greedy_prune_jax.search.capacity import (
  Placement,
  block_sizes,
  kept_columns,
  placement_of,
  places_of,
  suffix_positions,
)
from greedy_prune_jax.search.greedy import Known, Steps, prune_steps, start_search
from greedy_prune_jax.search.path import PrunePath
from greedy_prune_jax.search.remembered import pack_known, unpack_known
from greedy_prune_jax.search.screen import ScreenSettings


class SearchSettings(NamedTuple):
  """Objective, method and sizes of a search."""

  objective: Objective
  block_positions: int  # token positions that go through the model at once, on each device
  kept_bytes: float = 1e9  # memory of each device for columns that are kept from step to step
  seconds_between_reports: float = 30.0
  attention: AttentionKind = "xla"  # how a block's slots attend
  screen: ScreenSettings | None = None  # None: every candidate is scored exactly
  check: bool = False  # see `prune_steps`
  deletions_per_step: int = 1  # units that are deleted after one scoring
  by_runs: bool = False  # True to delete runs of units, by `runs.prune_by_runs`
  max_runs: int = 0  # most runs between two marks; 0: as many as make the text there more likely


def prune_paths(
  model: Model,
  paths: Sequence[PrunePath],
  settings: SearchSettings,
  report: Callable[[Sequence[PrunePath]], None] = lambda paths: None,
) -> list[PrunePath]:
  """Searches every path of one batch to its end.

  Args:
    paths: new paths, or unfinished ones of an earlier run.
    report: callback that gets the paths, in the order of `paths`, each time that they have grown.

  Returns:
    The finished paths, in the order of `paths`.
  """
  batch = SearchBatch.of(model, paths, settings)
  current = batch.filled_up(paths)
  if not all(path.finished for path in current):
    _, current = batch.walk(batch.start(current), current, report=report)
  return current[: len(paths)]


@dataclasses.dataclass(frozen=True)
class SearchBatch:
  """Model and program of a batch of chains."""

  model: Model
  graph: nnx.GraphDef  # the model's graph definition for texts of this length
  settings: SearchSettings
  program: Program  # static sizes
  size: int  # number of chains

  @classmethod
  def of(cls, model: Model, paths: Sequence[PrunePath], settings: SearchSettings) -> "SearchBatch":
    """Makes the batch of these paths."""
    program = plan_program(model, _filled_up(paths, axis_size(model.params, DATA)), settings)
    graph = model.graph_for(max(len(path.segments) for path in paths))
    return cls(model, graph, settings, program, len(paths))

  def filled_up(self, paths: Sequence[PrunePath]) -> list[PrunePath]:
    """Adds finished paths until the devices can share all paths evenly."""
    return _filled_up(paths, axis_size(self.model.params, DATA))

  def start(self, paths: Sequence[PrunePath], *, run_texts: bool = False) -> ChainState:
    """Puts the chains, as far as the paths have come, on the device.

    Args:
      paths: result of `filled_up`.
      run_texts: True to run the texts now instead of in the first step.
    """
    arrays = _texts(paths, self.program), _known(paths, self.program)
    texts, known = place_batch(arrays, self.model.params)
    return start_search(
      self.graph,
      self.model.inference_params,
      Text(*texts),
      known,
      program=self.program,
      mesh=mesh_of(self.model.params),
      run_texts=run_texts,
    )

  def walk(
    self,
    chains: ChainState,
    paths: Sequence[PrunePath],
    widths: Sequence[int] | None = None,
    ends: Sequence[bool] | None = None,
    report: Callable[[Sequence[PrunePath]], None] = lambda paths: None,
  ) -> tuple[ChainState, list[PrunePath]]:
    """Searches until every path has reached its floor.

    Args:
      chains: state of the chains; its memory on the device is donated to the result.
      paths: result of `filled_up`.
      widths: least tokens of a deletion for each path, rounded up to whole units; None: one unit.
      ends: chains as in `race_phases`; None: none of them.
      report: callback as in `prune_paths`.
    """
    current, screen, settings = list(paths), self.settings.screen, self.settings
    plan = screen and RacePlan(
      margin=screen.margin, deletions=settings.deletions_per_step, runs=widths is not None
    )
    several = settings.deletions_per_step > 1
    wanted_ends = np.array(ends or [False] * len(paths))
    budget = 0.0  # the first call makes one step, and shows how fast that is
    while not all(path.finished for path in current):
      started = time.monotonic()
      active = np.array([not path.finished for path in current])
      floors = [path.next_mark if several else path.floor for path in current]
      chains, steps = prune_steps(
        self.graph,
        self.model.inference_params,
        chains,
        *place_batch((active, np.array(floors, np.int32), wanted_ends), self.model.params),
        max(budget, 1.0),
        program=self.program,
        mesh=mesh_of(self.model.params),
        plan=plan,
        check=settings.check,
        most_deletions=settings.deletions_per_step,
      )
      known = Known(chains.changes, chains.stale) if screen else None
      steps, known = jax.device_get((steps, known))
      elapsed = time.monotonic() - started
      seconds = elapsed / active.sum()
      longer = [
        path
        if path.finished
        else _extended(path, steps, row, seconds, known, widths[row] if widths else 1)
        for row, path in enumerate(current)
      ]
      done = _positions(longer) - _positions(current)
      budget = (
        done / elapsed / axis_size(self.model.params, DATA) * settings.seconds_between_reports
      )
      current = longer
      report(current[: self.size])
    return chains, current


def plan_program(model: Model, paths: Sequence[PrunePath], settings: SearchSettings) -> Program:
  """Static sizes of a batch, rounded up to a few values so that few programs are compiled."""
  chains = len(paths) // axis_size(model.params, DATA)
  placement = placement_of(model)
  kept, pooled = plan_kept(model.config, paths, settings, chains, placement)
  sizes = block_sizes(
    settings.block_positions,
    placement.platform,
    placement.slot_shards,
    races=settings.screen is not None,
  )
  return Program(
    places=max(places_of(path.segments) for path in paths),
    units=bucket(max(len(path.sizes) for path in paths), 64),
    kept=kept,
    pooled=pooled,
    objective=settings.objective,
    attention=settings.attention,
    window=settings.screen.window if settings.screen else 0,
    **sizes,
  )


def plan_kept(
  config: ModelConfig,
  paths: Sequence[PrunePath],
  settings: SearchSettings,
  chains: int,
  placement: Placement,
) -> tuple[int, bool]:
  """Columns that a search keeps for each chain of a batch, of a model that need not be loaded.

  Args:
    config: config of the pruner.
    paths: paths of the chains.
    settings: settings of the search.
    chains: number of chains on a device.
    placement: place of the model.

  Returns:
    The columns, and True where candidates of a race share them because not all have room.
  """
  needed = max(suffix_positions(path.segments, path.unit_sizes) for path in paths)
  kept = kept_columns(config, needed, chains, settings.kept_bytes, placement)
  if settings.screen is None or kept >= needed:
    return kept, False
  places = max(places_of(path.segments) for path in paths)
  racing = most_in_race(settings.deletions_per_step, runs=settings.by_runs)
  return min(kept // places, racing) * places, True


def _texts(paths: Sequence[PrunePath], program: Program) -> tuple[np.ndarray, ...]:
  """The texts of the chains now, as the fields of `Text`."""
  ids = np.zeros((len(paths), program.places), np.int32)
  unit_sizes = np.zeros((len(paths), program.units), np.int32)
  counts = np.zeros((4, len(paths)), np.int32)  # prompt, reasoning, answer, units
  for row, path in enumerate(paths):
    segments, kept, units = path.segments, path.kept, path.kept_units
    text = np.concatenate([segments.prompt, segments.reasoning[kept], segments.answer])
    ids[row, : len(text)] = text
    unit_sizes[row, : len(units)] = [len(unit) for unit in units]
    counts[:, row] = len(segments.prompt), len(kept), len(segments.answer), len(units)
  return ids, *counts[:3], unit_sizes, counts[3], np.ones(len(paths), np.int32)


def _known(paths: Sequence[PrunePath], program: Program) -> Known | None:
  """Memories of an interrupted run's races, one for each chain; None if there are none."""
  rows = [None if path.finished else path.known for path in paths]
  if not any(rows):
    return None
  changes = np.zeros((len(paths), program.units, program.places), jnp.bfloat16)
  stale = np.ones((len(paths), program.units), bool)
  for row, (path, known) in enumerate(zip(paths, rows, strict=True)):
    if known:
      shape = len(path.kept_units), len(path.segments) - len(path.deleted)
      of_row = unpack_known(known, shape)
      changes[row, : shape[0], : shape[1]], stale[row, : shape[0]] = of_row
  return Known(changes, stale)


def _positions(paths: Sequence[PrunePath]) -> int:
  return sum(path.positions_scored for path in paths)


def _filled_up(paths: Sequence[PrunePath], multiple: int) -> list[PrunePath]:
  """Adds finished paths until the number of paths is a multiple of `multiple`."""
  whole = len(paths[0].segments.reasoning)
  nothing_left = dataclasses.replace(paths[0], floor=whole, deleted=(), nll={"joint": (0.0,)})
  return [*paths, *[nothing_left] * (-len(paths) % multiple)]


def _extended(
  path: PrunePath, steps: Steps, row: int, seconds: float, known: Known | None, width: int
) -> PrunePath:
  """Appends the deletions of one call to a path; `row` is the path's place in the batch."""
  count = int(steps.num_deleted[row])
  units, deleted, sizes = path.kept_units, list(path.deleted), []
  for unit in steps.deleted[row, :count].tolist():
    size = _units_deleted(units, unit, width)
    for gone in units[unit : unit + size]:
      deleted.extend(gone)
    del units[unit : unit + size]
    sizes.append(size)
  # Item 0 of a call scores the chain before its first deletion, which earlier calls have done.
  first = 1 if path.nll["joint"] else 0
  nll = {
    name: (*path.nll[name], *_spread(values[row, : count + 1].tolist(), sizes)[first:])
    for name, values in steps.nll._asdict().items()
  }
  tally = dict(path.tally)
  for name, values in steps.tally._asdict().items():
    of_steps = values[row, :count].tolist() if values.ndim > 1 else [values[row].item()]
    tally[name] = sum(of_steps, tally.get(name, 0))
  positions = int(tally.pop("positions"))
  longer = dataclasses.replace(
    path,
    deleted=tuple(deleted),
    nll=nll,
    tally=tally,
    finite=bool(steps.finite[row]),
    seconds=path.seconds + seconds,
    positions_scored=path.positions_scored + positions,
  )
  if known is None:
    return longer
  left, places = len(units), len(longer.segments) - len(longer.deleted)
  packed = pack_known(known.changes[row, :left, :places], known.stale[row, :left])
  return dataclasses.replace(longer, known=packed)


def _units_deleted(units: Sequence[Sequence[int]], first: int, width: int) -> int:
  """Number of units from `first` on that make up `width` tokens or more."""
  stop, tokens = first, 0
  while tokens < width:
    tokens += len(units[stop])
    stop += 1
  return stop - first


def _spread(values: Sequence[float], sizes: Sequence[int]) -> list[float | None]:
  """Spreads NLLs after each deletion over its units; all units but a deletion's last get None."""
  spread = [_finite_or_none(values[0])]
  for value, size in zip(values[1:], sizes, strict=True):
    spread += [None] * (size - 1) + [_finite_or_none(value)]
  return spread


def _finite_or_none(value: float) -> float | None:
  return value if math.isfinite(value) else None
