"""Models from GGUF files, the format of llama.cpp.

llama.cpp's converter changes some weights on the way in; `_Weights` changes them back, so that what
comes out is what a Hugging Face checkpoint holds:

- files of `llama` (Llama, Mistral) and its kin interleave the two halves of every query and key
  head, because llama.cpp rotates neighbouring pairs for these architectures and half-split pairs
  for the others;
- Gemma norms are stored with the 1 added that the model adds at run time.

What the metadata leaves out is filled in as llama.cpp does. Like llama.cpp, and unlike
transformers, this gives Llama, Mistral and Qwen files no attention window: their converter does not
write one.

Source: convert_hf_to_gguf.py, src/llama-model.cpp and src/models/ of
https://github.com/ggml-org/llama.cpp
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

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
from greedy_prune_jax.models.parameters import ChooseShardings, Index, TensorSource, read_model

_ROPE_DIVISORS = "rope_freqs.weight"  # of Llama 3: what each pair's frequency is divided by

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

_EXPERTS = ("num_experts", "experts_per_token", "expert_dim")
_MULTIPLIERS = ("embedding_multiplier", "residual_multiplier", "logit_divisor")

_WHOLE = {
  _KEYS[field]
  for field in _KEYS.keys() & {*SIZES, *_EXPERTS, "layer_window", "original_max_positions"}
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
  return config, _Weights(file, config), FAMILIES[config.family].gguf_tensors


class _Weights(TensorSource):
  """A file's tensors with llama.cpp's changes undone."""

  def __init__(self, file: GgufFile, config: ModelConfig):
    gguf = FAMILIES[config.family].gguf
    self._file = file
    self._interleaved = (".attn_q.", ".attn_k.") if gguf and gguf.interleaved else ()
    self._unit_offset_norms = config.unit_offset_norm
    self._head_dim = config.head_dim

  @property
  def names(self) -> set[str]:
    return self._file.names - {_ROPE_DIVISORS}

  def shape(self, name: str) -> tuple[int, ...] | None:
    return self._file.shape(name)

  def where(self, name: str) -> str:
    return self._file.where(name)

  def read(self, name: str, index: Index) -> np.ndarray:
    block = self._file.read(name, index)
    if any(part in name for part in self._interleaved):  # rows come in whole heads
      pairs = block.reshape(-1, self._head_dim // 2, 2, *block.shape[1:])
      return pairs.swapaxes(1, 2).reshape(block.shape)
    if self._unit_offset_norms and name.endswith("norm.weight"):
      return block - 1
    return block


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

  def number(self, key: str, default: float | None = None) -> Any:
    """The number under a key; of a list with a value for each layer, their one value."""
    value = self.get(key, default)
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
  sizes = {
    field: metadata.number(_KEYS[field])
    for field in ("model_dim", "num_layers", "num_heads", "mlp_dim", "max_positions")
  }
  for field, value in sizes.items():
    check_size(field, value)
  num_heads, per_head = sizes["num_heads"], sizes["model_dim"] // sizes["num_heads"]
  head_dim = metadata.number("attention.key_length", per_head)
  check_size("head_dim", head_dim)
  _refuse(metadata, head_dim)
  scale = None
  if metadata.family.hf_keys.get("attention_scale") == "attention_multiplier":
    scale = metadata.number("attention.scale", 0.0) or None
  if metadata.names.scaled_by_width:
    wide = sizes["num_layers"] == metadata.names.scaled_by_width
    scale = (sizes["model_dim"] / num_heads if wide else head_dim) ** -0.5
  windows = _windows(metadata, sizes["num_layers"])
  sliding = tuple(int(window != FULL_ATTENTION) for window in windows)
  has, wide = metadata.has, "wide_qk_norm" in metadata.family.switches
  read_here = {
    "qkv_bias": has("blk.0.attn_q.bias"),
    "out_bias": has("blk.0.attn_output.bias"),
    "mlp_bias": has("blk.0.ffn_up.bias"),
    "qk_norm": has("blk.0.attn_q_norm.weight") and not wide,
    "activation": metadata.names.activation,
    **_optional(metadata, _EXPERTS, None),
    **_optional(metadata, _MULTIPLIERS, 1.0),
  }
  return ModelConfig(
    **sizes,
    **(read_here | dict(metadata.family.switches)),
    family=metadata.family.name,
    vocab_size=(metadata.file.shape("token_embd.weight") or (0,))[0],
    num_kv_heads=metadata.number("attention.head_count_kv", num_heads),
    head_dim=head_dim,
    norm_eps=metadata.number("attention.layer_norm_rms_epsilon"),
    tied_head=not has("output.weight"),
    ropes=_ropes(metadata, head_dim),
    layer_rope=_layer_rope(metadata.family, sliding),
    layer_window=windows if any(sliding) else (),
    attention_scale=scale,
    attention_softcap=_softcap(metadata, "attention_softcap"),
    logit_softcap=_softcap(metadata, "logit_softcap"),
  )


def _optional(metadata: _Metadata, fields: Sequence[str], default: Any) -> dict[str, Any]:
  """Those of some fields that the family has."""
  return {
    field: metadata.number(_KEYS[field], default)
    for field in fields
    if field in metadata.family.hf_keys
  }


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


def _refuse(metadata: _Metadata, head_dim: int) -> None:
  """Raises for what these architectures can also stand for."""
  if metadata.get("expert_count", 0) and "num_experts" not in metadata.family.hf_keys:
    raise metadata.error("mixtures of experts are not supported for this architecture.")
  rotated = metadata.get("rope.dimension_count") if metadata.family.partial_rotary else None
  expected = {
    "attention.value_length": head_dim,
    "rope.dimension_count": rotated or head_dim,
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
  else:
    check_size("num_layers", pattern)
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
  if metadata.has(_ROPE_DIVISORS):
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
  shape = metadata.file.shape(_ROPE_DIVISORS)
  if shape != (head_dim // 2,):
    raise metadata.error(
      f"tensor {_ROPE_DIVISORS!r} has shape {list(shape or ())}; expected [{head_dim // 2}], a "
      f"divisor for each pair of the head width {head_dim}."
    )
  if kind == "yarn":
    raise metadata.error(
      f"{metadata.architecture}.rope.scaling.type='yarn' beside a tensor {_ROPE_DIVISORS!r} is not "
      "supported; expected one of them."
    )
  divisors = factor * metadata.file.read(_ROPE_DIVISORS, (slice(0, head_dim // 2),))
  return RopeConfig(
    theta=theta,
    kind="longrope",
    short_factor=tuple(divisors.tolist()),
    long_factor=tuple(divisors.tolist()),
    original_max_positions=metadata.number("context_length"),
    attention_factor=1.0,
  )


def _softcap(metadata: _Metadata, field: str) -> float | None:
  """A cap that the family's layers have; 0 is none."""
  if field not in metadata.family.hf_keys:
    return None
  return metadata.number(_KEYS[field], 0.0) or None
