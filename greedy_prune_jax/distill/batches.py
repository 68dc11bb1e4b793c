"""Batches of examples, by Grain, packed into rows of one width with little padding.

A seed decides the order, and checkpoints hold the position in it as a small JSON object. Every
process makes all batches; each device takes its share of them.

Examples of one row do not see each other: attention stays within a segment, and positions begin
anew in each. A batch has a fixed number of examples, not of rows. So a step has the same meaning
for long and for pruned chains; short examples only take fewer or narrower rows. Numbers of rows and
widths take few values, which bounds compilation.

Axis letters: A parts of a batch (gradients are accumulated over them), R rows, W width of a row.
"""

import dataclasses
import functools
from collections.abc import Sequence, Sized
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from greedy_prune_jax.distill.examples import Example
from greedy_prune_jax.models.sizes import bucket

if TYPE_CHECKING:
  import grain

_WIDTH_MULTIPLE = 32
_NARROWER = (4, 5, 6, 7)  # eighths of the width that the rows of a batch may be cut to
_DRAWS = 4  # batches by which a width is chosen
# Width of a row at which attention takes about as long as the rest of a layer.
_ATTENTION_WIDTH = 2048

T = TypeVar("T", bound=Sized)


class PackedRows(NamedTuple):
  """Packed arrays on host or device; each is int32 [A, R, W], or [R, W] for one part.

  `scored` and `targets` fill their rows from the left, and their i-th items belong together.
  """

  token_ids: Any
  segments: Any  # of each position: 1, 2, ... in the row; 0 for padding
  positions: Any  # place of each token in its example
  scored: Any  # positions of the row whose next token is in a completion; W behind the last
  targets: Any  # that next token


@dataclasses.dataclass(frozen=True)
class Batch:
  """Packed examples of one step."""

  rows: PackedRows
  ids: tuple[str, ...]  # of the examples
  num_tokens: int  # of all examples
  num_scored: int  # of these, in the loss


def training_batches(
  examples: Sequence[tuple[Example, ...]],
  *,
  batch_size: int,
  width: int,
  seed: int,
  num_parts: int = 1,
  row_multiple: int = 1,
) -> "grain.DatasetIterator":
  """Endless batches: each epoch has every chain once, in a new order.

  Args:
    examples: examples of each chain; each epoch draws one of them.
    width, num_parts, row_multiple: arguments of `pack_batch`.
    seed: seed of order and draws.

  Returns:
    An iterator over `Batch`, with `get_state` and `set_state`.
  """
  import grain  # packing and training do without it

  pack = functools.partial(pack_batch, width=width, num_parts=num_parts, row_multiple=row_multiple)
  # Grain's length of an endless dataset, rounded as it is divided by a batch of 1, is no length.
  dataset = grain.MapDataset.source(examples).seed(seed).shuffle().repeat(2**40)
  dataset = dataset.random_map(_draw).batch(batch_size, batch_fn=pack)
  # Packing takes a millisecond or so: one thread that is a batch ahead hides it.
  options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
  return iter(dataset.to_iter_dataset(options))


def validation_batches(
  examples: Sequence[Example], *, batch_size: int, width: int, row_multiple: int = 1
) -> list[Batch]:
  """Batches that have every example once, the longest first, which packs well."""
  ordered = sorted(examples, key=lambda example: (-len(example), example.id))
  return [
    pack_batch(ordered[at : at + batch_size], width, row_multiple=row_multiple)
    for at in range(0, len(ordered), batch_size)
  ]


def _draw(group: tuple[Example, ...], rng: np.random.Generator) -> Example:
  return group[int(rng.integers(len(group)))]


def packed_width(lengths: Sequence[int], batch_size: int, row_multiple: int = 1) -> int:
  """The limit of rows' width with which batches of these examples take the least work.

  Wider rows have less padding, but attention's work grows with the square of their width. Batches
  are drawn and packed at widths from the longest example to four times that, or to 1024.

  Args:
    lengths: tokens of every example.
    batch_size: examples of one part, which are packed together.
    row_multiple: divisor of a part's rows, as in `pack_batch`.
  """
  narrowest = -(-max(lengths) // _WIDTH_MULTIPLE) * _WIDTH_MULTIPLE
  widest = max(narrowest, min(4 * narrowest, 1024))
  rng = np.random.default_rng(0)
  repeats = batch_size > len(lengths)
  draws = [rng.choice(lengths, batch_size, replace=repeats) for _ in range(_DRAWS)]

  def work(width: int) -> float:
    shapes = [_pack([list(map(range, draw))], width, row_multiple)[1:] for draw in draws]
    return sum(rows * used * (1 + used / _ATTENTION_WIDTH) for rows, used in shapes)

  return min(range(narrowest, widest + 1, _WIDTH_MULTIPLE), key=work)


def pack_batch(
  examples: Sequence[Example], width: int, *, num_parts: int = 1, row_multiple: int = 1
) -> Batch:
  """Packs examples into rows.

  Args:
    examples: examples, none longer than `width`.
    width: largest W. It decides the least number of rows; these are then as narrow as possible.
    num_parts: A; numbers of examples of any two parts differ by at most one.
    row_multiple: divisor of R: the number of devices that share the rows.
  """
  parts = [list(examples[at::num_parts]) for at in range(num_parts)]
  packed_parts, num_rows, width = _pack(parts, width, row_multiple)
  shape = (num_parts, num_rows, width)
  rows = PackedRows(*(np.zeros(shape, np.int32) for _ in PackedRows._fields))
  rows.scored[:] = width
  for part, packed in enumerate(packed_parts):
    for row, members in enumerate(packed):
      _fill(PackedRows(*(array[part, row] for array in rows)), members)
  return Batch(
    rows=rows,
    ids=tuple(example.id for example in examples),
    num_tokens=sum(map(len, examples)),
    num_scored=sum(example.num_scored for example in examples),
  )


def _pack(
  parts: list[list[T]], width: int, row_multiple: int
) -> tuple[list[list[list[T]]], int, int]:
  """The rows of each part, and the R and W that hold the rows of every part."""
  packed = [_rows_of(part, width) for part in parts]
  num_rows = bucket(max(map(len, packed)), row_multiple)
  longest = max(len(example) for part in parts for example in part)
  for eighths in _NARROWER:
    narrower = -(-width * eighths // (8 * _WIDTH_MULTIPLE)) * _WIDTH_MULTIPLE
    if longest <= narrower < width:
      squeezed = [_rows_of(part, narrower) for part in parts]
      if max(map(len, squeezed)) <= num_rows:
        return squeezed, num_rows, narrower
  return packed, num_rows, width


def _rows_of(examples: list[T], width: int) -> list[list[T]]:
  """Puts each example, the longest first, into the first row that has room for it."""
  rows: list[list[T]] = []
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
