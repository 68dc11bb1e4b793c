"""From a job's config to its settings: every key there, none unknown, each of its kind."""

import dataclasses
from collections.abc import Mapping
from typing import Any, cast, get_origin

from greedy_prune_jax.chains.errors import UserError

_KIND_NAMES = {
  str: "a string",
  int: "a whole number",
  float: "a number",
  bool: "True or False",
  tuple: "a tuple",
  dict: "a group of settings",
}


def checked_fields(cls: type, config: Mapping[str, Any], file: str) -> dict[str, Any]:
  """The values in `config` for the fields of a dataclass.

  A whole number will do where a number is asked for, and becomes one. A group becomes the dataclass
  that the field is of, by its `from_config`.

  Args:
    cls: the dataclass.
    config: what the config file and the command line say.
    file: where the keys are explained, for messages.

  Raises:
    UserError: a key is missing or unknown, or its value is of the wrong kind.
  """
  kinds = {field.name: get_origin(field.type) or field.type for field in dataclasses.fields(cls)}
  if missing := sorted(set(kinds) - set(config)):
    raise UserError(f"the config lacks {', '.join(missing)}; see {file}")
  if unknown := sorted(set(config) - set(kinds)):
    raise UserError(f"the config has unknown keys: {', '.join(unknown)}; see {file}")
  values = dict(config)
  for name, kind in kinds.items():
    if kind is float and type(values[name]) is int:
      values[name] = float(values[name])
    if dataclasses.is_dataclass(kind) and isinstance(values[name], Mapping):
      values[name] = cast(Any, kind).from_config(values[name], file)
    if type(values[name]) is not kind:
      expected = _KIND_NAMES.get(kind, "a group of settings")
      raise UserError(f"{name}={values[name]!r}; expected {expected}; see {file}")
  return values


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
  """A UserError unless `value` is one of `choices`."""
  if value not in choices:
    raise UserError(f"{name}={value!r}; expected one of {', '.join(choices)}")


def check_least(settings: Any, least: int, *names: str) -> None:
  """A UserError unless each of the named settings is at least `least`."""
  for name in names:
    if getattr(settings, name) < least:
      raise UserError(f"{name}={getattr(settings, name)}; expected {least} or more")
