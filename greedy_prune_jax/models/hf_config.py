"""Model configs from the `config.json` of Hugging Face transformers.

transformers itself reads the file, in its forms of versions 4 and 5, and fills in what it lacks.
Where a switch would change the result and is not supported, an error says so; a key that
transformers does not look at is ignored.
"""

import dataclasses
import functools
import importlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers.utils.import_utils import is_torch_available

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.config import FULL_ATTENTION, ModelConfig
from greedy_prune_jax.models.families import FAMILIES, WRAPPERS
from greedy_prune_jax.models.family import Family
from greedy_prune_jax.models.fields import SIZES, FieldError, check_size
from greedy_prune_jax.models.quantised import FP8_BLOCK
from greedy_prune_jax.models.rope_config import ROPE_KINDS, RopeConfig
from greedy_prune_jax.runs.json_reader import read_json
from greedy_prune_jax.runs.records import Record
from greedy_prune_jax.torch_free import import_without_torch

# Entries of `layer_types`.
SLIDING, FULL = "sliding_attention", "full_attention"
RECURRENT = {"delta": "linear_attention", "conv": "conv"}  # by `ModelConfig.recurrence`

# `hidden_act` or `hidden_activation` -> ModelConfig.activation.
ACTIVATIONS = {
  "silu": "silu",
  "swish": "silu",
  "gelu": "gelu",
  "gelu_pytorch_tanh": "gelu_tanh",
  "gelu_new": "gelu_tanh",
  "relu2": "relu2",
  "xielu": "xielu",
}

# Fields of RopeConfig whose keys in `rope_parameters` have another name.
_ROPE_KEYS = {
  "kind": "rope_type",
  "theta": "rope_theta",
  "rotated_fraction": "partial_rotary_factor",
  "original_max_positions": "original_max_position_embeddings",
  "query_growth": "llama_4_scaling_beta",
}
ROPE_FIELDS = {_ROPE_KEYS.get(f.name, f.name): f.name for f in dataclasses.fields(RopeConfig)}

# Keys for which null is a value of its own; elsewhere it counts as missing.
_NULLABLE = (
  "num_key_value_heads",
  "sliding_window",
  "attn_logit_softcapping",
  "final_logit_softcapping",
)

_FLOATS = (str(float), "float", "float | None")  # types of fields that may be written as 1 for 1.0

# Keys that every class of transformers honours, and we do not -> the values that may be given
# beside null, and the reason.
_REFUSED = {
  # "vision": of the tokens of images.
  "use_bidirectional_attention": ((False, "vision"), "only causal attention is supported"),
  "is_causal": ((True,), "only causal attention is supported"),
  "per_layer_config": ((), "layers of different shapes are not supported"),
}


def read_hf_config(path: str | Path) -> ModelConfig:
  """Reads a `config.json`.

  Raises:
    UserError: the file cannot be read, or describes a model that is not supported.
  """
  return config_from_hf(_read(path), str(path))


def is_multimodal_config(path: str | Path) -> bool:
  """Tells whether a `config.json` is that of a multimodal model, of which we take the text model.

  Raises:
    UserError: the file cannot be read.
  """
  return _read(path).get("model_type") in WRAPPERS


def config_from_hf(values: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
  """The model that the contents of a `config.json` describe.

  Args:
    values: the file's contents. Of a multimodal model the text model is taken.
    where: the file, for messages.

  Raises:
    UserError: architecture or a switch is not supported, or keys contradict each other.
  """
  values = _text_model(values)
  family = _family(values, where)
  for key, (allowed, reason) in _REFUSED.items():
    if key == "per_layer_config" and family.heads_by_kind:
      continue
    if values.get(key) is not None and values[key] not in allowed:
      raise UserError(f"{where}: {key}={values[key]!r} is not supported: {reason}.")
  _check_quantisation(values.get("quantization_config"), where)
  for key, reason in family.refused.items():
    if values.get(key):
      raise UserError(f"{where}: {key}={values[key]!r} is not supported: {reason}.")
  keys = {field: key for key, field in ROPE_FIELDS.items()}
  keys |= {"layer_window": "sliding_window", "layer_recurrent": "layer_types"}
  keys |= family.hf_keys
  try:
    return _model_config(family, _by_transformers(family, values))
  except FieldError as error:
    key = keys.get(error.field, error.field)
    raise UserError(f"{where}: {key}={error.shown}; expected {error.expected}.") from error
  except Exception as error:  # transformers raises of every kind
    said = " ".join(str(error).split())
    raise UserError(f"{where}: not a usable config of a {family.name} model: {said}") from error


def _check_quantisation(given: Any, where: str) -> None:
  """Refuses weights in other forms than `quantised` reads."""
  if given is None:
    return
  method = given.get("quant_method") if isinstance(given, Mapping) else given
  if method == "mxfp4":
    return
  if method == "fp8" and given.get("weight_block_size") == [FP8_BLOCK] * 2:
    return
  raise UserError(
    f"{where}: quantization_config has quant_method={method!r}, which is not supported; expected "
    f"float weights, mxfp4, or fp8 with weight_block_size=[{FP8_BLOCK}, {FP8_BLOCK}]. Take another "
    "checkpoint of this model, or a GGUF file."
  )


def _read(path: str | Path) -> Record:
  return _infinite(read_json(Path(path)))


_INFINITE = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}


