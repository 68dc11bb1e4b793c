"""Typed access to the keys of a JSON object, with errors that name the key."""

from collections.abc import Iterable
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


def _names(kinds: Iterable[type]) -> str:
  return " or ".join(_JSON_NAMES.get(kind, kind.__name__) for kind in kinds)
