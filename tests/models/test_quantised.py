"""Quantised weights of Hugging Face folders: MXFP4 and FP8, as transformers dequantises them."""

import json

import gguf
import jax
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.torch import load_file, save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.pretrained import load_model
from greedy_prune_jax.parallel import MeshSettings, make_mesh, weight_shardings
from tests.helpers.gguf_files import write_gguf
from tests.helpers.reference import tiny_config, tiny_model

SIZES = {"hidden_size": 64, "intermediate_size": 96}  # of two and three blocks of 32


def _quantise(folder, change, quantization_config):
  """Puts other tensors in place of some of a folder's, and says so in its config."""
  file = folder / "model.safetensors"
  tensors = {}
  for name, tensor in load_file(file).items():
    tensors |= change(name, tensor)
  save_file(tensors, file, {"format": "pt"})
  config = json.loads((folder / "config.json").read_text())
  config["quantization_config"] = quantization_config
  (folder / "config.json").write_text(json.dumps(config))


def _assert_same(params, expected):
  jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(params), nnx.to_pure_dict(expected))


@pytest.fixture
def mxfp4(tmp_path):
  """A folder with random blocks, and one with the floats that transformers makes of them."""
  reference = tiny_model(tiny_config("gpt_oss", vocab_size=64, **SIZES))
  rng, blocks = np.random.default_rng(0), {}
  for layer, module in enumerate(reference.model.layers):
    for name in ("gate_up_proj", "down_proj"):
      weight = getattr(module.mlp.experts, name)
      experts, inputs, outputs = weight.shape
      shape = (experts, outputs, inputs // 32)
      packed = torch.tensor(rng.integers(0, 256, (*shape, 16), dtype=np.uint8))
      scales = torch.tensor(rng.integers(117, 125, shape, dtype=np.uint8))
      whole = f"model.layers.{layer}.mlp.experts.{name}"
      blocks[whole] = {f"{whole}_blocks": packed, f"{whole}_scales": scales}
      weight.data = convert_moe_packed_tensors(packed, scales, dtype=torch.float32).contiguous()
      assert weight.shape == (experts, inputs, outputs)
  for folder in ("floats", "blocks"):
    reference.save_pretrained(tmp_path / folder)
  _quantise(
    tmp_path / "blocks",
    lambda name, tensor: blocks.get(name, {name: tensor}),
    {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]},
  )
  return tmp_path / "blocks", tmp_path / "floats"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_mxfp4_is_what_transformers_makes_of_it(mxfp4, dtype):
  folder, floats = mxfp4
  model, expected = load_model(str(folder), dtype), load_model(str(floats), dtype)
  assert model.config == expected.config
  _assert_same(model.params, expected.params)
  gates = model.decoder.layers.experts.gate.get_value().astype("float32")
  assert np.unique(np.abs(gates)).size > 20  # of several exponents


@pytest.mark.slow
def test_each_device_reads_its_part_of_mxfp4(mxfp4):
  folder, floats = mxfp4
  mesh = make_mesh(MeshSettings(data=2, model=2), jax.devices()[:4])
  model = load_model(str(folder), "float32", shardings=weight_shardings(mesh, fully_sharded=True))
  down = model.decoder.layers.experts.down.get_value()
  assert {shard.data.shape for shard in down.addressable_shards} == {(4, 6, 48, 32)}
  _assert_same(model.params, load_model(str(floats), "float32").params)


