"""Weights from safetensors: dtypes, shards, devices, memory, and what damaged folders say."""

import json
import tracemalloc

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models import huggingface, parameters
from greedy_prune_jax.models.pretrained import load_model
from tests.helpers.reference import tiny_config, tiny_model


def _save(folder, family="llama", *, dtype=torch.float32, shard="1GB", **switches):
  model = tiny_model(tiny_config(family, **switches)).to(dtype)
  model.save_pretrained(folder, max_shard_size=shard)
  return model


def _leaves(model):
  return {path: np.asarray(v.get_value()) for path, v in nnx.to_flat_state(model.params)}


def _assert_same(model, expected):
  ours, theirs = _leaves(model), _leaves(expected)
  assert ours.keys() == theirs.keys()
  for path, array in ours.items():
    np.testing.assert_array_equal(array, theirs[path], err_msg=str(path))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_any_float_dtype(dtype, tmp_path):
  reference = _save(tmp_path, dtype=dtype)
  weight = reference.model.layers[1].mlp.down_proj.weight.detach().float().numpy()
  model = load_model(str(tmp_path), "float32")
  np.testing.assert_array_equal(model.decoder.layers.mlp.down[1], weight.T)
  assert model.decoder.embedding.dtype == "float32"


def test_weights_take_the_wanted_dtype_and_norms_stay_float32(tmp_path):
  _save(tmp_path, dtype=torch.float32)
  exact = _leaves(load_model(str(tmp_path), "float32"))
  for path, array in _leaves(load_model(str(tmp_path), "bfloat16")).items():
    is_norm = path[-1] == "scale"
    assert array.dtype == ("float32" if is_norm else "bfloat16"), path
    np.testing.assert_array_equal(array, exact[path].astype(array.dtype))


def test_shards_are_one_model(tmp_path):
  _save(tmp_path / "one")
  _save(tmp_path / "many", shard="20KB")
  assert len(list((tmp_path / "many").glob("model-*.safetensors"))) > 3
  _assert_same(
    load_model(str(tmp_path / "many"), "float32"), load_model(str(tmp_path / "one"), "float32")
  )


def test_large_embeddings_are_read_in_parts(tmp_path, monkeypatch):
  _save(tmp_path)
  whole = load_model(str(tmp_path), "float32")
  monkeypatch.setattr(parameters, "_ROWS", 7)
  _assert_same(load_model(str(tmp_path), "float32"), whole)


def test_each_device_holds_its_part(tmp_path):
  _save(tmp_path, tie_word_embeddings=False, num_hidden_layers=2)
  whole = load_model(str(tmp_path), "float32")
  mesh = jax.make_mesh((2, 4), ("data", "model"))
  specs = {  # layers, heads, the width of heads, rows of a matrix, and not at all
    "q": PartitionSpec("data", None, "model", None),
    "out": PartitionSpec(None, "model", None, "data"),
    "k": PartitionSpec(None, None, "data", "model"),
    "gate": PartitionSpec(None, "model", "data"),
    "embedding": PartitionSpec(None, "model"),
  }

  def choose(shapes):
    def sharding(path, shape):
      names = [str(getattr(key, "key", "")) for key in path]
      spec = next((spec for name, spec in specs.items() if name in names), PartitionSpec())
      assert len(spec) <= len(shape.shape)
      return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(sharding, shapes)

  model = load_model(str(tmp_path), "float32", shardings=choose)

  _assert_same(model, whole)
  q = model.decoder.layers.attention.q.get_value()
  assert q.sharding.spec == specs["q"]
  assert {s.data.shape for s in q.addressable_shards} == {(1, 32, 1, 8)}


# As Qwen3-30B-A3B has them: 128 experts of which a token takes 8, in files of a few layers each.
_MANY_EXPERTS = {
  "num_hidden_layers": 8,
  "num_experts": 128,
  "num_experts_per_tok": 8,
  "moe_intermediate_size": 24,
  "shard": "1MB",
}


@pytest.mark.slow
@pytest.mark.parametrize(
  ("family", "options"),
  [
    ("llama", {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 6}),
    ("qwen3_moe", _MANY_EXPERTS),
  ],
)
def test_host_holds_one_more_parameter_at_most(family, options, tmp_path):
  _save(tmp_path, family, vocab_size=500, **options)
  load_model(str(tmp_path), "float32")  # what is imported and traced once is not counted
  tracemalloc.start()
  model = load_model(str(tmp_path), "float32")
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  sizes = [array.nbytes for array in _leaves(model).values()]
  # numpy's memory counts; on the CPU, JAX may take arrays over without a copy.
  assert peak < sum(sizes) + max(sizes), (peak, sum(sizes), max(sizes))


