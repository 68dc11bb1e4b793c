"""Scores the texts along a ranking's deletion order, as greedy search does along its own."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence

import numpy as np

from greedy_prune_jax.chains.chain import unit_starts
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.rankings.interface import RankingInput, RankTokens, order_of_units
from greedy_prune_jax.scoring.objectives import ChainNLL
from greedy_prune_jax.search.host import SearchSettings
from greedy_prune_jax.search.path import PrunePath
from greedy_prune_jax.search.texts import score_texts, start_prompt, texts_at_once


def path_lengths(path: PrunePath, deletions_per_step: int = 1) -> list[float]:
  """Reasoning tokens of each scored text along a path.

  Before the order is known, units count with their mean size.
  """
  num_reasoning = len(path.segments.reasoning)
  num_units = len(path.sizes)
  last = -(-num_units * (num_reasoning - path.floor) // num_reasoning)
  gone = [num_reasoning * deleted / num_units for deleted in range(last + 1)]
  return [num_reasoning - gone[k] for k in _to_score(path, gone, deletions_per_step)]


def path_positions(path: PrunePath, deletions_per_step: int = 1) -> int:
  """Token positions of the prompt and of the scored texts along a path; see `path_lengths`.

  Positions that the ranking itself runs are not counted.
  """
  behind = len(path.segments.answer) - 1
  texts = sum(length + behind for length in path_lengths(path, deletions_per_step))
  return len(path.segments.prompt) + round(texts)


def follow_ranking(
  model: Model,
  path: PrunePath,
  ranking: RankTokens,
  chain: RankingInput,
  settings: SearchSettings,
  report: Callable[[PrunePath], None] = lambda path: None,
) -> PrunePath:
  """Deletes in a ranking's order down to the path's floor, and returns the finished path.

  Args:
    path: a new path, or the unfinished one of an earlier run.
    ranking: function that orders the chain.
    settings: settings of the run, without its objective, which only the ranking uses. With
      `deletions_per_step` above 1, the texts between two scored ones have no NLL.
    report: callback that gets the path from time to time, and at its end.
  """
  if path.finished:
    return path
  started = time.monotonic()
  ranked = ranking(chain)
  if not path.nll["joint"]:
    positions = ranked.positions_scored + len(path.segments.prompt)
    path = dataclasses.replace(path, positions_scored=path.positions_scored + positions)
  # Earlier deletions stand, even if this device rounds differently and would order them otherwise.
  known = set(path.deleted)
  whole = ranked.order
  if path.unit_sizes is not None:
    whole = order_of_units(whole, path.unit_sizes)
  order = [*path.deleted] + [position for position in whole if position not in known]
  num_gone = _gone_after_deletions(path, order)
  to_score = _to_score(path, num_gone, settings.deletions_per_step)
  prompt = start_prompt(model, path.segments, settings.block_positions)
  while not path.finished:
    left = [k for k in to_score if k >= len(path.nll["joint"])]
    gone = [num_gone[k] for k in left]
    longest = len(path.segments.reasoning) - gone[0] + len(path.segments.answer)
    count = texts_at_once(model, longest, len(gone), settings.block_positions)
    texts = [order[:number] for number in gone[:count]]
    found = score_texts(model, prompt, path.segments, texts, settings.block_positions, count)
    path = _extended(path, order, left, gone, found)
    elapsed = time.monotonic() - started
    if path.finished or elapsed > settings.seconds_between_reports:
      path = dataclasses.replace(path, seconds=path.seconds + elapsed)
      started = time.monotonic()
      report(path)
  return path


def _gone_after_deletions(path: PrunePath, order: Sequence[int]) -> list[int]:
  """Number of tokens gone after 0, 1, ... deletions of a unit, down to the path's floor."""
  sizes = dict(zip(unit_starts(path.sizes), path.sizes, strict=True))  # by first token
  gone = [0]
  while len(order) - gone[-1] > path.floor:
    gone.append(gone[-1] + sizes[order[gone[-1]]])
  return gone


def _to_score(path: PrunePath, num_gone: Sequence[float], every: int) -> list[int]:
  """Numbers of deletions after which a text is scored, the same as in a search.

  These are the path's marks and, from each mark on, every `every`-th deletion.
  """
  num_reasoning, last = len(path.segments.reasoning), len(num_gone) - 1
  at_marks = (
    next((k for k, gone in enumerate(num_gone) if num_reasoning - gone <= mark), last)
    for mark in path.marks
  )
  stops = sorted({0, *at_marks, last})
  between = (range(start, stop, every) for start, stop in itertools.pairwise(stops))
  return [*itertools.chain.from_iterable(between), last]


def _extended(
  path: PrunePath,
  order: Sequence[int],
  deletions: Sequence[int],
  num_gone: Sequence[int],
  scores: ChainNLL,
) -> PrunePath:
  """Adds one block's NLLs to a path, up to the path's end or the first NLL that is not finite.

  Args:
    path: the path before the block.
    order: all reasoning positions, first deleted first.
    deletions: number of units gone from each text that was still to score, the block's first.
    num_gone: number of tokens gone from the same texts.
    scores: scores of the block's texts.
  """
  nll = {name: list(values) for name, values in path.nll.items()}
  num_reasoning, num_answer = len(path.segments.reasoning), len(path.segments.answer)
  positions, gone, finite = path.positions_scored, len(path.deleted), True
  for row, (deleted, gone) in enumerate(
    zip(deletions[: len(scores.joint)], num_gone, strict=False)
  ):
    positions += num_reasoning - gone + num_answer - 1
    finite = bool(np.isfinite(scores.joint[row]))
    for name, values in scores._asdict().items():
      nll[name] += [None] * (deleted - len(nll[name]))  # texts between the scored ones
      nll[name].append(float(values[row]) if np.isfinite(values[row]) else None)
    if not finite:
      break
  return dataclasses.replace(
    path,
    deleted=tuple(order[:gone]),
    nll={name: tuple(values) for name, values in nll.items()},
    positions_scored=positions,
    finite=finite,
  )
