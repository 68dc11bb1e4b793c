"""Folders that we write, read back by transformers and by us."""

import json
import os

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from greedy_prune_jax.models.hf_export import save_huggingface
from greedy_prune_jax.models.pretrained import load_model, load_tokenizer
from tests.helpers.reference import (
  FAMILIES,
  reference_outputs,
  tiny_config,
  tiny_model,
  token_ids,
)


@pytest.fixture
def tokenizer():
  words = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "one": 2, "two": 3, "?": 4}, "?"))
  words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=words,
    bos_token="<s>",
    eos_token="</s>",
    unk_token="?",
    chat_template="{{ messages[0]['content'] }}!",
  )


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_reads_back_the_same_model(family, tokenizer, tmp_path):
  biases = {"attention_bias": True} if family in ("llama", "qwen3", "gemma2", "olmo2") else {}
  reference = tiny_model(tiny_config(family, **biases))
  reference.save_pretrained(tmp_path / "theirs")
  model = load_model(str(tmp_path / "theirs"), "float32")

  save_huggingface(model, tokenizer, tmp_path / "ours")

  again = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path / "ours", attn_implementation="eager"
  )
  assert type(again) is type(reference)
  assert again.dtype == torch.float32
  expected = reference.state_dict()
  assert again.state_dict().keys() == expected.keys()
  for name, tensor in again.state_dict().items():
    torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)
  ids = token_ids(reference.config)
  for ours, theirs in zip(
    reference_outputs(again, ids), reference_outputs(reference, ids), strict=True
  ):
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
  assert again.generation_config.eos_token_id == tokenizer.eos_token_id


def test_stop_ids_end_what_transformers_writes(tokenizer, tmp_path):
  reference = tiny_model(tiny_config("llama"))
  reference.save_pretrained(tmp_path / "theirs")
  prompt = torch.tensor([[2, 3]])
  options = {"do_sample": False, "max_new_tokens": 8, "pad_token_id": 0}
  first = reference.generate(prompt, eos_token_id=None, **options)[0, 2].item()
  model = load_model(str(tmp_path / "theirs"), "float32")

  save_huggingface(model, tokenizer, tmp_path / "ours", stop_ids=[1, first])

  again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
  assert again.generate(prompt, **options)[0].tolist() == [2, 3, first]
  for file in ("config.json", "generation_config.json"):
    assert json.loads((tmp_path / "ours" / file).read_text())["eos_token_id"] == [1, first]


def test_tokenizer_comes_along(tokenizer, tmp_path):
  tiny_model(tiny_config("llama")).save_pretrained(tmp_path / "theirs")
  model = load_model(str(tmp_path / "theirs"), "float32")
  tokenizer.add_special_tokens({"additional_special_tokens": ["two"]})
  save_huggingface(model, tokenizer, tmp_path / "ours")
  values = json.loads((tmp_path / "ours" / "tokenizer_config.json").read_text())
  assert values["tokenizer_class"] == "PreTrainedTokenizerFast"  # transformers 4 knows no other
  assert values["additional_special_tokens"] == ["two"]
  assert "extra_special_tokens" not in values  # to transformers 4 a dict
  for again in (
    load_tokenizer(str(tmp_path / "ours")),
    transformers.AutoTokenizer.from_pretrained(tmp_path / "ours"),
  ):
    assert again("one two three")["input_ids"] == [2, 3, 4]
    assert again.all_special_tokens == tokenizer.all_special_tokens
    assert again.eos_token == "</s>"
    chat = [{"role": "user", "content": "one"}]
    assert again.apply_chat_template(chat, tokenize=False) == "one!"


def test_save_that_fails_leaves_the_weights_that_stood_there(tokenizer, tmp_path, monkeypatch):
  tiny_model(tiny_config("llama")).save_pretrained(tmp_path)
  before = (tmp_path / "model.safetensors").read_bytes()
  model = load_model(str(tmp_path), "float32")

  def fail(*_):
    raise OSError("no space left")

  monkeypatch.setattr(os, "replace", fail)
  with pytest.raises(OSError, match="no space left"):
    save_huggingface(model, tokenizer, tmp_path, dtype="bfloat16")
  assert (tmp_path / "model.safetensors").read_bytes() == before


def test_bfloat16_and_shards_and_what_stood_there_before(tokenizer, tmp_path):
  tiny_model(tiny_config("llama")).save_pretrained(tmp_path / "theirs")
  model = load_model(str(tmp_path / "theirs"), "float32")
  save_huggingface(model, tokenizer, tmp_path / "ours")  # to be replaced

  save_huggingface(model, tokenizer, tmp_path / "ours", dtype="bfloat16", shard_bytes=20_000)

  files = sorted(path.name for path in (tmp_path / "ours").glob("*.safetensors"))
  assert len(files) > 2
  assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
  again = load_model(str(tmp_path / "ours"), "float32").decoder.layers.mlp.up
  expected = model.decoder.layers.mlp.up[...].astype("bfloat16").astype("float32")
  np.testing.assert_array_equal(again[...], expected)
  theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype="auto")
  assert theirs.dtype == torch.bfloat16

  save_huggingface(model, tokenizer, tmp_path / "ours")  # and back
  files = sorted(path.name for path in (tmp_path / "ours").glob("model*"))
  assert files == ["model.safetensors"]