def _infinite(value: Any) -> Any:
  """Undoes transformers' way of writing infinities and NaN, which JSON lacks."""
  if isinstance(value, list):
    return [_infinite(item) for item in value]
  if not isinstance(value, dict):
    return value
  if value.keys() == {"__float__"} and str(value["__float__"]) in _INFINITE:
    return _INFINITE[str(value["__float__"])]
  return {key: _infinite(item) for key, item in value.items()}


def _text_model(values: Mapping[str, Any]) -> Mapping[str, Any]:
  """The config of the text model, where there are others beside it."""
  wrapped = WRAPPERS.get(str(values.get("model_type")))
  if wrapped is None or not isinstance(values.get("text_config"), dict):
    return values
  outer = {"quantization_config": values.get("quantization_config")}
  inner = values["text_config"]
  name = inner.get("model_type")
  name = name if isinstance(name, str) and name in FAMILIES else wrapped.name
  # The inner config is not asked.
  tied = {"tie_word_embeddings": values.get("tie_word_embeddings", wrapped.wrapper_ties)}
  return {**outer, **inner, **tied, "model_type": name}


def _family(values: Mapping[str, Any], where: str) -> Family:
  name = values.get("model_type")
  if name == "mistral" and values.get("layer_types") is not None:
    name = "ministral"  # so it is for transformers' AutoConfig
  if not isinstance(name, str) or name not in FAMILIES or name not in config_classes():
    raise UserError(
      f"{where}: model_type {name!r} is not supported; supported are {', '.join(FAMILIES)} "
      f"(and the text models of {', '.join(WRAPPERS)})."
    )
  return FAMILIES[name]


@functools.cache
def config_classes() -> dict[str, Any]:
  """transformers' config class of each family that it knows."""

  def load() -> dict[str, Any]:
    ask_again()
    auto = importlib.import_module("transformers.models.auto.configuration_auto")
    return {name: auto.CONFIG_MAPPING[name] for name in FAMILIES if name in auto.CONFIG_MAPPING}

  ask_again = getattr(is_torch_available, "cache_clear", lambda: None)  # it remembers its answer
  try:
    return import_without_torch(load, forget="transformers")
  finally:
    ask_again()


def _by_transformers(family: Family, values: Mapping[str, Any]) -> Any:
  """The file as an object of transformers' class, which checks types and fills in defaults."""
  for field, key in family.hf_keys.items():
    if field in SIZES and values.get(key) is not None:
      check_size(field, values[key])  # before transformers makes lists of so many layers
  given: dict[str, Any] = {k: v for k, v in values.items() if v is not None or k in _NULLABLE}
  # The dtypes would import PyTorch; the last is not asked for by the models' classes.
  for key in ("model_type", "dtype", "torch_dtype", "quantization_config"):
    given.pop(key, None)
  for key in ("rope_parameters", "rope_scaling"):
    if isinstance(rope := given.get(key), Mapping):
      given[key] = _named_by_version_5(rope)
  config_class = config_classes()[family.name]
  for field in dataclasses.fields(config_class):
    value = given.get(field.name)
    if type(value) is int and str(field.type) in _FLOATS:
      given[field.name] = float(value)
  return config_class(**given)


