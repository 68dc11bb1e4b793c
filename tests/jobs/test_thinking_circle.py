"""Thinking through every job: prune, evaluate_pruned, distill, evaluate, sample, analyze.

A tiny Qwen3-like and a tiny R1-like model; what is scored and written is held against full passes
of transformers over the conversation as its own chat template renders it.
"""

import json

import numpy as np
import pytest
import torch

from greedy_prune_jax.chains.reading import read_chains
from greedy_prune_jax.distill.workdir import learnt_thinking
from greedy_prune_jax.evaluation.run import read_evaluation
from greedy_prune_jax.scoring.features import STATISTICS
from tests.helpers import thinking_templates as forms
from tests.helpers import tiny_runs
from tests.helpers.thinking_models import make_thinking_model

pytestmark = pytest.mark.slow

NUM_CHAINS = 5
TABLES = ("accuracy", "outcomes")
SYSTEM = "Add."


def thought_of(number):
  return f"{number} and 0 make {number}."


def said_of(number):
  return f'So {number}.\n{{"answer": "{number}"}}'


CHAINS = [
  {
    "id": str(number),
    "question": f"{number} clips?",
    "system": SYSTEM,
    "reasoning": f"<think>\n{thought_of(number)}\n</think>\n\nSo {number}.\n",
    "answer": f'{{"answer": "{number}"}}',
    "target": str(number),
  }
  for number in range(NUM_CHAINS)
]
ROWS = [
  {"id": str(n), "question": f"{n} clips?", "system": SYSTEM, "answer": f"#### {n}"}
  for n in range(NUM_CHAINS)
]


def conversation(tokenizer, number, thought):
  """The whole text, as the template renders it, and its first part, up to the thinking."""
  messages = [
    {"role": "system", "content": SYSTEM},
    {"role": "user", "content": f"{number} clips?"},
  ]
  prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
  if tokenizer.chat_template == forms.R1:  # leaves thinking out of conversations
    said = said_of(number)
    return f"{prompt}{thought}\n</think>\n\n{said}<|end|>", prompt
  reply = {"role": "assistant", "content": said_of(number), "reasoning_content": thought}
  whole = tokenizer.apply_chat_template([*messages, reply], tokenize=False)
  assert whole.startswith(f"{prompt}<think>\n{thought}")
  return whole, f"{prompt}<think>\n"


def ids_of(tokenizer, text):
  return tokenizer(text, add_special_tokens=False)["input_ids"]


