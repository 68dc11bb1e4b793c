"""The packing against lists that are built by deleting."""

import jax.numpy as jnp
import numpy as np
import pytest

from greedy_prune_jax.scoring.packing import (
  Text,
  filled_rows,
  pair_width,
  paired_rows,
  plan_slots,
  suffix_length,
  unit_spans,
)


def _text(num_reasoning, num_answer, unit_sizes, capacity=40):
  sizes = np.zeros(capacity, np.int32)
  sizes[: len(unit_sizes)] = unit_sizes
  return Text(
    token_ids=jnp.arange(capacity) + 100,
    num_reasoning=jnp.int32(num_reasoning),
    num_answer=jnp.int32(num_answer),
    unit_sizes=jnp.asarray(sizes),
    num_units=jnp.int32(len(unit_sizes)),
  )


def _check(table, text, width):
  """Every candidate's suffix stands in one row, whole, in order and with its own positions."""
  starts, stops = unit_spans(text)
  table = jnp.asarray(table)
  slots = plan_slots(starts[table], jnp.where(table >= 0, stops[table], -1), text, width)
  slots = type(slots)(*(np.asarray(x) for x in slots))
  last = int(text.num_reasoning + text.num_answer) - 1
  for row, candidates in enumerate(np.asarray(table)):
    expected = []
    for segment, unit in enumerate(candidates):
      if unit < 0:
        continue
      start, stop = int(starts[unit]), int(stops[unit])
      laid_out = [i for i in range(last + 1) if not start <= i < stop]
      expected += [
        (source, position, start, segment)
        for position, source in enumerate(laid_out)
        if position >= start and source < last
      ]
    found = zip(slots.source, slots.position, slots.visible, slots.segment, strict=True)
    columns = [np.stack(fields, -1) for fields in found][row]
    assert [tuple(x) for x in columns[slots.valid[row]].tolist()] == expected


@pytest.mark.slow
@pytest.mark.parametrize("num_answer", [1, 2, 5])
@pytest.mark.parametrize("num_reasoning", [1, 2, 7, 8])
def test_pairs_hold_every_suffix_once_without_padding(num_reasoning, num_answer):
  text = _text(num_reasoning, num_answer, [1] * num_reasoning)
  rows = (num_reasoning + 1) // 2
  table = np.asarray(paired_rows(jnp.arange(rows + 1), text.num_units))
  assert sorted(table[table >= 0]) == list(range(num_reasoning))
  assert (table[rows:] == -1).all()
  width = pair_width(num_reasoning, num_answer)
  _check(table, text, width)
  lengths = num_reasoning - (table + 1) + num_answer - 1
  full = np.where(table >= 0, lengths, 0).sum(1)[: num_reasoning // 2]
  assert (full == width).all()


def test_filled_rows_hold_every_wanted_suffix_once():
  text = _text(14, 3, [2, 1, 5, 1, 3, 1, 1])
  _, stops = unit_spans(text)
  lengths = jnp.where(jnp.arange(40) < 7, suffix_length(stops, text), -1).at[3].set(-1)
  table, used = filled_rows(lengths, pair_width(14, 3), 3)
  table = np.asarray(table)
  assert sorted(table[table >= 0]) == [0, 1, 2, 4, 5, 6]
  assert (table[: int(used)] >= 0).any(axis=1).all()
  assert (table[int(used) :] == -1).all()
  assert int(used) < 6
  _check(table, text, pair_width(14, 3))
