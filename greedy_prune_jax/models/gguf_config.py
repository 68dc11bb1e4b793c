"""Model configs from the metadata of GGUF files.

What the metadata leaves out is filled in as llama.cpp does (src/llama-model.cpp and src/models/ of
https://github.com/ggml-org/llama.cpp). Like llama.cpp, and unlike transformers, this gives Llama,
Mistral and Qwen files no attention window: their converter does not write one.
"""

from typing import Any

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.config import FULL_ATTENTION, ModelConfig, RopeConfig
from greedy_prune_jax.models.gguf_file import GgufFile

ROPE_DIVISORS = "rope_freqs.weight"  # of Llama 3: what each pair's frequency is divided by

# Architecture -> family. Mistral's files say llama.
FAMILIES = {
  "llama": "llama",
  "qwen2": "qwen2",
  "qwen3": "qwen3",
  "gemma2": "gemma2",
  "gemma3": "gemma3_text",
}

# The 27B models scale queries by the width per head of the residual stream, the others by that of
# the heads; a file does not say which it holds, but its number of layers tells.
_LAYERS_OF_27B = {"gemma2": 46, "gemma3": 62}


def gguf_config(file: GgufFile) -> ModelConfig:
  """The model that a GGUF file holds.

  Raises:
    UserError: architecture or a setting is not supported, or a key is missing.
  """
  try:
    return _config(_Keys(file))
  except UserError:
    raise
  except (TypeError, ValueError, ZeroDivisionError) as error:
    raise UserError(f"{file.path}: its metadata describes no usable model: {error}") from error


