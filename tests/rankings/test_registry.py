"""The records of the rankings: what they say, and that one record is all that a ranking needs."""

import importlib
import inspect
import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from configs import prune
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.pretrained import load_model
from greedy_prune_jax.pruning.estimate import estimate_run
from greedy_prune_jax.pruning.run import run_prune
from greedy_prune_jax.pruning.settings import PruneSettings
from greedy_prune_jax.rankings.interface import (
  RankedTokens,
  RankingInput,
  RankingSettings,
  UnrankedError,
)
from greedy_prune_jax.rankings.registry import RANKINGS, ChainSizes, ModelRun, Ranking
from greedy_prune_jax.runs.workdir import Workdir
from tests.helpers.full_passes import random_segments
from tests.helpers.reference import tiny_config, tiny_model
from tests.helpers.tiny_runs import CHAINS, make_model, records, skipped, write_chains


def config_of(tmp_path, **changes):
  make_model(tmp_path / "model")
  config = prune.get_config()
  config.update(pruner=str(tmp_path / "model"), chains=str(write_chains(tmp_path / "chains.jsonl")))
  config.update({"num_chains": 0, "keep_ratios": (0.5,), "plan": {"peak_flops": 1e12}})
  return config.to_dict() | changes


@pytest.mark.parametrize("name", RANKINGS)
def test_makers_are_there_and_settings_are_known(name):
  ranking = RANKINGS[name]
  module, _, function = ranking.maker.rpartition(".")
  maker = getattr(importlib.import_module(f"greedy_prune_jax.rankings.{module}"), function)
  assert list(inspect.signature(maker).parameters) == ["model", "settings"]
  fields = inspect.signature(RankingSettings).parameters
  assert {*ranking.needs, *ranking.options} <= fields.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, ranking in RANKINGS.items() if not ranking.needs])
@pytest.mark.parametrize("unit_sizes", [None, (3, 1, 4, 2, 5)])
def test_the_runs_that_a_record_counts_are_run(tmp_path_factory, name, unit_sizes):
  folder = tmp_path_factory.mktemp("model")
  tiny_model(tiny_config("llama")).save_pretrained(folder)
  segments = random_segments(0, 61, (9, 15, 4))
  extra = {"pieces": [[15, "label"]]}
  chain = RankingInput("c", segments, ("x",) * 15, unit_sizes, extra)
  ranked = RANKINGS[name].make(load_model(str(folder), jnp.float32), RankingSettings())(chain)
  runs = RANKINGS[name].model_runs(ChainSizes(9, 15, 4, len(unit_sizes or range(15))))
  assert sum(run.num_texts * run.length for run in runs) == ranked.positions_scored


@pytest.mark.slow
def test_a_ranking_is_added_by_one_record(tmp_path, monkeypatch):
  """A toy ranking, the longest token first: settings, dry run and run know it."""

  def longest(model, settings):
    return lambda chain: RankedTokens(
      sorted(range(len(chain.tokens)), key=lambda i: -len(chain.tokens[i])), 7
    )

  record = Ranking(
    about="the longest first", maker=longest, model_runs=lambda sizes: [ModelRun(7, 7)]
  )
  monkeypatch.setitem(RANKINGS, "longest", record)
  config = config_of(tmp_path, ranking="longest")
  settings = PruneSettings.from_config(config)
  estimate = estimate_run(settings)
  with Workdir(tmp_path / "run", config, output="pruned") as workdir:
    assert run_prune(settings, workdir) == []
  found = records(tmp_path / "run")
  assert len(found) == len(CHAINS)
  for record in found.values():
    lengths = [len(record["reasoning_tokens"][i]) for i in record["deletion_order"]]
    assert lengths == sorted(lengths, reverse=True)
    assert (record["ranking"], record["search"]) == ("longest", "none")
  assert "ranking longest" in estimate
  assert f"{sum(record['positions_scored'] for record in found.values()):,}" in estimate
  with pytest.raises(UserError, match=r"ranking='shortest'; .*\n(.*\n)*  longest: the longest fi"):
    PruneSettings.from_config(config | {"ranking": "shortest"})


