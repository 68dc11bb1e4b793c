"""Students out of their runs: as transformers, PEFT and our own jobs read them."""

import gc
import math

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import safetensors.numpy
import torch
import transformers

from greedy_prune_jax.chains.chat_template import load_chat_template
from greedy_prune_jax.distill import export
from greedy_prune_jax.distill import run as run_module
from greedy_prune_jax.distill.examples import make_example, read_texts
from greedy_prune_jax.distill.export import load_student
from greedy_prune_jax.distill.lora import TARGETS
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.pretrained import load_model, load_tokenizer
from greedy_prune_jax.models.sampler import Request, Sampler
from tests.helpers.logits import forward_logits
from tests.helpers.tiny_runs import CHAINS, write_chains
from tests.helpers.tiny_student import LORA, json_config, settings


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, LORA])
def test_transformers_reads_the_exported_student(run, base, tmp_path, changes):
  result = run("run", export="last", **changes)
  ids = np.arange(20)[None] + 5
  theirs = transformers.AutoModelForCausalLM.from_pretrained(result.exported)
  with torch.no_grad():
    expected = theirs(torch.tensor(ids)).logits.numpy()
  ours, _ = load_student(tmp_path / "run", 6, settings(**json_config(tmp_path / "run")))
  found = forward_logits(ours.decoder, jnp.asarray(ids))
  np.testing.assert_allclose(found, expected, atol=1e-4)
  untrained = forward_logits(load_model(str(base / "model"), "float32").decoder, jnp.asarray(ids))
  assert abs(untrained - expected).max() > 0.05
  tokenizer = transformers.AutoTokenizer.from_pretrained(result.exported)
  chat = [{"role": "user", "content": "x"}]
  assert tokenizer.apply_chat_template(chat, tokenize=False) == "<|start|>user\nx<|end|>\n"


@pytest.mark.slow
def test_peft_reads_the_adapter(run, base, tmp_path):
  run("run", export="last", **LORA)
  ids = torch.arange(20)[None] + 5
  plain = transformers.AutoModelForCausalLM.from_pretrained(base / "model")
  with torch.no_grad():
    untrained = plain(ids).logits.numpy()
    adapted = peft.PeftModel.from_pretrained(plain, tmp_path / "run" / "adapter")
    found = adapted(ids).logits.numpy()
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "export")
    np.testing.assert_allclose(found, merged(ids).logits.numpy(), atol=1e-4)
  assert abs(untrained - found).max() > 0.05
  stored = safetensors.numpy.load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
  assert len(stored) == 2 * 2 * len(TARGETS), "two matrices for each target of both layers"
  read = {name for name, _ in adapted.named_parameters() if "lora_" in name}
  assert {name.replace(".default.", ".") for name in read} == set(stored)


@pytest.mark.slow
def test_an_adapter_is_asked_as_its_student_was(run, base, tmp_path):
  run("run", export="last", steps=1, warmup_steps=0, chat_template="plain", **LORA)
  adapted, exported = (load_tokenizer(str(tmp_path / "run" / x)) for x in ("adapter", "export"))
  assert adapted.chat_template == exported.chat_template
  assert adapted.chat_template != load_tokenizer(str(base / "model")).chat_template
  assert adapted("a clip")["input_ids"] == exported("a clip")["input_ids"]


@pytest.mark.slow
def test_an_adapter_on_an_adapter_is_exported_as_a_whole_model_alone(run, tmp_path):
  first = run("first", export="last", **LORA)
  adapter = tmp_path / "first" / "adapter"
  result = run("second", export="last", student=str(adapter), **LORA)
  assert not (tmp_path / "second" / "adapter").exists()
  ids = torch.arange(20)[None] + 5
  before, after = (
    transformers.AutoModelForCausalLM.from_pretrained(x.exported)(ids).logits
    for x in (first, result)
  )
  assert abs(before - after).max() > 0.05


@pytest.mark.slow
def test_an_export_opens_the_thinking_that_its_student_learnt(run, base, tmp_path):
  lines = [x | {"reasoning": f"<think>\n{x['reasoning'].strip()}\n</think>\n\n"} for x in CHAINS]
  chains = str(write_chains(tmp_path / "chains.jsonl", lines))
  changes = {"steps": 1, "save_every": 1, "batch_size": 2, "export": "last", "chains": chains}
  chat = [{"role": "user", "content": "x"}]
  for thinking, ends in (("on", True), ("auto", False)):
    exported = run(thinking, thinking=thinking, **changes).exported
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert prompt.endswith("<think>\n") == ends
    trained_in = load_chat_template("tokenizer", load_tokenizer(str(base / "model")))
    assert prompt == trained_in.prompt("x", thinking_form="think" if ends else None)
    own = load_chat_template("tokenizer", load_tokenizer(str(exported)))
    assert own.always_thinks == ends
    assert own.prompt("x", thinking_form="think" if ends else None) == prompt
    told = tokenizer.apply_chat_template(chat, tokenize=False)
    assert told == "<|start|>user\nx<|end|>\n", "what is no reply's beginning stays"


@pytest.mark.slow
def test_a_student_learns_8_chains_and_then_writes_them(run, base, tmp_path):
  changes = {"batch_size": 8, "steps": 150, "save_every": 150, "schedule": "constant"}
  result = run("run", **changes, learning_rate=5e-3, export="last")
  assert result.loss < 0.02
  tokenizer = load_tokenizer(str(result.exported))
  template = load_chat_template("tokenizer", tokenizer)
  chains = [chain for chain, _ in read_texts(str(base / "chains.jsonl"), (1.0,))]
  examples = [make_example(c, c.reasoning, 1.0, tokenizer, template) for c in chains]
  stop = tokenizer.convert_tokens_to_ids("<|end|>")
  sampler = Sampler(load_model(str(result.exported), "float32"), tokenizer.decode, [stop])
  requests = [
    Request(prompt_ids=tuple(e.token_ids[: e.num_prompt].tolist()), max_new_tokens=60)
    for e in examples
  ]
  written = dict(sampler.sample(requests))
  for at, chain in enumerate(chains):
    assert written[at].text == chain.reasoning + chain.answer
    assert written[at].finish_reason == "stop"
  assert math.isfinite(result.loss)
  theirs = transformers.AutoModelForCausalLM.from_pretrained(result.exported)
  prompt = torch.tensor([requests[0].prompt_ids])
  ids = theirs.generate(prompt, do_sample=False, max_new_tokens=60)[0].tolist()
  assert ids.index(stop, prompt.shape[1]) == len(ids) - 1, "transformers stops by itself"


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, LORA])
def test_no_weights_are_left_in_memory_when_the_student_is_exported(run, monkeypatch, changes):
  sizes = []

  def measure(*_):
    gc.collect()
    sizes.append(sum(array.nbytes for array in jax.live_arrays()))

  monkeypatch.setattr(run_module, "export_student", measure)
  run("run", stop_after=3, **changes)
  measure()
  run("run", export="last", **changes)
  assert sizes[1] - sizes[0] < 10_000  # a model has more than 100 000


@pytest.mark.slow
def test_a_student_is_not_exported_to_a_workdir_that_was_moved(run, tmp_path, monkeypatch):
  load = export.load_student

  def load_and_move(workdir, *args, **settings):
    loaded = load(workdir, *args, **settings)
    workdir.rename(tmp_path / "elsewhere")
    return loaded

  monkeypatch.setattr(export, "load_student", load_and_move)
  with pytest.raises(UserError, match="export"):
    run("gone", export="last")
  assert not (tmp_path / "gone").exists()
