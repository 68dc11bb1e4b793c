"""Orders against judgements: correlations that are planted come back, controls take them away."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from greedy_prune_jax.analysis.importances import (
  KINDS,
  LEAST,
  compare,
  judgement_sections,
  partial_spearman,
  parts_of,
)
from greedy_prune_jax.analysis.patterns import LabelledRun
from tests.helpers.planted import pruned_chain


def judged(importance, order, chain_id="c/0", ranking="greedy", **extra):
  """Sentences of two tokens each, of one and two characters."""
  tokens = ["a", "bc"] * len(importance)
  chain = pruned_chain(tokens, order, chain_id)
  spans = [[3 * i, 3 * i + 3, value] for i, value in enumerate(importance)]
  extra = extra or {"importances": spans}
  return dataclasses.replace(
    chain, chain=dataclasses.replace(chain.chain, extra=extra), ranking=ranking
  )


def by_sentence(ranks):
  """An order in which whole sentences leave, the one of rank 0 first."""
  return [2 * u + i for u in np.argsort(ranks) for i in (0, 1)]


def run(name, chains):
  return LabelledRun(name, chains, [(None,) * len(c.reasoning_ids) for c in chains])


def table_of(*runs, kind="importances"):
  tables = [table for section in judgement_sections(runs) for table in section.tables]
  (table,) = [table for table in tables if table.name == kind]
  assert "runs pruned to other depths cannot be compared" in table.caption
  return {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


def test_ranks_of_sentences_are_means_over_characters():
  chain = judged([1.0, 2.0], [0, 2, 1, 3])  # ranks 0, 2, 1, 3
  assert parts_of(chain, KINDS[0]).rank / 2 == pytest.approx([(0 + 2 * 2) / 3, (1 + 2 * 3) / 3])


def test_sentences_that_were_never_deleted_tie_whatever_their_length():
  """A mean of n equal fractions depends on n: rounding would order them by their lengths."""
  lengths = [*range(3, 40), 2]
  tokens = ["x" * length for length in lengths]
  chain = pruned_chain(tokens, [len(lengths) - 1])
  ends = np.cumsum(lengths).tolist()
  spans = [[end - n, end, float(n)] for end, n in zip(ends, lengths, strict=True)]
  extra = {"importances": spans}
  chain = dataclasses.replace(chain, chain=dataclasses.replace(chain.chain, extra=extra))
  parts = parts_of(chain, KINDS[0])
  assert parts is not None
  assert len(set(parts.rank.tolist())) == 2
  assert compare(parts.rank[:-1], parts.value[:-1])[0] == 0.5


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
  scores = np.arange(20.0)
  assert compare(scores, importance, top_share=0.1)[0] == 1
  scores[19] = -1  # one of the two most important leaves first
  assert compare(scores, importance, top_share=0.1)[0] == 0.5


def test_auc_is_of_the_best_rated_where_there_is_no_share():
  ratings = np.array([1.0, 1, 0, -1])
  assert compare(np.array([3.0, 2, 1, 0]), ratings)[0] == 1
  assert compare(np.array([3.0, 0, 2, 1]), ratings)[0] == 0.5, "pairs of the ones with the others"


@pytest.mark.parametrize("value", [[], [1.0], [1.0] * 20])
def test_nothing_is_told_where_no_part_is_judged_better(value):
  assert np.isnan(compare(np.arange(float(len(value))), np.array(value))).all()


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
  assert rows["earlier sentences"]["with controls"] is None, "it has none"
  assert rows["earlier sentences"]["chains with controls"] == 0


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


def test_a_chain_of_another_text_under_the_same_id_is_no_control():
  rng = np.random.default_rng(0)
  shorter = [judged(rng.normal(size=9), by_sentence(np.arange(9)), "c", ranking="surprisal")]
  longer = [judged(rng.normal(size=12), by_sentence(rng.permutation(12)), "c")]
  rows = table_of(run("s", shorter), run("a", longer))
  assert rows["a"]["controls"] == "position, length"
  assert rows["earlier sentences"]["chains"] == 2


def test_surprisal_is_a_control_of_all_chains_of_its_own_pruner_alone():
  rng = np.random.default_rng(0)

  def draw(pruner, ranking, numbers):
    chains = [
      judged(np.arange(12.0), by_sentence(rng.permutation(12)), f"c/{i}", ranking) for i in numbers
    ]
    return run(
      f"{ranking} {pruner} {len(chains)}",
      [dataclasses.replace(chain, pruner=pruner) for chain in chains],
    )

  greedy = draw("small", "greedy", range(10))
  own, other = draw("small", "surprisal", range(10)), draw("large", "surprisal", range(10))
  few = draw("small", "surprisal", range(1))
  for controls in ([other], [few], [few, other]):
    row = table_of(greedy, *controls)[greedy.name]
    assert row["controls"] == "position, length"
    assert row == table_of(greedy)[greedy.name]
  expected = table_of(greedy, own)[greedy.name]
  assert expected["controls"] == "position, length, surprisal"
  for runs in ([greedy, own, other], [greedy, other, own], [other, own, greedy]):
    assert table_of(*runs)[greedy.name] == expected


def test_equally_important_sentences_are_good_alike():
  """Of ties at the border of the top tenth the earlier ones would be called better."""
  rng = np.random.default_rng(0)
  found = [
    compare(-np.arange(60.0), (rng.random(60) < 0.3).astype(float), top_share=0.1)
    for _ in range(300)
  ]
  assert np.mean(found, axis=0)[:2] == pytest.approx([0.5, 0], abs=0.02)
  value = np.array([2.0, *[1.0] * 3, *[0.0] * 16])
  assert compare(-np.arange(20.0), value, top_share=0.1)[0] == 1, "all three of the second place"
  few = np.array([*[1.0] * 3, *[0.0] * 27])
  nothing_else = compare(np.arange(30.0), few, top_share=0.2)
  assert np.isnan(nothing_else[0])
  assert nothing_else[1] < 0
  row = table_of(run("a", [judged(np.append(np.zeros(29), 1.0), range(60), "c")]))["a"]
  assert (row["chains"], row["chains with AUC"]) == (1, 0)


def test_of_chains_with_few_sentences_nothing_is_told_with_controls():
  rng = np.random.default_rng(0)
  numbers = (3, LEAST - 1, LEAST, LEAST + 4)
  chains = [judged(rng.normal(size=n), rng.permutation(2 * n), f"c/{n}") for n in numbers]
  row = table_of(run("a", chains))["a"]
  assert (row["chains"], row["chains with controls"]) == (4, 2)


def test_ratings_of_steps_have_a_table_of_their_own():
  rng = np.random.default_rng(0)
  good, blind = [], []
  for i in range(12):
    labels = [None, *rng.choice([-1, 0, 1], 11).tolist()]
    of_steps = np.array([0 if label is None else label for label in labels])
    args = {"steps": ["abc"] * 12, "step_labels": labels}
    good.append(judged([0.0] * 12, by_sentence(of_steps + rng.normal(0, 0.3, 12)), f"{i}", **args))
    blind.append(judged([0.0] * 12, by_sentence(rng.normal(size=12)), f"{i}", **args))
  rows = table_of(run("good", good), run("blind", blind), kind="ratings")
  assert rows["good"]["AUC low"] > 0.9
  assert rows["good"]["with controls low"] > 0.7
  assert rows["blind"]["AUC low"] < 0.5 < rows["blind"]["AUC high"]
  assert rows["good"]["chains"] == 12
  assert len(judgement_sections([run("good", good)])) == 1, "no table of importances"


def test_the_first_wrong_step_is_told_from_all_others():
  rng = np.random.default_rng(0)
  finds, early = [], []
  for i in range(10):
    wrong = int(rng.integers(3, 10)) if i else -1  # the first chain has no error
    place = np.where(np.arange(12) == wrong, -1.0, rng.random(12))
    args = {"steps": ["abc"] * 12, "first_wrong_step": wrong}
    finds.append(judged([0.0] * 12, by_sentence(place), f"{i}", **args))
    early.append(judged([0.0] * 12, by_sentence(-np.arange(12.0)), f"{i}", **args))
  rows = table_of(run("finds", finds), run("early", early), kind="first_errors")
  assert rows["finds"]["AUC"] == 1
  assert rows["finds"]["with controls low"] > 0.2
  assert rows["early"]["AUC"] == rows["earlier steps"]["AUC"] < 0.8
  assert rows["early"]["with controls"] is None
  assert rows["finds"]["chains"] == 9


def test_a_run_with_a_chain_that_is_not_judged_has_no_row():
  chains = [judged([1.0, 2.0], [0, 1, 2, 3], f"c/{i}") for i in range(2)]
  other = [chains[0], pruned_chain("ab", [0])]
  assert "other" not in table_of(run("all", chains), run("other", other))
  assert judgement_sections([run("other", other)]) == []
