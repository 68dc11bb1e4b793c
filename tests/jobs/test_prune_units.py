"""Runs of the prune job whose deletions remove words or sentences."""

import itertools
import json

import numpy as np
import pytest
import torch
import transformers

from greedy_prune_jax.chains.chain import PrunedChain
from greedy_prune_jax.chains.reading import read_pruned
from greedy_prune_jax.chains.segments import Segments
from greedy_prune_jax.search.units import sentence_starts, word_starts
from tests.helpers.full_passes import full_pass_search
from tests.helpers.tiny_runs import CHAINS, assert_same_records, records, write_chains

REASONING = "Natalia sold 24. She didn't stop.\nSo 24 + 48 = 72.\nIt is 72.\n"
STARTS = {"word": word_starts, "sentence": sentence_starts}


@pytest.fixture(scope="module")
def chains(tmp_path_factory):
  line = CHAINS[0] | {"id": "long", "reasoning": REASONING}
  return write_chains(tmp_path_factory.mktemp("chains") / "chains.jsonl", [line, CHAINS[1]])


def _segments(tokenizer, record):
  prompt = f"<|start|>user\n{record['question']}<|end|>\n<|start|>assistant\n"
  prompt_ids, answer_ids = (
    np.array(tokenizer(text, add_special_tokens=False)["input_ids"], np.int32)
    for text in (prompt, record["answer"] + "<|end|>\n")
  )
  return Segments(prompt_ids, np.array(record["reasoning_ids"], np.int32), answer_ids)


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["word", "sentence"])
def test_a_run_by_units_finds_what_full_passes_find(run, shared, chains, tmp_path, unit):
  job = run(chains=chains, unit=unit, keep_ratios="(0.75,0.3)", batch_size=2)
  model = transformers.AutoModelForCausalLM.from_pretrained(shared / "model").eval()
  tokenizer = transformers.AutoTokenizer.from_pretrained(shared / "model")
  found = records(tmp_path / "run")
  assert set(found) == {"long", "chain 1"}
  for record in found.values():
    assert record["unit"] == unit
    tokens, sizes = record["reasoning_tokens"], record["unit_sizes"]
    places = [0, *itertools.accumulate(map(len, tokens))]
    firsts = [0, *itertools.accumulate(sizes)]
    assert [places[i] for i in firsts[:-1]] == list(STARTS[unit](record["reasoning"]))

    segments, total = _segments(tokenizer, record), len(tokens)
    floor = int(total * 0.3)
    with torch.no_grad():
      expected = full_pass_search(model, segments, "joint", floor, tuple(sizes))
    assert record["deletion_order"] == expected.deleted
    np.testing.assert_allclose(record["nll"]["joint"], expected.joint, atol=2e-5)
    np.testing.assert_allclose(record["nll"]["answer"], expected.answer, atol=2e-5)

    # At a ratio: whole units, at most int(N * r) tokens, and one deletion less would be too many.
    order = [firsts.index(p) for p in record["deletion_order"] if p in firsts]
    assert len(order) == len(record["nll"]["joint"]) - 1
    for ratio, text in record["pruned"].items():
      most, gone = int(total * float(ratio)), 0
      while total - sum(sizes[u] for u in order[:gone]) > most:
        gone += 1
      kept = [i for u in range(len(sizes)) if u not in order[:gone] for i in _span(firsts, u)]
      assert text == tokenizer.decode(segments.reasoning[kept])
      assert PrunedChain.from_record(record | {"seconds": 0.0}).text_at(float(ratio)) == text
      if record["id"] == "long":
        nll = record["nll"]["joint"][gone]
        assert (
          f"keep {ratio}: {len(kept)} tokens [NLL in nats per token: joint {nll:.3f}" in job.stdout
        )
  tokens = len(found["long"]["reasoning_ids"])
  title = f"=== long ({tokens} reasoning tokens, ranking greedy, objective joint, unit {unit})"
  assert title in job.stdout
  lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
  [metrics] = [line for line in map(json.loads, lines) if line["id"] == "long"]
  assert metrics["deletions"] == len(found["long"]["nll"]["joint"]) - 1
  assert len(list(read_pruned(tmp_path / "run"))) == 2


def _span(firsts, unit):
  return range(firsts[unit], firsts[unit + 1])


@pytest.mark.slow
def test_a_killed_run_of_words_ends_as_one_that_was_not(start, run, chains, tmp_path):
  settings = {"chains": chains, "unit": "word", "keep_ratios": 0.1, "show_chains": 0}
  run(**settings, workdir="whole")
  job = start(**settings, workdir="killed")
  unfinished = tmp_path / "killed" / "unfinished" / "process-00000.jsonl"
  while not (unfinished.exists() and unfinished.stat().st_size) and job.process.is_alive():
    job.process.join(0.005)
  job.kill()
  job.wait()
  assert unfinished.exists(), "killed too late"
  state = json.loads(unfinished.read_text().splitlines()[0])["state"]
  whole = records(tmp_path / "whole")
  assert 0 < len(state["deleted"]) < len(whole["long"]["deletion_order"])
  run(**settings, workdir="killed")
  assert_same_records(records(tmp_path / "killed"), whole)


@pytest.mark.slow
def test_other_rankings_delete_units_too(run, chains, tmp_path):
  for ranking in ("keep_first", "random"):
    run(chains=chains, unit="word", ranking=ranking, keep_ratios="(0.5,0)", workdir=ranking)
    for record in records(tmp_path / ranking).values():
      pruned = PrunedChain.from_record(record | {"seconds": 0.0})  # checks that units left whole
      assert len(pruned.deletions) == len(record["unit_sizes"])
      assert len(record["nll"]["joint"]) == len(record["unit_sizes"]) + 1
      assert len(pruned.kept_positions(len(record["reasoning_ids"]) // 2)) > 0
      if ranking == "keep_first":
        assert record["deletion_order"][-1] == record["unit_sizes"][0] - 1
        assert record["reasoning"].startswith(record["pruned"]["0.5"])


@pytest.mark.slow
def test_a_run_goes_on_from_what_another_left(run, tmp_path):
  run(unit="word", keep_ratios=0.6)
  second = {"chains": tmp_path / "run", "chains_ratio": 0.6, "workdir": "again"}
  second |= {"keep_ratios": 0.5, "num_chains": 2}
  said = run(dry_run=True, **second).stdout
  run(**second)
  left = records(tmp_path / "again")["chain 0"]["reasoning"]
  assert f"as chains_ratio=0.6 leaves it\n{'id':>18}  'chain 0'\n" in said
  assert f"{'reasoning':>18}  {left!r}\n" in said
  first, second = (records(tmp_path / name) for name in ("run", "again"))
  assert len(second) == 2
  for chain_id, record in second.items():
    assert record["reasoning"] == first[chain_id]["pruned"]["0.6"]
    told = record["pruned_from"]
    assert told["reasoning"] == first[chain_id]["reasoning"]
    kept = "".join(told["reasoning"][start:end] for start, end in told["kept_spans"])
    assert kept == record["reasoning"] == "".join(record["reasoning_tokens"])
    assert len(record["deletion_order"]) == -(-len(record["reasoning_ids"]) // 2)
