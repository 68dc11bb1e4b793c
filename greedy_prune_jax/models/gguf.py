"""Models from GGUF files, the format of llama.cpp.

`gguf_weights` reads their tensors; here is the config that their metadata describe. What these
leave out is filled in as llama.cpp does. Like llama.cpp, and unlike transformers, this gives Llama,
Mistral and Qwen files no attention window: their converter does not write one.

Source: convert_hf_to_gguf.py, src/llama-model.cpp and src/models/ of
https://github.com/ggml-org/llama.cpp
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.config import FULL_ATTENTION, ModelConfig
from greedy_prune_jax.models.fields import FieldError, check_size
from greedy_prune_jax.models.gguf_file import GgufFile
from greedy_prune_jax.models.gguf_metadata import (
  DELTA,
  EXPERTS,
  KEYS,
  MULTIPLIERS,
  SHARED,
  WINDOW_HEAD_DIM,
  GgufMetadata,
)
from greedy_prune_jax.models.gguf_rope import layer_rope, read_ropes
from greedy_prune_jax.models.gguf_weights import GgufWeights, gguf_names
from greedy_prune_jax.models.parameters import TensorSource


def open_gguf(path: str | Path) -> tuple[ModelConfig, TensorSource, dict[str, str]]:
  """A file's config, its tensors, and their names by decoder parameter.

  Raises:
    UserError: the file is damaged, or its architecture, quantisation or one of its settings is not
      supported.
  """
  file = GgufFile(path)
  config = gguf_config(file)
  names = gguf_names(file, config.family)
  return config, GgufWeights(file, config, names), names


def gguf_config(file: GgufFile) -> ModelConfig:
  """The model that a GGUF file holds.

  Raises:
    UserError: architecture or a setting is not supported, or a key is missing.
  """
  metadata = GgufMetadata(file)
  try:
    return _config(metadata)
  except FieldError as error:
    key = f"metadata key {metadata.architecture}.{KEYS.get(error.field, error.field)}"
    raise UserError(f"{file.path}: {key}={error.shown}; expected {error.expected}.") from error


def _config(metadata: GgufMetadata) -> ModelConfig:
  family, has = metadata.family, metadata.has
  sizes = {
    field: metadata.number(KEYS[field])
    for field in ("model_dim", "num_layers", "num_heads", "max_positions")
  }
  sizes["num_layers"] -= metadata.number(KEYS["guessing_layers"], 0)
  for field, value in sizes.items():
    check_size(field, value)
  windows = _windows(metadata, sizes["num_layers"])
  sliding = tuple(int(window != FULL_ATTENTION) for window in windows)
  heads = _heads(metadata, sizes["model_dim"] // sizes["num_heads"], sizes["num_heads"], sliding)
  head_dim, widest = heads["head_dim"], heads.get("global_head_dim", heads["head_dim"])
  _refuse(metadata, head_dim, widest, any(sliding))
  scale = None
  if family.hf_keys.get("attention_scale") == "attention_multiplier":
    scale = metadata.number("attention.scale", 0.0) or None
  if metadata.names.scaled_by_width:
    wide = sizes["num_layers"] == metadata.names.scaled_by_width
    scale = (sizes["model_dim"] / sizes["num_heads"] if wide else head_dim) ** -0.5
  wide_norm = "wide_qk_norm" in family.switches
  read_here = {
    "qkv_bias": has("blk.0.attn_q.bias"),
    "out_bias": has("blk.0.attn_output.bias"),
    "mlp_bias": has("blk.0.ffn_up.bias"),
    "qk_norm": has("blk.0.attn_q_norm.weight") and not wide_norm,
    "activation": metadata.names.activation,
    "attention_scale": scale,
    **_experts(metadata),
    **_optional(metadata, MULTIPLIERS, 1.0),
    **_optional(metadata, SHARED, 0),
    **_delta(metadata, sizes["num_layers"]),
    **_short_conv(metadata, sizes["num_layers"]),
  }
  if "global_keys_as_values" in family.hf_keys and not all(sliding):
    read_here["global_keys_as_values"] = not has(f"blk.{sliding.index(0)}.attn_v.weight")
  return ModelConfig(
    **sizes,
    **heads,
    **_mlp_width(metadata, sizes["num_layers"]),
    **(read_here | dict(family.switches)),
    family=family.name,
    vocab_size=(metadata.file.shape("token_embd.weight") or (0,))[0],
    norm_eps=metadata.number("attention.layer_norm_rms_epsilon"),
    tied_head=not has("output.weight"),
    ropes=read_ropes(metadata, widest),
    layer_rope=layer_rope(family, sliding),
    layer_window=windows if any(sliding) else (),
    attention_softcap=_softcap(metadata, "attention_softcap"),
    logit_softcap=_softcap(metadata, "logit_softcap"),
  )


def _heads(
  metadata: GgufMetadata, per_head: int, num_heads: int, sliding: Sequence[int]
) -> dict[str, int]:
  """Key/value heads and their widths, those of layers without a window too if others differ."""
  head_dim = metadata.number(KEYS["head_dim"], per_head)
  check_size("head_dim", head_dim)
  if not metadata.family.heads_by_kind:
    of_layers, layers = metadata.get(KEYS["num_kv_heads"]), None
    if metadata.family.switches.get("recurrence") == "conv" and isinstance(of_layers, list):
      layers = [layer for layer, heads in enumerate(of_layers) if heads]
    kv_heads = metadata.number(KEYS["num_kv_heads"], num_heads, layers)
    return {"head_dim": head_dim, "num_kv_heads": kv_heads}
  of_kind = {slides: [i for i, x in enumerate(sliding) if x == slides] for slides in (0, 1)}
  kv_heads = {
    slides: metadata.number(KEYS["num_kv_heads"], num_heads, layers)
    for slides, layers in of_kind.items()
    if layers
  }
  whole = kv_heads[0 if 0 in kv_heads else 1]
  return {
    "head_dim": metadata.number(WINDOW_HEAD_DIM) if any(sliding) else head_dim,
    "num_kv_heads": kv_heads.get(1, whole),
    "global_head_dim": head_dim,
    "global_kv_heads": whole,
  }


def _mlp_width(metadata: GgufMetadata, num_layers: int) -> dict[str, Any]:
  """Width of feed-forwards, and whether those of layers without keys are twice as wide."""
  keys, key = metadata.family.hf_keys, KEYS["mlp_dim"]
  if keys["mlp_dim"] == keys.get("shared_expert_dim"):  # files need not say another
    key = KEYS["shared_expert_dim"]
  values = metadata.get(key)
  if "wide_shared_mlp" not in keys or not isinstance(values, list):
    return {"mlp_dim": metadata.number(key)}
  first = num_layers - metadata.number(KEYS["shared_kv_layers"], 0)
  width = metadata.number(key, layers=range(first))
  is_wide = first < num_layers and values[first:] == [2 * width] * (num_layers - first)
  if is_wide or values == [width] * num_layers:
    return {"mlp_dim": width, "wide_shared_mlp": is_wide}
  raise metadata.error(
    f"metadata key {metadata.architecture}.{key} should be {width} for all layers, or twice that "
    f"for those without keys of their own; it is {str(values)[:100]}."
  )


def _experts(metadata: GgufMetadata) -> dict[str, Any]:
  """Fields of experts, if the family may have some."""
  if "experts_beside_mlp" not in metadata.family.hf_keys:
    return _optional(metadata, EXPERTS, None)
  if not metadata.has("blk.0.ffn_gate_inp.weight"):
    if count := metadata.get(KEYS["num_experts"], 0):
      key = f"{metadata.architecture}.{KEYS['num_experts']}"
      raise metadata.error(f"{key}={count}, but there are no tensors of experts.")
    return {}
  return {"experts_beside_mlp": True, **_optional(metadata, EXPERTS, None)}


def _delta(metadata: GgufMetadata, num_layers: int) -> dict[str, Any]:
  """Fields of recurrent layers, if the family has some."""
  if "delta_key_heads" not in metadata.family.hf_keys:
    return {}
  fields = {field: metadata.number(KEYS[field]) for field in DELTA}
  values, heads = metadata.number(KEYS["delta_values"]), fields["delta_value_heads"]
  if heads < 1 or values % heads:
    raise FieldError("delta_values", values, f"a multiple of {KEYS['delta_value_heads']}={heads}")
  layers = metadata.get(KEYS["layer_recurrent"])
  if layers is None:
    interval = metadata.number(KEYS["attention_interval"], 4)
    if interval < 1:
      raise FieldError("attention_interval", interval, "a whole number above 0")
    layers = [(layer + 1) % interval != 0 for layer in range(num_layers)]
  if not isinstance(layers, list) or len(layers) < num_layers:
    raise FieldError("layer_recurrent", layers, f"{num_layers} entries, one a layer")
  recurrent = tuple(int(bool(layer)) for layer in layers[:num_layers])
  fields["layer_recurrent"] = recurrent if any(recurrent) else ()
  return fields | {"delta_value_dim": values // heads}


def _short_conv(metadata: GgufMetadata, num_layers: int) -> dict[str, Any]:
  """Fields of short convolutions, if the family has some: in layers without key/value heads."""
  if metadata.family.switches.get("recurrence") != "conv":
    return {}
  width = metadata.number(KEYS["short_conv_width"])
  if width < 2:
    raise FieldError("short_conv_width", width, "at least 2 tokens")
  heads = metadata.get(KEYS["num_kv_heads"])
  if isinstance(heads, list) and len(heads) != num_layers:
    raise FieldError("num_kv_heads", heads, f"{num_layers} entries, one a layer")
  layers = tuple(int(not x) for x in heads) if isinstance(heads, list) else ()
  return {"conv_width": width, "layer_recurrent": layers if any(layers) else ()}


def _optional(metadata: GgufMetadata, fields: Sequence[str], default: Any) -> dict[str, Any]:
  """Those of some fields that the family has."""
  return {
    field: metadata.number(KEYS[field], default)
    for field in fields
    if field in metadata.family.hf_keys
  }


def _refuse(metadata: GgufMetadata, head_dim: int, widest: int, slides: bool) -> None:
  """Raises for what these architectures can also stand for."""
  if metadata.get("expert_count", 0) and "num_experts" not in metadata.family.hf_keys:
    raise metadata.error("mixtures of experts are not supported for this architecture.")
  rotated = metadata.get("rope.dimension_count") if metadata.family.partial_rotary else None
  of_windows = {"attention.value_length_swa": head_dim, "rope.dimension_count_swa": head_dim}
  expected = (of_windows if slides else {}) | {
    "attention.value_length": widest,
    "rope.dimension_count": rotated or widest,
    "rope.scaling.attn_factor": 1.0,
    "rope.scaling.yarn_attn_factor": 1.0,
    "rope.scaling.yarn_log_multiplier": 0.0,
    "attention.causal": True,
  }
  for key, value in expected.items():
    if metadata.get(key, value) != value:
      raise metadata.error(
        f"{metadata.architecture}.{key}={metadata.get(key)} is not supported, only {value} is here."
      )


def _windows(metadata: GgufMetadata, num_layers: int) -> tuple[int, ...]:
  """For each layer, how many tokens it attends to."""
  if "attention.sliding_window" not in metadata.names.defaults:
    return (FULL_ATTENTION,) * num_layers
  window = metadata.number("attention.sliding_window")
  pattern = metadata.get("attention.sliding_window_pattern")
  if isinstance(pattern, list):  # True where a layer slides
    sliding = pattern
  elif type(pattern) is not int or pattern < 1:
    raise FieldError("window_pattern", pattern, "a whole number above 0, or a list")
  else:
    sliding = [(layer + 1) % pattern != 0 for layer in range(num_layers)]
  return tuple(window if slides and window else FULL_ATTENTION for slides in sliding)


def _softcap(metadata: GgufMetadata, field: str) -> float | None:
  """A cap that the family's layers have; 0 is none."""
  if field not in metadata.family.hf_keys:
    return None
  return metadata.number(KEYS[field], 0.0) or None
