"""Output of the prune job, from each kind of input and with each setting."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers

from greedy_prune_jax.chains.segments import Segments
from tests.helpers.full_passes import full_pass_search
from tests.helpers.tiny_runs import CHAINS, make_model, records, skipped, write_chains

RESULTS = {
  *("pruner", "objective", "ranking", "search", "unit", "reasoning_ids", "reasoning_tokens"),
  *("deletion_order", "nll", "pruned", "positions_scored"),
}


@pytest.fixture(scope="module")
def reference(shared):
  """The model and the tokenizer as transformers has them."""
  return (
    transformers.AutoModelForCausalLM.from_pretrained(shared / "model").eval(),
    transformers.AutoTokenizer.from_pretrained(shared / "model"),
  )


def _segments(tokenizer, record):
  """A record's three parts as token ids, by its own fields and the template as text."""
  prompt = f"<|start|>user\n{record['question']}<|end|>\n<|start|>assistant\n"
  prompt_ids, answer_ids = (
    np.array(tokenizer(text, add_special_tokens=False)["input_ids"], np.int32)
    for text in (prompt, record["answer"] + "<|end|>\n")
  )
  return Segments(prompt_ids, np.array(record["reasoning_ids"], np.int32), answer_ids)


def _full_pass_nll(model, segments, kept):
  """Mean NLLs of joint, answer and reasoning with the reasoning positions that are kept."""
  ids = np.concatenate([segments.prompt, segments.reasoning[kept], segments.answer])
  with torch.no_grad():
    log_probs = model(torch.tensor(ids[None], dtype=torch.long)).logits[0].double().log_softmax(-1)
  nll = -log_probs[:-1].gather(-1, torch.tensor(ids[1:, None], dtype=torch.long))[:, 0].numpy()
  scored = nll[len(segments.prompt) - 1 :]
  reasoning, answer = np.split(scored, [len(kept)])
  return scored.mean(), answer.mean(), reasoning.mean()


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["joint", "answer"])
def test_a_record_holds_what_full_passes_find(run, reference, tmp_path, objective):
  model, tokenizer = reference
  run(objective=objective, keep_ratios="(0.75,0.3)")
  found = records(tmp_path / "run")
  assert list(found) == [chain["id"] for chain in CHAINS]
  for chain in CHAINS:
    record = found[chain["id"]]
    assert record.keys() == chain.keys() | RESULTS
    assert {key: record[key] for key in chain} == chain
    assert (record["objective"], record["search"], record["unit"]) == (objective, "exact", "token")
    assert "".join(record["reasoning_tokens"]) == chain["reasoning"]
    assert len(record["reasoning_tokens"]) == len(record["reasoning_ids"])

    segments = _segments(tokenizer, record)
    total = len(segments.reasoning)
    floor = int(total * 0.3)
    assert record["deletion_order"] == full_pass_search(model, segments, objective, floor).deleted
    assert record["nll"].keys() == {"joint", "answer", "reasoning"}
    assert {len(values) for values in record["nll"].values()} == {total - floor + 1}
    for k in range(total - floor + 1):
      kept = sorted(set(range(total)) - set(record["deletion_order"][:k]))
      nll = [record["nll"][name][k] for name in ("joint", "answer", "reasoning")]
      np.testing.assert_allclose(nll, _full_pass_nll(model, segments, kept), atol=2e-5)

    assert record["pruned"].keys() == {"0.75", "0.3"}
    for ratio, text in record["pruned"].items():
      num_deleted = total - int(total * float(ratio))
      kept = sorted(set(range(total)) - set(record["deletion_order"][:num_deleted]))
      assert text == tokenizer.decode(segments.reasoning[kept])

    # The whole text and every candidate's suffix at first, and then no more than all that again.
    tail = len(segments.answer) - 1
    steps = [n + tail + sum(n - 1 - i + tail for i in range(n)) for n in range(total, floor, -1)]
    first = len(segments.prompt) + steps[0]
    assert first < record["positions_scored"] <= first + sum(steps[1:]) + floor + tail


