"""Reading and writing config.json: defaults, both forms, and what is refused."""

import dataclasses
import json

import pytest
import transformers

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.config import FULL_ATTENTION
from greedy_prune_jax.models.hf_config import config_from_hf, read_hf_config
from greedy_prune_jax.models.hf_config_writer import config_to_hf
from tests.helpers.reference import tiny_config
from tests.models.test_families import SWITCHES

_CLASSES = {
  "llama": transformers.LlamaConfig,
  "mistral": transformers.MistralConfig,
  "ministral": transformers.MinistralConfig,
  "qwen2": transformers.Qwen2Config,
  "qwen3": transformers.Qwen3Config,
  "gemma2": transformers.Gemma2Config,
  "gemma3_text": transformers.Gemma3TextConfig,
}
_LONGROPE = {
  "rope_type": "longrope",
  "factor": 4.0,
  "short_factor": [1.0] * 64,
  "long_factor": [2.0] * 64,
  "original_max_position_embeddings": 32,
}
_LLAMA3 = {
  "rope_type": "llama3",
  "factor": 8.0,
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
  "original_max_position_embeddings": 32,
}
_LLAMA = {"model_type": "llama", "num_hidden_layers": 2}


@pytest.mark.parametrize("family", _CLASSES)
def test_missing_keys_take_the_defaults_of_transformers(family):
  assert config_from_hf({"model_type": family}) == config_from_hf(_CLASSES[family]().to_dict())


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_null_means_default(family):
  keys = ["head_dim", "num_key_value_heads", "rope_scaling", "tie_word_embeddings", "hidden_act"]
  values = {"model_type": family, "num_attention_heads": 32, **dict.fromkeys(keys)}
  config = config_from_hf(values)
  assert (config.num_kv_heads, config.head_dim) == (32, 128)
  assert (config.tied_head, config.activation) == (False, "silu")


def test_whole_numbers_will_do_where_numbers_are_asked_for():
  values = {"model_type": "gemma2", "final_logit_softcapping": 20, "rms_norm_eps": 1}
  config = config_from_hf(values)
  assert (config.logit_softcap, config.norm_eps) == (20, 1)


def test_mistral_with_kinds_of_layers_is_ministral_as_for_transformers(tmp_path):
  reference = tiny_config("ministral")
  values = reference.to_dict() | {"model_type": "mistral"}
  (tmp_path / "config.json").write_text(json.dumps(values, default=str))
  assert type(transformers.AutoConfig.from_pretrained(tmp_path)) is type(reference)
  assert read_hf_config(tmp_path / "config.json") == config_from_hf(reference.to_dict())


@pytest.mark.parametrize("family", ["mistral", "ministral3"])
@pytest.mark.parametrize(("outer", "tied"), [({}, True), ({"tie_word_embeddings": False}, False)])
def test_text_model_of_multimodal_mistral3_says_its_own_family(family, outer, tied):
  text = tiny_config(family).to_dict()
  config = config_from_hf({"model_type": "mistral3", "text_config": text, **outer})
  expected = config_from_hf(text)
  assert config == dataclasses.replace(expected, tied_head=tied)
  assert transformers.Mistral3Config(text_config=text, **outer).tie_word_embeddings == tied


_CONV = {"layer_types": ["conv", "full_attention"]}


@pytest.mark.parametrize(
  ("values", "message"),
  [
    (
      {"model_type": "granitemoehybrid", "num_local_experts": 0},
      r"layer_types=\['linear_attention'\]; expected",
    ),
    (
      {"model_type": "granitemoehybrid", "layer_types": ["attention"] * 2},
      "num_local_experts=8; expected 0: others are not supported",
    ),
    ({"model_type": "qwen3_moe", "num_experts_per_tok": 200}, "num_experts_per_tok=200; expected"),
    ({"model_type": "lfm2", "conv_L_cache": 1, **_CONV}, "conv_L_cache=1; expected at least 2"),
    (
      {"model_type": "lfm2", "layer_types": ["conv"] * 2},
      "layer_types=.*expected a layer with",
    ),
    (
      {"model_type": "lfm2", "layer_types": ["conv", "sliding_attention"]},
      r"layer_types=\['sliding_attention'\]; expected full_attention and conv alone",
    ),
    ({"model_type": "lfm2", "block_ff_dim": 0}, "intermediate_size=0; expected a whole number"),
    ({"model_type": "llama", "hidden_act": "xielu"}, "hidden_act='xielu'; expected"),
    ({"model_type": "glm4", "partial_rotary_factor": 0.01}, "partial_rotary_factor=0.01; expected"),
  ],
)
def test_what_the_newer_families_cannot_do_is_refused(values, message):
  with pytest.raises(UserError, match=message):
    config_from_hf({"num_hidden_layers": 2} | values, "folder/config.json")


