"""Folders and files of models; `tests/models/test_mutations.py` changes their weights."""

import json

import numpy as np
import pytest

from greedy_prune_jax.chains.chat_template import load_chat_template
from greedy_prune_jax.models.pretrained import (
  load_config,
  load_model,
  load_stop_ids,
  load_tokenizer,
)
from tests.helpers.attacks import attack, cases_of, is_taken
from tests.helpers.gguf_files import write_gguf
from tests.helpers.reference import tiny_config
from tests.helpers.reference import tiny_model as reference_model
from tests.helpers.tiny_runs import TEMPLATE, make_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("model")
  make_model(folder)
  return folder


def load_all(folder):
  load_config(str(folder))
  tokenizer = load_tokenizer(str(folder))
  load_stop_ids(str(folder))
  template = load_chat_template("tokenizer", tokenizer)
  tokenizer(template.prompt("How many?", "Be brief."), add_special_tokens=False)
  assert template.stop_ids is not None


def test_folders_of_models(model_folder, tmp_path):
  """All files but the weights, which `test_mutations` changes."""
  pattern = "[!m]*"
  refused = attack(model_folder, load_all, tmp_path, cases=150, name="model", pattern=pattern)
  assert refused > 0.15


def test_tokenizers_of_gguf_files(tmp_path):
  (tmp_path / "good").mkdir()
  metadata = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *map(chr, range(33, 127)), "ab"],
    "tokenizer.ggml.token_type": [2, 3, 3, *[1] * 95],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.chat_template": TEMPLATE,
  }
  write_gguf(
    tmp_path / "good" / "m.gguf",
    reference_model(tiny_config("llama", vocab_size=98)),
    metadata=metadata,
  )
  attack(
    tmp_path / "good", lambda folder: load_all(folder / "m.gguf"), tmp_path, cases=100, name="gguf"
  )


def test_values_of_gguf_tokenizers(tmp_path):
  """Keys of a kind that a GGUF file can hold, and that no tokenizer's should be."""
  model = reference_model(tiny_config("llama", vocab_size=6))
  good = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "a", "b", "ab"],
    "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 1],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.add_bos_token": True,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.chat_template": TEMPLATE,
  }
  values = (None, 1, -1.0, True, "x", "{% for %}", ["a"], [1, 2], [1.5], "x" * 9000, "{{ 1 / 0 }}")
  for case, rng in cases_of("values of gguf", 120):
    key = rng.choice(list(good))
    value = rng.choice(values)
    write_gguf(tmp_path / "m.gguf", model, metadata=good | {key: value})
    try:
      is_taken(lambda: load_all(tmp_path / "m.gguf"))
    except Exception as error:
      raise AssertionError(f"{case}: {key}={value!r}"[:200]) from error


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
  """A model in several files, with an adapter beside it."""
  from safetensors.numpy import save_file

  folder = tmp_path_factory.mktemp("sharded")
  model = reference_model(tiny_config("llama"))
  model.save_pretrained(folder / "base", max_shard_size="10KB")
  adapter = folder / "adapter"
  adapter.mkdir()
  config = {"base_model_name_or_path": "BASE", "peft_type": "LORA", "r": 2, "lora_alpha": 4.0}
  (adapter / "adapter_config.json").write_text(json.dumps(config))
  name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
  matrices = {
    name.format("A"): np.ones((2, 32), np.float32),
    name.format("B"): np.ones((32, 2), np.float32),
  }
  save_file(matrices, adapter / "adapter_model.safetensors")
  return folder


def test_indices_of_shards(sharded, tmp_path):
  attack(
    sharded / "base", lambda f: load_model(str(f), "float32"), tmp_path, cases=60, name="index",
    pattern="*.json",
  )  # fmt: skip


def test_adapters(sharded, tmp_path):
  def load(folder):
    path = folder / "adapter_config.json"
    if path.is_file() and (content := path.read_bytes()):
      path.write_bytes(content.replace(b'"BASE"', json.dumps(str(sharded / "base")).encode()))
    load_model(str(folder), "float32")

  attack(sharded / "adapter", load, tmp_path, cases=80, name="adapter")
