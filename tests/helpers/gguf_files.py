"""Tiny GGUF files, written from models of transformers in the way of llama.cpp's converter."""

from collections.abc import Collection, Iterable, Iterator
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
  "qwen3_5_text": gguf.MODEL_ARCH.QWEN35,
  "qwen3_5_moe_text": gguf.MODEL_ARCH.QWEN35MOE,
  "qwen3_next": gguf.MODEL_ARCH.QWEN3NEXT,
  "gemma4_text": gguf.MODEL_ARCH.GEMMA4,
  "lfm2": gguf.MODEL_ARCH.LFM2,
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
  "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
  "linear_conv_kernel_dim": "ssm.conv_kernel",
  "linear_key_head_dim": "ssm.state_size",
  "linear_num_key_heads": "ssm.group_count",
  "linear_num_value_heads": "ssm.time_step_rank",
  "conv_L_cache": "shortconv.l_cache",
}


def write_gguf(
  path: Path,
  model: transformers.PreTrainedModel,
  *,
  kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
  metadata: dict[str, Any] | None = None,
  tensors: dict[str, np.ndarray] | None = None,
  blocks: dict[str, np.ndarray] | None = None,
  forms: Collection[str] = (),
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
    forms: other forms that llama.cpp reads: `fused` (gates and ups of experts in one tensor),
      `old` (Qwen3-Next's fused projection as checkpoints have it), `squeezed` (axes of size 1
      left out, as by its quantisation).
  """
  config = model.config
  architecture = _ARCHITECTURES[config.model_type]
  names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
  writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
  _add_metadata(writer, _dimensions(config) | (metadata or {}))
  state = model.state_dict()
  parameters = _separate_in_turns(state) if config.model_type == "gpt_oss" else _separate(state)
  if config.model_type == "gemma4_text":
    parameters = _gemma4_tensors(state, config)
    tensors = {"rope_freqs.weight": _gemma4_divisors(config)} | (tensors or {})
  if "fused" in forms:
    parameters = _fused(state)
  converted = ((n, _converted(n, parameter.numpy(), config)) for n, parameter in parameters)
  if "linear_num_value_heads" in vars(config):
    converted = _delta_tensors(converted, config, old="old" in forms)
  for name, value in converted:
    if name == "lm_head.weight" and config.tie_word_embeddings:
      continue
    if "squeezed" in forms and name.endswith("shared_expert_gate.weight"):
      value = value[0]
    stored_as = (
      kind if value.ndim >= 2 and not name.endswith(".bias") else gguf.GGMLQuantizationType.F32
    )
    stored = (blocks or {}).get(name)
    stored = gguf.quants.quantize(value, stored_as) if stored is None else stored
    stored_name = name if name.startswith("blk.") else names.get_name(name, (".weight", ".bias"))
    writer.add_tensor(stored_name, stored, raw_dtype=stored_as)
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


def _fused(tensors: dict[str, Any]) -> Iterator[tuple[str, Any]]:
  """Experts' gates and ups in one tensor, by a name of llama.cpp's own."""
  for name, tensor in tensors.items():
    if name.endswith("experts.gate_up_proj"):
      yield f"blk.{name.split('.')[2]}.ffn_gate_up_exps.weight", tensor
    else:
      yield name + ".weight" * name.endswith("experts.down_proj"), tensor


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


def _gemma4_tensors(
  tensors: dict[str, Any], config: transformers.PretrainedConfig
) -> Iterator[tuple[str, Any]]:
  """Gemma 4's tensors, the router's scales by names of llama.cpp's own."""
  own = {"router.scale": "ffn_gate_inp.scale", "router.per_expert_scale": "ffn_down_exps.scale"}
  for name, tensor in tensors.items():
    layer, _, of_layer = name.removeprefix("model.layers.").partition(".")
    if of_layer in own:
      yield f"blk.{layer}.{own[of_layer]}", tensor
    else:
      no_suffix = of_layer == "layer_scalar" or of_layer.startswith("experts.")
      yield name + ".weight" * no_suffix, tensor


def _gemma4_divisors(config: transformers.PretrainedConfig) -> np.ndarray:
  """Divisors of frequencies, which make 0 of those that are not rotated."""
  head_dim = config.per_layer_config[config.num_hidden_layers - 1].head_dim
  share = config.rope_parameters["full_attention"]["partial_rotary_factor"]
  rotated = int(head_dim * share / 2)
  return np.array([1.0] * rotated + [1e30] * (head_dim // 2 - rotated), np.float32)


def _delta_tensors(
  tensors: Iterable[tuple[str, np.ndarray]], config: transformers.PretrainedConfig, *, old: bool
) -> Iterator[tuple[str, np.ndarray]]:
  """Tensors of Gated DeltaNet in llama.cpp's forms, and all others."""
  keys, values = config.linear_num_key_heads, config.linear_num_value_heads
  of_keys, of_values = config.linear_key_head_dim, config.linear_value_head_dim
  each = values // keys  # value heads of a key head
  turns = [k * each + i for i in range(each) for k in range(keys)]

  def turned(value: np.ndarray, axis: int = 0, before: int = 0) -> np.ndarray:
    if config.model_type == "qwen3_next":
      return value
    head, rest = np.split(value, [before], axis)
    heads = np.split(rest, values, axis)
    return np.concatenate([head, *(heads[turn] for turn in turns)], axis)

  for name, value in tensors:
    part = name.partition(".linear_attn.")[2]
    match part:
      case "in_proj_qkv.weight":
        yield name, turned(value, before=2 * keys * of_keys)
      case "in_proj_z.weight" | "in_proj_a.weight" | "in_proj_b.weight":
        yield name, turned(value)
      case "out_proj.weight":
        yield name, turned(value, axis=1)
      case "conv1d.weight":
        yield name, turned(value.squeeze(1), before=2 * keys * of_keys)
      case "A_log":
        yield name, turned(-np.exp(value))
      case "dt_bias":
        yield name.replace("dt_bias", "dt_proj.bias"), turned(value)
      case "in_proj_qkvz.weight" if not old:
        sizes = [of_keys, of_keys, each * of_values, each * of_values]
        by_key = value.reshape(keys, sum(sizes), -1)
        *qkv, z = (
          x.reshape(-1, value.shape[1]) for x in np.split(by_key, np.cumsum(sizes)[:-1], 1)
        )
        layer = name.split(".")[2]
        yield f"blk.{layer}.attn_qkv.weight", np.concatenate(qkv)
        yield f"blk.{layer}.attn_gate.weight", z
      case _:
        yield name, value


def _gemma4_dimensions(config: transformers.PretrainedConfig) -> dict[str, Any]:
  of_layers = [config.per_layer_config[layer] for layer in range(config.num_hidden_layers)]
  whole, ropes = of_layers[-1].head_dim, config.rope_parameters
  sliding = [kind == "sliding_attention" for kind in config.layer_types]
  narrow = of_layers[sliding.index(True)].head_dim if any(sliding) else 8
  first_shared = config.num_hidden_layers - config.num_kv_shared_layers
  wide = [1] * first_shared + [2] * config.num_kv_shared_layers
  return {
    "attention.key_length": whole,
    "attention.value_length": whole,
    "attention.key_length_swa": narrow,
    "attention.value_length_swa": narrow,
    "attention.head_count_kv": [layer.num_key_value_heads for layer in of_layers],
    "attention.sliding_window": config.sliding_window,
    "attention.sliding_window_pattern": sliding,
    "attention.shared_kv_layers": config.num_kv_shared_layers,
    "embedding_length_per_layer_input": config.hidden_size_per_layer_input,
    "feed_forward_length": [config.intermediate_size * times for times in wide]
    if config.use_double_wide_mlp
    else config.intermediate_size,
    "final_logit_softcapping": config.final_logit_softcapping,
    "expert_used_count": config.top_k_experts,
    "rope.dimension_count": whole,
    "rope.dimension_count_swa": narrow,
    "rope.freq_base": ropes["full_attention"]["rope_theta"],
    "rope.freq_base_swa": ropes["sliding_attention"]["rope_theta"],
  }


def _delta_dimensions(config: transformers.PretrainedConfig) -> dict[str, Any]:
  return {
    "ssm.inner_size": config.linear_num_value_heads * config.linear_value_head_dim,
    "full_attention_interval": 4,
    "rope.dimension_count": int(config.head_dim * config.rope_parameters["partial_rotary_factor"]),
    "rope.freq_base": config.rope_parameters["rope_theta"],
  }


def _heads(config: transformers.PretrainedConfig) -> dict[str, Any]:
  """Heads of a model whose layers have the same."""
  head_dim = getattr(config, "head_dim", None)
  return {
    "attention.head_count_kv": config.num_key_value_heads,
    "attention.key_length": head_dim or config.hidden_size // config.num_attention_heads,
  }


def _dimensions(config: transformers.PretrainedConfig) -> dict[str, Any]:
  given = ((key, getattr(config, attribute, None)) for attribute, key in _OPTIONAL.items())
  optional = {key: value for key, value in given if value is not None}
  common = {
    "block_count": config.num_hidden_layers,
    "context_length": config.max_position_embeddings,
    "embedding_length": config.hidden_size,
    "feed_forward_length": getattr(config, "intermediate_size", None),
    "attention.head_count": config.num_attention_heads,
    "attention.layer_norm_rms_epsilon": getattr(config, "norm_eps", None) or config.rms_norm_eps,
  }
  if config.model_type == "gemma4_text":
    return optional | common | _gemma4_dimensions(config)
  own = _delta_dimensions(config) if "linear_num_value_heads" in vars(config) else {}
  if config.model_type == "lfm2":
    heads = [0 if kind == "conv" else config.num_key_value_heads for kind in config.layer_types]
    own = {"attention.head_count_kv": heads, "rope.freq_base": 1e6}
  return optional | common | _heads(config) | own


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
  offset = ("gemma2", "gemma3_text", "qwen3_5_text", "qwen3_5_moe_text", "qwen3_next")
  if config.model_type in offset and name.endswith("norm.weight"):
    return value if name.endswith("linear_attn.norm.weight") else value + 1
  if config.model_type in _PERMUTED and (".q_proj." in name or ".k_proj." in name):
    is_query = ".q_proj." in name
    heads = config.num_attention_heads if is_query else config.num_key_value_heads
    halves = value.reshape(heads, 2, -1, *value.shape[1:])
    return halves.swapaxes(1, 2).reshape(value.shape)
  return value.squeeze(1) if name.endswith("conv.conv.weight") else value