def _config(keys: "_Keys") -> ModelConfig:
  gemma = keys.family.startswith("gemma")
  num_layers, num_heads = keys["block_count"], keys["attention.head_count"]
  head_dim = keys.get("attention.key_length", keys["embedding_length"] // num_heads)
  _refuse(keys, head_dim)
  windows = _windows(keys, num_layers)
  sliding = [window != FULL_ATTENTION for window in windows]
  embedding = keys.file.shape("token_embd.weight") or (0, 0)
  return ModelConfig(
    family=keys.family,
    vocab_size=embedding[0],
    model_dim=keys["embedding_length"],
    num_layers=num_layers,
    num_heads=num_heads,
    num_kv_heads=keys.get("attention.head_count_kv", num_heads),
    head_dim=head_dim,
    mlp_dim=keys["feed_forward_length"],
    max_positions=keys["context_length"],
    norm_eps=keys["attention.layer_norm_rms_epsilon"],
    tied_head=not keys.has("output.weight"),
    ropes=_ropes(keys, head_dim),
    layer_rope=tuple(map(int, sliding)) if keys.architecture == "gemma3" and any(sliding) else (),
    layer_window=windows if any(sliding) else (),
    activation="gelu_tanh" if gemma else "silu",
    qkv_bias=keys.has("blk.0.attn_q.bias"),
    out_bias=keys.has("blk.0.attn_output.bias"),
    mlp_bias=keys.has("blk.0.ffn_gate.bias"),
    qk_norm=keys.has("blk.0.attn_q_norm.weight"),
    post_norms=gemma,
    unit_offset_norm=gemma,
    scale_embedding=gemma,
    attention_scale=_attention_scale(keys, num_layers, num_heads, head_dim) if gemma else None,
    attention_softcap=keys.get("attn_logit_softcapping", 50.0) if keys.family == "gemma2" else None,
    logit_softcap=_logit_softcap(keys),
  )


class _Keys:
  """A file's metadata under the prefix of its architecture, and which tensors it has."""

  def __init__(self, file: GgufFile):
    self.file = file
    self.architecture = str(file.metadata.get("general.architecture"))
    if self.architecture not in FAMILIES:
      raise UserError(
        f"{file.path}: architecture {self.architecture!r} is not supported; "
        f"supported are {', '.join(FAMILIES)}."
      )
    self.family = FAMILIES[self.architecture]

  def get(self, key: str, default: Any = None) -> Any:
    """The value under a key that may be missing."""
    return self.file.metadata.get(f"{self.architecture}.{key}", default)

  def __getitem__(self, key: str) -> Any:
    """The number under a key that must be there."""
    value = self.get(key)
    if not isinstance(value, int | float):  # missing, or a list with a value per layer
      raise self.error(f"metadata key {self.architecture}.{key} should be a number, it is {value}.")
    return value

  def has(self, tensor: str) -> bool:
    """Whether the file has a tensor."""
    return self.file.shape(tensor) is not None

  def error(self, message: str) -> UserError:
    """An error that names the file."""
    return UserError(f"{self.file.path}: {message}")


def _refuse(keys: _Keys, head_dim: int) -> None:
  """Raises for what these architectures can also stand for."""
  if keys.get("expert_count", 0):
    raise keys.error("mixtures of experts are not supported.")
  expected = {
    "attention.value_length": head_dim,
    "rope.dimension_count": head_dim,
    "rope.scaling.attn_factor": 1.0,
    "rope.scaling.yarn_attn_factor": 1.0,
    "rope.scaling.yarn_log_multiplier": 0.0,
  }
  for key, value in expected.items():
    if keys.get(key, value) != value:
      raise keys.error(
        f"{keys.architecture}.{key}={keys.get(key)} is not supported, only {value} is here."
      )


def _windows(keys: _Keys, num_layers: int) -> tuple[int, ...]:
  if keys.architecture == "gemma2":
    window, pattern = keys.get("attention.sliding_window", 4096), 2
  elif keys.architecture == "gemma3":
    window = keys.get("attention.sliding_window", 0)
    pattern = keys.get("attention.sliding_window_pattern", 6)
  else:
    window, pattern = 0, 1
  if isinstance(pattern, list):  # True where a layer slides
    sliding = pattern
  else:
    sliding = [(layer + 1) % pattern != 0 for layer in range(num_layers)]
  return tuple(window if slides and window else FULL_ATTENTION for slides in sliding)


def _ropes(keys: _Keys, head_dim: int) -> tuple[RopeConfig, ...]:
  theta = keys.get("rope.freq_base", 10_000.0)
  context = keys["context_length"]
  factor = keys.get("rope.scaling.factor") or keys.get("rope.scale_linear") or 1.0
  kind = keys.get("rope.scaling.type", "linear")
  if kind not in ("none", "linear", "yarn"):
    raise keys.error(f"rope scaling {kind!r} is not supported; supported are linear and yarn.")
  if keys.has(ROPE_DIVISORS):
    # llama.cpp's converter works out the llama3 kind. Longrope divides pair by pair too.
    divisors = tuple(keys.file.read(ROPE_DIVISORS, (slice(0, head_dim // 2),)).tolist())
    rope = RopeConfig(
      theta=theta,
      kind="longrope",
      short_factor=divisors,
      long_factor=divisors,
      original_max_positions=context,
      attention_factor=1.0,
    )
  elif kind == "yarn":
    rope = RopeConfig(
      theta=theta,
      kind="yarn",
      factor=factor,
      original_max_positions=keys.get("rope.scaling.original_context_length", context),
      beta_fast=keys.get("rope.scaling.yarn_beta_fast", 32.0),
      beta_slow=keys.get("rope.scaling.yarn_beta_slow", 1.0),
    )
  elif kind == "linear" and factor != 1.0:
    rope = RopeConfig(theta=theta, kind="linear", factor=factor)
  else:
    rope = RopeConfig(theta=theta)
  if keys.architecture == "gemma3":
    return rope, RopeConfig(theta=keys.get("rope.freq_base_swa", 10_000.0))
  return (rope,)


def _attention_scale(keys: _Keys, num_layers: int, num_heads: int, head_dim: int) -> float:
  of_27b = num_layers == _LAYERS_OF_27B[keys.architecture]
  return (keys["embedding_length"] / num_heads if of_27b else head_dim) ** -0.5


def _logit_softcap(keys: _Keys) -> float | None:
  default = 30.0 if keys.architecture == "gemma2" else None
  return keys.get("final_logit_softcapping", default) or None
