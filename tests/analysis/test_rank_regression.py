import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from greedy_prune_jax.analysis import regression_report
from greedy_prune_jax.analysis.feature_store import build_store
from greedy_prune_jax.analysis.patterns import LabelledRun, normalised_ranks
from greedy_prune_jax.analysis.rank_data import (
  collect_rank_data,
  pooled_attention,
  shuffle_within_chains,
)
from greedy_prune_jax.analysis.rank_regression import (
  assign_folds,
  fit_ranking,
  fit_trees,
  head_correlations,
  is_late,
  knows_late,
  predict_unseen,
  row_folds,
  score_predictions,
)
from greedy_prune_jax.analysis.regression_report import (
  plan_regressions,
  regression_section,
  run_regressions,
)
from greedy_prune_jax.analysis.ridge import fit_ridge
from greedy_prune_jax.chains.categories import Category
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.rankings.attention_regression import (
  CONTROL_NAMES,
  TokenCounts,
  attention_columns,
  attention_regression,
  load_ranking,
  save_ranking,
)
from greedy_prune_jax.rankings.interface import RankingInput, RankingSettings
from greedy_prune_jax.scoring.features import STATISTICS, extract_features
from tests.helpers.planted import pruned_chain, random_segments, tiny_model

LAYER, HEAD, STATISTIC = 1, 2, STATISTICS.index("from answer, mean")
NUM_CHAINS = 60


class EveryTokenFunction:
  def annotate(self, chains):
    return [(Category.FUNCTION,) * len(tokens) for tokens in chains]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
  """A tiny model's attention features on random chains."""
  model, chains = tiny_model(), random_segments(NUM_CHAINS, least=15)
  ids = [f"c/{i}" for i in range(NUM_CHAINS)]
  store = build_store(
    tmp_path_factory.mktemp("features"), model, ids, chains, pruner="tiny", dtype="float32"
  )
  return model, chains, store


def rank_data(stored, order_of, name="run"):
  """Rank data where `order_of(chain number, attention)` is the order of deletion."""
  _, chains, store = stored
  pruned = [
    pruned_chain(
      ["x"] * len(chain.reasoning),
      order_of(i, np.asarray(store.attention[store.rows(i)])),
      f"c/{i}",
      ids=chain.reasoning,
    )
    for i, chain in enumerate(chains)
  ]
  labels = EveryTokenFunction().annotate([chain.reasoning_tokens for chain in pruned])
  counts = TokenCounts.of([chain.reasoning.tolist() for chain in chains])
  return collect_rank_data(LabelledRun(name, pruned, labels), store, counts), counts


def planted_order(_, attention):
  return np.argsort(attention[:, LAYER, HEAD, STATISTIC])


def random_order(i, attention):
  return np.random.default_rng(i).permutation(len(attention))


def scores_of(data, feature_set, **settings):
  predictions = predict_unseen(data, data, assign_folds([data]), feature_set, **settings)
  return score_predictions(data.rank, predictions, data.chain, data.questions)


@pytest.mark.slow
def test_ranks_made_from_one_heads_attention_give_that_head(stored):
  data, _ = rank_data(stored, planted_order)
  correlations = head_correlations(data)
  found = np.unravel_index(np.abs(correlations).argmax(), correlations.shape)
  assert found == (LAYER, HEAD, STATISTIC)
  assert correlations[found] > 0.98  # least probabilities tie
  attention = scores_of(data, "attention")
  controls = scores_of(data, "controls")
  assert attention.r2.low > 0.5
  assert attention.spearman.estimate > 0.8
  assert attention.r2.low > controls.r2.high
  shuffled = scores_of(data, "shuffled attention")
  assert abs(shuffled.spearman.estimate) < 0.15


@pytest.mark.slow
@pytest.mark.parametrize("regressor", ["ridge", "trees"])
def test_ranks_made_at_random_cannot_be_predicted_on_unseen_chains(stored, regressor):
  data, _ = rank_data(stored, random_order)
  scores = scores_of(data, "controls and attention", regressor=regressor)
  assert -0.3 < scores.r2.estimate < 0.05
  assert scores.spearman.low < 0 < scores.spearman.high or abs(scores.spearman.estimate) < 0.1


