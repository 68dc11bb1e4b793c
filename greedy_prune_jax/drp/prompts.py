"""Prompts of the stages, filled in from the files beside this one, and the skills they name."""

import functools
import hashlib
import importlib.resources
import json
import string
from collections.abc import Mapping
from typing import Any

_FOLDER = importlib.resources.files("greedy_prune_jax.drp") / "prompts"
_DIGITS = 12  # of a version

# Skills by name, with the guide that a teacher reads.
SKILLS: Mapping[str, str] = {
  "reading a quantity": "takes a number or a fact from the question",
  "planning": "says what is to be found, or how",
  "setting up an equation": "puts relations into symbols, or names an unknown",
  "addition": "adds",
  "subtraction": "subtracts, or compares by a difference",
  "multiplication": "multiplies, squares, or repeats an amount",
  "division": "divides, or shares out",
  "ratio": "works with ratios, proportions or rates",
  "fraction": "takes a part of a whole, or calculates with fractions",
  "percentage": "works with percentages",
  "unit conversion": "changes minutes to hours, cents to dollars, and the like",
  "algebra": "rearranges, simplifies, factors or solves",
  "geometry": "uses a property of figures",
  "counting": "enumerates cases, or counts arrangements",
  "number theory": "uses divisors, primes, remainders or digits",
  "estimation": "rounds, bounds or approximates",
  "recalling a fact": "states a rule, formula or fact that the question does not give",
  "inference": "draws a conclusion without a calculation",
  "comparing options": "weighs the options of a multiple-choice question",
  "checking": "verifies, doubts or repeats what was done",
  "stating the answer": "says what the answer is",
  "other": "none of these",
}


def stage_prompt(stage: str, values: Mapping[str, str], complaint: str = "") -> str:
  """A stage's prompt: its file with these values, and the fault of the reply before, if any."""
  prompt = string.Template(_read(stage)).substitute({"skills": _guide(), **values})
  if complaint:
    prompt += string.Template(_read("again")).substitute(complaint=complaint)
  return prompt.strip()


def version(stage: str, schema: Mapping[str, Any]) -> str:
  """A hash of all that a stage asks but for the chain: files, skills and the reply's schema."""
  parts = [_read(stage), _read("again"), _guide(), json.dumps(schema, sort_keys=True)]
  return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:_DIGITS]


def skill_of(text: str) -> str | None:
  """The skill that a text names, whatever its case and its joints (`Unit_conversion`)."""
  name = " ".join(text.lower().replace("_", " ").replace("-", " ").split())
  return name if name in SKILLS else None


@functools.cache
def _read(name: str) -> str:
  return (_FOLDER / f"{name}.txt").read_text(encoding="utf-8")


def _guide() -> str:
  """The skills as lines of a prompt."""
  return "\n".join(f"- {name}: {meaning}" for name, meaning in SKILLS.items())
