"""The door for Python: README's snippet as it stands, and records equal to those of the job."""

import html
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import transformers

import greedy_prune_jax as gp
from greedy_prune_jax import api
from greedy_prune_jax.chains.reading import BadChain
from greedy_prune_jax.chains.segments import Segments, token_texts
from greedy_prune_jax.configs.prune import get_config
from greedy_prune_jax.pruning.run import run_prune
from greedy_prune_jax.pruning.settings import PruneSettings
from greedy_prune_jax.runs.workdir import Workdir
from greedy_prune_jax.search.units import unit_sizes
from tests.helpers import tiny_jobs
from tests.helpers.full_passes import full_pass_nlls
from tests.helpers.tiny_runs import CHAINS, make_model, write_chains

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("model")
  make_model(folder)
  return folder


@pytest.fixture(scope="module")
def model(folder):
  return gp.load(str(folder), mesh={"data": 1})


def parts_of(i):
  return {key: value for key, value in CHAINS[i].items() if key != "id"}


def without_seconds(record):
  return {key: value for key, value in record.items() if key != "seconds"}


def job_records(folder, tmp_path, **changes):
  config = get_config().to_dict() | {"pruner": str(folder), "mesh": tiny_jobs.SEARCH_ON_ONE_DEVICE}
  config |= {"chains": str(write_chains(tmp_path / "chains.jsonl")), **changes}
  with Workdir(tmp_path / "run", config, output="pruned") as workdir:
    assert run_prune(PruneSettings.from_config(config), workdir) == []
  lines = (tmp_path / "run" / "pruned" / "process-00000.jsonl").read_text().splitlines()
  return {record["id"]: record for record in map(json.loads, lines)}


@pytest.mark.slow
@pytest.mark.parametrize(
  "settings",
  [
    {},
    {"objective": "answer", "unit": "word", "keep": (0.6,)},
    {"search": "screened", "audit": 1, "keep": (0.5,), "screen": {"window": 3}},
    {"ranking": "random", "ranking_seed": 3, "deletions_per_step": 4, "keep": 0.3},
  ],
)
def test_a_chain_is_the_record_that_the_job_writes(model, folder, tmp_path, settings):
  changes = dict(settings)
  if "keep" in changes:
    keep = changes.pop("keep")
    changes["keep_ratios"] = keep if isinstance(keep, tuple) else (keep,)
  if "screen" in changes:
    changes["screen"] = get_config().to_dict()["screen"] | changes["screen"]
  expected = job_records(folder, tmp_path, **changes)
  found = model.prune([gp.Chain(**chain) for chain in CHAINS], **settings)
  assert [pruned.chain.id for pruned in found] == [chain["id"] for chain in CHAINS]
  for pruned in found:
    ours = json.loads(json.dumps(pruned.to_record()))
    assert without_seconds(ours) == without_seconds(expected[pruned.chain.id])


def test_parts_and_a_chain_are_the_same(model):
  of_parts = model.prune(**parts_of(0), keep=0.5)
  of_chain = model.prune(gp.Chain(id="chain", **parts_of(0)), keep=0.5)
  assert without_seconds(of_parts.to_record()) == without_seconds(of_chain.to_record())
  assert isinstance(of_parts, gp.Pruned)


def test_the_defaults_are_those_of_the_job(model):
  config = get_config()
  pruned = model.prune(**parts_of(0))
  assert list(pruned.pruned) == [str(ratio) for ratio in config.keep_ratios]
  for name in ("objective", "search", "unit", "ranking"):
    assert getattr(pruned, name) == config[name]