def _named_by_version_5(rope: Mapping[str, Any]) -> dict[str, Any]:
  """A copy of rope parameters with the key `rope_type` in place of the older `type`."""
  rope = {k: dict(v) if isinstance(v, Mapping) else v for k, v in rope.items()}
  if "type" in rope:
    rope.setdefault("rope_type", rope.pop("type"))
  return rope


def _model_config(family: Family, theirs: Any) -> ModelConfig:
  heads = _heads_by_kind(theirs) if family.heads_by_kind else {}
  fields: dict[str, Any] = heads | {
    field: getattr(theirs, key)
    for field, key in family.hf_keys.items()
    if field not in heads and hasattr(theirs, key)
  }
  if not fields.get("experts_beside_mlp", True):  # sizes of experts mean nothing then
    fields |= dict.fromkeys(("num_experts", "experts_per_token", "expert_dim"), 0)
  if fields.get("head_dim") is None:
    fields["head_dim"] = fields["model_dim"] // fields["num_heads"]
  for key, value in family.fixed.items():
    if (given := getattr(theirs, key)) != value:
      raise FieldError(key, given, f"{value}: others are not supported")
  if (activation := fields.get("activation")) is not None:
    if activation not in ACTIVATIONS:
      raise FieldError("activation", activation, f"one of {', '.join(ACTIVATIONS)}")
    fields["activation"] = ACTIVATIONS[activation]
  if getattr(theirs, "block_auto_adjust_ff_dim", False):
    fields["mlp_dim"] = _adjusted_width(theirs, fields["mlp_dim"])
  if family.hf_keys.get("attention_scale") == "query_pre_attn_scalar":
    if not fields["attention_scale"] > 0:
      raise FieldError("attention_scale", fields["attention_scale"], "a number above 0")
    fields["attention_scale"] = fields["attention_scale"] ** -0.5
  windows = _windows(family, theirs, fields["num_layers"])
  sliding = tuple(int(window != FULL_ATTENTION) for window in windows)
  return ModelConfig(
    **(dict(family.switches) | fields),
    family=family.name,
    ropes=_ropes(family, theirs),
    layer_rope=_layer_rope(family, theirs, sliding),
    layer_experts=_layer_experts(theirs, fields),
    layer_recurrent=_layer_recurrent(family, theirs),
    layer_window=windows if any(sliding) else (),
  )


