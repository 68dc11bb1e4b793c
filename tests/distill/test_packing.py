"""Places of each example's tokens in packed rows, and batches in their order."""

import numpy as np
import pytest

from greedy_prune_jax.distill.batches import (
  pack_batch,
  packed_width,
  training_batches,
  validation_batches,
)
from greedy_prune_jax.distill.examples import Example
from tests.helpers.made_examples import random_examples


def unpack(batch):
  """Every example of a batch read back from its arrays: token ids and scored targets."""
  found = []
  for part, row in np.ndindex(batch.rows.token_ids.shape[:2]):
    ids, segments, positions, scored, targets = (array[part, row] for array in batch.rows)
    width = len(ids)
    used = scored < width
    assert (np.diff(used.astype(int)) <= 0).all(), "scored positions stand at the left"
    for segment in range(1, segments.max() + 1):
      at = np.flatnonzero(segments == segment)
      np.testing.assert_array_equal(positions[at], np.arange(len(at)))
      mine = used & np.isin(scored, at)
      # What is predicted is the next token of the same example.
      np.testing.assert_array_equal(targets[mine], ids[scored[mine] + 1])
      assert (segments[scored[mine] + 1] == segment).all()
      found.append((tuple(ids[at]), tuple(targets[mine])))
  return found


@pytest.mark.parametrize("num_parts", [1, 3])
@pytest.mark.parametrize("row_multiple", [1, 4])
def test_every_example_is_there_once_and_scored_on_its_completion(num_parts, row_multiple):
  examples = random_examples(24)
  batch = pack_batch(examples, 64, num_parts=num_parts, row_multiple=row_multiple)
  parts, rows, _ = batch.rows.token_ids.shape
  assert parts == num_parts
  assert rows % row_multiple == 0
  expected = [(tuple(e.token_ids), tuple(e.token_ids[e.num_prompt :])) for e in examples]
  assert sorted(unpack(batch)) == sorted(expected)
  assert batch.ids == tuple(e.id for e in examples)
  assert batch.num_tokens == sum(map(len, examples)) == (batch.rows.segments > 0).sum()
  assert batch.num_scored == (batch.rows.scored < batch.rows.scored.shape[-1]).sum()


@pytest.mark.parametrize(
  ("lengths", "shape"),
  [
    ([30, 28, 27, 25], (2, 64)),  # as few rows as 96 allow, and 55 are the most of a row
    ([30, 28, 27, 25, 40], (2, 96)),  # 80 allow no two rows
    ([20, 20], (1, 64)),  # half of the width is the least
    ([90], (1, 96)),
  ],
)
def test_rows_are_no_wider_than_their_number_needs(lengths, shape):
  examples = [Example(f"{n}", np.arange(n, dtype=np.int32), 1) for n in lengths]
  batch = pack_batch(examples, 96)
  assert batch.rows.token_ids.shape[1:] == shape
  assert len(unpack(batch)) == len(lengths)


def test_batches_have_a_few_shapes():
  examples = random_examples(300, longest=200)
  rng = np.random.default_rng(0)
  drawn = [rng.choice(300, 12, replace=False) for _ in range(200)]
  made = [pack_batch([examples[i] for i in batch], 1024) for batch in drawn]
  rows, widths = zip(*(batch.rows.token_ids.shape[1:] for batch in made), strict=True)
  assert set(widths) <= {512, 640, 768, 896, 1024}
  assert set(rows) <= {1, 2, 3}


def test_little_is_padding():
  examples = random_examples(200, longest=100)
  batch = pack_batch(examples, packed_width([len(e) for e in examples], 200))
  assert batch.num_tokens / batch.rows.token_ids.size > 0.8


def test_an_example_as_long_as_the_row():
  example = Example("whole", np.arange(32, dtype=np.int32), 31)
  assert unpack(pack_batch([example, example], 32)) == [(tuple(range(32)), (31,))] * 2


@pytest.mark.parametrize(
  ("lengths", "batch_size", "width"),
  [
    ([64], 1, 64),
    ([64], 4, 64),  # wider rows would waste as little, but attention would take more
    ([90], 4, 96),
    ([170] * 5 + [330], 2, 672),  # one row, of 352 for two short ones and else 512
    ([120, 140, 150, 160, 170, 180, 200], 8, 384),
    ([3000], 8, 3008),  # as wide as it must be
  ],
)
def test_packed_width(lengths, batch_size, width):
  assert packed_width(lengths, batch_size) == width


def groups(count=7):
  return [(e, Example(e.id + "b", e.token_ids, e.num_prompt)) for e in random_examples(count)]


def batches(seed=3, batch_size=4):
  return training_batches(groups(), batch_size=batch_size, width=32, seed=seed)


def test_an_epoch_has_every_chain_once_and_each_its_own_order_and_draws():
  iterator = batches(batch_size=7)
  epochs = [next(iterator).ids for _ in range(4)]
  assert all({i.rstrip("b") for i in epoch} == set("0123456") for epoch in epochs)
  assert len({tuple(i.rstrip("b") for i in epoch) for epoch in epochs}) == 4
  assert len({frozenset(i for i in epoch if i.endswith("b")) for epoch in epochs}) == 4


def test_the_order_is_the_seeds():
  first, again, other = batches(), batches(), batches(seed=4)
  ids = [next(first).ids for _ in range(6)]
  assert ids == [next(again).ids for _ in range(6)]
  assert ids != [next(other).ids for _ in range(6)]


@pytest.mark.parametrize("done", [0, 1, 5])
def test_input_goes_on_at_the_exact_next_batch(done):
  whole = batches()
  for _ in range(done):
    next(whole)
  state = whole.get_state()
  resumed = batches()
  resumed.set_state(state)
  for _ in range(5):
    one, other = next(whole), next(resumed)
    assert one.ids == other.ids
    for a, b in zip(one.rows, other.rows, strict=True):
      np.testing.assert_array_equal(a, b)


def test_a_batch_larger_than_the_data():
  iterator = training_batches(groups(3), batch_size=8, width=32, seed=0)
  counts = [i.rstrip("b") for i in next(iterator).ids]
  assert sorted(counts.count(i) for i in "012") == [2, 3, 3]


def test_validation_has_every_example_once():
  examples = random_examples(10)
  found = validation_batches(examples, batch_size=4, width=32)
  assert sorted(i for batch in found for i in batch.ids) == sorted(e.id for e in examples)
