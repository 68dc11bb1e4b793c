"""Agreement of deletion orders: known cases, and orders of two tokenizers."""

import math

import numpy as np
import pytest

from greedy_prune_jax.analysis.orders import character_ranks, order_agreement, order_section
from greedy_prune_jax.analysis.patterns import LabelledRun
from tests.helpers.planted import pruned_chain


def run(name, *chains):
  return LabelledRun(name, chains, [(None,) * len(c.reasoning_ids) for c in chains])


LETTERS = "abcdefghijklmnopqrst"


def test_equal_and_opposite_orders():
  order = np.random.default_rng(0).permutation(20)
  one, other = pruned_chain(LETTERS, order), pruned_chain(LETTERS, order[::-1])
  assert order_agreement(one, one) == pytest.approx((1, 1, 1))
  assert order_agreement(one, other) == pytest.approx((-1, -1, 0))


def test_one_exchange_by_hand():
  order = list(range(20))
  changed = [1, 0, *range(2, 18), 19, 18]
  tau, rho, last = order_agreement(pruned_chain(LETTERS, order), pruned_chain(LETTERS, changed))
  assert tau == pytest.approx(1 - 2 * 2 / 190)
  assert rho == pytest.approx(1 - 6 * 4 / (20 * 399))
  assert last == 1


@pytest.mark.parametrize("sizes", [None, (1, 2, 1) * 5])
def test_one_order_is_equal_to_itself_less_deep(sizes):
  units = np.split(np.arange(20), np.cumsum(sizes or [1] * 20)[:-1])
  order = [units[i] for i in np.random.default_rng(0).permutation(len(units))]
  deep, less = (
    pruned_chain(LETTERS, np.concatenate(order[:count]), unit_sizes=sizes)
    for count in (len(order) - 1, len(order) // 2)
  )
  assert order_agreement(deep, less)[:2] == pytest.approx((1, 1))
  assert order_agreement(less, deep)[:2] == pytest.approx((1, 1))


def test_places_in_a_run_are_no_order():
  """The end leaves in one run, then the beginning; `last` deletes from the end, too."""
  runs = pruned_chain(LETTERS, [*range(10, 20), *range(10)], move_sizes=(10, 10))
  last = pruned_chain(LETTERS, range(19, -1, -1))
  tau, rho, _ = order_agreement(runs, last)
  assert tau == pytest.approx(100 / np.sqrt(100 * 190))
  assert rho > 0.8


def test_the_last_tenth_is_of_characters():
  one = pruned_chain(LETTERS, range(20))
  other = pruned_chain(LETTERS, [18, *range(18), 19])
  assert order_agreement(one, other)[2] == 0.5


def test_tokens_of_two_tokenizers_are_compared_by_character():
  """The same order of words, one of them in pieces that leave one after the other."""
  words = pruned_chain(["one ", "two ", "three"], [1, 0, 2])
  pieces = pruned_chain(["one ", "tw", "o ", "three"], [1, 2, 0, 3])
  ranks = character_ranks(pieces)
  assert len(ranks) == len(character_ranks(words)) == 13
  assert ranks[0] == ranks[3] > ranks[6] > ranks[4]
  assert order_agreement(words, pieces)[1] > 0.95


def test_chains_are_paired_by_id_and_text():
  one = run("one", *(pruned_chain("abcd", range(4), f"c/{i}") for i in range(3)))
  other = run(
    "other",
    pruned_chain("abcd", [3, 2, 1, 0], "c/2"),
    pruned_chain("abcd", range(4), "c/1"),
    pruned_chain("abce", range(4), "c/0"),
  )
  (table,) = order_section([one, other]).tables
  (row,) = table.rows
  assert row[:3] == ("one", "other", pytest.approx(0))
  assert row[-2:] == (2, 2)
  assert row[3:5] == (-1, 1), "two chains tell little"
  (table,) = order_section([one, run("apart", pruned_chain("abcd", range(4), "d"))]).tables
  assert table.rows == []


def test_a_chain_of_one_token_has_no_order():
  one = pruned_chain("a", [0])
  assert all(map(math.isnan, order_agreement(one, one)))


def test_chains_without_an_order_are_not_counted():
  tie, told = pruned_chain("a", [0], "c/0"), pruned_chain("abcd", range(4), "c/1")
  kept = pruned_chain("abcd", range(2), "c/2")
  (table,) = order_section([run("one", tie, told, kept), run("other", tie, told, kept)]).tables
  row = dict(zip(table.columns, table.rows[0], strict=True))
  assert (row["chains"], row["chains of last tenth"]) == (2, 1)


@pytest.mark.parametrize("keep", [0.0, 0.05, 0.1, 0.3, 0.7])
@pytest.mark.parametrize("size", [1, 3, 10])
def test_the_last_tenth_of_random_orders_is_that_of_chance_or_untold(keep, size):
  """Kept characters, and those of a long unit, tie: no order tells which of them are the last."""
  rng = np.random.default_rng(0)
  units = np.arange(60).reshape(-1, size)

  def draw():
    order = units[rng.permutation(len(units))][: int(len(units) * (1 - keep) + 1e-9)].ravel()
    return pruned_chain(["x"] * 60, order, unit_sizes=(size,) * len(units))

  found = np.array([order_agreement(draw(), draw())[2] for _ in range(400)])
  if keep > 0.1 or size > 6:
    assert np.isnan(found).all()
  else:
    assert found.mean() == pytest.approx(0.1, abs=0.03)
