"""The stream's slots against lists that are built by deleting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greedy_prune_jax.scoring.stream import (
  Spans,
  Text,
  block_slots,
  deletion_spans,
  distinct_candidates,
  last_to_begin,
  lay_out,
  suffix_lengths,
  units_deleted,
)
from tests.helpers.spans import candidate_spans, text_spans, window_spans

TILE = 4


def _texts(shapes, places=48, units=16, width=1):
  """Chains of (prompt tokens, unit sizes, answer tokens); a deletion has `width` tokens or more."""
  sizes = np.zeros((len(shapes), units), np.int32)
  for row, (_, of_units, _) in zip(sizes, shapes, strict=True):
    row[: len(of_units)] = of_units
  prompts, of_units, answers = zip(*shapes, strict=True)
  ids = np.tile(np.arange(places) + 100, (len(shapes), 1))
  counts = prompts, [sum(x) for x in of_units], answers
  counts = [jnp.asarray(x, jnp.int32) for x in counts]
  num_units = jnp.asarray([len(x) for x in of_units])
  widths = jnp.full(len(shapes), width)
  return Text(jnp.asarray(ids), *counts, jnp.asarray(sizes), num_units, widths)


def _slots(texts, spans, size, **kwargs):
  """All slots of a stream that goes through the model in blocks of one size."""
  layout = lay_out(spans, TILE)
  offsets = 100 * jnp.broadcast_to(jnp.arange(texts.unit_sizes.shape[1]), texts.unit_sizes.shape)
  blocks = [
    block_slots(texts, spans, layout, offsets, jnp.int32(first), size, **kwargs)
    for first in range(0, int(layout.total), size)
  ]
  return [jax.tree.map(np.asarray, block) for block in blocks]


def _sequences(blocks):
  """Columns of each sequence that run, in order: (source, position, visible)."""
  found = {}
  for block in blocks:
    for slot in np.flatnonzero(block.valid):
      key = int(block.chain[slot]), int(block.sequence[slot])
      columns = found.setdefault(key, [])
      # Its earlier columns are in the cache, or in the block.
      if key[1]:
        own = block.kept_stop[slot] - block.kept_start[slot] + slot - block.begin[slot]
        assert own == block.column[slot]
        assert block.kept_start[slot] == 100 * (key[1] - 1)
      columns.append(tuple(int(x[slot]) for x in (block.source, block.position, block.visible)))
      assert not columns[:-1] or block.column[slot] > 0
  return found


shapes = st.tuples(
  st.integers(1, 5), st.lists(st.integers(1, 3), min_size=1, max_size=6), st.integers(1, 4)
)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.lists(shapes, min_size=1, max_size=3), st.sampled_from([8, 32]), st.data())
def test_every_wanted_suffix_runs_once_from_where_it_is_not_known(shapes, size, data):
  texts = _texts(shapes)
  lengths = np.asarray(suffix_lengths(texts))
  exists = np.arange(lengths.shape[1])[None] < np.asarray(texts.num_units)[:, None]
  draw = np.random.default_rng(data.draw(st.integers(0, 2**16)))
  wanted = exists & (draw.random(lengths.shape) < 0.8)
  known = np.where(exists, (draw.random(lengths.shape) * (lengths + 1)).astype(int), 0)
  blocks = _slots(texts, candidate_spans(texts, jnp.asarray(known), jnp.asarray(wanted)), size)
  found = _sequences(blocks)
  expected = {}
  for chain, (num_prompt, sizes, num_answer) in enumerate(shapes):
    last = num_prompt + sum(sizes) + num_answer - 1
    for unit in np.flatnonzero(wanted[chain]):
      start = num_prompt + sum(sizes[:unit])
      left = [place for place in range(last) if not start <= place < start + sizes[unit]]
      columns = [(source, i, start) for i, source in enumerate(left) if i >= start]
      if columns := columns[known[chain, unit] :]:
        expected[chain, unit + 1] = columns
  assert found == expected
  for block in blocks:  # the slots of a tile are of one chain, and each sees itself
    for tile in range(0, size, TILE):
      part = slice(tile, tile + TILE)
      of = block.chain[part][block.valid[part]]
      assert (of == block.chain[tile]).all()
    assert (block.begin <= np.arange(size)).all()


def test_texts_run_from_the_first_place_that_is_not_known():
  texts = _texts([(3, [1, 2], 2), (2, [1], 1), (4, [2], 3)])
  spans = text_spans(texts, jnp.asarray([0, 1, 5]), jnp.asarray([True, False, True]))
  found = _sequences(_slots(texts, spans, 4))
  assert list(found) == [(0, 0), (2, 0)]
  assert [source for source, _, _ in found[0, 0]] == list(range(7))
  assert [position for _, position, _ in found[0, 0]] == list(range(7))
  # What earlier blocks ran is seen in the cache, what this block runs beside it.
  assert [visible for _, _, visible in found[0, 0]] == [0] * 4 + [4] * 3
  assert [source for source, _, _ in found[2, 0]] == [5, 6, 7]


@pytest.mark.parametrize("size", [8, 64])
def test_a_window_leaves_out_the_middle(size):
  texts = _texts([(3, [1] * 9, 3)])
  wanted = jnp.zeros((1, 16), bool).at[0, jnp.asarray([1, 7])].set(True)
  spans = window_spans(texts, wanted, 2, tail=True)
  blocks = _slots(texts, spans, size, window=2)
  found = _sequences(blocks)
  # Behind unit 1, at place 4: two places as if it were gone; then the last reasoning token, at 11,
  # and the answer, where they stand.
  assert found[0, 2] == [(5, 4, 4), (6, 5, 4), (11, 11, 4), (12, 12, 4), (13, 13, 4)]
  resumes = [int(block.resume[i]) for block in blocks for i in np.flatnonzero(block.sequence == 2)]
  assert resumes[:5] == [12, 12, 7, 7, 7]  # answer_start: none of it
  # Behind unit 7 there is no middle.
  assert found[0, 8] == [(11, 10, 10), (12, 11, 10), (13, 12, 10)]
  assert [
    len(x)
    for x in _sequences(_slots(texts, window_spans(texts, wanted, 2, tail=False), 8)).values()
  ] == [2, 2]


def test_lay_out_begins_each_chain_with_a_tile():
  lengths = jnp.asarray([[0, 3, 2], [0, 0, 0], [1, 0, 6]])
  layout = lay_out(Spans(lengths * 0, lengths, lengths * 0), TILE)
  np.testing.assert_array_equal(layout.starts[:, 0], [0, 8, 8])
  assert int(layout.total) == 15


def test_deletion_spans_are_places():
  starts, stops = deletion_spans(jax.tree.map(lambda x: x[0], _texts([(3, [2, 1, 4], 2)])))
  np.testing.assert_array_equal(starts[:4], [3, 5, 6, 10])
  np.testing.assert_array_equal(stops[:4], [5, 6, 10, 10])


def test_a_deletion_may_remove_several_units():
  texts = jax.tree.map(lambda x: x[0], _texts([(3, [2, 1, 4], 2)], width=3))
  starts, stops = deletion_spans(texts)
  np.testing.assert_array_equal(starts[:4], [3, 5, 6, 10])
  np.testing.assert_array_equal(stops[:4], [6, 10, 10, 10])  # they end with the reasoning
  np.testing.assert_array_equal(units_deleted(texts)[:2], [2, 2])
  np.testing.assert_array_equal(distinct_candidates(texts)[:4], [True, True, True, False])
  for width, last in ((1, 2), (4, 2), (5, 1), (6, 0), (7, 0), (8, -1)):
    assert last_to_begin(texts._replace(width=jnp.int32(width))) == last


def test_of_runs_that_leave_the_same_text_the_lower_is_a_candidate():
  text = jax.tree.map(lambda x: x[0], _texts([(3, [1] * 6, 2)], width=3))
  ids = text.token_ids.at[3:9].set(jnp.array([5, 6, 7, 5, 8, 9]))
  # Without 5 6 7 and without 6 7 5 the same is left: 5 8 9.
  left = distinct_candidates(text._replace(token_ids=ids))
  np.testing.assert_array_equal(left[:6], [True, False, True, True, False, False])
