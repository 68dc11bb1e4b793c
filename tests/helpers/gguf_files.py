"""Tiny GGUF files, written from models of transformers in the way of llama.cpp's converter."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import transformers

_ARCHITECTURES = {
  "llama": gguf.MODEL_ARCH.LLAMA,
  "mistral": gguf.MODEL_ARCH.LLAMA,
  "qwen2": gguf.MODEL_ARCH.QWEN2,
  "qwen3": gguf.MODEL_ARCH.QWEN3,
  "gemma2": gguf.MODEL_ARCH.GEMMA2,
  "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
  "olmo2": gguf.MODEL_ARCH.OLMO2,
  "olmo3": gguf.MODEL_ARCH.OLMO2,
  "smollm3": gguf.MODEL_ARCH.SMOLLM3,
  "granite": gguf.MODEL_ARCH.GRANITE,
  "glm4": gguf.MODEL_ARCH.GLM4,
  "seed_oss": gguf.MODEL_ARCH.SEED_OSS,
  "arcee": gguf.MODEL_ARCH.ARCEE,
  "exaone4": gguf.MODEL_ARCH.EXAONE4,
  "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE,
  "gpt_oss": gguf.MODEL_ARCH.GPT_OSS,
}
_PERMUTED = ("llama", "mistral", "smollm3", "granite", "arcee")

# Attributes of configs -> metadata keys that the converter writes for a family that has them.
_OPTIONAL = {
  "num_experts": "expert_count",
  "num_experts_per_tok": "expert_used_count",
  "moe_intermediate_size": "expert_feed_forward_length",
  "num_local_experts": "expert_count",
  "embedding_multiplier": "embedding_scale",
  "residual_multiplier": "residual_scale",
  "attention_multiplier": "attention.scale",
  "logits_scaling": "logit_scale",
}


def write_gguf(
  path: Path,
  model: transformers.PreTrainedModel,
  *,
  kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
  metadata: dict[str, Any] | None = None,
  tensors: dict[str, np.ndarray] | None = None,
  blocks: dict[str, np.ndarray] | None = None,
) -> None:
  """Writes a model.

  Args:
    path: the file.
    model: a model of `tiny_model`.
    kind: storage type of matrices; vectors are in float32.
    metadata: values to add to those of every file, or to replace them; None removes.
    tensors: tensors to add.
    blocks: matrices' bytes as they are to be stored, by parameter; else the gguf package makes
      them, which it can for few kinds.
  """
  config = model.config
  architecture = _ARCHITECTURES[config.model_type]
  names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
  writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
  _add_metadata(writer, _dimensions(config) | (metadata or {}))
  separate = _separate_in_turns if config.model_type == "gpt_oss" else _separate
  for name, parameter in separate(model.state_dict()):
    if name == "lm_head.weight" and config.tie_word_embeddings:
      continue
    value = _converted(name, parameter.numpy(), config)
    stored_as = (
      kind if value.ndim >= 2 and not name.endswith(".bias") else gguf.GGMLQuantizationType.F32
    )
    stored = (blocks or {}).get(name)
    stored = gguf.quants.quantize(value, stored_as) if stored is None else stored
    writer.add_tensor(names.get_name(name, (".weight", ".bias")), stored, raw_dtype=stored_as)
  for name, value in (tensors or {}).items():
    writer.add_tensor(name, value)
  _finish(writer)


def write_tokenizer_gguf(path: Path, metadata: dict[str, Any]) -> None:
  """Writes a file with nothing but the metadata of a tokenizer."""
  writer = gguf.GGUFWriter(path, "llama")
  _add_metadata(writer, {f"tokenizer.{key}": value for key, value in metadata.items()})
  _finish(writer)


def _finish(writer: gguf.GGUFWriter) -> None:
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()


def _separate(tensors: dict[str, Any]) -> Iterator[tuple[str, Any]]:
  """Experts' gates and ups by themselves, as checkpoints have them."""
  for name, tensor in tensors.items():
    if not name.endswith("experts.gate_up_proj"):
      yield name + ".weight" * name.endswith("experts.down_proj"), tensor
      continue
    for part, half in zip(("gate_proj", "up_proj"), tensor.chunk(2, dim=1), strict=True):
      yield name.replace("gate_up_proj", part) + ".weight", half.contiguous()


def _separate_in_turns(tensors: dict[str, Any]) -> Iterator[tuple[str, Any]]:
  """gpt-oss's gates and ups, every other column of one tensor, by themselves, and transposed."""
  for name, tensor in tensors.items():
    if ".experts." not in name:
      yield name + ".weight" * name.endswith(".sinks"), tensor
      continue
    both = {"gate_proj": tensor[..., ::2], "up_proj": tensor[..., 1::2]}
    for part, value in (both if "gate_up_proj" in name else {"down_proj": tensor}).items():
      whole = name.replace("gate_up_proj", part)
      if whole.endswith("_bias"):
        yield whole.removesuffix("_bias") + ".bias", value.contiguous()
      else:
        yield whole + ".weight", value.swapaxes(-1, -2).contiguous()


def _dimensions(config: transformers.PretrainedConfig) -> dict[str, Any]:
  head_dim = getattr(config, "head_dim", None)
  optional = {key: getattr(config, attribute, None) for attribute, key in _OPTIONAL.items()}
  return optional | {
    "block_count": config.num_hidden_layers,
    "context_length": config.max_position_embeddings,
    "embedding_length": config.hidden_size,
    "feed_forward_length": config.intermediate_size,
    "attention.head_count": config.num_attention_heads,
    "attention.head_count_kv": config.num_key_value_heads,
    "attention.key_length": head_dim or config.hidden_size // config.num_attention_heads,
    "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
  }


def _add_metadata(writer: gguf.GGUFWriter, metadata: dict[str, Any]) -> None:
  adders = {
    bool: writer.add_bool,
    int: writer.add_uint32,
    float: writer.add_float32,
    str: writer.add_string,
    list: writer.add_array,
  }
  for key, value in metadata.items():
    if value is not None:
      full = key if key.startswith(("general.", "tokenizer.", "split.")) else f"{writer.arch}.{key}"
      adders[type(value)](full, value)


def _converted(name: str, value: np.ndarray, config: transformers.PretrainedConfig) -> np.ndarray:
  if config.model_type.startswith("gemma") and name.endswith("norm.weight"):
    return value + 1
  if config.model_type in _PERMUTED and (".q_proj." in name or ".k_proj." in name):
    is_query = ".q_proj." in name
    heads = config.num_attention_heads if is_query else config.num_key_value_heads
    halves = value.reshape(heads, 2, -1, *value.shape[1:])
    return halves.swapaxes(1, 2).reshape(value.shape)
  return value
