"""Replies that should be JSON: asked for in words, and found in what was written."""

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.teachers.teacher import ChatPrompt

_SHOWN = 60  # characters of a reply that a message quotes


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


def read_object(text: str) -> dict[str, Any]:
  """The JSON object that a reply is, or holds among words or in a code block: the longest.

  Whether it follows its schema is for the caller to check: not every endpoint holds to one.

  Raises:
    UserError: there is none.
  """
  decoder = json.JSONDecoder()
  longest, longest_length, start = None, 0, text.find("{")
  while start >= 0:
    try:
      found, end = decoder.raw_decode(text, start)
    except (ValueError, RecursionError):
      end = start + 1
    else:
      if end - start > longest_length:
        longest, longest_length = found, end - start
    start = text.find("{", end)
  if longest is None:
    raise UserError(f"no JSON object is in the reply {_shown(text)}")
  return longest


def mend_object(text: str, keys: Sequence[str]) -> dict[str, Any]:
  """The JSON object with these keys that a reply is or holds, mended where it is broken.

  Small models and endpoints that hold to no schema forget quotes, commas and closing brackets; the
  package json-repair puts them back. What a reply that breaks off did not say stays unsaid.

  Raises:
    UserError: there is none.
    ImportError: the package json-repair is not installed, and the reply is broken.
  """
  try:
    found = read_object(text)
  except UserError:
    found = {}
  if set(keys) <= set(found):
    return _encodable(found)
  import json_repair  # an extra

  # From the brace before the first key on: braces of other kinds may stand before it.
  key = re.search(rf"""\{{\s*["']?{re.escape(keys[0])}["']?\s*:""", text)
  mended = json_repair.loads(text[key.start() :]) if key else None
  for found in mended if isinstance(mended, list) else [mended]:
    if isinstance(found, dict) and set(keys) <= set(found):
      return _encodable(found)
  raise UserError(f"no JSON object with {', '.join(keys)} is in the reply {_shown(text)}")


def _encodable(found: dict[str, Any]) -> dict[str, Any]:
  """The object, if its texts can be written to a file."""
  try:
    json.dumps(found, ensure_ascii=False).encode()
  except UnicodeEncodeError as error:
    raise UserError(
      "the reply's JSON has half of a surrogate pair (\\ud800 to \\udfff alone)"
    ) from error
  return found


def _shown(text: str) -> str:
  return repr(text[:_SHOWN] + ("..." if len(text) > _SHOWN else ""))
