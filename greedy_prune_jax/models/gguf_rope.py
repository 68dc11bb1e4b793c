"""Ropes of the models in GGUF files."""

import dataclasses

import numpy as np

from greedy_prune_jax.models.family import Family
from greedy_prune_jax.models.gguf_metadata import GgufMetadata
from greedy_prune_jax.models.gguf_weights import ROPE_DIVISORS
from greedy_prune_jax.models.rope_config import RopeConfig

_STILL = 1e29  # divisor of the frequency of pairs that do not turn, at least

# Every so many layers one has no rope, in families that list such layers elsewhere.
_UNROTATED_INTERVAL = 4


def layer_rope(family: Family, sliding: tuple[int, ...]) -> tuple[int, ...]:
  """For each layer, which of `read_ropes` it has."""
  layers = ()
  if family.rope_by_kind:
    layers = sliding
  elif family.unrotated == "listed":
    layers = tuple(int((i + 1) % _UNROTATED_INTERVAL == 0) for i in range(len(sliding)))
  elif family.unrotated == "full" and any(sliding):
    layers = tuple(1 - slides for slides in sliding)
  return layers if any(layers) else ()


def read_ropes(metadata: GgufMetadata, head_dim: int) -> tuple[RopeConfig, ...]:
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
  metadata: GgufMetadata, theta: float, kind: str, factor: float, head_dim: int
) -> RopeConfig:
  """The rope of a file that has a divisor for each pair, as the converter makes of kind llama3.

  llama.cpp divides by a linear factor too. Longrope is the kind that divides pair by pair.
  """
  divisors = tuple((factor * _divisors(metadata, head_dim)).tolist())
  if kind == "yarn":
    raise metadata.error(
      f"{metadata.architecture}.rope.scaling.type='yarn' beside a tensor {ROPE_DIVISORS!r} is not "
      "supported; expected one of them."
    )
  return RopeConfig(
    theta=theta,
    kind="longrope",
    short_factor=divisors,
    long_factor=divisors,
    original_max_positions=metadata.number("context_length"),
    attention_factor=1.0,
  )


def _proportional_rope(metadata: GgufMetadata, theta: float, head_dim: int) -> RopeConfig:
  """The rope of a file that divides the frequencies of pairs by 1, and of those that do not turn by
  1e30.
  """
  divisors = _divisors(metadata, head_dim)
  rotated = int((divisors == 1).sum())
  if not (divisors[:rotated] == 1).all() or not (divisors[rotated:] >= _STILL).all():
    raise metadata.error(f"tensor {ROPE_DIVISORS!r} should be 1 for some pairs and then 1e30.")
  return RopeConfig(theta=theta, kind="proportional", rotated_fraction=rotated / len(divisors))


def _divisors(metadata: GgufMetadata, head_dim: int) -> np.ndarray:
  """The divisor that a file has for each pair's frequency."""
  shape, pairs = metadata.file.shape(ROPE_DIVISORS), head_dim // 2
  if shape != (pairs,):
    raise metadata.error(
      f"tensor {ROPE_DIVISORS!r} has shape {list(shape or ())}; expected [{pairs}], a divisor for "
      f"each pair of the head width {head_dim}."
    )
  return metadata.file.read(ROPE_DIVISORS, (slice(0, pairs),))