@pytest.mark.slow
def test_everything_can_be_deleted(run, tmp_path):
  run(keep_ratios=0, num_chains=1)
  (record,) = records(tmp_path / "run").values()
  assert sorted(record["deletion_order"]) == list(range(len(record["reasoning_ids"])))
  assert record["pruned"] == {"0.0": ""}
  assert record["nll"]["reasoning"][-1] is None  # the mean over no token
  assert record["nll"]["joint"][-1] == pytest.approx(record["nll"]["answer"][-1], abs=1e-6)


@pytest.mark.slow
def test_what_a_run_prints_and_leaves(run, tmp_path):
  job = run(show_chains=2)
  assert job.stdout.count("=== chain") == 2
  record = records(tmp_path / "run")["chain 0"]
  tokens = len(record["reasoning_ids"])
  assert f"=== chain 0 ({tokens} reasoning tokens, ranking greedy, objective joint)" in job.stdout
  for key in ("0.9", "0.7", "0.5"):
    kept = int(len(record["reasoning_ids"]) * float(key))
    nll = record["nll"]["joint"][len(record["reasoning_ids"]) - kept]
    assert f"-- keep {key}: {kept} tokens [NLL in nats per token: joint {nll:.3f}" in job.stdout
  nlls = [found["nll"]["joint"][0] for found in records(tmp_path / "run").values()]
  assert f"       1.0  {np.mean(nlls):6.3f}" in job.stdout
  assert "mean NLL of 3 chains" in job.stdout

  run_folder = tmp_path / "run"
  assert {path.name for path in run_folder.iterdir()} == {
    *("config.json", "weights.json", "metrics.jsonl", "pruned", "locks")
  }
  assert json.loads((run_folder / "config.json").read_text())["keep_ratios"] == [0.9, 0.7, 0.5]
  metrics = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
  assert [line["id"] for line in metrics] == [chain["id"] for chain in CHAINS]
  assert all(line["positions_per_second"] > 0 for line in metrics)


@pytest.mark.slow
def test_a_finished_run_is_not_run_again(run, tmp_path):
  run()
  file = tmp_path / "run" / "pruned" / "process-00000.jsonl"
  before = file.read_bytes()
  again = run(show_chains=0)
  assert file.read_bytes() == before
  assert "3/3 chains" in again.stderr
  assert again.stdout == ""


@pytest.mark.slow
def test_chains_that_the_input_no_longer_has_are_named(run, tmp_path):
  path = write_chains(tmp_path / "chains.jsonl")
  settings = {"chains": path, "ranking": "keep_last", "deletions_per_step": 1000}
  assert "the input no longer has" not in run(**settings).stderr
  before = records(tmp_path / "run")
  write_chains(path, [CHAINS[1]])
  said = run(**settings).stderr
  assert "the input no longer has 2 of the finished items: chain 0, chain 2. They stay in " in said
  assert records(tmp_path / "run") == before


@pytest.mark.slow
@pytest.mark.parametrize(
  ("line", "expected"),
  [
    (
      {
        "system_prompt": "Answer.",
        "user_prompt": "2 + 2?",
        "response_reason": "It is 4.\n",
        "response_answer": "4",
      },
      {"system": "Answer.", "question": "2 + 2?", "reasoning": "It is 4.\n", "answer": "4"},
    ),
    (
      {"question": "2 + 2?", "answer": "2 + 2 = <<2+2=4>>4 clips\n#### 4"},
      {"reasoning": "2 + 2 = 4 clips\n", "answer": '{"answer": "4"}', "target": "4"},
    ),
  ],
)
def test_other_forms_of_input(run, tmp_path, line, expected):
  run(chains=write_chains(tmp_path / "chains.jsonl", [line]))
  (record,) = records(tmp_path / "run").values()
  assert record["id"] == "chains/0"
  assert {key: record[key] for key in expected} == expected


