"""Examples packed into rows of one width, so that hardly a position is padding.

Examples of a row see nothing of each other: attention stays within a segment and positions start
again with each. A batch is a number of examples, not of rows: a step means the same whether chains
are long or pruned short, and only takes fewer rows for short ones. Numbers of rows are drawn from
a few, so compilation is bounded.

Axis letters: A parts of a batch (gradients are accumulated over them), R rows, W width of a row.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from greedy_prune_jax.distill.examples import Example
from greedy_prune_jax.models.sampler import bucket

_WIDTH_MULTIPLE = 32


class PackedRows(NamedTuple):
  """Arrays of the host or the device; every field is [A, R, W] int32, or [R, W] of one part.

  `scored` and `targets` stand at the left of their row: the i-th of each belong together.
  """

  token_ids: Any
  segments: Any  # of each position: 1, 2, ... in the row; 0 for padding
  positions: Any  # place of each token in its example
  scored: Any  # positions of the row whose next token is in a completion; W behind the last
  targets: Any  # that next token


@dataclasses.dataclass(frozen=True)
class Batch:
  """What one step trains on.

  Attributes:
    rows: the arrays.
    ids: of the examples.
    num_tokens: in the examples together.
    num_scored: tokens that the loss is on.
  """

  rows: PackedRows
  ids: tuple[str, ...]
  num_tokens: int
  num_scored: int


def row_width(longest: int) -> int:
  """The width of rows that take examples of up to `longest` tokens.

  Twice the longest, up to 512: wider rows waste less, but attention takes work with their square.
  """
  room = max(longest, min(2 * longest, 512))
  return -(-room // _WIDTH_MULTIPLE) * _WIDTH_MULTIPLE


def pack_batch(
  examples: Sequence[Example], width: int, *, num_parts: int = 1, row_multiple: int = 1
) -> Batch:
  """Packs examples into rows.

  Args:
    examples: none longer than `width`.
    width: W.
    num_parts: A; each part takes as many examples, up to one.
    row_multiple: R is a multiple of this (over how many devices rows are spread).
  """
  parts = [_rows_of(list(examples[at::num_parts]), width) for at in range(num_parts)]
  num_rows = bucket(max(map(len, parts)), row_multiple)
  shape = (num_parts, num_rows, width)
  rows = PackedRows(*(np.zeros(shape, np.int32) for _ in PackedRows._fields))
  rows.scored[:] = width
  for part, packed in enumerate(parts):
    for row, members in enumerate(packed):
      _fill(PackedRows(*(array[part, row] for array in rows)), members)
  return Batch(
    rows=rows,
    ids=tuple(example.id for example in examples),
    num_tokens=sum(map(len, examples)),
    num_scored=sum(example.num_scored for example in examples),
  )


def _rows_of(examples: list[Example], width: int) -> list[list[Example]]:
  """Each example, the longest first, goes into the first row that has room for it."""
  rows: list[list[Example]] = []
  room: list[int] = []
  for example in sorted(examples, key=lambda example: -len(example)):
    row = next((row for row, left in enumerate(room) if left >= len(example)), len(rows))
    if row == len(rows):
      rows.append([])
      room.append(width)
    rows[row].append(example)
    room[row] -= len(example)
  return rows


def _fill(row: PackedRows, examples: Sequence[Example]) -> None:
  """Writes examples into the arrays of one row."""
  start = scored = 0
  for number, example in enumerate(examples, start=1):
    stop, count = start + len(example), example.num_scored
    row.token_ids[start:stop] = example.token_ids
    row.segments[start:stop] = number
    row.positions[start:stop] = np.arange(len(example))
    # The token before a completion's first one predicts it; its last one predicts nothing.
    row.scored[scored : scored + count] = np.arange(start + example.num_prompt - 1, stop - 1)
    row.targets[scored : scored + count] = example.token_ids[example.num_prompt :]
    start, scored = stop, scored + count
