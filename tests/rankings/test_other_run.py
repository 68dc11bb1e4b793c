"""The ranking by another run's order: the same one, that of other tokens, and what cannot be."""

import json

import numpy as np
import pytest

from configs import prune
from greedy_prune_jax.chains.chain import Chain, PrunedChain
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.pruning.run import run_prune
from greedy_prune_jax.pruning.settings import PruneSettings
from greedy_prune_jax.rankings.interface import RankingInput, RankingSettings, UnrankedError
from greedy_prune_jax.rankings.registry import RANKINGS
from greedy_prune_jax.runs.workdir import Workdir
from tests.helpers.full_passes import random_segments
from tests.helpers.tiny_runs import CHAINS, make_model, records, skipped, write_chains


def _run(workdir, folder, **changes):
  config = prune.get_config()
  config.update(pruner=str(folder / "model"), chains=str(folder / "chains.jsonl"), num_chains=0)
  config = config.to_dict() | {"keep_ratios": (0.4,)} | changes
  with Workdir(workdir, config, output="pruned") as opened:
    failed = run_prune(PruneSettings.from_config(config), opened)
  return failed, records(workdir)


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["token", "word"])
def test_a_pruners_own_order_is_its_path(tmp_path, unit):
  make_model(tmp_path / "model")
  write_chains(tmp_path / "chains.jsonl")
  _, searched = _run(tmp_path / "searched", tmp_path, unit=unit)
  ways = {"unit": unit, "ranking": "other_run", "other_run": str(tmp_path / "searched")}
  _, followed = _run(tmp_path / "followed", tmp_path, **ways)
  assert len(followed) == len(CHAINS)
  for key, record in followed.items():
    assert record["deletion_order"] == searched[key]["deletion_order"]
    assert record["pruned"] == searched[key]["pruned"]
    for name, values in searched[key]["nll"].items():
      np.testing.assert_allclose(
        np.array(record["nll"][name], float), np.array(values, float), atol=1e-5
      )


@pytest.mark.slow
def test_chains_that_the_other_run_lacks_are_left_out_by_name(tmp_path):
  make_model(tmp_path / "model")
  chains = write_chains(tmp_path / "chains.jsonl", [CHAINS[0]])
  _run(tmp_path / "searched", tmp_path)
  write_chains(chains)
  ways = {"ranking": "other_run", "other_run": str(tmp_path / "searched")}
  failed, found = _run(tmp_path / "followed", tmp_path, **ways)
  assert (failed, list(found)) == (["chain 1", "chain 2"], ["chain 0"])
  reasons = {line["id"]: line["reason"] for line in skipped(tmp_path / "followed")}
  assert "chain 1 is not in " in reasons["chain 1"]


def _pruned(tmp_path, tokens, order, reached="0.25"):
  """A file of one chain that left its tokens in some order."""
  nlls = (None,) * (len(order) + 1)
  pruned = PrunedChain(
    chain=Chain(id="c", question="1 + 2?", reasoning="".join(tokens), answer="3"),
    pruner="m",
    objective="joint",
    search="exact",
    unit="token",
    reasoning_ids=tuple(range(len(tokens))),
    reasoning_tokens=tuple(tokens),
    deletion_order=tuple(order),
    nll={name: nlls for name in ("joint", "answer", "reasoning")},
    pruned={reached: ""},
    positions_scored=0,
    seconds=0.0,
  )
  path = tmp_path / "other.jsonl"
  path.write_text(json.dumps(pruned.to_record()) + "\n")
  return path


def _order(path, tokens, keep_ratios=(0.5,)):
  settings = RankingSettings(other_run=str(path), keep_ratios=keep_ratios)
  segments = random_segments(0, 61, (5, len(tokens), 3))
  rank = RANKINGS["other_run"].make(Model.__new__(Model), settings)  # it runs no model
  return rank(RankingInput("c", segments, tokens)).order


def test_tokens_of_another_tokenizer_leave_as_their_characters_did(tmp_path):
  path = _pruned(tmp_path, ["So ", "it ", "is ", "12", "."], [2, 0, 4, 1])
  # Gone before: "So " 1, "it " 3, "is " 0, "12" 5 (it stayed), "." 2. Means: 1, 2, 1, 2.5, 5, 2.
  assert _order(path, ("S", "o it", " is", " 1", "2", ".")) == [0, 2, 1, 5, 3, 4]
  assert _order(path, ("", "So", " ", "", "it is ", "12.")) == [0, 1, 2, 3, 4, 5]


def test_what_stayed_in_the_other_run_is_not_deleted_from_the_left(tmp_path):
  # Half of the 4 tokens there are 4 of 13 characters; what half of 5 tokens deletes are 8.
  path = _pruned(tmp_path, ["abcdefg ", "h ", "i ", "j"], [1, 2], "0.5")
  tokens = ("abcd", "efg ", "h ", "i ", "j")
  assert _order(path, tokens, (0.6,))[:2] == [2, 3]
  message = r"keep ratio 0.5 would delete 1 of 5 units .*other\.jsonl .* keep ratio below 0.5"
  with pytest.raises(UnrankedError, match=message):
    _order(path, tokens)
  settings = RankingSettings(other_run=str(path), keep_ratios=(0.5,))
  rank = RANKINGS["other_run"].make(Model.__new__(Model), settings)
  chain = RankingInput("c", random_segments(0, 61, (5, 5, 3)), tokens, (2, 2, 1))
  with pytest.raises(UnrankedError, match="would delete 1 of 3 units"):
    rank(chain)
  assert rank(chain._replace(unit_sizes=(2, 3))).order[:2] == [2, 3]


def test_what_the_other_run_does_not_have_is_said(tmp_path):
  path = _pruned(tmp_path, ["a ", "b ", "c"], [1, 0], "0.5")
  with pytest.raises(UnrankedError, match=r"chain c has another reasoning in .*other\.jsonl"):
    _order(path, ("a ", "b ", "d"))
  message = r"was pruned to 0.5 in .*; expected a run with a keep ratio of 0.3 or lower"
  with pytest.raises(UnrankedError, match=message):
    _order(path, ("a ", "b ", "c"), (0.7, 0.3))
  with pytest.raises(UserError, match="holds no pruned chains"):
    _order(tmp_path / "nothing", ("a ", "b ", "c"))