def _adjusted_width(theirs: Any, width: int) -> int:
  """Width of LFM2's feed-forward: two thirds of the one given, up to a multiple of a number."""
  width = int(2 * width / 3)
  if theirs.block_ffn_dim_multiplier is None:
    return width
  multiple = theirs.block_multiple_of
  return -(-int(theirs.block_ffn_dim_multiplier * width) // multiple) * multiple


def _heads_by_kind(theirs: Any) -> dict[str, Any]:
  """Heads of the layers with a window, and of those without; the key says so if others differ."""
  fields: dict[str, Any] = {}
  for key, field in (("head_dim", "head_dim"), ("num_key_value_heads", "kv_heads")):
    of_layers = [getattr(theirs.per_layer_config[i], key) for i in range(len(theirs.layer_types))]
    values = {
      kind: {x for x, of in zip(of_layers, theirs.layer_types, strict=True) if of == kind}
      for kind in (SLIDING, FULL)
    }
    if any(len(found) > 1 for found in values.values()):
      raise FieldError("per_layer_config", of_layers, f"one {key} for all layers of a kind")
    whole = max(values[FULL])
    fields[f"global_{field}"] = whole
    fields["num_kv_heads" if field == "kv_heads" else field] = max(values[SLIDING], default=whole)
  if theirs.hidden_size_per_layer_input and theirs.vocab_size_per_layer_input != theirs.vocab_size:
    found = theirs.vocab_size_per_layer_input
    raise FieldError("vocab_size_per_layer_input", found, f"vocab_size={theirs.vocab_size}")
  return fields


def _windows(family: Family, theirs: Any, num_layers: int) -> tuple[int, ...]:
  """For each layer, how many tokens it attends to."""
  honoured = {field.name for field in dataclasses.fields(theirs)}
  window: Any = theirs.sliding_window if "sliding_window" in honoured else None
  kinds = [SLIDING if window else FULL] * num_layers
  if "layer_types" in honoured:
    kinds = theirs.layer_types
  recurrence = family.switches.get("recurrence")
  known = (FULL, RECURRENT[recurrence]) if recurrence else (SLIDING, FULL)
  if unknown := set(kinds) - set(known):
    raise FieldError("layer_types", sorted(unknown), f"{' and '.join(known)} alone")
  if SLIDING in kinds and not window:
    expected = "a number of tokens: layer_types has sliding layers"
    raise FieldError("sliding_window", window, expected)
  return tuple(window if kind == SLIDING else FULL_ATTENTION for kind in kinds)


def _layer_recurrent(family: Family, theirs: Any) -> tuple[int, ...]:
  """For each layer 1 where it has a recurrence; empty where none has."""
  if (recurrence := family.switches.get("recurrence")) is None:
    return ()
  layers = tuple(int(kind == RECURRENT[recurrence]) for kind in theirs.layer_types)
  return layers if any(layers) else ()


def _layer_experts(theirs: Any, fields: Mapping[str, Any]) -> tuple[int, ...]:
  """For each layer 1 where it has experts; empty where all have, if there are any."""
  if not fields.get("num_experts"):
    return ()
  step, dense = (getattr(theirs, key, None) for key in ("decoder_sparse_step", "mlp_only_layers"))
  layers = [int((layer + 1) % (step or 1) == 0) for layer in range(fields["num_layers"])]
  for layer in dense or ():
    layers[layer] = 0
  return () if all(layers) else tuple(layers)


# Rules for the layers without a rope -> for each layer 1 where it has none.
UNROTATED: dict[str, Callable[[Any, tuple[int, ...]], tuple[int, ...]]] = {
  "": lambda theirs, sliding: (),
  "listed": lambda theirs, sliding: tuple(1 - bool(has) for has in theirs.no_rope_layers),
  "unless asked for": lambda theirs, sliding: (
    () if theirs.position_embedding_type == "rope" else (1,) * theirs.num_hidden_layers
  ),
  "full": lambda theirs, sliding: tuple(1 - slides for slides in sliding) if any(sliding) else (),
}


def _layer_rope(family: Family, theirs: Any, sliding: tuple[int, ...]) -> tuple[int, ...]:
  """For each layer, which of `_ropes` it has."""
  layers = sliding if family.rope_by_kind else UNROTATED[family.unrotated](theirs, sliding)
  return layers if any(layers) else ()


def _ropes(family: Family, theirs: Any) -> tuple[RopeConfig, ...]:
  """One rope, or that of the full layers and that of the sliding ones, or one and none."""
  parameters = theirs.rope_parameters
  if family.rope_by_kind:
    return tuple(_rope(family, theirs, parameters[kind]) for kind in (FULL, SLIDING))
  if {SLIDING, FULL} & parameters.keys():
    nested = sorted({SLIDING, FULL} & parameters.keys())
    raise FieldError("rope_parameters", nested, "one set for all layers in this family")
  rope = _rope(family, theirs, parameters)
  return (rope, RopeConfig(kind="none")) if family.unrotated else (rope,)


def _rope(family: Family, theirs: Any, parameters: Mapping[str, Any]) -> RopeConfig:
  given = {ROPE_FIELDS[k]: v for k, v in parameters.items() if k in ROPE_FIELDS and v is not None}
  kind = given.get("kind", "default")
  kinds = [known for known in ROPE_KINDS if known != "none"]
  if kind not in kinds:
    raise FieldError("kind", kind, f"one of {', '.join(kinds)}")
  for name in ("mscale", "mscale_all_dim", "beta_fast", "beta_slow"):
    if not given.get(name, 1):  # as missing to transformers
      del given[name]
  for name in ("short_factor", "long_factor"):
    if name in given:
      given[name] = tuple(given[name])
  if not family.query_growth:  # transformers does not look at it
    given.pop("query_growth", None)
  if (
    kind != "proportional"
    and not family.partial_rotary
    and given.get("rotated_fraction", 1.0) != 1.0
  ):
    expected = f"no such key: rope_type {kind} rotates whole heads here"
    raise FieldError("rotated_fraction", given["rotated_fraction"], expected)
  if kind in ("yarn", "longrope"):
    original = given.get("original_max_positions")
    check_size("max_positions", original)
    given.setdefault("factor", theirs.max_position_embeddings / original)
  return RopeConfig(**given)
