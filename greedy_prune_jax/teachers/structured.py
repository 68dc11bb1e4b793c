"""Replies that should be JSON: asked for in words, and found in what was written."""

import contextlib
import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from greedy_prune_jax.chains.thinking import hide_thinking
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.teachers.teacher import ChatPrompt

_SHOWN = 60  # characters of a reply that a message quotes
_DECODER = json.JSONDecoder()
_OPENING = re.compile(r"\{(?=\s*[\"}])")
# Bounds of the work on a reply, so that it grows with its length and no faster.
_MOST_WORK = 20  # characters read for each of the reply's
_ATTEMPT = 20  # characters that could be read in the time that an attempt takes beside its reading
_RECURSION = 2000  # characters that are read before nesting is too deep
_MOST_MENDED = 100_000  # characters; what is broken in a longer reply stays so


def schema_in_words(prompt: ChatPrompt) -> ChatPrompt:
  """The prompt, asking in its system text for what its schema says."""
  if prompt.schema is None:
    return prompt
  request = (
    "Reply with one JSON object that follows this JSON schema, and nothing else:\n"
    f"{json.dumps(prompt.schema, ensure_ascii=False)}"
  )
  system = f"{prompt.system}\n\n{request}" if prompt.system else request
  return dataclasses.replace(prompt, system=system)


def read_object(text: str, schema: Mapping[str, Any]) -> dict[str, Any]:
  """The JSON object that a reply is, or holds among words or in a code block.

  Of several it is the last that follows the schema, or else that has its keys; what a model thinks
  before its reply holds none: a draft that it rejected is not its reply. Whether the object follows
  its schema is for the caller to check: not every endpoint holds to one.

  Raises:
    UserError: there is none.
  """
  for object_ in _objects(text, schema):
    return object_
  raise UserError(f"no JSON object with {_named(schema)} is in the reply {_shown(text)}")


def mend_object(text: str, schema: Mapping[str, Any]) -> dict[str, Any]:
  """The JSON object of a schema that a reply is or holds, mended where it is broken.

  Small models and endpoints that hold to no schema forget quotes, commas and closing brackets; the
  package json-repair puts them back. What a reply that breaks off did not say stays unsaid.

  Raises:
    UserError: there is none.
    ImportError: the package json-repair is not installed, and the reply is broken.
  """
  for object_ in (*_objects(text, schema), *_mended(text, schema["required"])):
    return _encodable(object_)
  raise UserError(f"no JSON object with {_named(schema)} is in the reply {_shown(text)}")


def _named(schema: Mapping[str, Any]) -> str:
  return ", ".join(schema["required"])


_TYPES = {"object": dict, "array": list, "string": str, "integer": int}


def _follows(value: Any, schema: Mapping[str, Any]) -> bool:
  """Tells whether a value is of a schema's types, with all the keys that it requires."""
  if "type" not in schema:
    return value in schema["enum"]
  kind = _TYPES[schema["type"]]
  if not isinstance(value, kind) or isinstance(value, bool):
    return False
  if kind is list:
    return all(_follows(item, schema["items"]) for item in value)
  if kind is dict:
    properties = schema["properties"]
    return all(k in value and _follows(value[k], properties[k]) for k in schema["required"])
  return True


def _objects(text: str, schema: Mapping[str, Any]) -> list[dict[str, Any]]:
  """The whole objects with a schema's keys: those that follow it first, from the last back."""
  keys = set(schema["required"])
  with contextlib.suppress(ValueError, RecursionError):
    value = json.loads(text)
    if isinstance(value, dict) and value.keys() >= keys:
      return [value]
  text = hide_thinking(text)
  objects, end = [], 0
  work = _MOST_WORK * len(text)
  for match in _OPENING.finditer(text):
    start = match.start()
    if start < end:
      continue  # within an object
    try:
      value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
      # It read on to where it failed, and counted the lines before.
      work -= getattr(error, "pos", start + _RECURSION) - start + start // 20 + _ATTEMPT
      if work < 0:
        break
    else:
      if value.keys() >= keys:
        objects.append(value)
  return sorted(objects[::-1], key=lambda value: not _follows(value, schema))


def _mended(text: str, keys: Sequence[str]) -> list[dict[str, Any]]:
  """The objects with the keys that json-repair makes of a reply."""
  import json_repair  # an extra

  text = hide_thinking(text)
  # From the last brace before the first key on: braces of other kinds may stand before it.
  starts = [m.start() for m in re.finditer(rf"""\{{\s*["']?{re.escape(keys[0])}["']?\s*:""", text)]
  if not starts or len(text) - starts[-1] > _MOST_MENDED:
    return []
  try:
    mended = json_repair.loads(text[starts[-1] :])
  except Exception:  # what the package makes of texts that nobody foresaw: nothing
    return []
  values = mended if isinstance(mended, list) else [mended]
  return [x for x in values if isinstance(x, dict) and x.keys() >= set(keys)]


def _encodable(parsed: dict[str, Any]) -> dict[str, Any]:
  """The object, if its texts can be written to a file."""
  try:
    json.dumps(parsed, ensure_ascii=False).encode()
  except UnicodeEncodeError as error:
    raise UserError(
      "the reply's JSON has half of a surrogate pair (\\ud800 to \\udfff alone)"
    ) from error
  return parsed


def _shown(text: str) -> str:
  return repr(text[:_SHOWN] + ("..." if len(text) > _SHOWN else ""))
