"""A thinking chain from its file through prune, evaluate_pruned and distill, on a tiny model."""

import json

import numpy as np
import pytest
import torch

from greedy_prune_jax.chains.chat_template import load_chat_template
from tests.helpers import thinking_templates as forms
from tests.helpers import tiny_runs
from tests.helpers.tokenizers_for_tests import byte_level

THOUGHT, SAID = "3 + 4 = 7 clips.\nSo 7.", '{"answer": "7"}'
CHAIN = {
  "id": "thinking",
  "question": "How many clips?",
  "reasoning": f"<think>\n{THOUGHT}",
  "answer": f"\n</think>\n\n{SAID}",
}
VISIBLE = tiny_runs.CHAINS[0]


@pytest.fixture(scope="module", params=["QWEN3", "R1"])
def made(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp("model")
  model, tokenizer = tiny_runs.make_model(folder, getattr(forms, request.param))
  return folder, model.eval(), tokenizer


def whole_nll(model, tokenizer, prompt, thought, answer):
  """Mean NLL of thinking and answer by one full pass over the conversation, in nats per token."""
  parts = [tokenizer(x, add_special_tokens=False)["input_ids"] for x in (prompt, thought, answer)]
  ids = torch.tensor([[*parts[0], *parts[1], *parts[2]]])
  with torch.no_grad():
    log_probs = torch.log_softmax(model(ids).logits[0].double(), -1)
  start = len(parts[0])
  targets = ids[0, start:]
  return -log_probs[start - 1 : -1].gather(1, targets[:, None]).mean().item()


@pytest.mark.slow
def test_from_prune_to_a_student(run, tmp_path, made):
  folder, model, tokenizer = made
  chains = tiny_runs.write_chains(tmp_path / "chains.jsonl", [CHAIN])
  settings = {"pruner": folder, "chains": chains, "keep_ratios": "(0.5,)"}
  run(**settings, workdir="pruned")
  record = tiny_runs.records(tmp_path / "pruned")["thinking"]
  assert record["reasoning"] == THOUGHT
  assert record["answer"] == f"\n</think>\n\n{SAID}"
  assert record["thinking_form"] == "think"
  assert "".join(record["reasoning_tokens"]) == THOUGHT

  template = load_chat_template("tokenizer", tokenizer)
  prompt = template.prompt(CHAIN["question"], thinking_form="think")
  assert prompt.endswith("<think>\n")
  answer = record["answer"] + template.tail
  for kept, at in ((THOUGHT, 0), (record["pruned"]["0.5"], len(record["deletion_order"]))):
    expected = whole_nll(model, tokenizer, prompt, kept, answer)
    # What is left may be tokenised otherwise than it was scored.
    ids = [
      i for n, i in enumerate(record["reasoning_ids"]) if n not in record["deletion_order"][:at]
    ]
    if tokenizer(kept, add_special_tokens=False)["input_ids"] == ids:
      np.testing.assert_allclose(record["nll"]["joint"][at], expected, atol=1e-5)

  answers = {"pruned": f"('{tmp_path / 'pruned'}',)", "model": folder, "max_new_tokens": 4}
  run(job="evaluate_pruned", workdir="answers", **answers)
  (line,) = (tmp_path / "answers/answers").glob("*.jsonl")
  assert set(json.loads(line.read_text())["answers"]) == {"1.0", "0.5"}

  student = {"student": folder, "chains": tmp_path / "pruned", "keep_ratios": "(0.5,)"}
  run(
    job="distill", workdir="student", steps=1, epochs=0, batch_size=1, num_validation=0, **student
  )


@pytest.mark.slow
def test_a_template_that_always_thinks_names_the_setting(start, tmp_path, made):
  folder, _, tokenizer = made
  if not load_chat_template("tokenizer", tokenizer).always_thinks:
    pytest.skip("it can be asked not to think")
  job = start(
    pruner=folder, chains=tiny_runs.write_chains(tmp_path / "visible.jsonl", [VISIBLE]), workdir="v"
  )
  assert job.wait() == 1
  assert "set thinking=on" in job.stderr
  assert "Traceback" not in job.stderr
  job = start(pruner=folder, chains=tmp_path / "visible.jsonl", workdir="w", thinking="on")
  assert job.wait() == 0
  assert tiny_runs.records(tmp_path / "w")[VISIBLE["id"]]["thinking_form"] == "think"


def test_a_student_without_a_form_learns_the_chain_as_its_reply():
  from greedy_prune_jax.chains.chain import Chain
  from greedy_prune_jax.chains.thinking_chains import find_thinking
  from greedy_prune_jax.distill.examples import make_example

  tokenizer = byte_level(forms.CHATML)
  template = load_chat_template("tokenizer", tokenizer)
  chain = find_thinking(Chain.from_record(CHAIN))
  example = make_example(chain, "7 clips.", 0.5, tokenizer, template)
  completion = tokenizer.decode(example.token_ids[example.num_prompt :])
  assert completion == f"7 clips.\n\n{SAID}<|end|>\n"
  example = make_example(chain, "7 clips.", 0.5, tokenizer, template, thinking="on")
  assert tokenizer.decode(example.token_ids).endswith(
    f"<think>\n7 clips.\n</think>\n\n{SAID}<|end|>\n"
  )
