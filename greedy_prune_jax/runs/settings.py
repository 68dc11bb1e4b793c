"""From a job's config to its settings: every key there, none unknown, each of its kind."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar, cast, get_args, get_origin

from greedy_prune_jax.errors import UserError

DTYPES = ("float32", "bfloat16")  # of weights
ON_BAD_CHAIN = ("error", "skip")

_MOST_INTEGER = 2**53  # up to here JSON readers keep every whole number
# Sizes beyond any machine, which would be allocated, or looped over, before anything is said.
MOST = {
  "batch_size": 2**24,
  "batch_positions": 2**31,
  "concurrency": 2**16,
  "deletions_per_step": 10_000,
  "lora_rank": 2**16,
  "max_attempts": 10_000,
  "max_new_tokens": 2**24,
  "num_samples": 2**20,
  "num_shots": 10_000,
  "save_every": 2**40,
  "steps": 2**24,  # each has its learning rate in memory
}

SettingsT = TypeVar("SettingsT")

_KIND_NAMES = {
  str: "a string",
  int: "a whole number",
  float: "a number",
  bool: "True or False",
  tuple: "a tuple",
  dict: "a group of settings",
}


def read_settings(cls: type[SettingsT], config: Mapping[str, Any], file: str) -> SettingsT:
  """Makes a settings dataclass from the config's keys.

  A whole number is accepted where a number is asked for. A group of keys becomes the dataclass that
  its field is declared with.

  Args:
    file: the config file that explains the keys, for messages.

  Raises:
    UserError: a key is missing or unknown, or its value is of the wrong kind or not possible.
  """
  fields = dataclasses.fields(cast(Any, cls))
  declared = {field.name: field.type for field in fields}
  kinds = {name: get_origin(kind) or kind for name, kind in declared.items()}
  if missing := sorted(set(kinds) - set(config)):
    raise UserError(f"the config lacks {', '.join(missing)}; see {file}")
  if unknown := sorted(set(config) - set(kinds)):
    raise UserError(f"the config has unknown keys: {', '.join(unknown)}; see {file}")
  values = dict(config)
  for name, kind in kinds.items():
    if dataclasses.is_dataclass(kind) and isinstance(values[name], Mapping):
      values[name] = read_settings(cast(type, kind), values[name], file)
    values[name] = _as_declared(values[name], declared[name])
    if type(values[name]) is not kind:
      expected = _KIND_NAMES.get(cast(type, kind), "a group of settings")
      raise UserError(f"{name}={values[name]!r}; expected {expected}; see {file}")
    _check_possible(name, values[name], declared[name], file)
  return cls(**values)


def _as_declared(value: Any, kind: Any) -> Any:
  """The value; lists as tuples, whole numbers as floats, where these are asked for and possible."""
  if isinstance(value, list | tuple) and get_origin(kind) is tuple:
    (item_kind, *_) = get_args(kind)
    return tuple(_as_declared(item, item_kind) for item in value)
  return float(value) if kind is float and type(value) is int and abs(value) < 2**53 else value


def _check_possible(name: str, value: Any, kind: Any, file: str) -> None:
  """A UserError for what is of the right kind and yet no number, no text or no size."""
  if isinstance(value, float) and not math.isfinite(value):
    raise UserError(f"{name}={value}; expected a finite number; see {file}")
  if type(value) is int and abs(value) > MOST.get(name, _MOST_INTEGER):
    raise UserError(f"{name}={value}; expected at most {MOST.get(name, _MOST_INTEGER)}; see {file}")
  if isinstance(value, str) and "\0" in value:
    raise UserError(f"{name}={value!r} has a NUL character; see {file}")
  if isinstance(value, tuple):
    (item_kind, *_) = get_args(kind) or (object,)
    for item in value:
      if item_kind in _KIND_NAMES and type(item) is not item_kind:
        raise UserError(
          f"{name}={value} has {item!r}; expected {_KIND_NAMES[item_kind]} for each; see {file}"
        )
      _check_possible(name, item, item_kind, file)


class JobSettings:
  """Base of the settings dataclass of a job.

  Attributes:
    config_file: the file under `configs/` that explains the keys.
  """

  config_file: ClassVar[str]

  def __post_init__(self):
    """Checks the values; each class of a hierarchy checks its own and calls its base's."""

  @classmethod
  def from_config(cls: type[SettingsT], config: Mapping[str, Any]) -> SettingsT:
    """Makes the settings from a job's config; see `read_settings`."""
    return read_settings(cls, config, cast(type[JobSettings], cls).config_file)


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
  """A UserError unless `value` is one of `choices`."""
  if value not in choices:
    raise UserError(f"{name}={value!r}; expected one of {', '.join(choices)}")


def check_least(settings: Any, least: int, *names: str) -> None:
  """A UserError unless each of the named settings is at least `least`."""
  for name in names:
    if getattr(settings, name) < least:
      raise UserError(f"{name}={getattr(settings, name)}; expected {least} or more")
