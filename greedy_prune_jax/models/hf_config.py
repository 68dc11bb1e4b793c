"""Model configs from the `config.json` of Hugging Face transformers.

Files of transformers 4 and 5 are read. Where a switch would change the result and is not supported,
an error says so; a key that transformers itself does not look at is ignored.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.config import FULL_ATTENTION, ROPE_KINDS, ModelConfig, RopeConfig


def read_hf_config(path: str | Path) -> ModelConfig:
  """Reads a `config.json`.

  Raises:
    UserError: the file cannot be read, or describes a model that is not supported.
  """
  return config_from_hf(_read(path), str(path))


def is_multimodal_config(path: str | Path) -> bool:
  """Whether a `config.json` is that of a multimodal model, of which we take the text model.

  Raises:
    UserError: the file cannot be read.
  """
  return _read(path).get("model_type") == "gemma3"


def config_from_hf(values: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
  """The model that the contents of a `config.json` describe.

  Args:
    values: the file's contents. Of a multimodal Gemma 3, the text model is taken.
    where: the file, for messages.

  Raises:
    UserError: architecture or a switch is not supported, or keys contradict each other.
  """
  if values.get("model_type") == "gemma3" and isinstance(values.get("text_config"), dict):
    outer = {"quantization_config": values.get("quantization_config")}
    tied = {"tie_word_embeddings": values.get("tie_word_embeddings")}  # the inner one says nothing
    values = {**outer, **values["text_config"], **tied, "model_type": "gemma3_text"}
  keys = _Keys(values, where)
  family = keys.family
  gemma = family.startswith("gemma")
  keys.refuse("quantization_config", "only float checkpoints (or a GGUF file) can be read")
  keys.refuse("use_bidirectional_attention", "only causal attention is supported")
  if family == "gemma3_text":
    keys.refuse("attn_logit_softcapping", "transformers gives it no meaning for this family")
  num_heads = keys["num_attention_heads"]
  windows = _windows(keys)
  sliding = [window != FULL_ATTENTION for window in windows]
  try:
    return ModelConfig(
      family=family,
      vocab_size=keys["vocab_size"],
      model_dim=keys["hidden_size"],
      num_layers=keys["num_hidden_layers"],
      num_heads=num_heads,
      num_kv_heads=keys.nullable("num_key_value_heads") or num_heads,
      head_dim=keys.nullable("head_dim") or keys["hidden_size"] // num_heads,
      mlp_dim=keys["intermediate_size"],
      max_positions=keys["max_position_embeddings"],
      norm_eps=keys["rms_norm_eps"],
      tied_head=keys["tie_word_embeddings"],
      ropes=_ropes(keys),
      layer_rope=tuple(map(int, sliding)) if family == "gemma3_text" and any(sliding) else (),
      layer_window=windows if any(sliding) else (),
      activation=_activation(keys, "hidden_activation" if gemma else "hidden_act"),
      qkv_bias=family == "qwen2" or (family != "mistral" and keys["attention_bias"]),
      out_bias=family not in ("mistral", "qwen2") and keys["attention_bias"],
      mlp_bias=family == "llama" and keys["mlp_bias"],
      qk_norm=family in ("qwen3", "gemma3_text"),
      post_norms=gemma,
      unit_offset_norm=gemma,
      scale_embedding=gemma,
      attention_scale=keys["query_pre_attn_scalar"] ** -0.5 if gemma else None,
      attention_softcap=keys.nullable("attn_logit_softcapping") if gemma else None,
      logit_softcap=keys.nullable("final_logit_softcapping") if gemma else None,
    )
  except UserError:
    raise
  except (TypeError, ValueError, ZeroDivisionError) as error:
    raise UserError(f"{where}: not a usable config of a {family} model: {error}") from error


def _read(path: str | Path) -> dict[str, Any]:
  try:
    values = json.loads(Path(path).read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise UserError(f"{path}: cannot be read as a model's config.json: {error}") from error
  if not isinstance(values, dict):
    raise UserError(f"{path}: expected one JSON object, got {type(values).__name__}")
  return values


class _Keys:
  """The keys of a config.json over the defaults of its family."""

  def __init__(self, values: Mapping[str, Any], where: str):
    self.where = where
    self.family = str(values.get("model_type"))
    if self.family not in DEFAULTS:
      raise UserError(
        f"{where}: model_type {values.get('model_type')!r} is not supported; "
        f"supported are {', '.join(DEFAULTS)} (and the text model of gemma3)."
      )
    self._values = values
    self._defaults = DEFAULTS[self.family]

  def __getitem__(self, key: str) -> Any:
    """The value; null counts as missing."""
    value = self._values.get(key)
    return self._defaults[key] if value is None else value

  def nullable(self, key: str) -> Any:
    """The value, of a key for which null has a meaning of its own."""
    return self._values.get(key, self._defaults.get(key))

  def refuse(self, key: str, reason: str) -> None:
    """Raises if a switch is on that is not supported."""
    if self._values.get(key):
      raise self.error(f"{key}={self._values[key]!r} is not supported: {reason}.")

  def error(self, message: str) -> UserError:
    """An error that names the file."""
    return UserError(f"{self.where}: {message}")


def _activation(keys: _Keys, key: str) -> str:
  name = keys[key]
  if name not in ACTIVATIONS:
    raise keys.error(f"{key}={name!r} is not supported; supported are {', '.join(ACTIVATIONS)}.")
  return ACTIVATIONS[name]


def _windows(keys: _Keys) -> tuple[int, ...]:
  """For each layer, how many tokens it attends to."""
  num_layers = keys["num_hidden_layers"]
  window: int = keys.nullable("sliding_window") or 0
  if keys.family.startswith("qwen") and not keys["use_sliding_window"]:
    window = 0
  if keys.family == "llama":
    kinds = [FULL] * num_layers
  elif keys.family == "mistral":
    kinds = [SLIDING if window else FULL] * num_layers
  elif (kinds := keys.nullable("layer_types")) is not None:
    if unknown := set(kinds) - {SLIDING, FULL}:
      raise keys.error(f"layer_types {sorted(unknown)} are not supported; {SLIDING}, {FULL} are.")
    if len(kinds) != num_layers:
      raise keys.error(f"layer_types has {len(kinds)} entries for {num_layers} layers.")
  elif keys.family.startswith("gemma"):
    pattern = 2 if keys.family == "gemma2" else keys["sliding_window_pattern"]
    kinds = [SLIDING if (layer + 1) % pattern else FULL for layer in range(num_layers)]
  else:
    first = keys["max_window_layers"] if window else num_layers
    kinds = [SLIDING if layer >= first else FULL for layer in range(num_layers)]
  if SLIDING in kinds and not window:
    raise keys.error("layer_types has sliding layers, but there is no sliding_window.")
  return tuple(window if kind == SLIDING else FULL_ATTENTION for kind in kinds)


def _ropes(keys: _Keys) -> tuple[RopeConfig, ...]:
  """One rope, or for Gemma 3 that of the full layers and that of the sliding ones."""
  parameters = keys.nullable("rope_parameters") or {}
  scaling = keys.nullable("rope_scaling") or {}
  if keys.family == "gemma3_text":
    full = {"rope_theta": keys["rope_theta"], **(parameters.get(FULL) or {}), **scaling}
    local = {"rope_theta": keys["rope_local_base_freq"], **(parameters.get(SLIDING) or {})}
    return _rope(keys, full), _rope(keys, local)
  if {SLIDING, FULL} & parameters.keys():
    raise keys.error("rope_parameters per layer type are supported for gemma3_text only.")
  return (_rope(keys, {"rope_theta": keys["rope_theta"], **(scaling or parameters)}),)


def _rope(keys: _Keys, parameters: Mapping[str, Any]) -> RopeConfig:
  given = {ROPE_FIELDS[k]: v for k, v in parameters.items() if k in ROPE_FIELDS and v is not None}
  kind = given.setdefault("kind", parameters.get("type") or "default")
  if kind not in ROPE_KINDS:
    raise keys.error(f"rope_type {kind!r} is not supported; supported are {', '.join(ROPE_KINDS)}.")
  fraction = given.setdefault("rotated_fraction", keys.nullable("partial_rotary_factor") or 1.0)
  if fraction != 1.0 and kind != "proportional":
    raise keys.error(f"partial_rotary_factor={fraction} is not supported for rope_type {kind!r}.")
  if "original_max_positions" in ROPE_KINDS[kind]:
    context = keys["max_position_embeddings"]
    if original := keys.nullable("original_max_position_embeddings"):
      given["original_max_positions"] = original
    original = given.setdefault("original_max_positions", context)
    if kind in ("yarn", "longrope"):
      given.setdefault("factor", context / original)
  if missing := [k for k, f in ROPE_FIELDS.items() if f in ROPE_KINDS[kind] and f not in given]:
    raise keys.error(f"rope_type {kind!r} needs {', '.join(missing)}.")
  for name in ("short_factor", "long_factor"):
    if name in given:
      given[name] = tuple(given[name])
  return RopeConfig(**given)


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