@pytest.mark.parametrize("tied", [True, False])
def test_multimodal_gemma3_gives_its_text_model(tied, tmp_path):
  _save(tmp_path / "text", "gemma3_text", tie_word_embeddings=tied)
  path = tmp_path / "text" / "model.safetensors"
  config = json.loads((tmp_path / "text" / "config.json").read_text())
  tensors = load_file(path)
  for prefix, head_prefix in (
    ("language_model.model.", "language_model."),
    ("model.language_model.", ""),
  ):
    folder = tmp_path / prefix
    folder.mkdir()
    renamed = {
      head_prefix + name if name == "lm_head.weight" else name.replace("model.", prefix, 1): value
      for name, value in tensors.items()
    }
    renamed["model.vision_tower.weight"] = np.zeros(3, np.float32)
    save_file(renamed, folder / "model.safetensors")
    outer = {"model_type": "gemma3", "text_config": config, "vision_config": {}}
    outer["tie_word_embeddings"] = tied
    (folder / "config.json").write_text(json.dumps(outer))
    _assert_same(load_model(str(folder), "float32"), load_model(str(tmp_path / "text"), "float32"))


@pytest.mark.parametrize("family", ["gemma4_text", "gemma4_text, experts"])
def test_multimodal_gemma4_gives_its_text_model(family, tmp_path):
  kinds = ["sliding_attention", "full_attention"] * 2
  _save(tmp_path / "text", family, num_hidden_layers=4, layer_types=kinds, num_kv_shared_layers=2)
  config = json.loads((tmp_path / "text" / "config.json").read_text())
  tensors = {
    name.replace("model.", "model.language_model.", 1): value
    for name, value in load_file(tmp_path / "text" / "model.safetensors").items()
  }
  for part in ("vision_tower", "audio_tower", "embed_vision", "embed_audio"):
    tensors[f"model.{part}.weight"] = np.zeros(3, np.float32)
  # Checkpoints hold keys and values of layers that never ask for them.
  for weight in ("k_proj", "v_proj", "k_norm"):
    name = f"layers.{config['num_hidden_layers'] - 1}.self_attn.{weight}.weight"
    tensors[f"model.language_model.{name}"] = np.zeros(3, np.float32)
  save_file(tensors, tmp_path / "model.safetensors")
  outer = {"model_type": "gemma4", "text_config": config, "vision_config": {}, "audio_config": {}}
  (tmp_path / "config.json").write_text(json.dumps(outer))
  _assert_same(load_model(str(tmp_path), "float32"), load_model(str(tmp_path / "text"), "float32"))


@pytest.mark.parametrize("family", ["qwen3_moe", "qwen3_next", "qwen3_5_moe_text"])
def test_experts_of_a_layer_in_one_tensor(family, tmp_path):
  reference = _save(tmp_path / "each", family)
  reference.save_pretrained(tmp_path / "all", save_original_format=False)
  stored = load_file(tmp_path / "all" / "model.safetensors")
  assert "model.layers.0.mlp.experts.gate_up_proj" in stored
  assert not any(".experts.0." in name for name in stored)
  _assert_same(
    load_model(str(tmp_path / "all"), "float32"), load_model(str(tmp_path / "each"), "float32")
  )

  whole = stored["model.layers.0.mlp.experts.gate_up_proj"]
  _change(tmp_path / "all", "model.layers.0.mlp.experts.gate_up_proj", whole[:-1])
  with pytest.raises(UserError, match=r"has shape \[5, 48, 32\]; .* asks for shape \[6, 48, 32\]"):
    load_model(str(tmp_path / "all"), "float32")
  _change(tmp_path / "all", "model.layers.0.mlp.experts.gate_up_proj", whole[:, :, 1:].copy())
  with pytest.raises(UserError, match=r"has shape \[6, 48, 31\]; .* asks for shape \[6, 48, 32\]"):
    load_model(str(tmp_path / "all"), "float32")


def test_multimodal_qwen3_5_with_experts_gives_its_text_model(tmp_path):
  _save(tmp_path / "text", "qwen3_5_moe_text").save_pretrained(
    tmp_path / "fused", save_original_format=False
  )
  config = json.loads((tmp_path / "text" / "config.json").read_text())
  tensors = {
    name.replace("model.", "model.language_model.", 1): value
    for name, value in load_file(tmp_path / "fused" / "model.safetensors").items()
  }
  tensors |= {name: np.zeros(3, np.float32) for name in ("model.visual.weight", "mtp.fc.weight")}
  save_file(tensors, tmp_path / "model.safetensors")
  outer = {"model_type": "qwen3_5_moe", "text_config": config, "vision_config": {}}
  (tmp_path / "config.json").write_text(json.dumps(outer))
  _assert_same(load_model(str(tmp_path), "float32"), load_model(str(tmp_path / "text"), "float32"))