def test_texts_at_ratios_that_were_not_asked_for(model):
  low, high = (model.prune(**parts_of(0), keep=keep) for keep in ((0.5,), (0.9, 0.6)))
  assert low.tokens == low.reasoning_tokens
  assert low.text(1) == CHAINS[0]["reasoning"]
  assert [low.text(keep) for keep in (0.9, 0.6)] == [*high.pruned.values()]
  assert low.text(0.5) != low.text(0.6)
  with pytest.raises(
    gp.UserError, match=r"^the chain was not pruned to 0.4: .* were deleted; it has 0.5. Prune to a"
  ):
    low.text(0.4)
  named = model.prune(gp.Chain(**CHAINS[0]), keep=0.5)
  with pytest.raises(gp.UserError, match=r"^chain chain 0 was not pruned to 0.4: "):
    named.text(0.4)
  text = inspect.unwrap(api.Pruned.text)  # annotations would refuse these here
  assert text(low, np.float32(0.6)) == low.text(0.6)
  for keep in ([0.5], None, "x", True, 1.5, -0.1, float("nan")):
    with pytest.raises(gp.UserError, match=r"keep=.*; expected one number, from the lowest"):
      text(low, keep)


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["token", "word"])
def test_scores_are_those_of_full_passes(model, folder, unit):
  reference = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
  scores = model.score(**parts_of(1), unit=unit)
  assert "".join(scores.tokens) == CHAINS[1]["reasoning"]
  ids = [
    np.array(model.tokenizer(text, add_special_tokens=False)["input_ids"], np.int32)
    for text in (
      f"<|start|>user\n{CHAINS[1]['question']}<|end|>\n<|start|>assistant\n",
      CHAINS[1]["reasoning"],
      CHAINS[1]["answer"] + "<|end|>\n",
    )
  ]
  segments = Segments(*ids)
  tokens = token_texts(model.tokenizer, CHAINS[1]["reasoning"])
  sizes = unit_sizes(unit, tokens) or (1,) * len(tokens)
  assert len(scores.tokens) == len(sizes)
  first = np.cumsum([0, *sizes])[:-1]
  kept = [ids[1], *(np.delete(ids[1], range(a, a + n)) for a, n in zip(first, sizes, strict=True))]
  for name, index in (("joint", 0), ("answer", 1)):
    expected = [full_pass_nlls(reference, segments, k[None])[index][0] for k in kept]
    np.testing.assert_allclose(scores.nll[name], expected[0], atol=2e-5)
    np.testing.assert_allclose(scores.without[name], expected[1:], atol=2e-5)


@pytest.mark.slow
def test_a_reasoning_of_one_token_can_be_scored(model):
  scores = model.score(**parts_of(0) | {"reasoning": "3"})
  assert scores.tokens == ("3",)
  found = *scores.nll.values(), *scores.without["joint"], *scores.without["answer"]
  assert np.isfinite(found).all()
  assert np.isnan(scores.without["reasoning"]).all()  # the mean over no token
  assert scores.without["joint"] == pytest.approx(scores.without["answer"])


@pytest.mark.slow
def test_the_best_first_deletion_is_the_first_of_a_search(model):
  scores, pruned = model.score(**parts_of(2)), model.prune(**parts_of(2), keep=0.9)
  assert int(scores.without["joint"].argmin()) == pruned.deletion_order[0]
  assert scores.nll["joint"] == pytest.approx(pruned.nll["joint"][0], abs=1e-5)


def test_a_notebook_shows_the_viewer_of_this_chain(model):
  hostile = gp.Chain(**{**CHAINS[0], "question": '</script><img src=x onerror="x"> "?'})
  shown = model.prune(hostile, keep=0.5)._repr_html_()
  frame = re.fullmatch(r'<iframe style="[^"]*" srcdoc="([^"<>]*)"></iframe>', shown)
  page = html.unescape(frame[1])
  data = json.loads(re.search(r'<script type="application/json" id="data">(.*)</script>', page)[1])
  [chain] = data["runs"][0]["chains"]
  assert chain["question"] == hostile.question
  assert "".join(chain["tokens"]) == hostile.reasoning
  assert 'type="range"' in page
  assert "<img" not in page


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"objective": "jiont"}, "objective='jiont'; expected one of joint, answer"),
    ({"ranking": "shortest"}, "ranking='shortest'; expected greedy"),
    ({"keep": 1.5}, "keep_ratios=.* has 1.5"),
    ({"keep_ratios": (0.2,)}, "keep_ratios cannot be set here; its name is keep"),
    ({"block_positions": 3}, "unknown keys: block_positions; see configs/prune.py"),
    ({"dtype": "bfloat16"}, "dtype cannot be set here; .*arguments of load"),
    ({"reasoning": " "}, '"reasoning" is empty'),
    ({"answer": None}, 'lacks the key "answer"'),
    ({"reasoning": "3"}, "^the chain: its reasoning '3' is 1 token; pruning needs at least 2"),
    ({"reasoning": "3 + 4 = 7. " * 80}, "more than the model's context"),
  ],
)
def test_errors_are_those_of_the_jobs(model, settings, message):
  with pytest.raises(gp.UserError, match=message):
    model.prune(**{**parts_of(0), **settings})


