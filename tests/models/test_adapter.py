"""LoRA adapters of PEFT: merged while the base is read, or refused."""

import json
import os

import jax
import numpy as np
import peft
import pytest
import torch
from safetensors.numpy import load_file, save_file

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.adapter import is_adapter
from greedy_prune_jax.models.pretrained import load_config, load_model, portable_name
from tests.helpers.gguf_files import write_gguf
from tests.helpers.logits import forward_logits
from tests.helpers.reference import reference_outputs, tiny_config, tiny_model, token_ids

_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_adapter(folder, family="llama", **options):
  """A random adapter at folder/adapter of a model at folder/base; PEFT's own logits."""
  reference = tiny_model(tiny_config(family))
  reference.save_pretrained(folder / "base")
  lora = {"r": 3, "lora_alpha": 5, "target_modules": _TARGETS, "task_type": "CAUSAL_LM"}
  adapted = peft.get_peft_model(reference, peft.LoraConfig(**(lora | options)))
  generator = torch.Generator().manual_seed(3)
  with torch.no_grad():
    for name, parameter in adapted.named_parameters():
      if "lora_" in name:
        parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
  adapted.peft_config["default"].base_model_name_or_path = str(folder / "base")
  adapted.save_pretrained(folder / "adapter")
  ids = token_ids(reference.config)
  return ids, reference_outputs(adapted, ids)[0]


@pytest.mark.parametrize("family", ["phi3", "glm4", "apertus"])
def test_adapter_of_fused_permuted_and_ungated_weights(family, tmp_path):
  ids, expected = make_adapter(tmp_path, family, target_modules="all-linear")
  model = load_model(str(tmp_path / "adapter"), "float32")
  np.testing.assert_allclose(
    forward_logits(model.decoder, jax.numpy.asarray(ids)), expected, atol=2e-5
  )


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text"])
@pytest.mark.parametrize("options", [{}, {"use_rslora": True}])
def test_adapter_is_added_to_its_base(family, options, tmp_path):
  ids, expected = make_adapter(tmp_path, family, **options)
  model = load_model(str(tmp_path / "adapter"), "float32")
  np.testing.assert_allclose(
    forward_logits(model.decoder, jax.numpy.asarray(ids)), expected, atol=2e-5
  )
  base = load_model(str(tmp_path / "base"), "float32")
  assert abs(forward_logits(base.decoder, jax.numpy.asarray(ids)) - expected).max() > 0.1
  assert load_config(str(tmp_path / "adapter")) == base.config


def _change_config(folder, **changes):
  path = folder / "adapter" / "adapter_config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_base_may_be_a_gguf_file(tmp_path):
  ids, expected = make_adapter(tmp_path)
  write_gguf(tmp_path / "base.gguf", tiny_model(tiny_config("llama")))
  _change_config(tmp_path, base_model_name_or_path=str(tmp_path / "base.gguf"))
  model = load_model(str(tmp_path / "adapter"), "float32")
  np.testing.assert_allclose(
    forward_logits(model.decoder, jax.numpy.asarray(ids)), expected, atol=2e-5
  )


@pytest.mark.parametrize(
  "name", ["model.safetensors", "pytorch_model.bin", "consolidated.00.pth", "q.gguf"]
)
def test_adapter_beside_weights_is_refused(name, tmp_path):
  make_adapter(tmp_path)
  os.rename(tmp_path / "base" / "model.safetensors", tmp_path / "adapter" / name)
  with pytest.raises(UserError, match=f"adapter beside the weights of a model, {name}"):
    load_model(str(tmp_path / "adapter"), "float32")


def test_what_a_trainer_leaves_beside_an_adapter_is_no_model(tmp_path):
  make_adapter(tmp_path)
  for name in ("training_args.bin", "optimizer.bin", "scheduler.bin"):
    (tmp_path / "adapter" / name).write_bytes(b"x")
  assert is_adapter(tmp_path / "adapter")


def test_an_adapter_without_its_config_is_refused(tmp_path):
  make_adapter(tmp_path)
  os.rename(
    tmp_path / "adapter" / "adapter_model.safetensors", tmp_path / "base" / "adapter_model.bin"
  )
  with pytest.raises(
    UserError, match=r"adapter_model\.bin is part of a LoRA adapter, but there is no"
  ):
    load_model(str(tmp_path / "base"), "float32")


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"peft_type": "IA3"}, "peft_type='IA3' is not supported"),
    ({"use_dora": True}, "use_dora=True is not supported"),
    ({"bias": "all"}, "bias='all' is not supported"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save=.* is not supported"),
    ({"rank_pattern": {"q_proj": 4}}, "rank_pattern=.* is not supported"),
    ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4' is not supported"),
    ({"init_lora_weights": "olora"}, "init_lora_weights='olora' is not supported"),
    ({"alora_invocation_tokens": [1, 2]}, r"alora_invocation_tokens=\[1, 2\] is not supported"),
    ({"target_parameters": ["x"]}, "target_parameters=.* is not supported"),
    ({"revision": "abc"}, "revision='abc' is not supported"),
    ({"r": 0}, "r=0; expected a whole number from 1 to"),
    ({"r": None}, "not a usable config of a LoRA adapter"),
    ({"base_model_name_or_path": None}, 'base_model_name_or_path" must be a string, not null'),
    ({"base_model_name_or_path": "./none"}, "base_model_name_or_path cannot be loaded: ./none"),
  ],
)
def test_other_adapters_are_refused_by_key(changes, message, tmp_path):
  make_adapter(tmp_path)
  _change_config(tmp_path, **changes)
  with pytest.raises(UserError, match=message) as info:
    load_model(str(tmp_path / "adapter"), "float32")
  assert "adapter_config.json" in str(info.value)


_A = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"


@pytest.mark.parametrize(
  ("name", "value", "message"),
  [
    (_A, None, "a module lacks 'lora_A'"),
    (_A, np.zeros((3, 7), np.float32), "matrices of shapes .* do not fit"),
    (_A.replace(".1.", ".9."), np.zeros((3, 32), np.float32), "has no place in its base"),
    ("base_model.model.model.embed_tokens.lora_embedding_A", np.zeros((3, 9)), "has no place"),
  ],
)
def test_matrices_that_do_not_fit_are_named(name, value, message, tmp_path):
  make_adapter(tmp_path)
  path = tmp_path / "adapter" / "adapter_model.safetensors"
  tensors = load_file(path)
  tensors.pop(name, None)
  save_file(tensors | ({} if value is None else {name: value}), path)
  with pytest.raises(UserError, match=message) as info:
    load_model(str(tmp_path / "adapter"), "float32")
  assert str(info.value).startswith(str(path))


def test_names_for_other_programs(tmp_path, monkeypatch):
  (tmp_path / "model").mkdir()
  monkeypatch.chdir(tmp_path)
  assert portable_name("model") == str(tmp_path / "model")
  assert portable_name("org/model") == "org/model"
  assert portable_name("smollm2-135m-instruct") == "HuggingFaceTB/SmolLM2-135M-Instruct"