@pytest.mark.parametrize(
  ("importance", "sizes", "message"),
  [
    ([2.0] * 4, None, "chain c: the ranking's measure is 2 for all its 4 tokens"),
    ([-np.inf] * 4, (2, 2), "measure is -inf for all its 4 tokens"),
    ([0] * 4, None, "measure is 0 for all"),
    ([1.0, np.nan, 2.0, np.nan], None, "measure is NaN for 2 of 4 tokens"),
  ],
)
def test_measures_that_give_no_order_are_refused(importance, sizes, message):
  chain = RankingInput("c", random_segments(0, 61, (3, 4, 2)), ("x",) * 4, sizes)
  with pytest.raises(UnrankedError, match=message):
    RankedTokens.of(np.array(importance), chain)


def test_one_unit_needs_no_order():
  chain = RankingInput("c", random_segments(0, 61, (3, 3, 2)), ("x",) * 3, (3,))
  assert RankedTokens.of(np.zeros(3), chain).order == [0, 1, 2]
  chain = chain._replace(unit_sizes=None)
  assert RankedTokens.of(np.array([1.0, 0.0, 1.0]), chain, 5) == ([1, 0, 2], 5)


@pytest.mark.slow
def test_a_chain_that_a_ranking_cannot_order_is_left_out(tmp_path, monkeypatch):
  def equal(model, settings):
    return lambda chain: RankedTokens.of(np.zeros(len(chain.tokens)), chain)

  record = Ranking(about="none", maker=equal, model_runs=lambda sizes: [])
  monkeypatch.setitem(RANKINGS, "equal", record)
  config = config_of(tmp_path, ranking="equal")
  with Workdir(tmp_path / "run", config, output="pruned") as workdir:
    failed = run_prune(PruneSettings.from_config(config), workdir)
  assert failed == [chain["id"] for chain in CHAINS]
  assert "gives no order" in skipped(tmp_path / "run")[0]["reason"]


def test_a_text_model_needs_a_keep_ratio_above_0():
  config = prune.get_config().to_dict() | {"ranking": "text_model", "text_model": "x"}
  with pytest.raises(UserError, match=r"keep_ratios=\(0.0,\) with ranking=text_model"):
    PruneSettings.from_config(config | {"keep_ratios": (0.0,)})
  PruneSettings.from_config(config | {"keep_ratios": (0.5, 0.0)})


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"ranking": "llmlingua"}, "ranking=llmlingua, llmlingua_model='': the ranking llmlingua, and"),
    ({"text_model": "x"}, "ranking=greedy, text_model='x': the ranking text_model, and no other"),
    (
      {"attention_layers": (1,)},
      r"attention_layers=\(1,\) is read by ranking=attention and answer_attention alone",
    ),
  ],
)
def test_settings_that_belong_to_one_ranking(tmp_path, changes, message):
  config = prune.get_config().to_dict() | changes
  with pytest.raises(UserError, match=message):
    PruneSettings.from_config(config)


def test_the_dry_run_names_other_models(tmp_path):
  settings = PruneSettings.from_config(
    config_of(tmp_path, ranking="text_model", text_model="somebody/something")
  )
  assert "ranking text_model (without the text model, which is not counted)" in estimate_run(
    settings
  )


@pytest.mark.slow
def test_the_prune_job_imports_no_ranking_before_it_uses_one():
  listed = "[m for m in sys.modules if m.startswith('greedy_prune_jax')]"
  code = f"import json, sys, greedy_prune_jax.jobs.prune; print(json.dumps({listed}))"
  loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True).stdout)
  modules = {ranking.maker.rpartition(".")[0] for ranking in RANKINGS.values()}
  assert not {f"greedy_prune_jax.rankings.{module}" for module in modules} & set(loaded)
  assert not [name for name in loaded if name.split(".")[1:2] in (["analysis"], ["study"])]
  assert not {"greedy_prune_jax.teachers.load", "greedy_prune_jax.teachers.local"} & set(loaded)
