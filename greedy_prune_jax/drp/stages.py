"""The three stages: the prompt of each, its schema, and the checks that its replies must pass.

A stage is data: its name, its schema, and two pure functions of an item. `asking` runs it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from greedy_prune_jax.chains.answers import split_response
from greedy_prune_jax.chains.steps import (
  ACTIONS,
  DECOMPOSED,
  DELETE,
  KEEP,
  MERGE,
  Edit,
  Step,
  edited_text,
  edited_texts,
)
from greedy_prune_jax.chains.thinking import has_reasoning
from greedy_prune_jax.drp import prompts
from greedy_prune_jax.drp.checks import RefusedReplyError, align, check_written
from greedy_prune_jax.drp.invented import invented_numbers
from greedy_prune_jax.drp.items import Item
from greedy_prune_jax.drp.prompts import SKILLS, skill_of
from greedy_prune_jax.runs import records as fields
from greedy_prune_jax.runs.records import Record


@dataclasses.dataclass(frozen=True)
class Stage:
  """One of the three.

  Attributes:
    name: name of the stage and of its prompt's file.
    output: the workdir's folder of its results.
    schema: JSON schema of its reply.
    values: values of its prompt's placeholders.
    read: makes the keys that the stage adds to a record from an item and a reply's object.
  """

  name: str
  output: str
  schema: Mapping[str, Any]
  values: Callable[[Item], dict[str, str]]
  read: Callable[[Item, Record], Record]

  @property
  def version(self) -> str:
    """Of its prompt; see `prompts.version`."""
    return prompts.version(self.name, self.schema)


def _object(**properties: Any) -> dict[str, Any]:
  """The schema of an object with exactly these keys."""
  return {
    "type": "object",
    "properties": properties,
    "required": list(properties),
    "additionalProperties": False,
  }


def _list(items: Any) -> dict[str, Any]:
  return {"type": "array", "items": items}


_TEXT = {"type": "string"}


# Decompose.


def _read_steps(item: Item, reply: Record) -> Record:
  copies, skills = [], []
  for index, step in enumerate(fields.get_items(reply, "steps", dict), start=1):
    copy, name = fields.get(step, "text", str), fields.get(step, "skill", str)
    skill = skill_of(name)
    if skill is None:
      raise RefusedReplyError(
        "unknown_skill",
        f'step {index} has the skill "{name}"; expected one of {", ".join(SKILLS)}',
      )
    if copy.strip():
      copies.append(copy)
      skills.append(skill)
  if not copies:
    raise RefusedReplyError("text_left_out", "there are no steps; expected all of the solution")
  parts = align(item.thinking.text, copies)
  if len(parts) < len(copies):
    raise RefusedReplyError(
      "text_changed", f"{len(copies) - len(parts)} of the steps hold none of the solution's text"
    )
  steps = [Step(part, skill) for part, skill in zip(parts, skills, strict=True)]
  return {"steps": [step.to_record() for step in steps]}


DECOMPOSE = Stage(
  name="decompose",
  output=DECOMPOSED,
  schema=_object(steps=_list(_object(text=_TEXT, skill={"type": "string", "enum": list(SKILLS)}))),
  values=lambda item: {"question": item.chain.question, "reasoning": item.thinking.text},
  read=_read_steps,
)


# Edit.


def _numbered(item: Item) -> str:
  return "\n".join(
    f"{number}. {f'[{step.skill}] ' if step.skill else ''}{step.text.strip()}"
    for number, step in enumerate(item.steps, start=1)
  )


def _read_edits(item: Item, reply: Record) -> Record:
  edits = [_read_edit(item, edit) for edit in fields.get_items(reply, "edits", dict)]
  covered = [index for edit in edits for index in edit.steps]
  if covered != list(range(len(item.steps))):
    raise RefusedReplyError(
      "steps_not_covered",
      f"the edits must name the steps 1 to {len(item.steps)}, each once and in order; they name "
      f"{', '.join(str(index + 1) for index in covered) or 'none'}",
    )
  if not any(edited_texts(item.steps, edits)):
    raise RefusedReplyError("nothing_left", "every step is deleted; what is needed must stay")
  return {
    "edits": [edit.to_record() for edit in edits],
    "invented": invented_numbers(edited_text(item.steps, edits), item.source),
  }


def _read_edit(item: Item, reply: Record) -> Edit:
  steps = item.steps
  numbers = fields.get_items(reply, "steps", int)
  action, text = fields.get(reply, "action", str).strip().lower(), fields.get(reply, "text", str)
  name = f"the edit of step {', '.join(map(str, numbers))}"
  if action not in ACTIONS:
    raise RefusedReplyError(
      "unknown_action", f'{name} has the action "{action}"; expected one of {", ".join(ACTIONS)}'
    )
  if not numbers or not all(1 <= number <= len(steps) for number in numbers):
    raise RefusedReplyError(
      "steps_not_covered", f"{name}: expected numbers from 1 to {len(steps)}, at least one"
    )
  if (len(numbers) > 1) != (action == MERGE):
    raise RefusedReplyError(
      "bad_form", f"{name}: {MERGE} names two or more steps, every other action exactly one"
    )
  indices = tuple(number - 1 for number in numbers)
  if action in (KEEP, DELETE):
    return Edit(indices, action)
  old = "".join(steps[i].text for i in indices).strip()
  check_written(text, name, item.source)
  if len(text.strip()) >= len(old):
    raise RefusedReplyError(
      "not_shorter", f"{name}: its new text is not shorter than the {len(old)} characters before"
    )
  return Edit(indices, action, text.strip())


EDIT = Stage(
  name="edit",
  output="edited",
  schema=_object(
    edits=_list(
      _object(
        steps=_list({"type": "integer"}),
        action={"type": "string", "enum": list(ACTIONS)},
        text=_TEXT,
      )
    )
  ),
  values=lambda item: {"question": item.chain.question, "steps": _numbered(item)},
  read=_read_edits,
)


# Write.


def _read_chain(item: Item, reply: Record) -> Record:
  written = fields.get(reply, "chain", str)
  check_written(written, "the chain", item.source)
  split = split_response(written, item.form)
  if split is None:
    raise RefusedReplyError(
      "no_answer", f"the chain must end with the answer, exactly so: {item.answer}"
    )
  if split.value != item.value and not item.form.is_right(split.value, item.value):
    raise RefusedReplyError(
      "answer_changed", f'the chain ends in the answer "{split.value}", not "{item.value}"'
    )
  text = split.reasoning.strip()
  if not has_reasoning(text):
    raise RefusedReplyError("nothing_left", "the chain has nothing before its answer")
  if len(text) > len(item.thinking.text.strip()):
    raise RefusedReplyError(
      "not_shorter",
      f"the chain is longer than the {len(item.thinking.text.strip())} characters "
      "of the whole solution",
    )
  return {
    "text": text,
    "invented": invented_numbers(text, item.source),
  }


WRITE = Stage(
  name="write",
  output="written",
  schema=_object(chain=_TEXT),
  values=lambda item: {
    "question": item.chain.question,
    "reasoning": item.thinking.text,
    "draft": edited_text(item.steps, item.edits),
    "answer": item.answer,
  },
  read=_read_chain,
)

STAGES = {stage.name: stage for stage in (DECOMPOSE, EDIT, WRITE)}