def test_lfm2_as_it_is_published():
  values = {  # those of config.json of LFM2-1.2B that say something
    "model_type": "lfm2",
    "block_auto_adjust_ff_dim": True,
    "block_ff_dim": 12288,
    "block_ffn_dim_multiplier": 1.0,
    "block_multiple_of": 256,
    "conv_L_cache": 3,
    "conv_bias": False,
    "full_attn_idxs": [2, 5, 8, 10, 12, 14],
    "hidden_size": 2048,
    "max_position_embeddings": 128000,
    "norm_eps": 1e-05,
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "rope_theta": 1000000.0,
    "tie_embedding": True,
    "vocab_size": 65536,
  }
  config = config_from_hf(values)
  assert (config.mlp_dim, config.head_dim, config.tied_head) == (8192, 64, True)
  assert config.recurrent_layers == (0, 1, 3, 4, 6, 7, 9, 11, 13, 15)
  assert not config_from_hf(values | {"tie_embedding": False}).tied_head


def test_layers_of_gemma3():
  config = config_from_hf({"model_type": "gemma3_text", "num_hidden_layers": 7})
  assert config.layer_window == (4096,) * 5 + (FULL_ATTENTION, 4096)
  assert config.layer_rope == (1,) * 5 + (0, 1)
  assert [rope.theta for rope in config.ropes] == [1_000_000, 10_000]


def test_text_model_of_multimodal_gemma3():
  text = {
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "rope_scaling": {"factor": 8.0, "type": "linear"},
  }
  config = config_from_hf({"model_type": "gemma3", "text_config": text, "vision_config": {}})
  assert (config.family, config.num_layers, config.model_dim) == ("gemma3_text", 4, 64)
  assert (config.ropes[0].kind, config.ropes[0].factor) == ("linear", 8)
  assert config.ropes[1].kind == "default"


@pytest.mark.parametrize(("outer", "tied"), [({}, True), ({"tie_word_embeddings": False}, False)])
def test_outer_config_says_whether_the_head_of_multimodal_gemma3_is_tied(outer, tied):
  text = tiny_config("gemma3_text", tie_word_embeddings=not tied).to_dict()
  assert transformers.Gemma3Config(text_config=text, **outer).tie_word_embeddings == tied
  assert config_from_hf({"model_type": "gemma3", "text_config": text, **outer}).tied_head == tied


@pytest.mark.parametrize("name", SWITCHES)
def test_written_config_says_the_same_to_transformers_and_to_us(name, tmp_path):
  family, switches = SWITCHES[name]
  reference = tiny_config(family, **switches)
  config = config_from_hf(reference.to_dict())

  (tmp_path / "config.json").write_text(json.dumps(config_to_hf(config)))

  assert read_hf_config(tmp_path / "config.json") == config
  theirs = transformers.AutoConfig.from_pretrained(tmp_path)
  assert type(theirs) is type(reference)
  assert config_from_hf(theirs.to_dict()) == config
  # What transformers makes of the file, and not only what we make of it in turn.
  for key in ("head_dim", "sliding_window", "layer_types", "tie_word_embeddings"):
    if _said(reference, key) is not None:
      assert _said(theirs, key) == _said(reference, key), key


def _said(config, key):
  """A key as layers see it: each may have its own heads, and windows are some layers' alone."""
  values, sliding = config.to_dict(), "sliding_attention"
  if key == "sliding_window" and sliding not in values.get("layer_types", [sliding]):
    return None
  if key == "head_dim" and "per_layer_config" in values:
    return [config.per_layer_config[i].head_dim for i in range(config.num_hidden_layers)]
  return values.get(key)