@pytest.mark.slow
def test_folds_are_of_questions_and_shared_by_runs(stored):
  data, _ = rank_data(stored, random_order)
  ids = tuple(f"d/{i}" for i in range(NUM_CHAINS))
  other = dataclasses.replace(data, name="other", ids=ids)
  fold_of = assign_folds([data, other])
  np.testing.assert_array_equal(row_folds(data, fold_of), row_folds(other, fold_of))
  pairs = tuple(f"question {i // 2}" for i in range(NUM_CHAINS))
  paired = dataclasses.replace(data, questions=pairs)
  unlike = dataclasses.replace(other, ids=data.ids, questions=ids)  # other data, numbered alike
  for runs in ([paired], [paired, unlike], [unlike, paired]):
    fold_of = assign_folds(runs)
    assert set(fold_of) == {question for run in runs for question in run.questions}
    for run in runs:
      folds = [fold_of[question] for question in dict.fromkeys(run.questions)]
      assert np.ptp(np.bincount(folds, minlength=5)) <= 1
  with pytest.raises(UserError, match="3 questions, which cannot be split into 5 folds"):
    assign_folds([dataclasses.replace(data, ids=("a", "b", "c"), questions=("q", "r", "s"))])


@pytest.mark.parametrize("shared", [0, 3])
def test_every_run_has_questions_in_all_folds(shared):
  """Five chains beside many: dealt out together they may come to lie in one or two folds."""
  for trial in range(50):
    names = np.random.default_rng(trial).permutation(40).astype(str).tolist()
    few, many = names[:5], names[5 - shared :]
    runs = [SimpleNamespace(name=r[0], questions=r, ids=r) for r in (many, few)]
    fold_of = assign_folds.__wrapped__(runs)
    for run in runs:
      assert np.ptp(np.bincount([fold_of[q] for q in run.questions], minlength=5)) <= 1


@pytest.mark.slow
def test_the_gain_of_attention_is_in_pairs_of_chains(stored, tmp_path):
  planted, _ = rank_data(stored, planted_order)
  chance, _ = rank_data(stored, random_order, "chance")
  rows = run_regressions(tmp_path / "rows.jsonl", [planted, chance], ["ridge"], 0.25)
  again = run_regressions(tmp_path / "rows.jsonl", [planted, chance], ["ridge"], 0.25)
  assert again == rows, "as it is stored"
  table = regression_report._gain_table(
    [row for row in rows if row["target"] == "rank"],
    {data.name: data.questions for data in (planted, chance)},
  )
  gains = {row[:4]: row[4:] for row in table.rows}
  name = ("run", "ridge", "controls and attention", "controls")
  gain, low, high, chains = gains[name]
  own = [r for r in rows if r["tested on"] == r["fitted to"] == "run"]
  by_set = {r["features"]: r for r in own if r["target"] == "rank"}
  assert gain == pytest.approx(
    by_set["controls and attention"]["spearman"] - by_set["controls"]["spearman"]
  )
  assert 0.3 < low < gain < high
  assert chains == NUM_CHAINS
  _, low, high, _ = gains[("chance", *name[1:])]
  assert low < 0.05
  assert high < 0.2


def test_no_token_of_a_tested_chain_is_fitted_to(stored, monkeypatch):
  from greedy_prune_jax.analysis import rank_regression

  data, _ = rank_data(stored, random_order)
  fold_of = assign_folds([data])
  seen = []

  def fit(features, target, folds):
    seen.append(set(folds.tolist()))
    return rank_regression.fit_ridge(features, target, folds)

  monkeypatch.setitem(rank_regression.REGRESSORS, "ridge", fit)
  predict_unseen(data, data, fold_of, "position")
  assert seen == [{0, 1, 2, 3, 4} - {fold} for fold in range(5)]