@pytest.mark.slow
def test_the_output_of_a_run_is_the_input_of_the_next(run, tmp_path):
  run(workdir="first")
  run(chains=tmp_path / "first", objective="answer")
  first, second = (records(tmp_path / name) for name in ("first", "run"))
  assert first.keys() == second.keys()
  assert {record["objective"] for record in second.values()} == {"answer"}


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec("reasoning_gym") is None, reason="reasoning-gym is not installed"
)
def test_generated_chains(run, tmp_path):
  make_model(tmp_path / "wide", max_position_embeddings=2048)
  settings = {"pruner": tmp_path / "wide", "chains": "gsm_symbolic", "keep_ratios": 0.99}
  run(**settings, num_chains=2, seed=1)
  found = records(tmp_path / "run")
  assert len(found) == 2
  for record in found.values():
    assert record["answer"] == json.dumps({"answer": record["target"]})
    assert len(record["deletion_order"]) >= 1


@pytest.mark.slow
def test_chat_templates(run, reference, tmp_path):
  path = tmp_path / "own.jinja"
  path.write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}")
  nlls = {}
  for name in ("tokenizer", "plain", path):
    run(chat_template=name, workdir=f"run {len(nlls)}", num_chains=1, keep_ratios=0.9)
    (record,) = records(tmp_path / f"run {len(nlls)}").values()
    nlls[name] = record["nll"]["answer"][0]
  assert len({round(nll, 4) for nll in nlls.values()}) == 3
  model, tokenizer = reference
  prompt, answer = (f"[{record['question']}][", record["answer"] + "]")
  ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, answer)]
  parts = [np.array(x, np.int32) for x in (ids[0], record["reasoning_ids"], ids[1])]
  everything = list(range(len(parts[1])))
  _, expected, _ = _full_pass_nll(model, Segments(*parts), everything)
  assert nlls[path] == pytest.approx(expected, abs=2e-5)


@pytest.mark.slow
def test_bfloat16_is_near_float32(run, tmp_path):
  for dtype in ("float32", "bfloat16"):
    run(dtype=dtype, workdir=dtype)
  exact, rounded = (records(tmp_path / dtype) for dtype in ("float32", "bfloat16"))
  for key, record in exact.items():
    nlls = [x["nll"]["joint"][0] for x in (record, rounded[key])]
    assert 0 < abs(nlls[0] - nlls[1]) < 0.03
    assert len(rounded[key]["deletion_order"]) == len(record["deletion_order"])


@pytest.mark.slow
def test_long_chains_can_be_left_for_later(run, tmp_path):
  run(max_reasoning_tokens=12, num_chains=2)
  assert list(records(tmp_path / "run")) == ["chain 0", "chain 2"]


def _make_a_token_unusable(folder, shared):
  """Writes the model with NaN as the embedding of a token that only chain 2 has."""
  model, tokenizer = make_model(folder)
  tokens = [set(tokenizer(chain["reasoning"])["input_ids"]) for chain in CHAINS]
  token = min(tokens[2] - tokens[1] - tokens[0])
  with torch.no_grad():
    model.model.embed_tokens.weight[token] = float("nan")
  model.save_pretrained(folder)


@pytest.mark.slow
def test_a_chain_that_is_not_finite_is_named_and_the_others_go_on(start, run, shared, tmp_path):
  _make_a_token_unusable(tmp_path / "model", shared)
  lines = [CHAINS[2], *CHAINS[:2]]
  chains = write_chains(tmp_path / "chains.jsonl", lines)
  settings = {"pruner": tmp_path / "model", "chains": chains}
  before = None
  for _ in range(2):  # again, it fails again, and nothing is done or recorded twice
    job = start(**settings)
    assert job.wait() == 1
    assert "chain chain 2: a likelihood is not finite after 0 deletions: in float32, " in job.stderr
    assert "Traceback" not in job.stderr
    *_, message = job.stderr.split("error: ")
    assert message.startswith("1 of the chains could not be pruned (chain 2); ")
    assert "Pass --config.on_bad_chain=skip to accept this.\n" in message
    assert list(records(tmp_path / "run")) == ["chain 0", "chain 1"]
    assert before in (None, (tmp_path / "run" / "pruned" / "process-00000.jsonl").read_bytes())
    before = (tmp_path / "run" / "pruned" / "process-00000.jsonl").read_bytes()
    (left_out,) = skipped(tmp_path / "run")
    assert left_out["id"] == "chain 2"
  run(**settings, on_bad_chain="skip")
  assert len(skipped(tmp_path / "run")) == 1


