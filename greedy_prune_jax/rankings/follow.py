"""The likelihoods along a given deletion order: those that greedy search records along its own."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from greedy_prune_jax.chains.chain import unit_starts
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.rankings.interface import RankingInput, RankTokens, order_of_units
from greedy_prune_jax.scoring.objectives import ChainNLL
from greedy_prune_jax.search.host import SearchSettings
from greedy_prune_jax.search.path import PrunePath
from greedy_prune_jax.search.texts import score_texts, start_prompt, texts_at_once


def path_lengths(path: PrunePath, deletions_per_step: int = 1) -> list[float]:
  """Reasoning tokens of each text along a path that is scored.

  Of units of several tokens, whose order is not known yet, what it is on average over all orders.
  """
  num_reasoning = len(path.segments.reasoning)
  num_units = len(path.unit_sizes or path.segments.reasoning)
  last = -(-num_units * (num_reasoning - path.floor) // num_reasoning)
  gone = [num_reasoning * deleted / num_units for deleted in range(last + 1)]
  return [num_reasoning - gone[k] for k in _to_score(path, gone, deletions_per_step)]


def path_positions(path: PrunePath, deletions_per_step: int = 1) -> int:
  """Token positions of the prompt and of the texts along a path, without the ranking's own.

  See `path_lengths`.
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
  """Deletes in the order that a ranking gives, down to the path's floor; returns the longer path.

  Args:
    model: the pruner.
    path: a fresh one, or with what an earlier run had found.
    ranking: gives the order.
    chain: the path's chain, which the ranking orders.
    settings: settings of the run; the objective is the ranking's business. Where
      `deletions_per_step` is more than one, the NLLs after the deletions between are not known.
    report: gets the longer path every so often, and at its end.
  """
  if path.finished:
    return path
  started = time.monotonic()
  ranked = ranking(chain)
  if not path.nll["joint"]:
    positions = ranked.positions_scored + len(path.segments.prompt)
    path = dataclasses.replace(path, positions_scored=path.positions_scored + positions)
  # What was deleted stays so, also where rounding on another device gives another order.
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
    texts = _next_texts(model, path, order, gone, settings.block_positions)
    found = score_texts(model, prompt, path.segments, texts, settings.block_positions)
    path = _extended(path, order, left, gone, jax.device_get(found))
    elapsed = time.monotonic() - started
    if path.finished or elapsed > settings.seconds_between_reports:
      path = dataclasses.replace(path, seconds=path.seconds + elapsed)
      started = time.monotonic()
      report(path)
  return path


def _gone_after_deletions(path: PrunePath, order: Sequence[int]) -> list[int]:
  """Tokens gone after 0, 1, ... deletions of a unit, as far down as the path's floor."""
  units = path.unit_sizes or ()
  sizes = dict(zip(unit_starts(units), units, strict=True))  # by first token
  gone = [0]
  while len(order) - gone[-1] > path.floor:
    gone.append(gone[-1] + sizes.get(order[gone[-1]], 1))
  return gone


def _to_score(path: PrunePath, num_gone: Sequence[float], every: int) -> list[int]:
  """Numbers of deletions after which the NLLs are wanted, as a search would score them.

  Those are every `every` deletions, counted from the last one that is scored, and the path's marks.
  """
  num_reasoning, last = len(path.segments.reasoning), len(num_gone) - 1
  at_marks = (
    next((k for k, gone in enumerate(num_gone) if num_reasoning - gone <= mark), last)
    for mark in path.marks
  )
  stops = sorted({0, *at_marks, last})
  between = (range(start, stop, every) for start, stop in itertools.pairwise(stops))
  return [*itertools.chain.from_iterable(between), last]


def _next_texts(
  model: Model,
  path: PrunePath,
  order: Sequence[int],
  num_gone: Sequence[int],
  block_positions: int,
) -> list[Sequence[int]]:
  """Positions gone from each of the next texts to score, as many as should be run at once.

  Behind the path's end the last text is repeated, so that blocks have few sizes.

  Args:
    model: the pruner.
    path: the path so far.
    order: all reasoning positions, first deleted first.
    num_gone: tokens gone from each text that is left, to the path's end.
    block_positions: positions that should go through the model at once.
  """
  longest = len(path.segments.reasoning) - num_gone[0] + len(path.segments.answer)
  count = texts_at_once(model, longest, len(num_gone), block_positions)
  return [order[: num_gone[min(row, len(num_gone) - 1)]] for row in range(count)]


def _extended(
  path: PrunePath,
  order: Sequence[int],
  deletions: Sequence[int],
  num_gone: Sequence[int],
  scores: ChainNLL,
) -> PrunePath:
  """A path with the NLLs of one block of texts, up to its end or the first that is not finite.

  Args:
    path: the path before the block.
    order: all reasoning positions, first deleted first.
    deletions: units gone from each text of the block, and from those behind it.
    num_gone: tokens gone from the same texts.
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
      nll[name] += [None] * (deleted - len(nll[name]))  # between texts that were scored
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
