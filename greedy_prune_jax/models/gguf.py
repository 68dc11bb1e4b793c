"""Models from GGUF files, the format of llama.cpp.

`gguf_weights` reads their tensors; here is the config that their metadata describe. What these
leave out is filled in as llama.cpp does. Like llama.cpp, and unlike transformers, this gives Llama,
Mistral and Qwen files no attention window: their converter does not write one.

Source: convert_hf_to_gguf.py, src/llama-model.cpp and src/models/ of
https://github.com/ggml-org/llama.cpp
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.config import (
  FULL_ATTENTION,
  SIZES,
  FieldError,
  ModelConfig,
  RopeConfig,
  check_size,
)
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.models.families import FAMILIES, GGUF_FAMILIES
from greedy_prune_jax.models.family import Family, GgufNames
from greedy_prune_jax.models.gguf_file import GgufFile
from greedy_prune_jax.models.gguf_weights import ROPE_DIVISORS, GgufWeights, gguf_names
from greedy_prune_jax.models.parameters import ChooseShardings, TensorSource, read_model

# Fields of `ModelConfig` and `RopeConfig` -> metadata keys under the architecture's prefix.
_KEYS: dict[str, str] = {
  "model_dim": "embedding_length",
  "num_layers": "block_count",
  "num_heads": "attention.head_count",
  "num_kv_heads": "attention.head_count_kv",
  "head_dim": "attention.key_length",
  "mlp_dim": "feed_forward_length",
  "max_positions": "context_length",
  "norm_eps": "attention.layer_norm_rms_epsilon",
  "attention_softcap": "attn_logit_softcapping",
  "logit_softcap": "final_logit_softcapping",
  "layer_window": "attention.sliding_window",
  "window_pattern": "attention.sliding_window_pattern",
  "layer_recurrent": "attention.recurrent_layers",
  "attention_interval": "full_attention_interval",
  "delta_key_heads": "ssm.group_count",
  "delta_value_heads": "ssm.time_step_rank",
  "delta_key_dim": "ssm.state_size",
  "delta_values": "ssm.inner_size",
  "conv_width": "ssm.conv_kernel",
  "shared_kv_layers": "attention.shared_kv_layers",
  "per_layer_dim": "embedding_length_per_layer_input",
  "guessing_layers": "nextn_predict_layers",
  "shared_expert_dim": "expert_shared_feed_forward_length",
  "num_experts": "expert_count",
  "experts_per_token": "expert_used_count",
  "expert_dim": "expert_feed_forward_length",
  "embedding_multiplier": "embedding_scale",
  "residual_multiplier": "residual_scale",
  "logit_divisor": "logit_scale",
  "theta": "rope.freq_base",
  "factor": "rope.scaling.factor",
  "original_max_positions": "rope.scaling.original_context_length",
  "beta_fast": "rope.scaling.yarn_beta_fast",
  "beta_slow": "rope.scaling.yarn_beta_slow",
}

# Keys of layers with a window, where those without one have heads of their own.
_WINDOW_HEAD_DIM = "attention.key_length_swa"

_EXPERTS = ("num_experts", "experts_per_token", "expert_dim", "shared_expert_dim")
_SHARED = ("shared_kv_layers", "per_layer_dim")
_DELTA = ("delta_key_heads", "delta_value_heads", "delta_key_dim", "conv_width")
_MULTIPLIERS = ("embedding_multiplier", "residual_multiplier", "logit_divisor")

_WHOLE = {
  _KEYS[field]
  for field in _KEYS.keys()
  & {*SIZES, *_EXPERTS, *_SHARED, *_DELTA, "layer_window", "original_max_positions"}
} | {
  _WINDOW_HEAD_DIM,
  *(_KEYS[x] for x in ("attention_interval", "delta_values", "guessing_layers")),
}


def load_gguf(path: str | Path, dtype: Any, *, shardings: ChooseShardings | None = None) -> Model:
  """Reads a model from a GGUF file.

  Args:
    path: the file.
    dtype: dtype of the weights in memory; quantised ones are dequantised to it.
    shardings: see `read_model`.

  Raises:
    UserError: the file is damaged, or its architecture, quantisation or one of its settings is not
      supported.
  """
  return read_model(*open_gguf(path), dtype, shardings)


def open_gguf(path: str | Path) -> tuple[ModelConfig, TensorSource, dict[str, str]]:
  """A file's config, its tensors, and their names by decoder parameter; see `load_gguf`."""
  file = GgufFile(path)
  config = gguf_config(file)
  names = gguf_names(file, config.family)
  return config, GgufWeights(file, config, names), names


