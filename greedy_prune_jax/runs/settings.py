"""From a job's config to its settings: every key there, none unknown, each of its kind."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar, cast, get_origin

from greedy_prune_jax.errors import UserError

DTYPES = ("float32", "bfloat16")  # of weights
ON_BAD_CHAIN = ("error", "skip")

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
    cls: the dataclass.
    config: values by key, from the config file and the command line.
    file: the config file that explains the keys, for messages.

  Raises:
    UserError: a key is missing or unknown, or its value is of the wrong kind or not possible.
  """
  fields = dataclasses.fields(cast(Any, cls))
  kinds = {field.name: get_origin(field.type) or field.type for field in fields}
  if missing := sorted(set(kinds) - set(config)):
    raise UserError(f"the config lacks {', '.join(missing)}; see {file}")
  if unknown := sorted(set(config) - set(kinds)):
    raise UserError(f"the config has unknown keys: {', '.join(unknown)}; see {file}")
  values = dict(config)
  for name, kind in kinds.items():
    if kind is float and type(values[name]) is int:
      values[name] = float(values[name])
    if dataclasses.is_dataclass(kind) and isinstance(values[name], Mapping):
      values[name] = read_settings(cast(type, kind), values[name], file)
    if type(values[name]) is not kind:
      expected = _KIND_NAMES.get(cast(type, kind), "a group of settings")
      raise UserError(f"{name}={values[name]!r}; expected {expected}; see {file}")
  return cls(**values)


class JobSettings:
  """Base of the settings dataclass of a job.

  Attributes:
    config_file: the file under `configs/` that explains the keys.
  """

  config_file: ClassVar[str]

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
