"""Batches by Grain: in an order that a seed decides, and from any position on again.

Grain knows the position as a small JSON object, which checkpoints hold. Every process makes all
batches; the devices take their share of each (`sharding`).
"""

import functools
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from greedy_prune_jax.distill.examples import Example
from greedy_prune_jax.distill.packing import Batch, pack_batch


def training_batches(
  examples: Sequence[tuple[Example, ...]],
  *,
  batch_size: int,
  width: int,
  seed: int,
  num_parts: int = 1,
  row_multiple: int = 1,
) -> grain.DatasetIterator:
  """Batches without end: each epoch has every chain once, in an order of its own.

  Args:
    examples: examples by chain; one is drawn each time that the chain's turn comes.
    batch_size: examples a batch.
    width: tokens of a row.
    seed: seed of the order and the draws.
    num_parts: number of parts of a batch, as in `pack_batch`.
    row_multiple: divisor of a part's rows, as in `pack_batch`.

  Returns:
    An iterator over `Batch`, with `get_state` and `set_state`.
  """
  pack = functools.partial(pack_batch, width=width, num_parts=num_parts, row_multiple=row_multiple)
  dataset = grain.MapDataset.source(_Groups(examples)).seed(seed).shuffle().repeat()
  dataset = dataset.random_map(_draw).batch(batch_size, batch_fn=pack)
  # Packing takes a millisecond or so: one thread that is a batch ahead hides it.
  options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
  return iter(dataset.to_iter_dataset(options))


def validation_batches(
  examples: Sequence[Example], *, batch_size: int, width: int, row_multiple: int = 1
) -> list[Batch]:
  """All examples once, the longest first, so that batches are packed well."""
  ordered = sorted(examples, key=lambda example: (-len(example), example.id))
  return [
    pack_batch(ordered[at : at + batch_size], width, row_multiple=row_multiple)
    for at in range(0, len(ordered), batch_size)
  ]


class _Groups:
  """A source as Grain asks for it."""

  def __init__(self, groups: Sequence[tuple[Example, ...]]):
    self._groups = groups

  def __len__(self) -> int:
    return len(self._groups)

  def __getitem__(self, index: Any) -> tuple[Example, ...]:
    return self._groups[index]


def _draw(group: tuple[Example, ...], rng: np.random.Generator) -> Example:
  return group[int(rng.integers(len(group)))]