def test_written_config_has_keys_of_transformers_4():
  rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 77.0}
  values = config_to_hf(config_from_hf(_LLAMA | {"rope_parameters": rope}))
  assert values["rope_theta"] == 77
  assert values["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}
  assert values["rope_parameters"] == rope


def test_inexpressible_model_is_not_written():
  config = config_from_hf({"model_type": "mistral", "num_hidden_layers": 2})
  mixed = config.__class__(**{**vars(config), "layer_window": (4096, FULL_ATTENTION)})
  with pytest.raises(ValueError, match=r"a mistral config.* has no words for"):
    config_to_hf(mixed)


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"model_type": "mamba"}, "model_type 'mamba' is not supported; supported are llama, mistral"),
    ({}, "model_type None is not supported"),
    ({"quantization_config": {"bits": 4}}, "quant_method=None, which is not supported; expected"),
    ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quant_method='gptq', which is"),
    ({"quantization_config": {"quant_method": "awq"}}, "quant_method='awq', which is not support"),
    (
      {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
      "quant_method='bitsandbytes', which is not supported",
    ),
    (
      {"quantization_config": {"quant_method": "compressed-tensors"}},
      "quant_method='compressed-tensors', which is not supported",
    ),
    (
      {"quantization_config": {"quant_method": "fp8", "weight_block_size": None}},
      r"quant_method='fp8', .* or fp8 with weight_block_size=\[128, 128\]",
    ),
    ({"hidden_act": "relu"}, "hidden_act='relu'; expected one of silu, swish, gelu"),
    (
      {"rope_scaling": {"rope_type": "spiral"}},
      "rope_type='spiral'; expected one of default, linear, dynamic, yarn",
    ),
    ({"rope_scaling": {"type": "linear"}}, "not a usable config .*'linear': {'factor'}"),
    (
      {"rope_scaling": {"type": "llama3", "factor": 8.0, "high_freq_factor": 4.0}},
      "not a usable config .*'llama3': {'low_freq_factor'}",
    ),
    ({"rope_scaling": {"type": "linear", "factor": "2"}}, "'?factor'?.* ?'2'"),
    (
      {"rope_scaling": _LONGROPE | {"long_factor": [1.0, 2.0]}},
      r"long_factor=\[1.0, 2.0\]; expected 64 numbers, one a pair of the head width 128",
    ),
    ({"rope_scaling": _LLAMA3 | {"low_freq_factor": 4.0}}, "high_freq_factor=4.0; expected .*=4.0"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5; expected no such key: rope_type"),
    (
      {"rope_parameters": {"full_attention": {}}},
      r"rope_parameters=\['full_attention'\]; expected one set for all layers in this family",
    ),
    (
      {"num_attention_heads": 8, "num_key_value_heads": 3},
      "num_key_value_heads=3; expected a divisor of num_heads=8",
    ),
    ({"hidden_size": "wide"}, "hidden_size='wide'; expected a whole number from 1 to 1048576"),
    ({"hidden_size": 4096.0}, "hidden_size=4096.0; expected a whole number"),
    ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000; expected a whole number from 1"),
    ({"num_hidden_layers": True}, "num_hidden_layers=True; expected a whole number from 1"),
    ({"rms_norm_eps": -1}, "rms_norm_eps=-1.0; expected a number above 0"),
    ({"rms_norm_eps": float("inf")}, "rms_norm_eps=inf; expected a number above 0"),
    ({"rope_theta": float("nan")}, "rope_theta=nan; expected a number above 0"),
    ({"tie_word_embeddings": "yes"}, "'tie_word_embeddings' expected bool"),
    ({"is_causal": False}, "is_causal=False is not supported: only causal attention"),
    ({"per_layer_config": {"0": {"head_dim": 8}}}, "per_layer_config=.* is not supported"),
    (
      {"model_type": "qwen3", "layer_types": ["sliding_attention"] * 2},
      "sliding_window=None; expected a number of tokens: layer_types has sliding layers",
    ),
    (
      {"model_type": "qwen3", "layer_types": ["linear_attention"] * 2},
      r"layer_types=\['linear_attention'\]; expected sliding_attention and full_attention alone",
    ),
    ({"model_type": "qwen3", "layer_types": ["full_attention"]}, r"number of `layer_types` \(1\)"),
    (
      {"model_type": "gemma2", "sliding_window": -3},
      "sliding_window=-3; expected a whole number from 1",
    ),
    ({"model_type": "gemma2", "query_pre_attn_scalar": 0}, "query_pre_attn_scalar=0; expected"),
    ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "only causal attention"),
    ({"model_type": "gemma3_text", "attn_logit_softcapping": 5.0}, "gives it no meaning"),
  ],
)
def test_refusals_name_the_file_and_the_key(values, message):
  if values and "model_type" not in values:
    values = _LLAMA | values
  with pytest.raises(UserError, match=message) as info:
    config_from_hf({"num_hidden_layers": 2} | values, "folder/config.json")
  assert str(info.value).startswith("folder/config.json: ")


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_file_that_is_no_json_object(text, tmp_path):
  (tmp_path / "config.json").write_text(text)
  with pytest.raises(UserError, match=r"is not JSON|is a JSON list; expected an object"):
    read_hf_config(tmp_path / "config.json")
