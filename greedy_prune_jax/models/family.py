"""The record of a family of models, and the names that most families give to things in files."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from greedy_prune_jax.models.config import VARIANTS
from greedy_prune_jax.models.parameter_table import GGUF_TENSORS, HF_TENSORS

# Fields of `ModelConfig` -> keys of config.json.
HF_KEYS: dict[str, str] = {
  "vocab_size": "vocab_size",
  "model_dim": "hidden_size",
  "num_layers": "num_hidden_layers",
  "num_heads": "num_attention_heads",
  "num_kv_heads": "num_key_value_heads",
  "head_dim": "head_dim",
  "mlp_dim": "intermediate_size",
  "max_positions": "max_position_embeddings",
  "norm_eps": "rms_norm_eps",
  "tied_head": "tie_word_embeddings",
  "activation": "hidden_act",
}

# Fields -> keys of most families whose projections may have a bias.
ATTENTION_BIAS = {"qkv_bias": "attention_bias", "out_bias": "attention_bias"}


def _with_variants(names: Mapping[str, str]) -> dict[str, str]:
  """The names, and those of the forms that a part may have."""
  forms = {
    re.sub(rf"\b{base}\b", form, path, count=1): name
    for form, base in VARIANTS.items()
    for path, name in names.items()
    if path.startswith(f"layers.{base}.")
  }
  return dict(names) | forms


@dataclasses.dataclass(frozen=True, kw_only=True)
class GgufNames:
  """A family in GGUF files."""

  architecture: str  # `general.architecture` of its files
  # True if the two halves of each query and key head are stored interleaved.
  interleaved: bool = False
  # Metadata keys -> values that llama.cpp takes where a file lacks them. With
  # `attention.sliding_window` among them, the family's layers have windows.
  defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  activation: str = "silu"  # activation of its feed-forward layers, of which files say nothing
  # True where yarn's ramp begins and ends at whole pairs; files do not say.
  truncated_yarn: bool = True
  with_windows: str = ""  # name of the family of files that have a window; empty: this one
  # Number of layers of the one model of the family that scales queries by the residual stream's
  # width per head instead of the head width: a file does not say.
  scaled_by_width: int = 0
  # True if value heads of Gated DeltaNet are those of every key head in turn.
  values_in_turns: bool = False
  # Names that differ from `GGUF_TENSORS`.
  tensors: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
  """One family."""

  name: str  # `model_type` of config.json, and `ModelConfig.family`
  title: str  # models of the family, as people call them
  hf_class: str  # the class of transformers, for `architectures` of config.json
  # Fields of `ModelConfig` with one value for the whole family, or where a file does not say
  # another.
  switches: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  # Fields of `ModelConfig` -> keys of config.json, beyond or instead of `HF_KEYS`; an empty one
  # where the family has no such key.
  keys: Mapping[str, str] = dataclasses.field(default_factory=dict)
  # Names that differ from `HF_TENSORS`. Parameters of one tensor are its rows, in this order.
  tensors: Mapping[str, str] = dataclasses.field(default_factory=dict)
  rope_by_kind: bool = False  # True if layers with a window have a rope of their own, `ropes[1]`
  # Tensors of each layer that a folder has beside the parameters -> their one value.
  constants: Mapping[str, float] = dataclasses.field(default_factory=dict)
  unrotated: str = ""  # rule for layers without rope: a name of `hf_config.UNROTATED`; empty: none
  partial_rotary: bool = False  # True if a part of each head may be rotated
  query_growth: bool = False  # True if queries may grow with their positions
  # True if tensors of experts are [inputs, outputs], gates and ups in turns.
  transposed_experts: bool = False
  # True if the dimensions of a head that rope rotates as a pair lie side by side.
  interleaved: bool = False
  # True if layers without a window may have other heads than those with one.
  heads_by_kind: bool = False
  # True if transformers 4 does not know it, and its old keys must not be written.
  only_in_5: bool = False
  # Keys of config.json that must not be set -> the reason.
  refused: Mapping[str, str] = dataclasses.field(default_factory=dict)
  # Keys of config.json -> the one value that is supported.
  fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  # Keys of config.json that mean nothing here -> what transformers wants to see.
  written: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  # `model_type` of the multimodal model that holds this one as its `text_config`, if that does not
  # say another.
  wrapper: str = ""
  # True if a wrapper's config.json that does not say so ties head and embedding.
  wrapper_ties: bool = True
  # Names in GGUF files; None where there are none or they name another family.
  gguf: GgufNames | None = None

  @property
  def hf_keys(self) -> dict[str, str]:
    """Fields of `ModelConfig` -> keys of config.json."""
    return {field: key for field, key in (HF_KEYS | dict(self.keys)).items() if key}

  def hf_tensors(self, prefix: str = "model.", head_prefix: str = "") -> dict[str, str]:
    """Decoder parameters -> tensors of a folder, `{layer}` for a layer's and `{expert}` for an
    expert's number.

    Args:
      prefix: prefix of all names but the head's.
      head_prefix: prefix of the head's name.
    """
    names = _with_variants(HF_TENSORS | dict(self.tensors))
    prefixes = {name: prefix + "layers.{layer}." * name.startswith("layers.") for name in names}
    prefixes["head"] = head_prefix
    return {name: prefixes[name] + tensor for name, tensor in names.items()}

  @property
  def gguf_tensors(self) -> dict[str, str]:
    """Decoder parameters -> tensors of a GGUF file, `{layer}` for the layer's number."""
    names = _with_variants(GGUF_TENSORS | dict(self.gguf.tensors if self.gguf else {}))
    return {name: "blk.{layer}." * name.startswith("layers.") + t for name, t in names.items()}
