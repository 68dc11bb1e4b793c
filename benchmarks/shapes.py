"""Shapes of well-known models, for benchmarks on random weights."""

import dataclasses
from typing import Any

import jax
import numpy as np
from flax import nnx

from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.decoder import Decoder, Model
from greedy_prune_jax.models.parameters import abstract_model
from greedy_prune_jax.models.rope_config import RopeConfig


def _shape(family: str, vocab: int, sizes: tuple[int, ...], **more: Any) -> ModelConfig:
  layers, d, n, k, h, f = sizes
  return ModelConfig(
    family=family,
    vocab_size=vocab,
    num_layers=layers,
    model_dim=d,
    num_heads=n,
    num_kv_heads=k,
    head_dim=h,
    mlp_dim=f,
    **({"max_positions": 8192, "tied_head": True, "norm_eps": 1e-5} | more),
  )


_LLAMA3_ROPE = RopeConfig(
  theta=500_000.0, kind="llama3", factor=8.0, low_freq_factor=1.0, original_max_positions=8192
)
SHAPES = {  # layers, D, N, K, H, F
  "tiny": _shape("llama", 512, (2, 64, 4, 2, 16, 128)),  # to see that it runs
  "135m": _shape("llama", 49152, (30, 576, 9, 3, 64, 1536)),  # SmolLM2
  "0.5b": _shape("qwen2", 151936, (24, 896, 14, 2, 64, 4864), qkv_bias=True),  # Qwen2.5
  "1.5b": _shape("qwen2", 151936, (28, 1536, 12, 2, 128, 8960), qkv_bias=True),  # Qwen2.5
  "8b": _shape(  # Llama 3.1
    "llama", 128256, (32, 4096, 32, 8, 128, 14336), tied_head=False, ropes=(_LLAMA3_ROPE,)
  ),
  "30b-a3b": _shape(  # Qwen3
    "qwen3_moe",
    151936,
    (48, 2048, 32, 4, 128, 6144),
    qk_norm=True,
    tied_head=False,
    num_experts=128,
    experts_per_token=8,
    expert_dim=768,
    renormalised_experts=True,
  ),
}


def random_model(config: ModelConfig, dtype: Any) -> Model:
  """A model with random weights, made on the default device."""
  return Model.from_decoder(Decoder(config, nnx.Rngs(0), dtype))


def same_model(config: ModelConfig, dtype: Any) -> Model:
  """A model with random weights that are the same on every kind of device: NumPy makes them."""
  abstract = abstract_model(config, dtype)
  rng = np.random.default_rng(0)

  def draw(x: Any) -> jax.Array:
    # Of about unit size after each product; norms, of one axis a layer, near 1.
    values = rng.normal(size=x.shape) * config.model_dim**-0.5
    values = 1 + 0.1 * values if x.ndim < 3 and x.shape[-1] == config.model_dim else values
    return jax.numpy.asarray(values, x.dtype)

  return dataclasses.replace(abstract, params=jax.tree.map(draw, abstract.params))