@pytest.mark.parametrize(
  ("key", "value", "message"),
  [
    ("enable_moe_block", True, "not a usable config|num_experts=None; expected a whole number"),
    ("num_kv_shared_layers", 4, "num_kv_shared_layers=4; expected so few that"),
    ("vocab_size_per_layer_input", 60, "vocab_size_per_layer_input=60; expected vocab_size=61"),
    ("use_bidirectional_attention", "all", "only causal attention is supported"),
  ],
)
def test_gemma4_models_that_are_not_supported_are_refused(key, value, message, tmp_path):
  _save(tmp_path, "gemma4_text")
  path = tmp_path / "config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
  with pytest.raises(UserError, match=message):
    load_model(str(tmp_path), "float32")


def _change(folder, name, value):
  """Replaces a tensor in a folder's only file, or removes it."""
  tensors = load_file(folder / "model.safetensors")
  tensors.pop(name, None)
  if value is not None:
    tensors[name] = value
  save_file(tensors, folder / "model.safetensors")


_Q = "model.layers.2.self_attn.q_proj.weight"


@pytest.mark.parametrize(
  ("name", "value", "message"),
  [
    (_Q, None, rf"'{_Q}' is missing; .* asks for shape \[32, 32\]"),
    (_Q, np.zeros((32, 8), np.float32), rf"'{_Q}' has shape \[32, 8\]; .* shape \[32, 32\]"),
    (_Q, np.zeros((32, 32), np.int8), rf"'{_Q}' is stored as I8; supported are F64, F32"),
    (
      "model.layers.0.self_attn.q_proj.bias",
      np.zeros(32, np.float32),
      r"'model.layers.0.self_attn.q_proj.bias' has no place in the llama model",
    ),
  ],
)
def test_tensors_that_do_not_fit_are_named(name, value, message, tmp_path):
  _save(tmp_path)
  _change(tmp_path, name, value)
  with pytest.raises(UserError, match=message) as info:
    load_model(str(tmp_path), "float32")
  assert str(info.value).startswith(str(tmp_path))


def test_unused_tensors_are_no_error(tmp_path):
  _save(tmp_path, tie_word_embeddings=True)
  whole = load_model(str(tmp_path), "float32")
  _change(tmp_path, "model.layers.0.self_attn.rotary_emb.inv_freq", np.zeros(4, np.float32))
  _change(tmp_path, "lm_head.weight", np.asarray(whole.decoder.embedding[...]))
  _assert_same(load_model(str(tmp_path), "float32"), whole)


def test_tied_head_with_other_values_is_refused(tmp_path, monkeypatch):
  _save(tmp_path, tie_word_embeddings=True)
  monkeypatch.setattr(huggingface, "_ROWS", 7)
  head = np.array(load_model(str(tmp_path), "float32").decoder.embedding[...])
  head[60, 31] += 1
  _change(tmp_path, "lm_head.weight", head)
  with pytest.raises(UserError, match=r"'lm_head\.weight' has other .* tie_word_embeddings=false"):
    load_model(str(tmp_path), "float32")

  path = tmp_path / "config.json"
  path.write_text(path.read_text().replace('embeddings": true', 'embeddings": false'))
  model = load_model(str(tmp_path), "float32")
  np.testing.assert_array_equal(model.decoder.head[...], head)


def test_truncated_file_is_named(tmp_path):
  _save(tmp_path, shard="20KB")
  path = sorted(tmp_path.glob("model-*.safetensors"))[1]
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(UserError, match=r"not a readable safetensors file.*cut short") as info:
    load_model(str(tmp_path), "float32")
  assert str(info.value).startswith(str(path))


def test_missing_shard_is_named(tmp_path):
  _save(tmp_path, shard="20KB")
  path = sorted(tmp_path.glob("model-*.safetensors"))[1]
  path.unlink()
  with pytest.raises(UserError, match="there is no such file") as info:
    load_model(str(tmp_path), "float32")
  assert str(info.value).startswith(str(path))


def test_folder_without_safetensors(tmp_path):
  _save(tmp_path)
  (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
  with pytest.raises(UserError, match=r"model\.safetensors: there is no such file.*\.bin files"):
    load_model(str(tmp_path), "float32")


def test_whole_file_goes_before_an_index_of_earlier_ones(tmp_path):
  _save(tmp_path)
  whole = load_model(str(tmp_path), "float32")
  index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
  (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
  _assert_same(load_model(str(tmp_path), "float32"), whole)


@pytest.mark.parametrize("text", ["{", "{}", '{"weight_map": 3}'])
def test_unreadable_index_is_named(text, tmp_path):
  _save(tmp_path, shard="20KB")
  (tmp_path / "model.safetensors.index.json").write_text(text)
  with pytest.raises(UserError, match=r"index\.json: not a readable index"):
    load_model(str(tmp_path), "float32")