def test_chains_that_cannot_go_together(model):
  chain = gp.Chain(**CHAINS[0])
  with pytest.raises(gp.UserError, match="expected at least one, and each id once"):
    model.prune([chain, chain])
  with pytest.raises(gp.UserError, match="expected at least one"):
    model.prune([])
  with pytest.raises(gp.UserError, match="both chains and question; expected one or the other"):
    model.prune(chain, question="?")
  with pytest.raises(gp.UserError, match="got 2 chains; score takes one"):
    inspect.unwrap(api.Pruner.score)(model, [chain, chain])  # as annotations would refuse it


def test_results_beside_a_chain_that_cannot_be_pruned_are_kept(model, monkeypatch):
  chains = [gp.Chain(**chain) for chain in CHAINS]
  whole = model.prune(chains, keep=0.5)
  search = api.search_tasks

  def breaks_down(tasks, *rest):
    for pruned in search(tasks, *rest):
      bad = pruned.chain.id == chains[0].id
      yield BadChain(place="", id=chains[0].id, reason="not finite") if bad else pruned

  monkeypatch.setattr(api, "search_tasks", breaks_down)
  with pytest.raises(gp.UnprunedError, match=r"not finite\. The other 2 are in this") as error:
    model.prune(chains, keep=0.5)
  found = [pruned.deletion_order for pruned in error.value.pruned]
  assert found == [pruned.deletion_order for pruned in whole[1:]]
  with pytest.raises(gp.UnprunedError, match=r"^not finite$") as error:
    model.prune(chains[0], keep=0.5)
  assert error.value.pruned == []


# Checked at the function behind: in tests, annotations of `prune` refuse such calls before it does.
@pytest.mark.parametrize("given", ["chains.jsonl", CHAINS[0], None, 3])
def test_what_is_no_chain(given):
  with pytest.raises(gp.UserError, match=f"got a {type(given).__name__}, .*expected a Chain, or"):
    api._checked(given)


@pytest.mark.parametrize("keep", [None, "0.5", True, [0.5, "0.3"], [[0.5], [0.3, 0.2]]])
def test_what_is_no_keep_ratio(keep):
  with pytest.raises(gp.UserError, match="expected a number from 0 to below 1, or several"):
    api._as_ratios(keep)


def test_chains_made_in_python_meet_the_border_of_files(model):
  with pytest.raises(gp.UserError, match='"reasoning" is empty'):
    model.prune(gp.Chain(**{**CHAINS[0], "reasoning": ""}))


def test_scores_may_be_compared():
  one = api.Scores((" 7",), {"joint": 1.0}, {"joint": np.array([1.0, 2.0])})
  assert one in [one]
  assert one != api.Scores(one.tokens, one.nll, {"joint": np.array([1.0, 2.0])})  # no error


def test_keep_ratios_may_be_numpys(model):
  assert api._as_ratios(np.float32(0.9)) == (0.9,)
  kept = model.prune(**parts_of(0), keep=np.array([0.9, 0.5])).pruned
  assert list(kept) == ["0.9", "0.5"]


def test_models_that_cannot_be_loaded(folder):
  with pytest.raises(gp.UserError, match="there is no such folder or file"):
    gp.load("/nowhere/model")
  with pytest.raises(gp.UserError, match="dtype='float16'; expected one of"):
    gp.load(str(folder), dtype="float16")
  with pytest.raises(gp.UserError, match="unknown keys: rows"):
    gp.load(str(folder), mesh={"rows": 1})