def gguf_config(file: GgufFile) -> ModelConfig:
  """The model that a GGUF file holds.

  Raises:
    UserError: architecture or a setting is not supported, or a key is missing.
  """
  metadata = _Metadata(file)
  try:
    return _config(metadata)
  except FieldError as error:
    key = f"metadata key {metadata.architecture}.{_KEYS.get(error.field, error.field)}"
    raise UserError(f"{file.path}: {key}={error.shown}; expected {error.expected}.") from error


class _Metadata:
  """A file's metadata under the prefix of its architecture, and the tensors that it has."""

  def __init__(self, file: GgufFile):
    self.file = file
    self.architecture = str(file.metadata.get("general.architecture"))
    if self.architecture not in GGUF_FAMILIES:
      raise UserError(
        f"{file.path}: architecture {self.architecture!r} is not supported; "
        f"supported are {', '.join(GGUF_FAMILIES)}."
      )
    self.family: Family = GGUF_FAMILIES[self.architecture]
    assert self.family.gguf is not None
    if (other := self.family.gguf.with_windows) and file.metadata.get(
      f"{self.architecture}.attention.sliding_window"
    ):
      self.family = FAMILIES[other]
    assert self.family.gguf is not None
    self.names: GgufNames = self.family.gguf

  def get(self, key: str, default: Any = None) -> Any:
    """The value under a key, or else what llama.cpp takes for it, or else `default`."""
    default = self.names.defaults.get(key, default)
    return self.file.metadata.get(f"{self.architecture}.{key}", default)

  def number(
    self, key: str, default: float | None = None, layers: Sequence[int] | None = None
  ) -> Any:
    """The number under a key; of a list with a value for each layer, the one value of them all, or
    of some `layers`.
    """
    value = self.get(key, default)
    if isinstance(value, list) and layers is not None and len(value) > max(layers, default=0):
      value = [value[layer] for layer in layers]
    if isinstance(value, list) and value and value.count(value[0]) == len(value):
      value = value[0]
    kinds, expected = ((int,), "a whole number") if key in _WHOLE else ((int, float), "a number")
    if type(value) not in kinds:
      raise self.error(
        f"metadata key {self.architecture}.{key} should be {expected}, one for all layers; it is "
        f"{str(value)[:100]}."
      )
    return value

  def has(self, tensor: str) -> bool:
    """Tells whether the file has a tensor."""
    return self.file.shape(tensor) is not None

  def error(self, message: str) -> UserError:
    """An error that names the file."""
    return UserError(f"{self.file.path}: {message}")


def _config(metadata: _Metadata) -> ModelConfig:
  family, has = metadata.family, metadata.has
  sizes = {
    field: metadata.number(_KEYS[field])
    for field in ("model_dim", "num_layers", "num_heads", "max_positions")
  }
  sizes["num_layers"] -= metadata.number(_KEYS["guessing_layers"], 0)
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
    **_optional(metadata, _MULTIPLIERS, 1.0),
    **_optional(metadata, _SHARED, 0),
    **_delta(metadata, sizes["num_layers"]),
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
    ropes=_ropes(metadata, widest),
    layer_rope=_layer_rope(family, sliding),
    layer_window=windows if any(sliding) else (),
    attention_softcap=_softcap(metadata, "attention_softcap"),
    logit_softcap=_softcap(metadata, "logit_softcap"),
  )


def _heads(
  metadata: _Metadata, per_head: int, num_heads: int, sliding: Sequence[int]
) -> dict[str, int]:
  """Key/value heads and their widths, those of layers without a window too if others differ."""
  head_dim = metadata.number(_KEYS["head_dim"], per_head)
  check_size("head_dim", head_dim)
  if not metadata.family.heads_by_kind:
    return {"head_dim": head_dim, "num_kv_heads": metadata.number(_KEYS["num_kv_heads"], num_heads)}
  of_kind = {slides: [i for i, x in enumerate(sliding) if x == slides] for slides in (0, 1)}
  kv_heads = {
    slides: metadata.number(_KEYS["num_kv_heads"], num_heads, layers)
    for slides, layers in of_kind.items()
    if layers
  }
  whole = kv_heads[0 if 0 in kv_heads else 1]
  return {
    "head_dim": metadata.number(_WINDOW_HEAD_DIM) if any(sliding) else head_dim,
    "num_kv_heads": kv_heads.get(1, whole),
    "global_head_dim": head_dim,
    "global_kv_heads": whole,
  }


