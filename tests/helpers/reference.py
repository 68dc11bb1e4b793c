"""Tiny models of Hugging Face transformers with random weights, in folders: the oracle."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

LENGTH = 24  # tokens of a test text; beyond WINDOW and CONTEXT
WINDOW = 5
CONTEXT = 16  # that models with a scaled rope were first made for

_TINY = {
  "vocab_size": 61,
  "hidden_size": 32,
  "intermediate_size": 40,
  "num_hidden_layers": 3,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "max_position_embeddings": 64,
  "attn_implementation": "eager",
}
_DELTA = {
  "head_dim": 16,
  "num_hidden_layers": 4,
  "linear_num_key_heads": 2,
  "linear_num_value_heads": 4,
  "linear_key_head_dim": 32,
  "linear_value_head_dim": 6,
  # With 1e-6 the norm turns rounding into 1e-4 where a state says next to nothing.
  "rms_norm_eps": 1e-2,
  "rope_parameters": {
    "rope_type": "default",
    "rope_theta": 100.0,
    "partial_rotary_factor": 0.25,
  },
}
_SHARED_EXPERT = {
  "num_experts": 6,
  "num_experts_per_tok": 2,
  "moe_intermediate_size": 24,
  "shared_expert_intermediate_size": 20,
}
_GEMMA4 = {
  "head_dim": 8,
  "global_head_dim": 16,
  "rms_norm_eps": 1e-2,  # with 1e-6 transformers is up to 5e-5 from its own float64
  "sliding_window": WINDOW,
  "final_logit_softcapping": 2.0,
  "rope_parameters": {
    "full_attention": {
      "rope_type": "proportional",
      "partial_rotary_factor": 0.25,
      "rope_theta": 5000.0,
    },
    "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
  },
}
_FAMILIES = {
  "llama": (transformers.LlamaConfig, {}),
  "mistral": (transformers.MistralConfig, {"sliding_window": WINDOW}),
  "ministral": (
    transformers.MinistralConfig,
    {
      "head_dim": 8,
      "sliding_window": WINDOW,
      "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
  ),
  "qwen2": (transformers.Qwen2Config, {}),
  "qwen3": (transformers.Qwen3Config, {"head_dim": 16}),
  "gemma2": (
    transformers.Gemma2Config,
    {"head_dim": 16, "sliding_window": WINDOW, "query_pre_attn_scalar": 24},
  ),
  "gemma3_text": (
    transformers.Gemma3TextConfig,
    {
      "head_dim": 16,
      "sliding_window": WINDOW,
      "query_pre_attn_scalar": 24,
      "sliding_window_pattern": 3,
    },
  ),
  "ministral3": (
    transformers.Ministral3Config,
    {
      "head_dim": 16,
      "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 100.0,
        "factor": 4.0,
        "original_max_position_embeddings": 7,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.3,
      },
    },
  ),
  "olmo2": (transformers.Olmo2Config, {}),
  "olmo3": (transformers.Olmo3Config, {"sliding_window": WINDOW, "num_hidden_layers": 4}),
  "smollm3": (transformers.SmolLM3Config, {"no_rope_layer_interval": 2, "pad_token_id": 0}),
  "phi3": (transformers.Phi3Config, {"pad_token_id": 0}),
  "granite": (
    transformers.GraniteConfig,
    {
      "embedding_multiplier": 3.0,
      "residual_multiplier": 0.7,
      "attention_multiplier": 0.4,
      "logits_scaling": 2.5,
    },
  ),
  "granitemoehybrid": (
    transformers.GraniteMoeHybridConfig,
    {
      "embedding_multiplier": 3.0,
      "residual_multiplier": 0.7,
      "attention_multiplier": 0.4,
      "logits_scaling": 2.5,
      "num_local_experts": 0,
      "shared_intermediate_size": 40,
      "layer_types": ["full_attention"] * 3,
      "position_embedding_type": "rope",
      "mamba_n_heads": 4,
    },
  ),
  "qwen3_moe": (
    transformers.Qwen3MoeConfig,
    {"head_dim": 16, "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
  ),
  "mixtral": (transformers.MixtralConfig, {"num_local_experts": 5}),
  "gpt_oss": (
    transformers.GptOssConfig,
    {
      "head_dim": 16,
      "num_hidden_layers": 4,
      "num_local_experts": 6,
      "sliding_window": WINDOW,
      "swiglu_limit": 0.6,  # near what gates and ups are
      "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 100.0,
        "factor": 4.0,
        "original_max_position_embeddings": CONTEXT,
        "truncate": False,
      },
    },
  ),
  "qwen3_5_text": (transformers.Qwen3_5TextConfig, _DELTA),
  "qwen3_5_moe_text": (transformers.Qwen3_5MoeTextConfig, {**_DELTA, **_SHARED_EXPERT}),
  "qwen3_next": (transformers.Qwen3NextConfig, {**_DELTA, **_SHARED_EXPERT}),
  "gemma4_text": (  # as E2B: keys and values of the last layers are the first ones'
    transformers.Gemma4TextConfig,
    {
      **_GEMMA4,
      "num_hidden_layers": 5,
      "layer_types": ["sliding_attention", *["sliding_attention", "full_attention"] * 2],
      "num_kv_shared_layers": 2,
      "use_double_wide_mlp": True,
      "hidden_size_per_layer_input": 6,
    },
  ),
  "gemma4_text, experts": (  # as 26B-A4B: of the same name in files
    transformers.Gemma4TextConfig,
    {
      **_GEMMA4,
      "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
      "hidden_size_per_layer_input": 0,
      "attention_k_eq_v": True,
      "num_global_key_value_heads": 1,
      "enable_moe_block": True,
      "num_experts": 6,
      "top_k_experts": 2,
      "moe_intermediate_size": 24,
    },
  ),
  "glm4": (transformers.Glm4Config, {"head_dim": 16, "pad_token_id": 0}),
  "seed_oss": (transformers.SeedOssConfig, {"head_dim": 16}),
  "arcee": (transformers.ArceeConfig, {}),
  "exaone4": (
    transformers.Exaone4Config,
    {"sliding_window": WINDOW, "num_hidden_layers": 4, "sliding_window_pattern": 4},
  ),
  "apertus": (transformers.ApertusConfig, {"pad_token_id": 0}),
  "lfm2": (
    transformers.Lfm2Config,
    {
      "num_hidden_layers": 4,
      "layer_types": ["conv", "full_attention", "conv", "conv"],
      "block_multiple_of": 8,
    },
  ),
}


FAMILIES = tuple(_FAMILIES)


def tiny_config(family: str, **switches: Any) -> transformers.PretrainedConfig:
  """A small config of a family, with some switches set."""
  config_class, family_switches = _FAMILIES[family]
  values = {**_TINY, **family_switches, **switches}
  if family.startswith("gemma4_text"):
    values["vocab_size_per_layer_input"] = values["vocab_size"]
  return config_class(**values)


def tiny_model(
  config: transformers.PretrainedConfig, seed: int = 0
) -> transformers.PreTrainedModel:
  """A model with every parameter random, norms and biases included."""
  model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      noise = torch.randn(parameter.shape, generator=generator)
      if parameter.ndim >= 2:
        parameter.copy_(noise * parameter.shape[-1] ** -0.5)
      elif name.endswith("sinks"):
        parameter.copy_(noise + 2)  # as much as several keys
      elif name.endswith("A_log"):
        parameter.copy_(noise - 1)  # so that states last for some tokens
      elif name.endswith("bias"):
        parameter.copy_(noise * 0.3)
      else:
        parameter.add_(noise * 0.3)
      if config.model_type == "gemma4_text" and name.endswith("q_norm.weight"):
        parameter.mul_(parameter.shape[0] ** -0.5)  # it has attention's scale
    for name, buffer in model.named_buffers():
      if name.endswith("layer_scalar"):
        buffer.add_(torch.randn(buffer.shape, generator=generator) * 0.3)
  return model.eval()


def token_ids(config: transformers.PretrainedConfig, batch: int = 2) -> np.ndarray:
  """Random texts, [batch, LENGTH]."""
  return np.random.default_rng(1).integers(0, config.vocab_size, (batch, LENGTH))


def reference_outputs(
  model: transformers.PreTrainedModel, ids: np.ndarray, dtype: torch.dtype = torch.float32
) -> tuple[np.ndarray, np.ndarray]:
  """Logits [B, T, V] and attention probabilities [L, B, N, T, T], computed in a dtype."""
  with torch.no_grad():
    out = model.to(dtype)(torch.tensor(ids), output_attentions=True, use_cache=False)
  return out.logits.numpy(), torch.stack(out.attentions).numpy()


def as_transformers_4(folder: Path) -> None:
  """Rewrites a folder's config.json as transformers 4 would have written it."""
  path = folder / "config.json"
  values = json.loads(path.read_text())
  if values["model_type"] == "gemma4_text":  # which it does not know
    return
  ropes = values.pop("rope_parameters")
  first = ropes.get("full_attention", ropes)
  values["rope_theta"] = first.pop("rope_theta")
  if "partial_rotary_factor" in first:
    values["partial_rotary_factor"] = first.pop("partial_rotary_factor")
  if "sliding_attention" in ropes:
    values["rope_local_base_freq"] = ropes["sliding_attention"]["rope_theta"]
    values.pop("layer_types")
    values["sliding_window_pattern"] = 3
  values["rope_scaling"] = None if first["rope_type"] == "default" else first
  values["torch_dtype"] = values.pop("dtype", None)
  if values["model_type"] == "gemma2":
    values.pop("layer_types")
  path.write_text(json.dumps(values))
