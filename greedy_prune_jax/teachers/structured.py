"""Replies that should be JSON: asked for in words, and found in what was written."""

import dataclasses
import json
from typing import Any

from greedy_prune_jax.chains.errors import UserError
from greedy_prune_jax.teachers.teacher import Prompt

_SHOWN = 60  # characters of a reply that a message quotes


def schema_in_words(prompt: Prompt) -> Prompt:
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
    shown = text[:_SHOWN] + ("..." if len(text) > _SHOWN else "")
    raise UserError(f"no JSON object is in the reply {shown!r}")
  return longest
