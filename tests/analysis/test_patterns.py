import itertools

import numpy as np
import pytest

from greedy_prune_jax.analysis import patterns
from greedy_prune_jax.analysis.label_files import labels_to_record
from greedy_prune_jax.analysis.pattern_report import _statement
from greedy_prune_jax.analysis.patterns import LabelledRun
from greedy_prune_jax.analysis.plots import plot_survival
from greedy_prune_jax.chains.categories import Category
from greedy_prune_jax.reports.bootstrap import bootstrap_ratio
from tests.helpers.planted import pruned_chain

ALL = list(Category)
SYMBOL, FUNCTION = ALL.index(Category.SYMBOLIC_MATH), ALL.index(Category.FUNCTION)
META = ALL.index(Category.META_DISCOURSE)


def planted_run(num_chains=30, num_tokens=20):
  """Chains in which every second token is grammar and leaves before every symbol."""
  rng = np.random.default_rng(0)
  chains, labels = [], []
  for i in range(num_chains):
    grammar = rng.permutation(np.arange(0, num_tokens, 2))
    symbols = rng.permutation(np.arange(1, num_tokens, 2))
    chains.append(pruned_chain(["x"] * num_tokens, [*grammar, *symbols], f"c/{i}"))
    labels.append((Category.FUNCTION, Category.SYMBOLIC_MATH) * (num_tokens // 2))
  return LabelledRun("planted", chains, labels)


def test_normalised_ranks_go_from_0_to_1_and_kept_tokens_share_the_rest():
  whole = pruned_chain(["x"] * 5, [3, 0, 1, 4, 2])
  np.testing.assert_allclose(patterns.normalised_ranks(whole), [0.25, 0.5, 1, 0, 0.75])
  partial = pruned_chain(["x"] * 5, [3, 0])
  np.testing.assert_allclose(patterns.normalised_ranks(partial), [0.25, 0.75, 0.75, 0, 0.75])


def test_survival_finds_that_grammar_leaves_first():
  curve = patterns.survival(planted_run(), np.array([0.0, 0.25, 0.5, 0.75]))
  np.testing.assert_allclose(curve.estimate[FUNCTION], [1, 0.5, 0, 0])
  np.testing.assert_allclose(curve.estimate[SYMBOL], [1, 1, 1, 0.5])
  assert np.isnan(curve.estimate[ALL.index(Category.COREFERENCE)]).all()  # none in these chains


def test_ranks_by_category_and_their_difference():
  run = planted_run()
  ranks = patterns.rank_by_category(run)
  np.testing.assert_allclose(ranks.estimate[[FUNCTION, SYMBOL]], [4.5 / 19, 14.5 / 19])
  difference = patterns.rank_differences(run, Category.FUNCTION)
  np.testing.assert_allclose(difference.estimate[[FUNCTION, SYMBOL]], [0, 10 / 19])
  assert difference.low[SYMBOL] > 0
  np.testing.assert_array_equal(patterns.category_counts(run), [300, 0, 0, 0, 0, 300, 0])


def test_of_few_chains_no_difference_is_claimed():
  """Orders at random: a category that two chains of thirty have would look certain."""
  few = planted_run(7)
  assert np.isnan([patterns.rank_by_category(few).low, patterns.rank_by_category(few).high]).all()
  assert "stay longer" in _statement(planted_run(8))
  assert "stay longer" not in _statement(few)
  assert _statement(few).count("nothing can be said") == 2
  run = planted_run(30)
  labels = [(Category.META_DISCOURSE, *of_chain[1:]) for of_chain in run.labels[:2]]
  rare = LabelledRun("rare", run.chains, [*labels, *run.labels[2:]])
  assert "nothing can be said of META_DISCOURSE, as chains of fewer than 8 questions" in _statement(
    rare
  )
  difference, _ = patterns.paired_rank_differences(rare, rare)
  assert difference.estimate[META] == 0
  assert np.isnan([difference.low[META], difference.high[META]]).all()
  assert difference.low[SYMBOL] == 0


def test_differences_of_two_runs_are_paired_by_chain():
  """Chains differ far more than the runs; in pairs the difference of 2 places in 19 is exact."""
  rng = np.random.default_rng(0)
  runs = {"later": [], "earlier": []}
  for i in range(12):
    place = int(rng.integers(0, 17))
    for name, rank in (("later", place + 2), ("earlier", place)):
      order = list(range(1, 20))
      order.insert(rank, 0)  # the only symbol is token 0
      runs[name].append(pruned_chain(["x"] * 20, order, f"c/{i}"))
  labels = [(Category.SYMBOLIC_MATH, *(Category.FUNCTION,) * 19)] * 12
  later = LabelledRun("later", runs["later"][::-1], labels)
  earlier = LabelledRun("earlier", runs["earlier"][:10], labels[:10])
  difference, num_chains = patterns.paired_rank_differences(later, earlier)
  assert num_chains == 10
  for bound in difference:
    np.testing.assert_allclose(bound[SYMBOL], 2 / 19)
    np.testing.assert_allclose(bound[FUNCTION], -2 / 19 / 19)
  apart = LabelledRun("apart", [pruned_chain(["x"] * 20, [0], "other")], labels[:1])
  difference, num_chains = patterns.paired_rank_differences(later, apart)
  assert num_chains == 0
  assert np.isnan(difference.estimate).all()


def test_runs_of_two_depths_are_compared_as_far_as_both_went():
  """One order, cut at half by one of the runs: no category leaves later in it."""
  whole = planted_run(12)
  half = [
    pruned_chain(["x"] * 20, chain.deletion_order[:10], chain.chain.id) for chain in whole.chains
  ]
  cut = LabelledRun("half", half, whole.labels)
  assert patterns.rank_by_category(cut).estimate[SYMBOL] == pytest.approx(14.5 / 19)
  shallow = [pruned_chain(["x"] * 20, c.deletion_order[:2], c.chain.id) for c in whole.chains]
  for one, other in ((cut, LabelledRun("shallow", shallow, whole.labels)), (whole, cut)):
    for pair in ((one, other), (other, one)):
      difference, _ = patterns.paired_rank_differences(*pair)
      np.testing.assert_allclose(difference.estimate[[FUNCTION, SYMBOL]], 0, atol=1e-12)


def test_the_depth_of_ranks_ends_with_a_whole_unit():
  chain = pruned_chain(["x"] * 8, [3, 4, 5, 0, 1], unit_sizes=(2, 1, 3, 2))
  ranks = np.array([5, 5, 5, 1, 1, 1, 5, 5]) / 7
  np.testing.assert_allclose(patterns.normalised_ranks(chain, 0.5), ranks)
  np.testing.assert_allclose(patterns.normalised_ranks(chain, 3 / 8), ranks)
  np.testing.assert_allclose(patterns.normalised_ranks(chain, 5 / 8)[:2], 3.5 / 7)
  np.testing.assert_allclose(patterns.normalised_ranks(chain, 2 / 8), 0.5)


def test_chains_of_other_data_are_no_pairs():
  """Two data sets number their chains alike; neither text nor question need be the same."""
  one = planted_run(12)
  reasoning = [pruned_chain(["y"] * 20, c.deletion_order, c.chain.id) for c in one.chains]
  question = [
    pruned_chain(["x"] * 20, c.deletion_order, c.chain.id, question="other") for c in one.chains
  ]
  for chains in (reasoning, question):
    other = LabelledRun("other", [*chains[:4], *one.chains[4:7]], one.labels[:7])
    difference, num_chains = patterns.paired_rank_differences(other, one)
    assert num_chains == 3
    assert len(patterns.common_chains(one, other)) == 3
    assert difference.estimate[SYMBOL] == 0


def test_the_grid_stops_where_the_shallowest_chain_did():
  chains = [pruned_chain(["x"] * 10, range(8)), pruned_chain(["x"] * 20, range(6))]
  np.testing.assert_allclose(patterns.share_grid(chains), np.arange(7) * 0.05)


def test_position_effect():
  chain = pruned_chain(["x"] * 20, range(20))
  ranks = patterns.rank_by_position(LabelledRun("r", [chain], [(None,) * 20]))
  np.testing.assert_allclose(ranks.estimate, (np.arange(10) * 2 + 0.5) / 19)


def test_run_lengths_beside_chance():
  chain = pruned_chain(["x"] * 8, [2, 3, 4, 7])
  run = LabelledRun("r", [chain], [(None,) * 8])
  lengths, by_chance = patterns.run_lengths(run, np.array([0.0, 0.375, 0.5]))
  np.testing.assert_allclose(lengths.estimate, [np.nan, 3, 2])
  # All ways of deleting 3 of 8, counted out.
  drawn = [np.isin(np.arange(8), draw) for draw in itertools.combinations(range(8), 3)]
  np.testing.assert_allclose(by_chance[1], 3 / np.mean([patterns.count_runs(d) for d in drawn]))


def test_tokens_of_a_unit_leave_together():
  """Units 0-1, 2, 3-5, 6-7 of 8 tokens; 3-5 left first, then 0-1; the others stayed."""
  chain = pruned_chain(["x"] * 8, [3, 4, 5, 0, 1], unit_sizes=(2, 1, 3, 2))
  assert chain.gone_before == (3, 3, 8, 0, 0, 0, 8, 8)
  ranks = [3.5, 3.5, 6, 1, 1, 1, 6, 6]
  np.testing.assert_allclose(patterns.normalised_ranks(chain), np.array(ranks) / 7)
  labels = (Category.FUNCTION,) * 3 + (Category.SYMBOLIC_MATH,) * 5
  run = LabelledRun("r", [chain], [labels])
  shares = np.array([0, 0.125, 0.375, 0.5])  # 0, 1, 3 and 4 tokens at least
  curve = patterns.survival(run, shares)
  np.testing.assert_allclose(curve.estimate[SYMBOL], [1, 0.4, 0.4, 0.4])
  np.testing.assert_allclose(curve.estimate[FUNCTION], [1, 1, 1, 1 / 3])
  (axes,) = plot_survival(["r"], shares, [curve], "").figure.axes
  (line,) = (line for line in axes.lines if line.get_label() == "all tokens")
  np.testing.assert_allclose(line.get_ydata(), [1, 5 / 8, 5 / 8, 3 / 8])
  lengths, by_chance = patterns.run_lengths(run, shares)
  np.testing.assert_allclose(lengths.estimate, [np.nan, 3, 3, 2.5])
  # Of four units one forms one gap, and two of them 2 (4 - 2 + 1) / 4.
  np.testing.assert_allclose(by_chance[1:], [3, 3, 5 / 1.5])


def test_tokens_of_a_run_leave_together():
  """Positions are no order: of a run that leaves at once, no token is needed more than another."""
  chain = pruned_chain("abcdefgh", [1, 2, 3, 0, 4, 6], move_sizes=(3, 2, 1))
  assert chain.gone_before == (3, 0, 0, 0, 3, 8, 5, 8)
  ranks = np.array([3.5, 1, 1, 1, 3.5, 6.5, 5, 6.5]) / 7
  np.testing.assert_allclose(patterns.normalised_ranks(chain), ranks)
  cut = np.array([5, 1, 1, 1, 5, 5, 5, 5]) / 7
  np.testing.assert_allclose(patterns.normalised_ranks(chain, 0.5), cut)
  run = LabelledRun("r", [chain], [(Category.FUNCTION,) * 4 + (Category.SYMBOLIC_MATH,) * 4])
  np.testing.assert_allclose(patterns.rank_by_category(run).estimate[FUNCTION], 6.5 / 7 / 4)
  steps = [token["deleted_step"] for token in labels_to_record(chain, run.labels[0]).popitem()[1]]
  assert steps == [2, 1, 1, 1, 2, None, 3, None]
  assert chain.kept_positions(6) == [0, 3, 4, 5, 6, 7], "texts go by single deletions"


def test_runs_deleted_at_random_are_counted_out():
  """All ways of deleting a run of 3 of 9 tokens, then one of 2 of the 6 that are left."""
  chain = pruned_chain("abcdefghi", [0, 1, 2, 3, 4], move_sizes=(3, 2))
  counts = []
  for first, second in itertools.product(range(7), range(5)):
    left = np.delete(np.arange(9), range(first, first + 3))
    left = np.delete(left, range(second, second + 2))
    counts.append(patterns.count_runs(~np.isin(np.arange(9), left)))
  lengths, by_chance = patterns.run_lengths(
    LabelledRun("r", [chain], [(None,) * 9]), np.array([1, 3, 5]) / 9
  )
  np.testing.assert_allclose(lengths.estimate, [3, 3, 5])
  np.testing.assert_allclose(by_chance, [3, 3, 5 / float(np.mean(counts))])


def test_words_deleted_at_random_are_no_neighbours_by_choice():
  rng = np.random.default_rng(0)
  chains = []
  for i in range(300):
    sizes = tuple(int(size) for size in rng.integers(1, 5, 20))
    words = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    order = [position for word in rng.permutation(20) for position in words[word]]
    chains.append(pruned_chain(["x"] * sum(sizes), order, f"c/{i}", unit_sizes=sizes))
  run = LabelledRun("r", chains, [(None,) * len(chain.reasoning_ids) for chain in chains])
  lengths, by_chance = patterns.run_lengths(run, np.array([0.1, 0.3, 0.5]))
  np.testing.assert_allclose(lengths.estimate, by_chance, rtol=0.04)


def test_intervals_cover_the_truth_as_often_as_they_say():
  """Chains differ more than their tokens do: resampling tokens would cover far too seldom."""
  rng = np.random.default_rng(1)
  covered = 0
  for _ in range(200):
    means = rng.normal(size=40)  # of 40 chains with 50 tokens each, around 0
    sums = (means[:, None] + 0.1 * rng.normal(size=(40, 50))).sum(axis=1)
    interval = bootstrap_ratio(sums, np.full(40, 50.0), list(map(str, range(40))), num_samples=500)
    covered += interval.low <= 0 <= interval.high
  assert 0.89 <= covered / 200 <= 0.99


def test_labels_must_fit_the_chains():
  with pytest.raises(ValueError, match="c/0 has 2 reasoning tokens and 1 labels"):
    LabelledRun("r", [pruned_chain(["a", "b"], [])], [(None,)])
