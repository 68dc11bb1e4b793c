"""Contents of a `config.json` from a model config, as transformers 4 and 5 read them."""

import dataclasses
from typing import Any

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.config import FULL_ATTENTION, ModelConfig
from greedy_prune_jax.models.families import FAMILIES
from greedy_prune_jax.models.family import Family
from greedy_prune_jax.models.hf_config import (
  ACTIVATIONS,
  FULL,
  RECURRENT,
  ROPE_FIELDS,
  SLIDING,
  config_classes,
  config_from_hf,
)
from greedy_prune_jax.models.rope_config import ROPE_KINDS, RopeConfig


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
  """The contents of a config.json that transformers 4 and 5 and their kin read.

  Raises:
    ValueError: the family's config.json has no words for this model.
  """
  family = FAMILIES[config.family]
  values: dict[str, Any] = {"architectures": [family.hf_class], "model_type": family.name}
  for field, key in family.hf_keys.items():
    value = getattr(config, field)
    if field == "activation":
      value = next(name for name, ours in ACTIVATIONS.items() if ours == value)
    if key == "query_pre_attn_scalar":
      value = config.query_scale**-2
      value = round(value) if abs(value - round(value)) < 1e-6 else value
    values[key] = value
  if config.per_layer_dim:
    values["vocab_size_per_layer_input"] = config.vocab_size
  values |= _window_keys(config) | _rope_keys(config)
  try:
    again = config_from_hf(values)
  except UserError as error:
    raise ValueError(f"a {family.name} config.json has no words for {config}: {error}") from error
  if again != config:
    raise ValueError(f"a {family.name} config.json has no words for {config}")
  return values


def _window_keys(config: ModelConfig) -> dict[str, Any]:
  honoured = {f.name: str(f.type) for f in dataclasses.fields(config_classes()[config.family])}
  windows = set(config.window_of_layers) - {FULL_ATTENTION}
  window = windows.pop() if len(windows) == 1 else None
  keys: dict[str, Any] = {
    "sliding_window": window,
    "use_sliding_window": window is not None,
    "layer_types": _layer_types(config),
  }
  keys |= {**FAMILIES[config.family].fixed, **FAMILIES[config.family].written}
  keys["decoder_sparse_step"] = 1
  keys["mlp_only_layers"] = [i for i, kind in enumerate(config.kind_of_layers) if kind == "mlp"]
  keys["position_embedding_type"] = None if config.layer_rope else "rope"
  keys["no_rope_layers"] = [1 - without for without in config.rope_of_layers]
  if window is None and "None" not in honoured.get("sliding_window", "None"):
    del keys["sliding_window"]  # a class that knows no null has a default, which no layer reads
  return {key: value for key, value in keys.items() if key in honoured}


def _layer_types(config: ModelConfig) -> list[str]:
  types = [FULL if window == FULL_ATTENTION else SLIDING for window in config.window_of_layers]
  for layer in config.recurrent_layers:
    types[layer] = RECURRENT[config.recurrence]
  return types


def _rope_keys(config: ModelConfig) -> dict[str, Any]:
  """Both the `rope_parameters` of transformers 5 and the keys of transformers 4."""
  family = FAMILIES[config.family]
  first = _rope_parameters(family, config.ropes[0])
  scaling = {key: value for key, value in first.items() if key != "rope_theta"}
  keys = {
    "rope_theta": config.ropes[0].theta,
    "rope_scaling": None if config.ropes[0].kind == "default" else scaling,
    "rope_parameters": first,
  }
  if config.ropes[0].original_max_positions:  # some families look for it here
    keys["original_max_position_embeddings"] = config.ropes[0].original_max_positions
  if family.rope_by_kind:
    second = _rope_parameters(family, config.ropes[1])
    keys["rope_local_base_freq"] = config.ropes[1].theta
    keys["rope_parameters"] = {FULL: first, SLIDING: second}
  return {"rope_parameters": keys["rope_parameters"]} if family.only_in_5 else keys


def _rope_parameters(family: Family, rope: RopeConfig) -> dict[str, Any]:
  needed = ["kind", "theta", *ROPE_KINDS[rope.kind]]
  needed += ["rotated_fraction"] * family.partial_rotary  # else the family's own default holds
  default = RopeConfig()
  parameters = {key: getattr(rope, field) for key, field in ROPE_FIELDS.items()}
  return {
    key: list(value) if isinstance(value, tuple) else value
    for key, value in parameters.items()
    if ROPE_FIELDS[key] in needed or value != getattr(default, ROPE_FIELDS[key])
  }
