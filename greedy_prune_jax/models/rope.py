"""Rotary position embeddings: the frequencies of each kind, and their application.

A kind maps the unscaled frequencies theta ** (-2 i / H), i < H / 2, to its own. The formulas are
those of Hugging Face transformers (`ROPE_INIT_FUNCTIONS` of modeling_rope_utils.py), computed in
float64 and rounded once.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.rope_config import RopeConfig


def rope_frequencies(
  config: ModelConfig,
) -> tuple[Float[np.ndarray, "ropes h"], Float[np.ndarray, " ropes"]]:
  """Angular frequencies and output scales of every rope of the model, computed on the host.

  Those of `dynamic` and `longrope` are for texts of up to `config.rope_length` tokens; None: no
  longer than the model was first trained on.

  Returns:
    frequencies [len(config.ropes), H / 2] of the widest heads, radians a position, and scales
    [len(config.ropes)] that multiply cosines and sines.
  """
  length = config.rope_length or 0
  widths = [config.rope_head_dim(index) for index in range(len(config.ropes))]
  frequencies = np.zeros((len(widths), max(widths) // 2))
  for row, rope, width in zip(frequencies, config.ropes, widths, strict=True):
    row[: width // 2] = _frequencies(rope, width, config.max_positions, length)
  scales = [_output_scale(rope) for rope in config.ropes]
  return np.asarray(frequencies, np.float32), np.asarray(scales, np.float32)


def config_for_length(config: ModelConfig, length: int) -> ModelConfig:
  """The config whose ropes turn as they do where the longest text has `length` tokens.

  Lengths with the same angles get the same config, so that programs are not compiled for each:
  `rope_length` is None where the angles are those of short texts, `max_positions` where those of a
  full context.
  """
  exact = dataclasses.replace(config, rope_length=length)
  wanted = rope_frequencies(exact)[0]
  for known in (None, config.max_positions):
    same = dataclasses.replace(config, rope_length=known)
    if np.array_equal(wanted, rope_frequencies(same)[0]):
      return same
  return exact


def rope_turns(
  config: ModelConfig, positions: Int[Array, "*B T"]
) -> tuple[Float[Array, "*B T ropes h"], Float[Array, "*B T ropes h"]]:
  """Scaled cosines and sines of every position's angles; 1 and 0 for pairs that do not turn."""
  frequencies, scales = rope_frequencies(config)
  angles = jnp.multiply.outer(positions.astype(jnp.float32), frequencies)
  scales = np.where(frequencies == 0, np.float32(1), scales[:, None])
  scales = np.expand_dims(scales, tuple(range(positions.ndim)))
  return jnp.cos(angles) * scales, jnp.sin(angles) * scales


def query_scales(config: ModelConfig, positions: Int[Array, "*B T"]) -> Float[Array, "*B T 1 1"]:
  """Factors that queries grow by with their positions, beside heads and their width.

  Source: the attention scale of Llama 4.
  """
  rope = config.ropes[0]
  assert rope.query_growth is not None
  grown = rope.query_growth * jnp.log1p(positions // rope.original_max_positions)
  return (1 + grown)[..., None, None]


def apply_rope(
  x: Float[Array, "*B T N H"], cos: Float[Array, "*B T h"], sin: Float[Array, "*B T h"]
) -> Float[Array, "*B T N H"]:
  """Rotates pairs (i, i + H / 2) of each head by its position's angles (half-split convention)."""
  first, second = jnp.split(x, 2, axis=-1)
  cos, sin = cos[..., None, :], sin[..., None, :]
  return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _unscaled(theta: float, head_dim: int) -> np.ndarray:
  return theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)


def _frequencies(rope: RopeConfig, head_dim: int, max_positions: int, length: int) -> np.ndarray:
  width = rope.rotated_width(head_dim)
  frequencies = np.zeros(head_dim // 2)
  frequencies[: width // 2] = _of_rotated(rope, width, max_positions, length)
  return frequencies


def _of_rotated(rope: RopeConfig, head_dim: int, max_positions: int, length: int) -> np.ndarray:
  """Frequencies of the dimensions that are rotated."""
  plain = _unscaled(rope.theta, head_dim)
  match rope.kind:
    case "none":
      return np.zeros_like(plain)
    case "default":
      return plain
    case "linear":  # positions divided by `factor`
      return plain / rope.factor
    case "dynamic":  # theta grows with the text once that is longer than the context
      stretch = rope.factor * max(length / max_positions, 1.0) - (rope.factor - 1)
      return _unscaled(rope.theta * stretch ** (head_dim / (head_dim - 2)), head_dim)
    case "yarn":
      interpolated = _yarn_ramp(rope, head_dim)
      return plain * (1 - interpolated) + plain / rope.factor * interpolated
    case "longrope":  # LongRoPE, arXiv 2402.13753: a divisor for each pair
      long = length > rope.original_max_positions
      return plain / np.asarray(rope.long_factor if long else rope.short_factor, np.float64)
    case "llama3":  # long waves are stretched by `factor`, short ones kept, those between blended
      turns = rope.original_max_positions * plain / (2 * math.pi)  # over the trained context
      kept = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
      kept = np.clip(kept, 0, 1)
      return plain * kept + plain / rope.factor * (1 - kept)
    case "proportional":  # only the fastest pairs rotate
      rotated = int(rope.rotated_fraction * head_dim // 2)
      return np.where(np.arange(head_dim // 2) < rotated, plain / rope.factor, 0.0)
    case _:
      raise AssertionError(rope.kind)  # RopeConfig accepts no other


def _yarn_ramp(rope: RopeConfig, head_dim: int) -> np.ndarray:
  """Weight of interpolation for each pair: fast ones 0, slow ones 1 (YaRN, arXiv 2309.00071)."""

  def pair_that_turns(times: float) -> float:  # over the trained context
    waves = rope.original_max_positions / (times * 2 * math.pi)
    return head_dim * math.log(waves) / (2 * math.log(rope.theta))

  low, high = pair_that_turns(rope.beta_fast), pair_that_turns(rope.beta_slow)
  if rope.truncate:
    low, high = math.floor(low), math.ceil(high)
  low, high = max(low, 0), min(high, head_dim - 1)
  width = high - low if high != low else 0.001  # transformers' guard against dividing by zero
  return np.clip((np.arange(head_dim // 2) - low) / width, 0, 1)


def _output_scale(rope: RopeConfig) -> float:
  """Factor of cosines and sines; only yarn and longrope change it."""
  if rope.kind not in ("yarn", "longrope"):
    return 1.0
  if rope.attention_factor is not None:
    return rope.attention_factor
  log_factor = math.log(max(rope.factor, 1.0))
  if rope.kind == "longrope":
    return math.sqrt(1 + log_factor / math.log(rope.original_max_positions))
  if rope.mscale and rope.mscale_all_dim:
    return (0.1 * rope.mscale * log_factor + 1) / (0.1 * rope.mscale_all_dim * log_factor + 1)
  return 0.1 * log_factor + 1