@pytest.mark.slow
def test_importing_the_package_costs_nothing_and_names_are_there():
  code = """
    import sys
    import greedy_prune_jax as gp
    assert not {"jax", "transformers", "numpy"} & set(sys.modules)
    assert set(gp.__all__) <= set(dir(gp))
    for name in gp.__all__:
      assert getattr(gp, name).__module__.startswith("greedy_prune_jax.")
    assert not {"torch", "matplotlib", "sklearn", "datasets"} & set(sys.modules)
    try:
      gp.nothing
    except AttributeError:
      sys.exit(7)
  """
  code = "\n".join(line.removeprefix("    ") for line in code.splitlines())
  assert subprocess.run([sys.executable, "-c", code]).returncode == 7


@pytest.mark.slow
def test_the_snippet_of_the_readme_runs_as_it_stands():
  section = (ROOT / "README.md").read_text().split("## From Python")[1].split("\n## ")[0]
  [snippet] = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
  checks = """
assert pruned.pruner == "smollm2-135m-instruct"
assert len(pruned.text(0.5)) < len(pruned.text(0.9)) < len(pruned.chain.reasoning)
assert abs(scores.nll["joint"] - pruned.nll["joint"][0]) < 1e-4
"""
  # Apart, with optimised code, as a user has it: a quarter of the time.
  env = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
  assert subprocess.run([sys.executable, "-c", snippet + checks], cwd=ROOT, env=env).returncode == 0


@pytest.mark.slow
def test_the_snippet_of_the_formats_runs_as_it_stands(model, folder, tmp_path, monkeypatch):
  [snippet] = re.findall(r"```python\n(.*?)```", (ROOT / "docs/formats.md").read_text(), re.DOTALL)
  made = job_records(folder, tmp_path, keep_ratios=(0.5,))
  (tmp_path / "runs").mkdir()
  (tmp_path / "run").rename(tmp_path / "runs" / "mine")
  rows = [{"q": "2 + 5?", "reply": "2 + 5 is 7.\nThe answer is 7"}, {"q": "?"}]
  write_chains(tmp_path / "rows.jsonl", rows)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(api, "load", lambda name: model)
  names = {}
  exec(snippet, names)
  assert [chain.id for chain in names["chains"]] == [chain["id"] for chain in CHAINS[:2]]
  assert [chain.id for chain in names["named"]] == ["rows/0"]
  assert [type(chain) for chain in names["pruned"]] == [gp.Pruned] * 3
  read = {chain.chain.id: chain.to_record() for chain in gp.read_run(tmp_path / "runs" / "mine")}
  assert json.loads(json.dumps(read)) == made


def test_chains_and_runs_that_cannot_be_read(tmp_path):
  path = write_chains(tmp_path / "chains.jsonl", [parts_of(0), {"question": "?"}])
  with pytest.raises(gp.UserError, match=r"chains.jsonl, line 2: "):
    gp.read_chains(path)
  [chain] = gp.read_chains(path, on_bad_chain="skip")
  assert chain == gp.Chain(id="chains/0", **parts_of(0))
  for arguments, message in (
    ({"columns": {"anser": "a"}}, "unknown keys: anser"),
    ({"num_chains": -1}, "num_chains=-1; expected 0 or more"),
    ({"on_bad_chain": "ignore"}, "on_bad_chain='ignore'; expected one of"),
  ):
    with pytest.raises(gp.UserError, match=message):
      gp.read_chains(path, **arguments)
  with pytest.raises(
    gp.UserError, match=f"{tmp_path}/nothing holds no pruned chains; expected the workdir"
  ):
    gp.read_run(tmp_path / "nothing")
  with pytest.raises(gp.UserError, match=r"chains=3; expected a string"):
    inspect.unwrap(api.read_chains)(3)  # as annotations would refuse it
  with pytest.raises(gp.UserError, match=r"columns='q'; expected a group of settings"):
    inspect.unwrap(api.read_chains)(path, columns="q")
  with pytest.raises(gp.UserError, match="got 3 as a workdir"):
    inspect.unwrap(api.read_run)(3)


def test_what_is_read_can_be_pruned_again(model, tmp_path):
  [pruned] = model.prune([gp.Chain(**CHAINS[0])], keep=0.5)
  again = model.prune(pruned, keep=0.5)
  assert without_seconds(again.to_record()) == without_seconds(pruned.to_record())
  assert [chain.chain for chain in model.prune([pruned], keep=0.9)] == [pruned.chain]
