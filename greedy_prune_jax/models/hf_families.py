"""The supported families in the vocabulary of a Hugging Face `config.json`.

The config classes of transformers are of no use for this: importing one imports PyTorch where it is
installed.
"""

from typing import Any

_COMMON = {
  "hidden_size": 4096,
  "num_hidden_layers": 32,
  "num_attention_heads": 32,
  "hidden_act": "silu",
  "rms_norm_eps": 1e-6,
  "rope_theta": 10_000.0,
  "tie_word_embeddings": False,
  "attention_bias": False,
  "mlp_bias": False,
}
_LLAMA = _COMMON | {
  "vocab_size": 32_000,
  "intermediate_size": 11_008,
  "max_position_embeddings": 2048,
}
_MISTRAL = _COMMON | {
  "vocab_size": 32_000,
  "intermediate_size": 14_336,
  "num_key_value_heads": 8,
  "max_position_embeddings": 131_072,
  "sliding_window": 4096,
}
_QWEN2 = _COMMON | {
  "vocab_size": 151_936,
  "intermediate_size": 22_016,
  "num_key_value_heads": 32,
  "max_position_embeddings": 32_768,
  "use_sliding_window": False,
  "sliding_window": 4096,
  "max_window_layers": 28,
}
_GEMMA2 = _COMMON | {
  "vocab_size": 256_000,
  "hidden_size": 2304,
  "intermediate_size": 9216,
  "num_hidden_layers": 26,
  "num_attention_heads": 8,
  "num_key_value_heads": 4,
  "head_dim": 256,
  "hidden_activation": "gelu_pytorch_tanh",
  "max_position_embeddings": 8192,
  "tie_word_embeddings": True,
  "query_pre_attn_scalar": 256,
  "sliding_window": 4096,
  "final_logit_softcapping": 30.0,
  "attn_logit_softcapping": 50.0,
}
_GEMMA3 = _GEMMA2 | {
  "vocab_size": 262_208,
  "max_position_embeddings": 131_072,
  "rope_theta": 1_000_000.0,
  "rope_local_base_freq": 10_000.0,
  "sliding_window_pattern": 6,
  "final_logit_softcapping": None,
  "attn_logit_softcapping": None,
}

# What transformers 5.23 takes for a key that a config.json lacks.
DEFAULTS: dict[str, dict[str, Any]] = {
  "llama": _LLAMA,
  "mistral": _MISTRAL,
  "qwen2": _QWEN2,
  "qwen3": _QWEN2 | {"head_dim": 128},
  "gemma2": _GEMMA2,
  "gemma3_text": _GEMMA3,
}

# `hidden_act` or `hidden_activation` -> ModelConfig.activation.
ACTIVATIONS = {
  "silu": "silu",
  "swish": "silu",
  "gelu": "gelu",
  "gelu_pytorch_tanh": "gelu_tanh",
  "gelu_new": "gelu_tanh",
}

# Keys of `rope_parameters` -> fields of RopeConfig.
ROPE_FIELDS = {
  "rope_type": "kind",
  "rope_theta": "theta",
  "partial_rotary_factor": "rotated_fraction",
  "original_max_position_embeddings": "original_max_positions",
} | {
  name: name
  for name in (
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "truncate",
    "short_factor",
    "long_factor",
  )
}

# Entries of `layer_types`.
SLIDING, FULL = "sliding_attention", "full_attention"
