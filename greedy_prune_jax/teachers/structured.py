"""Replies that should be JSON: the request in words, and the search for the object in a reply."""

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
# Bounds that keep the work on a reply linear in its length.
_MOST_WORK = 20  # characters read in all attempts, for each character of the reply
_ATTEMPT = 20  # fixed cost of an attempt, in characters that could be read in the same time
_RECURSION = 2000  # characters that an attempt reads before it fails because nesting is too deep
_MOST_MENDED = 100_000  # characters; longer replies are not mended


def schema_in_words(prompt: ChatPrompt) -> ChatPrompt:
  """Adds a request for JSON that follows the prompt's schema to its system text."""
  if prompt.schema is None:
    return prompt
  request = (
    "Reply with one JSON object that follows this JSON schema, and nothing else:\n"
    f"{json.dumps(prompt.schema, ensure_ascii=False)}"
  )
  system = f"{prompt.system}\n\n{request}" if prompt.system else request
  return dataclasses.replace(prompt, system=system)


def read_object(text: str, schema: Mapping[str, Any]) -> dict[str, Any]:
  """Finds the JSON object of a reply: the whole reply, or a part of it among words or in a block.

  Of several objects it is the last that follows the schema, or else the last that has the schema's
  keys. Thinking is not searched, because a draft there is not the reply. The caller checks whether
  the object follows its schema, since some endpoints ignore it.

  Raises:
    UserError: the reply has no such object.
  """
  for object_ in _objects(text, schema):
    return object_
  raise UserError(f"no JSON object with {_named(schema)} is in the reply {_shown(text)}")


def mend_object(text: str, schema: Mapping[str, Any]) -> dict[str, Any]:
  """Finds the JSON object of a reply as `read_object` does, and repairs a broken one.

  Small models, and endpoints that ignore schemas, forget quotes, commas and closing brackets. The
  package json-repair adds these; it does not complete a reply that breaks off.

  Raises:
    UserError: the reply has no such object.
    ImportError: the object is broken, and the package json-repair is not installed.
  """
  for object_ in (*_objects(text, schema), *_mended(text, schema["required"])):
    return _encodable(object_)
  raise UserError(f"no JSON object with {_named(schema)} is in the reply {_shown(text)}")


def _named(schema: Mapping[str, Any]) -> str:
  return ", ".join(schema["required"])


_TYPES = {"object": dict, "array": list, "string": str, "integer": int}


def _follows(value: Any, schema: Mapping[str, Any]) -> bool:
  """Tells whether a value has a schema's types and all keys that the schema requires."""
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
  """The intact objects with a schema's keys: those that follow it first, each group last first."""
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
      continue  # inside the object before
    try:
      value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
      # The decoder read up to the error, and counted lines up to there for its message.
      work -= getattr(error, "pos", start + _RECURSION) - start + start // 20 + _ATTEMPT
      if work < 0:
        break
    else:
      if value.keys() >= keys:
        objects.append(value)
  return sorted(objects[::-1], key=lambda value: not _follows(value, schema))


def _mended(text: str, keys: Sequence[str]) -> list[dict[str, Any]]:
  """The objects with the given keys that json-repair finds in a reply."""
  import json_repair  # optional

  text = hide_thinking(text)
  # The object begins at the last brace before its first key; other braces may stand before that.
  starts = [m.start() for m in re.finditer(rf"""\{{\s*["']?{re.escape(keys[0])}["']?\s*:""", text)]
  if not starts or len(text) - starts[-1] > _MOST_MENDED:
    return []
  try:
    mended = json_repair.loads(text[starts[-1] :])
  except Exception:  # the package can fail in any way on a text that nobody foresaw
    return []
  values = mended if isinstance(mended, list) else [mended]
  return [x for x in values if isinstance(x, dict) and x.keys() >= set(keys)]


def _encodable(parsed: dict[str, Any]) -> dict[str, Any]:
  """Returns the object, or raises a UserError where UTF-8 cannot write its texts."""
  try:
    json.dumps(parsed, ensure_ascii=False).encode()
  except UnicodeEncodeError as error:
    raise UserError(
      "the reply's JSON has half of a surrogate pair (\\ud800 to \\udfff alone)"
    ) from error
  return parsed


def _shown(text: str) -> str:
  return repr(text[:_SHOWN] + ("..." if len(text) > _SHOWN else ""))
