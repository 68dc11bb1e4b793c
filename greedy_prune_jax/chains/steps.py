"""Steps of a chain, and what is done with each: plain data, to and from JSON objects."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs import records as fields
from greedy_prune_jax.runs.jsonl import read_output
from greedy_prune_jax.runs.records import Record

DECOMPOSED = "decomposed"  # folder of a drp run's steps
KEEP, DELETE, SHORTEN, MERGE = ACTIONS = ("keep", "delete", "shorten", "merge")


@dataclasses.dataclass(frozen=True)
class Step:
  """A part of a chain's thinking; the steps joined are all of it.

  Attributes:
    text: the chain's own, with the white space behind it.
    skill: one of `skills.SKILLS`; None where nobody said.
  """

  text: str
  skill: str | None

  @classmethod
  def from_record(cls, record: Record) -> "Step":
    """Reads what `to_record` wrote."""
    skill = fields.get(record, "skill", str, type(None))
    return cls(text=fields.get(record, "text", str), skill=skill)

  def to_record(self) -> Record:
    """The step as a JSON object."""
    return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Edit:
  """What is done with a step, or with several that are merged.

  Attributes:
    steps: their indices, from 0 on; consecutive.
    action: one of `ACTIONS`.
    text: the new text of `shorten` and `merge`, else empty.
  """

  steps: tuple[int, ...]
  action: str
  text: str = ""

  @classmethod
  def from_record(cls, record: Record) -> "Edit":
    """Reads what `to_record` wrote."""
    return cls(
      steps=fields.get_items(record, "steps", int),
      action=fields.get_text(record, "action"),
      text=fields.get(record, "text", str),
    )

  def to_record(self) -> Record:
    """The edit as a JSON object."""
    return {"steps": list(self.steps), "action": self.action, "text": self.text}


def edited_texts(steps: Sequence[Step], edits: Sequence[Edit]) -> list[str]:
  """What each edit leaves of its steps, without white space around it; empty for `delete`."""
  texts = []
  for edit in edits:
    kept = "".join(steps[i].text for i in edit.steps) if edit.action == KEEP else edit.text
    texts.append(kept.strip())
  return texts


def edited_text(steps: Sequence[Step], edits: Sequence[Edit]) -> str:
  """The edited steps laid end to end, with the chain's own white space between them."""
  parts = []
  for edit, text in zip(edits, edited_texts(steps, edits), strict=True):
    if text:
      last = steps[edit.steps[-1]].text
      parts.append(text + (last[len(last.rstrip()) :] or " "))
  return "".join(parts).strip()


def steps_of(record: Record) -> list[Step]:
  """The steps of a drp run's record."""
  return [Step.from_record(step) for step in fields.get_items(record, "steps", dict)]


def edits_of(record: Record) -> list[Edit]:
  """The edits of a drp run's record."""
  return [Edit.from_record(edit) for edit in fields.get_items(record, "edits", dict)]


def read_finished(workdir: Path, output: str) -> dict[str, Record]:
  """The records in one of the folders of a drp run, by chain id.

  Raises:
    UserError: there are none.
  """
  records = {record["id"]: record for record in read_output(workdir, output)}
  if not records:
    raise UserError(
      f"{workdir} holds no chain that a stage of the job drp has finished; looked for "
      f"{output}/*.jsonl"
    )
  return records
