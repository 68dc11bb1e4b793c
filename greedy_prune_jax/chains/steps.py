"""Steps of a chain, and what is done with each: plain data, to and from JSON objects."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

from greedy_prune_jax.chains.chain import Chain
from greedy_prune_jax.chains.thinking import split_thinking
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

  def to_record(self) -> Record:
    """The step as a JSON object."""
    return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Edit:
  """Action on a step, or on several that are merged.

  Attributes:
    steps: indices of the steps, from 0 on; consecutive.
    action: one of `ACTIONS`.
    text: the new text of `shorten` and `merge`, else empty.
  """

  steps: tuple[int, ...]
  action: str
  text: str = ""

  def to_record(self) -> Record:
    """The edit as a JSON object."""
    return {"steps": list(self.steps), "action": self.action, "text": self.text}


def edited_texts(steps: Sequence[Step], edits: Sequence[Edit]) -> list[str]:
  """Text that each edit leaves of its steps, without white space around it; empty for `delete`."""
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
  """The steps of a drp run's record, of the form that `check_record` asks for."""
  return [Step(step["text"], step["skill"]) for step in record["steps"]]


def edits_of(record: Record) -> list[Edit]:
  """The edits of a drp run's record, of the form that `check_record` asks for."""
  return [Edit(tuple(edit["steps"]), edit["action"], edit["text"]) for edit in record["edits"]]


_FORM = {
  "chain": dict,
  "steps?": [{"text": str, "skill": (str, type(None))}],
  "edits?": [{"steps": [int, ...], "action": str, "text": str}],
  "text?": str,
  "invented?": [str],
  "failed": (type(None), {"stage": str, "reason": str}),
  "refused": [{"reason": str}],
  "num_tokens": int,
  "made_by": {"*": {"teacher": str, "served?": str}},
}
# Keys that a record has in each folder, of a chain at which no stage failed.
_FOUND = {
  DECOMPOSED: ("steps",),
  "edited": ("steps", "edits"),
  "written": ("steps", "edits", "text", "invented"),
}


def check_record(record: Record, output: str) -> None:
  """A UserError unless a record is of the form in which a drp run writes it to a folder."""
  fields.check_form(record, _FORM)
  chain = Chain.from_record(record["chain"])
  if record["failed"]:
    return
  if missing := [key for key in _FOUND[output] if key not in record]:
    raise UserError(f'lacks the key "{missing[0]}"')
  if "decompose" not in record["made_by"]:
    raise UserError('"made_by" does not say who made the steps, under "decompose"')
  steps = steps_of(record)
  joined = "".join(step.text for step in steps)
  if joined != split_thinking(chain.reasoning).text or not all(s.text.strip() for s in steps):
    raise UserError('"steps" are not those of the reasoning in "chain"')
  if "text" in record:
    fields.get_text(record, "text")
  for edit in edits_of(record) if "edits" in record else ():
    if edit.action not in ACTIONS or not set(edit.steps) <= set(range(len(steps))):
      raise UserError(
        f'"edits" has the action {edit.action!r} on the steps {list(edit.steps)}; expected one of '
        f"{', '.join(ACTIONS)}, on some of the {len(steps)} steps, from 0"
      )


def read_stage(workdir: Path, output: str) -> Iterator[Record]:
  """The records in one of the folders of a drp run; there may be none.

  Raises:
    UserError: a line is not of the form in which such a run writes it; the message names it.
  """
  return read_output(workdir, output, functools.partial(check_record, output=output))


def read_finished(workdir: Path, output: str) -> dict[str, Record]:
  """The records in a folder of a drp run, by chain id; a UserError if there are none."""
  records = {record["id"]: record for record in read_stage(workdir, output)}
  if not records:
    raise UserError(
      f"{workdir} holds no chain that a stage of the job drp has finished; looked for "
      f"{output}/*.jsonl"
    )
  return records
