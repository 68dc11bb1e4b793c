"""The prompts of the stages: files beside this one, filled in, and named by a hash."""

import functools
import hashlib
import importlib.resources
import json
import string
from collections.abc import Mapping
from typing import Any

from greedy_prune_jax.pruning.drp import skills

_FOLDER = importlib.resources.files("greedy_prune_jax.pruning.drp") / "prompts"
_DIGITS = 12  # of a version


def write_prompt(stage: str, values: Mapping[str, str], complaint: str = "") -> str:
  """A stage's prompt.

  Args:
    stage: names the file.
    values: of the file's placeholders.
    complaint: what was wrong with the reply before, or empty.
  """
  prompt = string.Template(_read(stage)).substitute({"skills": skills.guide(), **values})
  if complaint:
    prompt += string.Template(_read("again")).substitute(complaint=complaint)
  return prompt.strip()


def version(stage: str, schema: Mapping[str, Any]) -> str:
  """A hash of all that a stage asks but for the chain: files, skills and the reply's schema."""
  parts = [_read(stage), _read("again"), skills.guide(), json.dumps(schema, sort_keys=True)]
  return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:_DIGITS]


@functools.cache
def _read(name: str) -> str:
  return (_FOLDER / f"{name}.txt").read_text(encoding="utf-8")
