"""Typed access to the keys of a JSON object, with errors that name the key."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from greedy_prune_jax.errors import UserError

Record = dict[str, Any]  # one JSON object, as `json.loads` gives it

_JSON_NAMES = {
  type(None): "null",
  bool: "true or false",
  int: "a whole number",
  float: "a number",
  str: "a string",
  list: "a list",
  dict: "an object",
}


def get(record: Record, key: str, *kinds: type) -> Any:
  """The value at `key`, which must be of one of `kinds`.

  Raises:
    UserError: there is none, or it is of another kind (JSON's true is no number here, though
      Python's True is an int).
  """
  if key not in record:
    raise UserError(f'lacks the key "{key}" (its keys: {", ".join(record) or "none"})')
  value = record[key]
  if type(value) not in kinds:
    raise UserError(f'"{key}" must be {_names(kinds)}, not {_names([type(value)])}')
  return value


def get_text(record: Record, key: str) -> str:
  """The string at `key`; a UserError where it is missing, no string, or blank."""
  text = get(record, key, str)
  if not text.strip():
    raise UserError(f'"{key}" is empty')
  return text


def get_optional_text(record: Record, key: str) -> str | None:
  """The string at `key`; None where it is missing, null or blank."""
  if record.get(key) is None:
    return None
  text = get(record, key, str)
  return text if text.strip() else None


def get_items(record: Record, key: str, *kinds: type) -> tuple[Any, ...]:
  """The list at `key`, every item of which must be of one of `kinds`."""
  items = get(record, key, list)
  for index, item in enumerate(items):
    if type(item) not in kinds:
      raise UserError(
        f'item {index} of "{key}" must be {_names(kinds)}, not {_names([type(item)])}'
      )
  return tuple(items)


CHECK = "check"  # key of a record's checksum, where a changed number would show in nothing else


def checksum(record: Record) -> str:
  """A hash of all keys but that of the checksum."""
  checked = {key: value for key, value in record.items() if key != CHECK}
  return hashlib.sha256(json.dumps(checked, sort_keys=True).encode()).hexdigest()[:16]


def check_form(value: Any, form: Any, name: str = "the record") -> None:
  """Checks a value of a stored record before anything is done with it.

  Args:
    value: a value of JSON.
    form: a kind (`float` takes whole numbers too); several forms in a tuple, of which one must fit;
      `[form]` for a list of such items, `[form, ...]` for one that is not empty; or an object's
      keys with their forms. A key that ends in `?` may be missing; `*` stands for all keys.
    name: name of the value, in messages.

  Raises:
    UserError: it is of another form; the message names the key.
  """
  forms = form if isinstance(form, tuple) else (form,)
  for one in forms:
    if isinstance(one, type) and (type(value) is one or (one is float and type(value) is int)):
      return
    if isinstance(one, list) and isinstance(value, list):
      for index, item in enumerate(value):
        check_form(item, one[0], f"item {index} of {name}")
      if one[1:] and not value:
        raise UserError(f"{name} is empty")
      return
    if isinstance(one, Mapping) and isinstance(value, dict):
      _check_keys(value, one)
      return
  kinds = (one if isinstance(one, type) else type(one) for one in forms)
  raise UserError(f"{name} must be {_names(kinds)}, not {_names([type(value)])}")


def _check_keys(record: Record, forms: Mapping[str, Any]) -> None:
  for key, form in forms.items():
    if key == "*":
      for each, value in record.items():
        check_form(value, form, f'"{each}"')
    elif key.removesuffix("?") in record:
      check_form(record[key.removesuffix("?")], form, f'"{key.removesuffix("?")}"')
    elif not key.endswith("?"):
      raise UserError(f'lacks the key "{key}" (its keys: {", ".join(record) or "none"})')


def _names(kinds: Iterable[type]) -> str:
  return " or ".join(_JSON_NAMES.get(kind, kind.__name__) for kind in kinds)