def nlls(model, ids, start, answer_start):
  """Mean NLLs of all from `start` on, and from `answer_start` on, by one full pass."""
  with torch.no_grad():
    log_probs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
  picked = -log_probs[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
  return picked[start - 1 :].mean().item(), picked[answer_start - 1 :].mean().item()


def written(model, tokenizer, text, tokens):
  """The likeliest tokens behind a text, as transformers writes and decodes them."""
  ids = torch.tensor([ids_of(tokenizer, text)])
  out = model.generate(
    ids,
    attention_mask=torch.ones_like(ids),
    do_sample=False,
    max_new_tokens=tokens,
    pad_token_id=0,
    eos_token_id=[1, tokenizer.convert_tokens_to_ids("<|end|>")],
  )
  return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("name", ["QWEN3", "R1"])
def test_the_circle(run, tmp_path, name):
  model, tokenizer = make_thinking_model(tmp_path / "model", getattr(forms, name))
  chains = tiny_runs.write_chains(tmp_path / "chains.jsonl", CHAINS)
  rows = tiny_runs.write_chains(tmp_path / "rows.jsonl", ROWS)

  run(pruner=tmp_path / "model", chains=chains, keep_ratios="(0.5,)", workdir="pruned")
  records = tiny_runs.records(tmp_path / "pruned")
  assert sorted(records) == [str(number) for number in range(NUM_CHAINS)]
  for number, record in enumerate(map(records.get, sorted(records))):
    check_scores(record, number, model, tokenizer)

  check_answers_from_pruned(run, tmp_path, records, model, tokenizer)

  student = {"student": tmp_path / "model", "chains": tmp_path / "pruned", "batch_size": NUM_CHAINS}
  student |= {"steps": 150, "epochs": 0, "num_validation": 0, "learning_rate": 1e-2}
  student |= {"warmup_steps": 2, "schedule": "constant", "save_every": 150}
  run(job="distill", workdir="student", keep_ratios="(1.0,)", export="last", **student)
  assert learnt_thinking(tmp_path / "student") == "think"

  asked = {"questions": f"gsm8k:{rows}", "split": "train", "num_questions": 0}
  lengths = {"max_new_tokens": 30, "max_thinking_tokens": 40}
  export = tmp_path / "student" / "export"
  models = f"('{tmp_path / 'student'}','base={tmp_path / 'model'}','export={export}')"
  run(job="evaluate", workdir="evaluation", models=models, **asked, **lengths)
  check_evaluation(tmp_path / "evaluation")

  how = {"teacher": export, "thinking": "on", "num_samples": 1, "temperature": 0}
  run(job="sample", workdir="sampled", **asked, **how, **lengths)
  sampled = {chain.question: chain for chain in read_chains(str(tmp_path / "sampled"))}
  for number, chain in enumerate(map(sampled.get, sorted(sampled))):
    assert chain.reasoning == thought_of(number)
    assert chain.answer == f"\n</think>\n\n{said_of(number)}"
    assert chain.thinking_form == "think"
  assert len(sampled) == NUM_CHAINS
  summary = json.loads((tmp_path / "sampled" / "summary.json").read_text())
  assert (summary["accuracy"], summary["never_stopped"]) == (1, 0)
  counts = [len(ids_of(tokenizer, x(0))) for x in (thought_of, said_of)]
  assert summary["mean_thinking_tokens"] - 1 == pytest.approx(counts[0], abs=1)
  assert summary["mean_answer_tokens"] == pytest.approx(counts[1], abs=1)

  argv = f"--pruned={tmp_path / 'pruned'}"
  run(argv, job="analyze", workdir="analysis", regressors="('ridge',)")
  attention = np.load(tmp_path / "analysis" / "features" / "pruned" / "attention.npy")
  closing = attention[..., STATISTICS.index("from closing tag, mean")]
  assert closing.min() > 0
  assert not np.allclose(closing, attention[..., STATISTICS.index("from answer, mean")], rtol=0.1)


def check_scores(record, number, model, tokenizer):
  """Ids and NLLs of the whole chain and of the pruned one are those of the conversation."""
  whole, prompt = conversation(tokenizer, number, thought_of(number))
  reasoning = ids_of(tokenizer, thought_of(number))
  ids, start = ids_of(tokenizer, whole), len(ids_of(tokenizer, prompt))
  assert record["reasoning_ids"] == reasoning == ids[start : start + len(reasoning)]
  assert ids[start + len(reasoning) :] == ids_of(
    tokenizer, whole[len(prompt + thought_of(number)) :]
  )
  kept = [i for i in range(len(reasoning)) if i not in record["deletion_order"]]
  for left, at in ((reasoning, 0), ([reasoning[i] for i in kept], len(record["deletion_order"]))):
    text = [*ids[:start], *left, *ids[start + len(reasoning) :]]
    joint, answer = nlls(model, text, start, start + len(left))
    assert record["nll"]["joint"][at] == pytest.approx(joint, abs=1e-5)
    assert record["nll"]["answer"][at] == pytest.approx(answer, abs=1e-5)


def check_answers_from_pruned(run, folder, records, model, tokenizer):
  """`evaluate_pruned` goes on where transformers does, behind the closing tag."""
  settings = {"pruned": f"('{folder / 'pruned'}',)", "model": folder / "model"}
  run(job="evaluate_pruned", workdir="answers", max_new_tokens=6, **settings)
  (path,) = (folder / "answers" / "answers").glob("*.jsonl")
  for line in map(json.loads, path.read_text().splitlines()):
    record = records[line["chain"]]
    _, prompt = conversation(tokenizer, int(line["chain"]), thought_of(int(line["chain"])))
    for ratio, text in {"1.0": record["reasoning"], "0.5": record["pruned"]["0.5"]}.items():
      expected = written(model, tokenizer, f"{prompt}{text}\n</think>\n\n", 6)
      assert line["answers"][ratio]["text"] == expected


def check_evaluation(folder):
  """The student thinks, ends it and is right, its export too; the tables say so."""
  of_model = {name: [] for name in ("student", "base", "export")}
  for record in sorted(read_evaluation(folder), key=lambda record: record["question_id"]):
    of_model[record["model"]].append(record)
  records = of_model["student"]
  exported = [record["samples"] for record in of_model["export"]]
  assert exported == [record["samples"] for record in records]
  for record in records:
    (sample,) = record["samples"]
    assert sample["correct"]
    assert sample["thinking"] == thought_of(int(record["question_id"]))
    assert sample["text"] == said_of(int(record["question_id"]))
  assert len(records) == NUM_CHAINS
  rows = {name: json.loads((folder / f"{name}.json").read_text())["rows"] for name in TABLES}
  row, counts = (rows[name][0] for name in TABLES)
  assert (row["accuracy"], row["thinking never ends"]) == (1, 0)
  assert row["answer tokens"] > row["reasoning tokens"] > 0
  assert counts["right"] == NUM_CHAINS
