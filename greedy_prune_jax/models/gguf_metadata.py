"""Metadata of GGUF files by the names of our fields."""

from collections.abc import Sequence
from typing import Any

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.families import FAMILIES, GGUF_FAMILIES
from greedy_prune_jax.models.family import Family, GgufNames
from greedy_prune_jax.models.fields import SIZES
from greedy_prune_jax.models.gguf_file import GgufFile

# Fields of `ModelConfig` and `RopeConfig` -> metadata keys under the architecture's prefix.
KEYS: dict[str, str] = {
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
  "short_conv_width": "shortconv.l_cache",
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

# Of layers with a window, where those without one have heads of their own.
WINDOW_HEAD_DIM = "attention.key_length_swa"

EXPERTS = ("num_experts", "experts_per_token", "expert_dim", "shared_expert_dim")
SHARED = ("shared_kv_layers", "per_layer_dim")
DELTA = ("delta_key_heads", "delta_value_heads", "delta_key_dim", "conv_width")
MULTIPLIERS = ("embedding_multiplier", "residual_multiplier", "logit_divisor")

_OTHER_WHOLE = ("layer_window", "original_max_positions", "attention_interval", "delta_values")
_WHOLE = {KEYS[x] for x in KEYS.keys() & {*SIZES, *EXPERTS, *SHARED, *DELTA, *_OTHER_WHOLE}}
_WHOLE |= {WINDOW_HEAD_DIM, KEYS["guessing_layers"], KEYS["short_conv_width"]}


class GgufMetadata:
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