def _mlp_width(metadata: _Metadata, num_layers: int) -> dict[str, Any]:
  """Width of feed-forwards, and whether those of layers without keys are twice as wide."""
  keys, key = metadata.family.hf_keys, _KEYS["mlp_dim"]
  if keys["mlp_dim"] == keys.get("shared_expert_dim"):  # files need not say another
    key = _KEYS["shared_expert_dim"]
  values = metadata.get(key)
  if "wide_shared_mlp" not in keys or not isinstance(values, list):
    return {"mlp_dim": metadata.number(key)}
  first = num_layers - metadata.number(_KEYS["shared_kv_layers"], 0)
  width = metadata.number(key, layers=range(first))
  is_wide = first < num_layers and values[first:] == [2 * width] * (num_layers - first)
  if is_wide or values == [width] * num_layers:
    return {"mlp_dim": width, "wide_shared_mlp": is_wide}
  raise metadata.error(
    f"metadata key {metadata.architecture}.{key} should be {width} for all layers, or twice that "
    f"for those without keys of their own; it is {str(values)[:100]}."
  )


def _experts(metadata: _Metadata) -> dict[str, Any]:
  """Fields of experts, if the family may have some."""
  if "experts_beside_mlp" not in metadata.family.hf_keys:
    return _optional(metadata, _EXPERTS, None)
  if not metadata.has("blk.0.ffn_gate_inp.weight"):
    if count := metadata.get(_KEYS["num_experts"], 0):
      key = f"{metadata.architecture}.{_KEYS['num_experts']}"
      raise metadata.error(f"{key}={count}, but there are no tensors of experts.")
    return {}
  return {"experts_beside_mlp": True, **_optional(metadata, _EXPERTS, None)}


def _delta(metadata: _Metadata, num_layers: int) -> dict[str, Any]:
  """Fields of recurrent layers, if the family has some."""
  if "delta_key_heads" not in metadata.family.hf_keys:
    return {}
  fields = {field: metadata.number(_KEYS[field]) for field in _DELTA}
  values, heads = metadata.number(_KEYS["delta_values"]), fields["delta_value_heads"]
  if heads < 1 or values % heads:
    raise FieldError("delta_values", values, f"a multiple of {_KEYS['delta_value_heads']}={heads}")
  layers = metadata.get(_KEYS["layer_recurrent"])
  if layers is None:
    interval = metadata.number(_KEYS["attention_interval"], 4)
    if interval < 1:
      raise FieldError("attention_interval", interval, "a whole number above 0")
    layers = [(layer + 1) % interval != 0 for layer in range(num_layers)]
  if not isinstance(layers, list) or len(layers) < num_layers:
    raise FieldError("layer_recurrent", layers, f"{num_layers} entries, one a layer")
  recurrent = tuple(int(bool(layer)) for layer in layers[:num_layers])
  fields["layer_recurrent"] = recurrent if any(recurrent) else ()
  return fields | {"delta_value_dim": values // heads}


def _optional(metadata: _Metadata, fields: Sequence[str], default: Any) -> dict[str, Any]:
  """Those of some fields that the family has."""
  return {
    field: metadata.number(_KEYS[field], default)
    for field in fields
    if field in metadata.family.hf_keys
  }


_STILL = 1e29  # divisor of the frequency of pairs that do not turn, at least

# Every so many layers one has no rope, in families that list such layers elsewhere.
_UNROTATED_INTERVAL = 4


def _layer_rope(family: Family, sliding: tuple[int, ...]) -> tuple[int, ...]:
  """For each layer, which of `_ropes` it has."""
  layers = ()
  if family.rope_by_kind:
    layers = sliding
  elif family.unrotated == "listed":
    layers = tuple(int((i + 1) % _UNROTATED_INTERVAL == 0) for i in range(len(sliding)))
  elif family.unrotated == "full" and any(sliding):
    layers = tuple(1 - slides for slides in sliding)
  return layers if any(layers) else ()


def _refuse(metadata: _Metadata, head_dim: int, widest: int, slides: bool) -> None:
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
  }
  for key, value in expected.items():
    if metadata.get(key, value) != value:
      raise metadata.error(
        f"{metadata.architecture}.{key}={metadata.get(key)} is not supported, only {value} is here."
      )


def _windows(metadata: _Metadata, num_layers: int) -> tuple[int, ...]:
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