@pytest.mark.slow
def test_a_run_in_which_no_chain_is_finite(start, shared, tmp_path):
  _make_a_token_unusable(tmp_path / "model", shared)
  chains = write_chains(tmp_path / "chains.jsonl", CHAINS[2:])
  job = start(pruner=tmp_path / "model", chains=chains)
  assert job.wait() == 1
  assert "no chain was pruned" in job.stdout
  assert "Traceback" not in job.stderr


def _cached(folder):
  return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_compiled_programs_are_kept(run_program, tmp_path):
  cache = tmp_path / "cache"
  env = {"XDG_CACHE_HOME": str(cache)}
  run_program(num_chains=1, env=env)
  first = _cached(cache)
  assert any("prune_steps" in name for name in first)
  assert all(name.startswith("greedy_prune_jax/compiled/jax-") for name in first)
  run_program(num_chains=1, workdir="again", env=env)
  assert _cached(cache) == first
  # What a killed run or a full disk left of a program is compiled again.
  for name in first:
    (cache / name).write_bytes((cache / name).read_bytes()[:50])
  run_program(num_chains=1, workdir="damaged", env=env)
  assert records(tmp_path / "damaged") == records(tmp_path / "run")


@pytest.mark.slow
def test_the_cache_is_in_the_home_folder_by_default(run_program, tmp_path):
  run_program(num_chains=1, env={"XDG_CACHE_HOME": "", "HOME": str(tmp_path / "home")})
  assert _cached(tmp_path / "home" / ".cache" / "greedy_prune_jax" / "compiled")


@pytest.mark.slow
def test_no_cache_where_none_is_wanted_or_none_can_be(run_program, tmp_path):
  cache = tmp_path / "cache"
  run_program(num_chains=1, compilation_cache=False, env={"XDG_CACHE_HOME": str(cache)})
  assert not cache.exists()
  cache.write_text("a file")
  run_program(num_chains=1, workdir="again", env={"XDG_CACHE_HOME": str(cache)})
  assert records(tmp_path / "again") == records(tmp_path / "run")


@pytest.mark.slow
def test_the_command_itself_where_its_output_has_no_place(shared, tmp_path):
  command = [
    *(sys.executable, "-m", "greedy_prune_jax.jobs.prune", "--config=configs/prune.py"),
    *(f"--workdir={tmp_path / 'run'}", f"--config.pruner={shared / 'model'}"),
    *(f"--config.chains={shared / 'chains.jsonl'}", "--config.num_chains=1"),
  ]
  with open("/dev/full", "w") as full:
    job = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
  assert job.returncode == 1
  assert "Traceback" not in job.stderr
  *_, last = job.stderr.splitlines()
  assert last.startswith("error: cannot write to standard output: No space left on device.")
  assert len(records(tmp_path / "run")) == 1


@pytest.mark.slow
def test_a_finished_run_answers_new_budgets_without_scoring(run, tmp_path, shared):
  run(keep_ratios=0.0)
  before = {path: path.read_bytes() for path in (tmp_path / "run" / "pruned").iterdir()}
  again = run(keep_ratios=0.0, budget="nll:+0.5,answer:0.0001,right", show_chains=0)
  assert {path: path.read_bytes() for path in (tmp_path / "run" / "pruned").iterdir()} == before
  lines = [json.loads(x) for x in (tmp_path / "run" / "budgets.jsonl").read_text().splitlines()]
  found = records(tmp_path / "run")
  assert len(lines) == 3 * len(found)
  for line in lines:
    record = found[line["id"]]
    nll, n = record["nll"]["joint"], len(record["reasoning_ids"])
    assert line["tokens"] == n - line["deletions"]
    assert line["nll"]["joint"] == nll[line["deletions"]]
    if line["budget"] == "nll:+0.5":
      assert line["holds"]
      assert line["nll"]["joint"] <= nll[0] + 0.5
      assert all(value > nll[0] + 0.5 for value in nll[line["deletions"] + 1 :])
  assert "tokens left per chain by budget" in again.stdout
