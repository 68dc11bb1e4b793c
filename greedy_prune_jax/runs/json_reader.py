"""The one reader of JSON that users, teachers and earlier runs gave."""

import json
import math
from pathlib import Path
from typing import Any

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.files import read_bytes
from greedy_prune_jax.runs.records import Record

MOST_BYTES = 1 << 26  # of a file, or of a line
MOST_DEPTH = 100  # lists and objects within each other; what writes them recurses
_MOST_DIGITS = 300  # of a whole number, so that it has a floating-point neighbour


def parse_json(text: str | bytes) -> Any:
  """The value that a text of JSON stands for.

  Stricter than `json.loads`: NaN, infinities and numbers beyond the range of floats, repeated keys,
  deep nesting and halves of surrogate pairs are errors, since nothing that is written later could
  hold them.

  Raises:
    UserError: the message says what is wrong, and can follow "FILE, line N: ".
  """
  try:
    if isinstance(text, bytes):
      text = text.decode("utf-8-sig")
    value = json.loads(
      text,
      parse_constant=_refuse_constant,
      parse_float=_finite,
      parse_int=_whole,
      object_pairs_hook=_object,
    )
  except UserError:
    raise
  except UnicodeDecodeError as error:
    raise UserError(f"is not UTF-8 text (byte {error.start} of the line)") from error
  except RecursionError as error:
    raise UserError(f"is JSON nested more than {MOST_DEPTH} deep") from error
  except ValueError as error:
    raise UserError(f"is not JSON ({error}); expected an object, {{...}}") from error
  if text.count("[") + text.count("{") > MOST_DEPTH and _depth(value) > MOST_DEPTH:
    raise UserError(f"is JSON nested more than {MOST_DEPTH} deep")
  if "\\ud" in text.lower():  # the only way to write half of a surrogate pair
    try:
      json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
      raise UserError("has half of a surrogate pair (\\ud800 to \\udfff alone)") from error
  return value


def read_json(path: Path) -> Record:
  """The object that a JSON file holds; a UserError, which names the file, if it holds none."""
  content = read_bytes(path, MOST_BYTES)
  try:
    return as_object(parse_json(content))
  except UserError as error:
    raise UserError(f"{path} {error}") from error


def as_object(value: Any) -> Record:
  """The value, which must be a JSON object."""
  if not isinstance(value, dict):
    raise UserError(f"is a JSON {type(value).__name__}; expected an object, {{...}}")
  return value


def _refuse_constant(name: str) -> None:
  raise UserError(f"is not JSON ({name} is no JSON number)")


def _finite(text: str) -> float:
  value = float(text)
  if not math.isfinite(value):
    raise UserError(f"has the number {text[:40]}, which is beyond the range of numbers")
  return value


def _whole(text: str) -> int:
  if len(text) > _MOST_DIGITS:
    raise UserError(f"has a whole number of {len(text)} digits; at most {_MOST_DIGITS} are read")
  return int(text)


def _object(pairs: list[tuple[str, Any]]) -> Record:
  record = dict(pairs)
  if len(record) < len(pairs):
    keys = [key for key, _ in pairs]
    repeated = next(key for key in keys if keys.count(key) > 1)
    raise UserError(f'has the key "{repeated}" twice in one object')
  return record


def _depth(value: Any) -> int:
  """Depth of lists and objects at the deepest place."""
  depth, level = 0, [value]
  while level := [x for x in level if isinstance(x, list | dict)]:
    depth += 1
    level = [item for x in level for item in (x.values() if isinstance(x, dict) else x)]
  return depth