def test_what_holds_in_one_run_is_carried_to_another(stored):
  planted, _ = rank_data(stored, planted_order)
  opposite, _ = rank_data(stored, lambda i, attention: planted_order(i, attention)[::-1])
  fold_of = assign_folds([planted, opposite])
  predictions = predict_unseen(planted, opposite, fold_of, "attention")
  assert (
    score_predictions(opposite.rank, predictions, opposite.chain, opposite.questions).spearman.high
    < -0.7
  )


@pytest.mark.slow
def test_what_holds_at_a_depth_is_carried_to_a_model_of_another_shape(stored, tmp_path):
  def early_attention(_, attention):
    return np.argsort(np.log(attention[:, : attention.shape[1] // 2, :, STATISTIC]).mean((1, 2)))

  data, _ = rank_data(stored, early_attention)
  model = tiny_model(seed=3, num_layers=6, num_heads=2)
  _, chains, store = stored
  deeper = build_store(tmp_path, model, list(store.ids), chains, pruner="tiny", dtype="float32")
  other, _ = rank_data((model, chains, deeper), early_attention)
  assert other.shape != data.shape
  planned = [task.features for task in plan_regressions([data, other], ["ridge"], 0.25)[-6:]]
  assert planned == 2 * ["controls", "pooled attention", "controls and pooled attention"]
  fold_of = assign_folds([data, other])

  def carried(feature_set):
    predictions = predict_unseen(data, other, fold_of, feature_set)
    return score_predictions(other.rank, predictions, other.chain, other.questions).spearman

  assert carried("pooled attention").low > 0.5
  assert carried("controls and pooled attention").low > 0.5
  assert carried("controls").estimate < carried("pooled attention").low


@pytest.mark.parametrize("num_layers", [2, 4, 6])
def test_pooled_attention_is_the_mean_of_heads_and_layers(num_layers):
  values = np.random.default_rng(0).normal(size=(7, num_layers, 3, 5)).astype(np.float32)
  pooled = pooled_attention(values.reshape(7, -1), (num_layers, 3, 5)).reshape(7, 4, 5)
  layers = {
    2: [[0], [0], [1], [1]],
    4: [[0], [1], [2], [3]],
    6: [[0, 1], [1, 2], [3, 4], [4, 5]],
  }[num_layers]
  for depth, own in enumerate(layers):
    np.testing.assert_allclose(pooled[:, depth], values[:, own].mean(axis=(1, 2)), rtol=1e-5)


def test_attention_that_does_not_vary_is_no_feature():
  rng = np.random.default_rng(0)
  attention = rng.random((300, 2, 3, len(STATISTICS))).astype(np.float16)
  attention[:, 1, 2, 0] = 0.0  # as of a head that never looks there
  chains = np.split(attention, [70, 171])
  columns = np.concatenate([attention_columns(chain) for chain in chains])
  fitted = fit_ridge(columns, rng.random(300), np.arange(300) % 3)
  dead = np.ravel_multi_index((1, 2, 0), attention.shape[1:])
  assert np.isinf(fitted.scale[dead])
  assert np.isfinite(np.delete(fitted.scale, dead)).all()


def test_the_last_tokens_to_leave(stored):
  data, _ = rank_data(stored, planted_order)
  late = is_late(data, 0.25)
  for number in range(NUM_CHAINS):
    rows = data.chain == number
    assert late[rows].sum() == int(rows.sum() * 0.25)
    assert data.rank[rows][late[rows]].min() > data.rank[rows][~late[rows]].max()
  predictions = predict_unseen(data, data, assign_folds([data]), "attention", late_share=0.25)
  scores = score_predictions(late.astype(float), predictions, data.chain, data.questions)
  expected = np.mean(
    [roc_auc_score(late[data.chain == i], predictions[data.chain == i]) for i in range(NUM_CHAINS)]
  )
  np.testing.assert_allclose(scores.auc.estimate, expected)
  assert scores.auc.low > 0.85


def test_the_last_tokens_to_leave_are_known_of_chains_pruned_to_that_share(stored):
  data, _ = rank_data(stored, planted_order)
  ranks = normalised_ranks(pruned_chain(["x"] * 90, range(27)))
  rows = {name: np.resize(getattr(data, name), (90, 1)) for name in ("controls", "attention")}
  ninety = dataclasses.replace(
    data, num_kept=np.array([63]), chain=np.zeros(90, int), rank=ranks, **rows
  )
  assert knows_late(ninety, 0.7)
  assert is_late(ninety, 0.7).sum() == 63


@pytest.mark.slow
def test_the_last_tokens_to_leave_are_no_target_where_more_were_never_deleted(stored, tmp_path):
  def pruned_to(ratio):
    def order(i, attention):
      return planted_order(i, attention)[: len(attention) - int(len(attention) * ratio)]

    return rank_data(stored, order)

  quarter, _ = pruned_to(0.25)
  assert knows_late(quarter, 0.25)
  assert is_late(quarter, 0.25).sum() == quarter.num_kept.sum()
  half, counts = pruned_to(0.5)
  assert not knows_late(half, 0.25)
  rows = run_regressions(tmp_path / "scores.jsonl", [half], ["ridge"], 0.25)
  assert {row["target"] for row in rows} == {"rank"}
  ranking = fit_ranking(half, counts, pruner="tiny", annotator="rules")
  section = regression_section([half], [ranking], rows, 0.25)
  assert "nothing is said of the last 0.25 to leave" in section.paragraphs[-1]


def test_stored_scores_are_of_the_same_data(stored, tmp_path, monkeypatch):
  monkeypatch.setattr(regression_report, "FEATURE_SETS", ["position"])
  fits = []

  def predict(train, *args, **settings):
    fits.append(train)
    return predict_unseen(train, *args, **settings)

  monkeypatch.setattr(regression_report, "predict_unseen", predict)
  first, _ = rank_data(stored, random_order)
  second, _ = rank_data(stored, lambda i, attention: np.arange(len(attention)))
  other = dataclasses.replace(first, pruner="other")
  labelled = dataclasses.replace(first, controls=first.controls + 1)
  read_anew = dataclasses.replace(first, attention=first.attention + 1)
  fold_of = assign_folds([first])
  assert len({data.fingerprint(fold_of) for data in (first, labelled, read_anew)}) == 3
  path = tmp_path / "scores.jsonl"
  found = [run_regressions(path, [data], ["ridge"], 0.25) for data in (first, second, other, first)]
  assert [data.pruner for data in fits] == ["tiny"] * 4 + ["other"] * 2  # two targets each
  assert found[0] == found[2] == found[3]
  assert found[1][0]["r2"] > 0.9 > found[0][0]["r2"]


def test_trees_of_many_tokens_are_as_many_as_of_few():
  rows = 10_001  # from which on scikit-learn would hold out some tokens of each chain
  target = np.random.default_rng(0).normal(size=rows)
  trees = fit_trees(target[:, None], target, np.zeros(rows, int))
  assert (trees.n_iter_, trees.do_early_stopping_) == (60, False)


@pytest.mark.slow
def test_stored_scores_are_of_the_same_folds(stored, tmp_path, monkeypatch):
  """Beside another run, some of whose questions are its own, its questions may lie in others."""
  monkeypatch.setattr(regression_report, "FEATURE_SETS", ["position"])
  monkeypatch.setattr(regression_report, "_SHARED_SETS", ("position",))
  monkeypatch.setattr(regression_report, "_HEAD_SETS", ())
  data, _ = rank_data(stored, random_order)
  few = tuple(f"question of c/{i % 7}" for i in range(NUM_CHAINS))
  beside = [data, dataclasses.replace(data, name="few", questions=few)]
  alone = assign_folds([data])
  assert any(assign_folds(beside)[question] != fold for question, fold in alone.items())
  run_regressions(tmp_path / "scores.jsonl", [data], ["ridge"], 0.25)
  found = run_regressions(tmp_path / "scores.jsonl", beside, ["ridge"], 0.25)
  assert found == run_regressions(tmp_path / "anew.jsonl", beside, ["ridge"], 0.25)


def test_scores_of_perfect_constant_and_reversed_predictions():
  target = np.tile(np.linspace(0, 1, 10), 8)
  chain, questions = np.repeat(np.arange(8), 10), list("abcdefgh")
  perfect = score_predictions(target, target, chain, questions)
  found = [perfect.r2.estimate, perfect.spearman.estimate, perfect.kendall.low]
  np.testing.assert_allclose(found, 1)
  constant = score_predictions(target, np.full(80, 0.5), chain, questions)
  np.testing.assert_allclose([constant.r2.estimate, constant.spearman.estimate], 0, atol=1e-12)
  backwards = score_predictions(target, 1 - target, chain, questions)
  np.testing.assert_allclose([backwards.r2.estimate, backwards.spearman.estimate], [-3, -1])


def test_shuffling_stays_within_chains():
  chain = np.array([0, 0, 0, 1, 1, 2])
  values = np.arange(12.0).reshape(6, 2)
  shuffled = shuffle_within_chains(values, chain)
  for number in range(3):
    rows = chain == number
    assert sorted(map(tuple, shuffled[rows])) == sorted(map(tuple, values[rows]))
  assert not np.array_equal(shuffled, values)


def test_a_saved_ranking_prunes_new_chains_as_it_did_before(stored, tmp_path):
  model, _chains, _ = stored
  data, counts = rank_data(stored, planted_order)
  fitted = fit_ranking(data, counts, pruner="tiny", annotator="rules")
  save_ranking(tmp_path / "ranking", fitted)
  settings = RankingSettings(attention_regression=str(tmp_path / "ranking"))
  rank = attention_regression(model, settings)
  for chain in random_segments(4, seed=9, least=20):
    tokens = ("x",) * len(chain.reasoning)
    order = rank(RankingInput("new", chain, tokens)).order
    [(attention, surprisal)] = extract_features(model, [chain], batch_size=1)
    labels = (Category.FUNCTION,) * len(tokens)
    ranks = fitted.predict(chain.reasoning.tolist(), labels, attention, surprisal)
    assert order == np.argsort(ranks, kind="stable").tolist()
    # The first quarter to go has less of the planted attention than the last.
    planted = attention[:, LAYER, HEAD, STATISTIC]
    quarter = len(order) // 4
    assert planted[order[:quarter]].mean() < planted[order[-quarter:]].mean()


def test_names_with_dots_are_told_apart(stored, tmp_path):
  data, counts = rank_data(stored, planted_order)
  for name in ("llama-3.1", "llama-3.2"):
    save_ranking(tmp_path / name, fit_ranking(data, counts, pruner=name, annotator="rules"))
  for name in ("llama-3.1", "llama-3.2"):
    for ending in ("", ".json", ".safetensors"):
      assert load_ranking(tmp_path / f"{name}{ending}").pruner == name


def test_a_ranking_of_another_model_or_version_is_refused(stored, tmp_path):
  _, _, _store = stored
  data, counts = rank_data(stored, planted_order)
  fitted = fit_ranking(data, counts, pruner="tiny", annotator="rules")
  with pytest.raises(UserError, match="fitted to tiny"):
    fitted.predict([1], (None,), np.zeros((1, 9, 3, len(STATISTICS)), np.float32), np.zeros(1))
  with pytest.raises(UserError, match="cannot read the attention regression"):
    load_ranking(tmp_path / "nowhere")
  save_ranking(tmp_path / "ranking", fitted)
  about = (tmp_path / "ranking.json").read_text()
  (tmp_path / "ranking.json").write_text(about.replace(CONTROL_NAMES[0], "place"))
  with pytest.raises(UserError, match="fitted to other features"):
    load_ranking(tmp_path / "ranking.safetensors")


@pytest.mark.parametrize(
  ("cells", "words"),
  [
    ((None, None, None), "unknown"),  # R2 where all ranks are equal
    ((0.5, None, None), "0.500 (no interval)"),  # of few chains
    ((0.5, 0.25, 0.75), "0.500 (0.250 to 0.750)"),
  ],
)
def test_scores_of_which_nothing_is_known_are_told_in_words(cells, words):
  assert regression_report._interval_words(cells) == words
