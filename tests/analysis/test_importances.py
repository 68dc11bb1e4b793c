"""Orders against importances: correlations that are planted come back, controls take them away."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from greedy_prune_jax.analysis.importances import (
  Sentences,
  compare,
  has_importances,
  importance_section,
  partial_spearman,
  sentence_ranks,
)
from greedy_prune_jax.analysis.patterns import LabelledRun
from greedy_prune_jax.errors import UserError
from tests.helpers.planted import pruned_chain


def judged(importance, order, chain_id="c/0", ranking="greedy"):
  """Sentences of two tokens each, of one and two characters."""
  tokens = ["a", "bc"] * len(importance)
  chain = pruned_chain(tokens, order, chain_id)
  spans = [[3 * i, 3 * i + 3, value] for i, value in enumerate(importance)]
  extra = {"importances": spans}
  return dataclasses.replace(
    chain, chain=dataclasses.replace(chain.chain, extra=extra), ranking=ranking
  )


def by_sentence(ranks):
  """An order in which whole sentences leave, the one of rank 0 first."""
  return [2 * u + i for u in np.argsort(ranks) for i in (0, 1)]


def run(name, chains):
  return LabelledRun(name, chains, [(None,) * len(c.reasoning_ids) for c in chains])


def table_of(*runs):
  (table,) = importance_section(runs).tables
  return {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


def test_ranks_of_sentences_are_means_over_characters():
  chain = judged([1.0, 2.0], [0, 2, 1, 3])  # ranks 0, 2, 1, 3 of 3
  assert sentence_ranks(chain) == pytest.approx([(0 + 2 * 2) / 9, (1 + 2 * 3) / 9])


def test_partial_correlation_is_that_of_the_formula():
  rng = np.random.default_rng(0)
  z = rng.normal(size=300)
  x, y = z + rng.normal(size=300), z + rng.normal(size=300)
  r = {
    pair: stats.spearmanr(*pair_of).statistic
    for pair, pair_of in {"xy": (x, y), "xz": (x, z), "yz": (y, z)}.items()
  }
  expected = (r["xy"] - r["xz"] * r["yz"]) / np.sqrt((1 - r["xz"] ** 2) * (1 - r["yz"] ** 2))
  assert partial_spearman(x, y, [z]) == pytest.approx(expected)
  assert partial_spearman(x, y, []) == pytest.approx(r["xy"])
  assert abs(expected) < 0.2 < r["xy"]
  assert np.isnan(partial_spearman(x, z, [z]))


def test_auc_is_of_the_most_important_tenth():
  importance = np.arange(20.0)
  sentences = Sentences(importance, np.arange(20.0), np.ones(20))
  scores = np.arange(20.0)
  assert compare(scores, sentences, {})[0] == 1
  scores[19] = -1  # one of the two most important leaves first
  assert compare(scores, sentences, {})[0] == 0.5


def test_an_order_by_importance_and_one_by_position_alone():
  rng = np.random.default_rng(0)
  good, early = [], []
  for i in range(12):
    importance = -np.arange(30.0) + rng.normal(0, 10, 30)  # early sentences matter more
    good.append(judged(importance, by_sentence(importance + rng.normal(0, 5, 30)), f"c/{i}"))
    early.append(judged(importance, by_sentence(-np.arange(30.0)), f"c/{i}"))
  rows = table_of(run("good", good), run("early", early))
  assert rows["good"]["with controls low"] > 0.3
  assert rows["good"]["AUC low"] > 0.6
  assert rows["early"]["Spearman low"] > 0.3
  assert rows["early"]["with controls"] is None, "nothing is left of it"
  assert rows["earlier sentences"]["Spearman"] == pytest.approx(rows["early"]["Spearman"])
  assert rows["good"]["chains"] == 12


def test_the_run_by_surprisal_is_a_control_of_the_others():
  rng = np.random.default_rng(0)
  surprising, copied = [], []
  for i in range(10):
    importance = rng.normal(size=40)
    order = by_sentence(importance + rng.normal(0, 0.7, 40))
    surprising.append(judged(importance, order, f"c/{i}", ranking="surprisal"))
    nearly = [*order[2:4], *order[:2], *order[4:]]
    copied.append(judged(importance, nearly, f"c/{i}"))
  rows = table_of(run("s", surprising), run("copied", copied))
  assert rows["s"]["controls"] == "position, length"
  assert rows["copied"]["controls"] == "position, length, surprisal"
  assert rows["copied"]["Spearman"] > 0.6 > 0.3 > rows["copied"]["with controls"]


def test_chains_of_few_sentences_are_left_out():
  rng = np.random.default_rng(0)
  chains = [judged(rng.normal(size=n), rng.permutation(2 * n), f"c/{n}") for n in (3, 9, 10)]
  assert table_of(run("a", chains))["a"]["chains"] == 2


def test_a_sentence_outside_of_the_reasoning():
  chain = judged([1.0], [0, 1])
  assert has_importances(chain)
  assert not has_importances(pruned_chain("ab", [0]))
  extra = {"importances": [[0, 4, 1.0]]}
  chain = dataclasses.replace(chain, chain=dataclasses.replace(chain.chain, extra=extra))
  with pytest.raises(UserError, match="has the span 0 to 4; expected one in the 3 characters"):
    sentence_ranks(chain)
