"""Needed tokens, found by orders that are known."""

import dataclasses

import numpy as np
import pytest

from greedy_prune_jax.analysis.needed import ALL, find_needed, is_planted, needed_section
from greedy_prune_jax.analysis.patterns import LabelledRun
from greedy_prune_jax.chains.planted import PIECES, Kind, kinds_of_tokens
from greedy_prune_jax.chains.reading import read_chains
from greedy_prune_jax.errors import UserError
from tests.helpers.planted import pruned_chain

KINDS = (Kind.LABEL, Kind.NEEDED, Kind.UNPREDICTABLE, Kind.NEEDED, Kind.PREDICTABLE)


def planted(order, kinds=KINDS, chain_id="c/0"):
  """A chain of tokens of one character, of these kinds."""
  chain = pruned_chain("abcdefghijklmnopqrst"[: len(kinds)], order, chain_id)
  extra = {PIECES: [[1, str(kind)] for kind in kinds]}
  return dataclasses.replace(chain, chain=dataclasses.replace(chain.chain, extra=extra))


def test_auc_by_kind():
  found = find_needed(planted([2, 1, 0, 4, 3]))  # needed: ranks 1 and 4
  assert found.auc[str(Kind.UNPREDICTABLE)] == 1
  assert found.auc[str(Kind.LABEL)] == 0.5
  assert found.auc[str(Kind.PREDICTABLE)] == 0.5
  assert found.auc[ALL] == pytest.approx(4 / 6)
  assert str(Kind.CORRECTION) not in found.auc


def test_tokens_that_never_left_are_ties():
  assert find_needed(planted([0])).auc[str(Kind.PREDICTABLE)] == 0.5


def test_precision_and_recall():
  found = find_needed(planted([2, 1, 0, 4, 3]))
  assert found.kept[0.5] == (0.5, 0.5)  # 2 tokens: the label left third, so 3 and 4 are there
  assert found.kept[0.7] == (pytest.approx(1 / 3), 0.5)
  assert set(find_needed(planted([2, 1])).kept) == {0.9, 0.7}, "no further than it was pruned"


def test_ratios_within_a_run_are_those_of_the_texts():
  chain = planted([2, 1, 0, 4, 3])
  in_runs = dataclasses.replace(chain, move_sizes=(4, 1))
  assert find_needed(in_runs).kept == find_needed(chain).kept


def test_an_oracle_and_chance_on_generated_chains():
  chance, rng = [], np.random.default_rng(0)
  for chain in read_chains("planted@length=100", num_chains=20):
    kinds = kinds_of_tokens(chain.extra[PIECES], list(chain.reasoning))
    oracle = np.argsort([kind == Kind.NEEDED for kind in kinds], kind="stable")
    found, by_chance = (
      find_needed(dataclasses.replace(pruned_chain(chain.reasoning, order), chain=chain))
      for order in (oracle, rng.permutation(len(kinds)))
    )
    assert found.auc[ALL] == 1
    assert found.kept[0.1] == (5 / int(0.1 * len(kinds)), 1)
    chance.append(by_chance.auc[ALL])
  assert np.mean(chance) == pytest.approx(0.5, abs=0.1)


def test_the_tables():
  run = LabelledRun(
    "greedy",
    [planted([2, 1, 0, 4, 3], chain_id="c/0"), planted([2, 0, 4, 1, 3], chain_id="c/1")],
    [(None,) * 5] * 2,
  )
  auc, kept = needed_section([run]).tables
  assert "runs pruned to other depths cannot be compared" in auc.caption
  rows = {row[1]: row for row in auc.rows}
  assert rows[ALL][2] == pytest.approx((4 / 6 + 1) / 2)
  assert rows[ALL][3] < rows[ALL][2] < rows[ALL][4]
  assert rows[str(Kind.LABEL)][2] == 0.75
  half = next(row for row in kept.rows if row[1] == 0.5)
  assert (half[2], half[5], half[-1]) == (0.75, 0.75, 2)


def test_what_keeps_nothing_has_no_precision():
  """Units of three and two tokens: at 0.1 both are gone, and nothing is there."""
  whole = planted([0, 1, 2, 3, 4])
  units = dataclasses.replace(whole, unit="sentence", unit_sizes=(3, 2))
  found = find_needed(units).kept
  assert np.isnan(found[0.1][0])
  assert found[0.1][1] == 0
  assert found[0.5] == (0.5, 0.5)
  tokens = planted([2, 1, 0, 4, 3, *range(5, 20)], (*KINDS, *[Kind.LABEL] * 15), "c/1")
  _, kept = needed_section([LabelledRun("r", [units, tokens], [(None,) * 5, (None,) * 20])]).tables
  row = dict(zip(kept.columns, next(row for row in kept.rows if row[1] == 0.1), strict=True))
  assert (row["precision"], row["chains with precision"], row["chains"]) == (0, 1, 2)


def test_labels_of_another_text():
  chain = planted(range(5))
  assert is_planted(chain)
  assert not is_planted(pruned_chain("ab", [0]))
  extra = {PIECES: [[3, "label"]]}
  wrong = dataclasses.replace(chain, chain=dataclasses.replace(chain.chain, extra=extra))
  with pytest.raises(UserError, match=r'"pieces" covers 3 characters; the tokens have 5'):
    find_needed(wrong)