def test_mxfp4_of_gguf_files(tmp_path):
  kind = gguf.GGMLQuantizationType.MXFP4
  sizes = SIZES | {"swiglu_limit": 7.0}
  reference = tiny_model(tiny_config("gpt_oss", **sizes))
  metadata = {"expert_feed_forward_length": 96, "attention.sliding_window": 5}
  write_gguf(tmp_path / "model.gguf", reference, kind=kind, metadata=metadata)

  experts = load_model(str(tmp_path / "model.gguf"), "float32").decoder.layers.experts

  theirs = reference.model.layers[2].mlp.experts
  gates = theirs.gate_up_proj.detach()[..., ::2].swapaxes(1, 2).contiguous().numpy()
  for ours, stored in (
    (experts.gate, gates),
    (experts.down, theirs.down_proj.detach().swapaxes(1, 2).contiguous().numpy()),
  ):
    expected = gguf.quants.dequantize(gguf.quants.quantize(stored, kind), kind)
    np.testing.assert_array_equal(ours[2], expected.swapaxes(1, 2))


def _fp8(name, tensor):
  """A matrix in 8 bits, with a scale for each block of 128 x 128, the last ones narrower."""
  if tensor.ndim < 2 or "proj" not in name:
    return {name: tensor}
  rows, columns = (-(-size // 128) for size in tensor.shape)
  generator = torch.Generator().manual_seed(len(name))
  scales = torch.rand((rows, columns), generator=generator) * 0.01 + 0.001
  whole = scales.repeat_interleave(128, 0).repeat_interleave(128, 1)
  eights = (tensor / whole[: tensor.shape[0], : tensor.shape[1]]).to(torch.float8_e4m3fn)
  return {name: eights, f"{name}_scale_inv": scales}


@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe"])
def test_fp8_is_what_its_scales_make_of_it(family, tmp_path):
  sizes = {"hidden_size": 160, "intermediate_size": 256, "head_dim": 64, "vocab_size": 64}
  reference = tiny_model(tiny_config(family, **sizes, num_hidden_layers=2))
  for folder in ("floats", "eights"):
    reference.save_pretrained(tmp_path / folder)
  settings = {"quant_method": "fp8", "weight_block_size": [128, 128], "fmt": "e4m3"}
  _quantise(tmp_path / "eights", _fp8, settings | {"activation_scheme": "dynamic"})
  stored = load_file(tmp_path / "eights" / "model.safetensors")
  assert sum(name.endswith("_scale_inv") for name in stored) >= 14

  def dequantised(name, tensor):
    if name + "_scale_inv" not in stored:
      return {name: tensor}
    eights, scales = stored[name], stored[name + "_scale_inv"]
    padded = torch.zeros([128 * size for size in scales.shape]).to(torch.float8_e4m3fn)
    padded[: tensor.shape[0], : tensor.shape[1]] = eights
    value = Fp8Dequantize(None)._dequantize_one(padded, scales, torch.float32)
    return {name: value[: tensor.shape[0], : tensor.shape[1]].contiguous()}

  _quantise(tmp_path / "floats", dequantised, None)

  model = load_model(str(tmp_path / "eights"), "float32")

  _assert_same(model.params, load_model(str(tmp_path / "floats"), "float32").params)
  mesh = make_mesh(MeshSettings(data=1, model=2), jax.devices()[:2])
  shared = load_model(str(tmp_path / "eights"), "float32", shardings=weight_shardings(mesh))
  _assert_same(shared.params, model.params)


def test_numbers_of_another_kind_are_named(mxfp4):
  folder, _ = mxfp4

  def change(name, tensor):
    return {
      name: tensor.to(torch.int32) if name.endswith("1.mlp.experts.down_proj_scales") else tensor
    }

  _quantise(folder, change, {"quant_method": "mxfp4"})
  with pytest.raises(UserError, match=r"'model.layers.1.*down_proj_scales' is stored as I32; expe"):
    load_model(str(folder), "float32")


def test_scales_of_another_shape_are_named(mxfp4):
  folder, _ = mxfp4

  def change(name, tensor):
    return {name: tensor[:, :-1].contiguous() if name.endswith("down_proj_scales") else tensor}

  _quantise(folder, change, {"quant_method": "mxfp4"})
  with pytest.raises(
    UserError, match=r"down_proj_scales' has shape \[6, 63, 3\]; expected \[6, 64"
  ):
    load_model(str(folder), "float32")