def _ropes(metadata: _Metadata, head_dim: int) -> tuple[RopeConfig, ...]:
  """One rope, or that of the full layers and that of the sliding ones."""
  theta = metadata.number("rope.freq_base", 10_000.0)
  factor = metadata.number("rope.scaling.factor", 0.0)
  factor = factor or metadata.number("rope.scale_linear", 0.0) or 1.0
  kind = metadata.get("rope.scaling.type", "linear")
  if kind not in ("none", "linear", "yarn"):
    raise metadata.error(f"rope scaling {kind!r} is not supported; supported are linear and yarn.")
  if kind == "none":
    factor = 1.0
  if metadata.family.heads_by_kind:
    rope = _proportional_rope(metadata, theta, head_dim)
  elif metadata.has(ROPE_DIVISORS):
    rope = _divided_rope(metadata, theta, kind, factor, head_dim)
  elif kind == "yarn":
    context = metadata.number("context_length")
    rope = RopeConfig(
      theta=theta,
      kind="yarn",
      factor=factor,
      original_max_positions=metadata.number("rope.scaling.original_context_length", context),
      beta_fast=metadata.number("rope.scaling.yarn_beta_fast", 32.0),
      beta_slow=metadata.number("rope.scaling.yarn_beta_slow", 1.0),
      truncate=metadata.names.truncated_yarn,
    )
  elif factor != 1.0:
    rope = RopeConfig(theta=theta, kind="linear", factor=factor)
  else:
    rope = RopeConfig(theta=theta)
  if metadata.family.partial_rotary:
    rotated = metadata.number("rope.dimension_count", head_dim)
    rope = dataclasses.replace(rope, rotated_fraction=rotated / head_dim)
  if metadata.family.rope_by_kind:
    return rope, RopeConfig(theta=metadata.number("rope.freq_base_swa", theta))
  return (rope, RopeConfig(kind="none")) if metadata.family.unrotated else (rope,)


def _divided_rope(
  metadata: _Metadata, theta: float, kind: str, factor: float, head_dim: int
) -> RopeConfig:
  """The rope of a file that has a divisor for each pair, as the converter makes of kind llama3.

  llama.cpp divides by a linear factor too. Longrope is the kind that divides pair by pair.
  """
  shape = metadata.file.shape(ROPE_DIVISORS)
  if shape != (head_dim // 2,):
    raise metadata.error(
      f"tensor {ROPE_DIVISORS!r} has shape {list(shape or ())}; expected [{head_dim // 2}], a "
      f"divisor for each pair of the head width {head_dim}."
    )
  if kind == "yarn":
    raise metadata.error(
      f"{metadata.architecture}.rope.scaling.type='yarn' beside a tensor {ROPE_DIVISORS!r} is not "
      "supported; expected one of them."
    )
  divisors = factor * metadata.file.read(ROPE_DIVISORS, (slice(0, head_dim // 2),))
  return RopeConfig(
    theta=theta,
    kind="longrope",
    short_factor=tuple(divisors.tolist()),
    long_factor=tuple(divisors.tolist()),
    original_max_positions=metadata.number("context_length"),
    attention_factor=1.0,
  )


def _proportional_rope(metadata: _Metadata, theta: float, head_dim: int) -> RopeConfig:
  """The rope of a file that divides the frequencies of pairs by 1, and of those that do not turn by
  1e30.
  """
  pairs = head_dim // 2
  if metadata.file.shape(ROPE_DIVISORS) != (pairs,):
    shape = list(metadata.file.shape(ROPE_DIVISORS) or ())
    raise metadata.error(
      f"tensor {ROPE_DIVISORS!r} has shape {shape}; expected [{pairs}], a divisor for each pair of "
      f"the head width {head_dim}."
    )
  divisors = metadata.file.read(ROPE_DIVISORS, (slice(0, pairs),))
  rotated = int((divisors == 1).sum())
  if not (divisors[:rotated] == 1).all() or not (divisors[rotated:] >= _STILL).all():
    raise metadata.error(f"tensor {ROPE_DIVISORS!r} should be 1 for some pairs and then 1e30.")
  return RopeConfig(theta=theta, kind="proportional", rotated_fraction=rotated / pairs)


def _softcap(metadata: _Metadata, field: str) -> float | None:
  """A cap that the family's layers have; 0 is none."""
  if field not in metadata.family.hf_keys:
    return None
  return metadata.number(_KEYS[field], 0.0) or None
