"""Search by runs of units: whole passages go where single units cannot show that they may.

A greedy search of single units is myopic: each step costs little, and what is left after many of
them is unlike any text. Here a chain comes from one of its marks (the sizes at which its NLL is
wanted) to the next by few deletions of long runs: by one run of the size that has to go (no longer
than its last unit makes it), then by two of half of it, by four, and so on, each time from the same
text, for as long as the text at the mark gets better and the runs are not more than wanted. A
beginning and an end of the text are runs too, so what truncation leaves of the same text is never
better.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.parallel import place_batch
from greedy_prune_jax.scoring.scorer import ChainState
from greedy_prune_jax.search.greedy import SAME_NLL, with_widths
from greedy_prune_jax.search.host import SearchBatch, SearchSettings
from greedy_prune_jax.search.path import PrunePath


def prune_by_runs(
  model: Model,
  paths: Sequence[PrunePath],
  settings: SearchSettings,
  report: Callable[[Sequence[PrunePath]], None] = lambda paths: None,
) -> list[PrunePath]:
  """Searches on every path of one batch until it is finished; arguments as of `prune_paths`."""
  # What is kept of candidates is of use to runs of one size alone.
  batch = SearchBatch.of(model, paths, settings._replace(kept_bytes=0.0))
  current = batch.filled_up(paths)
  while not all(path.finished for path in current):
    current = _to_next_marks(batch, current, report)
    report(current[: len(paths)])
  return current[: len(paths)]


def _to_next_marks(
  batch: SearchBatch, paths: Sequence[PrunePath], report: Callable[[Sequence[PrunePath]], None]
) -> list[PrunePath]:
  """Every path that is not finished, longer by the best attempt at its next mark.

  On the way `report` gets the paths as they were, with what the attempts have cost so far.
  """
  text = batch.start(paths, run_texts=True)
  best, active, parts = list(paths), [not path.finished for path in paths], 1
  spent = [_with_text(path) for path in paths]
  while any(active):
    starts = [
      _aim(path, path.next_mark if on else len(path.kept))
      for path, on in zip(paths, active, strict=True)
    ]

    def report_costs(current, spent=tuple(spent)):  # of the chains that were asked for
      report([_with_costs(*each) for each in zip(spent, current, paths, strict=False)])

    tried = _attempt(batch, text, starts, parts, report_costs)
    for row, path in enumerate(tried):
      if active[row]:
        spent[row] = _with_costs(spent[row], path, paths[row])
        better = parts == 1 or _nll(batch, path) < _nll(batch, best[row]) - SAME_NLL
        best[row] = path if better else best[row]
        active[row] = better and path.finite and parts < _missing(starts[row])
    parts *= 2
    if 0 < batch.settings.max_runs < parts:
      break
  return [
    dataclasses.replace(
      _aim(path, start.floor),
      positions_scored=cost.positions_scored,
      seconds=cost.seconds,
      tally=cost.tally,
    )
    for path, cost, start in zip(best, spent, paths, strict=True)
  ]


def _attempt(
  batch: SearchBatch,
  text: ChainState,
  paths: Sequence[PrunePath],
  parts: int,
  report: Callable[[Sequence[PrunePath]], None],
) -> list[PrunePath]:
  """The paths down to their floors in runs of one size, of which `parts` would do, and a rest."""
  widths = [max(-(-_missing(path) // parts), 1) for path in paths]
  almost = [_aim(path, path.floor + width - 1) for path, width in zip(paths, widths, strict=True)]
  # What truncation leaves at a mark is one deletion from the text.
  ends = [parts == 1] * len(paths)
  chains, walked = _walk(batch, text, almost, widths, ends, report)
  last = [_aim(path, start.floor) for path, start in zip(walked, paths, strict=True)]
  if all(path.finished for path in last):
    return last
  rest = [max(_missing(path), 1) for path in last]
  return _walk(batch, chains, last, rest, ends, report)[1]


def _walk(
  batch: SearchBatch,
  chains: ChainState,
  paths: Sequence[PrunePath],
  widths: Sequence[int],
  ends: Sequence[bool],
  report: Callable[[Sequence[PrunePath]], None],
) -> tuple[ChainState, list[PrunePath]]:
  placed = place_batch((np.array(widths, np.int32),), batch.model.params)
  return batch.walk(with_widths(chains, *placed), paths, widths, ends, report)


def _missing(path: PrunePath) -> int:
  """Tokens that are to go."""
  return len(path.kept) - path.floor


def _aim(path: PrunePath, floor: int) -> PrunePath:
  """A path to another floor, without a race's memory, which is of runs of another size."""
  return dataclasses.replace(path, floor=floor, known=None)


def _nll(batch: SearchBatch, path: PrunePath) -> float:
  nll = path.nll[batch.settings.objective][-1]
  return float("inf") if nll is None else nll


def _with_text(path: PrunePath) -> PrunePath:
  """A path with the run of its text, if it has anything left to do."""
  more = 0 if path.finished else len(path.segments) - len(path.deleted) - 1
  return dataclasses.replace(path, positions_scored=path.positions_scored + more)


def _with_costs(total: PrunePath, path: PrunePath, start: PrunePath) -> PrunePath:
  """The first path with what the second has cost since the third."""
  tally = {
    name: total.tally.get(name, 0) + value - start.tally.get(name, 0)
    for name, value in path.tally.items()
  }
  return dataclasses.replace(
    total,
    positions_scored=total.positions_scored + path.positions_scored - start.positions_scored,
    seconds=total.seconds + path.seconds - start.seconds,
    tally=tally,
  )
