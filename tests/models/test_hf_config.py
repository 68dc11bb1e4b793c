"""Reading and writing config.json: defaults, both forms, and what is refused."""

import json

import pytest
import transformers

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.config import FULL_ATTENTION
from greedy_prune_jax.models.hf_config import config_from_hf, read_hf_config
from greedy_prune_jax.models.hf_export import config_to_hf
from tests.helpers.reference import tiny_config
from tests.models.test_families import SWITCHES

_CLASSES = {
  "llama": transformers.LlamaConfig,
  "mistral": transformers.MistralConfig,
  "qwen2": transformers.Qwen2Config,
  "qwen3": transformers.Qwen3Config,
  "gemma2": transformers.Gemma2Config,
  "gemma3_text": transformers.Gemma3TextConfig,
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
    if getattr(reference, key, None) is not None:
      assert getattr(theirs, key) == getattr(reference, key), key


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
    ({"quantization_config": {"bits": 4}}, "quantization_config=.* is not supported: only float"),
    ({"hidden_act": "relu"}, "hidden_act='relu' is not supported; supported are silu, swish, gelu"),
    (
      {"rope_scaling": {"rope_type": "spiral"}},
      "rope_type 'spiral' is not supported; supported are default, linear, dynamic, yarn",
    ),
    ({"rope_scaling": {"type": "linear"}}, "rope_type 'linear' needs factor"),
    (
      {"rope_scaling": {"type": "llama3", "factor": 8.0}},
      "rope_type 'llama3' needs low_freq_factor, high_freq_factor",
    ),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not supported"),
    (
      {"rope_parameters": {"full_attention": {}}},
      "per layer type are supported for gemma3_text only",
    ),
    ({"num_attention_heads": 6, "num_key_value_heads": 4}, "num_heads=6 is not a multiple"),
    ({"hidden_size": "wide"}, "not a usable config of a llama model"),
    (
      {"model_type": "qwen3", "layer_types": ["sliding_attention"] * 2},
      "sliding layers, but there is no sliding_window",
    ),
    (
      {"model_type": "qwen3", "layer_types": ["linear_attention"] * 2},
      r"layer_types \['linear_attention'\] are not supported",
    ),
    ({"model_type": "qwen3", "layer_types": ["full_attention"]}, "1 entries for 2 layers"),
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
  with pytest.raises(UserError, match=r"cannot be read as|expected one JSON object"):
    read_hf_config(tmp_path / "config.json")
