"""A tiny student and its settings."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from configs import distill as config_file
from greedy_prune_jax.distill.settings import DistillSettings
from greedy_prune_jax.distill.step import Student
from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.decoder import Decoder, Model

LORA = {"lora_rank": 2, "lora_alpha": 4.0}
CONFIG = ModelConfig(
  family="llama",
  vocab_size=61,
  model_dim=16,
  num_layers=2,
  num_heads=4,
  num_kv_heads=2,
  head_dim=4,
  mlp_dim=24,
  max_positions=64,
  norm_eps=1e-5,
  tied_head=True,
)


def tiny_student_model(**switches) -> Model:
  config = dataclasses.replace(CONFIG, **switches)
  return Model.from_decoder(Decoder(config, nnx.Rngs(0)))


def student(model, lora=None, dtype="float32", remat="none") -> Student:
  return Student(model, lora, jnp.dtype(dtype), remat)


def settings(**changes) -> DistillSettings:
  defaults = {"show_progress": False, "mesh": {"data": 1, "model": 1}}
  config = config_file.get_config().to_dict() | defaults | changes
  return DistillSettings.from_config(config)


def close(a, b, **kwargs):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **kwargs), a, b)


def json_config(workdir) -> dict:
  """A run's config as `settings` takes it."""
  config = json.loads((workdir / "config.json").read_text())
  return {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
