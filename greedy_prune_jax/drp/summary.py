"""The summary of a `drp` run: tables of its stages, skills and lengths, and chains to read."""

import collections
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from greedy_prune_jax.chains.step_splitter import split_steps
from greedy_prune_jax.chains.steps import (
  ACTIONS,
  DELETE,
  edited_texts,
  edits_of,
  read_stage,
  steps_of,
)
from greedy_prune_jax.chains.thinking import split_thinking
from greedy_prune_jax.drp.estimate import StageCost
from greedy_prune_jax.drp.records import RULES, new_text
from greedy_prune_jax.drp.stages import DECOMPOSE, EDIT, STAGES, WRITE, Stage
from greedy_prune_jax.reports.printing import indented, printable
from greedy_prune_jax.reports.tables import Table, format_table, write_table
from greedy_prune_jax.runs.files import write_json
from greedy_prune_jax.runs.records import Record

_NO_SKILL = "(not said)"

Records = Mapping[str, Sequence[Record]]  # of each stage that was run


def cost_table(costs: Sequence[StageCost], num_chains: int, max_attempts: int) -> Table:
  """Requests and tokens that are left, in each stage and in all."""
  rows = [(*stage, _per_chain(stage.read + stage.written, stage.requests)) for stage in costs]
  requests = sum(stage.requests for stage in costs)
  read, written = sum(stage.read for stage in costs), sum(stage.written for stage in costs)
  total = ("all", requests, read, written, _per_chain(read + written, num_chains))
  most = f"; up to {max_attempts} times as much if none does" if max_attempts > 1 else ""
  return Table(
    name="expected",
    caption=f"Left to ask for on {num_chains} chains if each first reply passes{most}.",
    columns=("stage", "requests", "tokens read", "tokens written", "tokens a chain"),
    rows=[*rows, total],
  )


def _per_chain(tokens: int, chains: int) -> float | None:
  return round(tokens / chains, 1) if chains else None


def read_all(workdir: Path) -> Records:
  """The records of every stage that the workdir has any of; see `read_stage` for the errors."""
  found = {name: list(read_stage(workdir, stage.output)) for name, stage in STAGES.items()}
  return {name: records for name, records in found.items() if records}


def make_tables(records: Records, on_failure: str) -> list[Table]:
  """All tables that the records of the stages give."""
  tables = [_stages_table(records), _reasons_table(records, on_failure)]
  if by_teacher := _by_teacher(records):
    tables.append(_borders_table(by_teacher))
  if EDIT.name in records:
    tables.append(_skills_table(_passed(records[EDIT.name])))
  if (table := _lengths_table(records)).rows:
    tables.append(table)
  return tables


def write_tables(workdir: Path, tables: Sequence[Table]) -> None:
  """Writes each table as a file, and all of them to `summary.json`."""
  whole = {}
  for table in tables:
    write_table(workdir / "tables", table)
    whole[table.name] = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
  write_json(workdir / "summary.json", whole)


def format_tables(tables: Sequence[Table]) -> str:
  """The tables as text to print."""
  return "\n\n".join(format_table(table) for table in tables if table.rows)


def _passed(records: Sequence[Record]) -> list[Record]:
  return [record for record in records if not record["failed"]]


def _reached(stage: str, records: Sequence[Record]) -> list[Record]:
  """Records of chains that a stage was run on: that no earlier one had failed at."""
  return [r for r in records if not r["failed"] or r["failed"]["stage"] == stage]


def _by_teacher(records: Records) -> list[Record]:
  """Chains whose steps a teacher made."""
  return [
    record
    for record in _passed(records.get(DECOMPOSE.name, []))
    if record["made_by"][DECOMPOSE.name]["teacher"] != RULES
  ]


def _stages_table(records: Records) -> Table:
  rows = []
  for name, of_stage in records.items():
    there = _reached(name, of_stage)
    passed = _passed(there)
    refused = sum(len(record["refused"]) for record in there)
    asked = any(record["made_by"].get(name, {}).get("teacher") != RULES for record in there)
    rows.append(
      (
        name,
        len(there),
        sum(not record["refused"] for record in passed),
        len(passed),
        len(there) - len(passed),
        (len(passed) + refused) if asked else 0,
        refused,
        sum(record["num_tokens"] for record in there),
      )
    )
  return Table(
    name="stages",
    caption="Chains of each stage, and the replies that it took.",
    columns=(
      *("stage", "chains", "passed at once", "passed", "failed"),
      *("replies", "refused", "tokens written"),
    ),
    rows=rows,
  )


def _reasons_table(records: Records, on_failure: str) -> Table:
  refused: collections.Counter[tuple[str, str]] = collections.Counter()
  failed: collections.Counter[tuple[str, str]] = collections.Counter()
  for name, of_stage in records.items():
    there = _reached(name, of_stage)
    refused.update((name, refusal["reason"]) for record in there for refusal in record["refused"])
    failed.update((name, record["failed"]["reason"]) for record in there if record["failed"])
  fate = "stay as they were" if on_failure == "keep" else "are left out"
  return Table(
    name="reasons",
    caption=f"Why replies were refused, and chains failed by their last; those {fate}.",
    columns=("stage", "reason", "replies refused", "chains failed"),
    rows=[(*key, count, failed[key]) for key, count in refused.items()],
  )


def _borders_table(records: Sequence[Record]) -> Table:
  rules, teacher, common = compare_borders(
    (split_steps("".join(texts)), texts)
    for texts in ([step.text for step in steps_of(record)] for record in records)
  )
  f1 = 2 * common / (rules + teacher) if rules + teacher else None
  return Table(
    name="borders",
    caption="Borders between steps: those by rules against the teacher's.",
    columns=("chains", "by rules", "by the teacher", "common", "F1"),
    rows=[(len(records), rules, teacher, common, f1)],
  )


def compare_borders(pairs: Iterable[tuple[Sequence[str], Sequence[str]]]) -> tuple[int, int, int]:
  """Counts the inner borders of texts in parts by two ways; white space does not count.

  Returns:
    Borders by the one way, by the other, and by both.
  """
  one_way = other_way = common = 0
  for one, other in pairs:
    left, right = _borders(one), _borders(other)
    one_way += len(left)
    other_way += len(right)
    common += len(left & right)
  return one_way, other_way, common


def _borders(parts: Sequence[str]) -> set[int]:
  """Inner borders, each as the number of characters before it that are no white space."""
  ends = list(itertools.accumulate(len("".join(part.split())) for part in parts))
  return set(ends[:-1]) - {0, ends[-1]}


def _skills_table(records: Sequence[Record]) -> Table:
  """Table of edits by the steps' skill; a merged text counts for its steps by length."""
  actions: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
  before: collections.Counter[str] = collections.Counter()
  after: dict[str, float] = collections.defaultdict(float)
  for record in records:
    steps, edits = steps_of(record), edits_of(record)
    for edit, text in zip(edits, edited_texts(steps, edits), strict=True):
      old = {i: len(steps[i].text.strip()) for i in edit.steps}
      for i in edit.steps:
        skill = steps[i].skill or _NO_SKILL
        actions[skill][edit.action] += 1
        before[skill] += old[i]
        if edit.action != DELETE:
          after[skill] += len(text) * old[i] / sum(old.values())
  rows = [
    (
      skill,
      actions[skill].total(),
      *(actions[skill][action] for action in ACTIONS),
      before[skill],
      round(after[skill]),
      round(after[skill] / before[skill], 3),
    )
    for skill in sorted(actions, key=lambda skill: (-actions[skill].total(), skill))
  ]
  return Table(
    name="skills",
    caption=f"What the steps of each skill became, on {len(records)} chains; in characters.",
    columns=("skill", "steps", *ACTIONS, "before", "after", "kept"),
    rows=rows,
  )


def _lengths_table(records: Records) -> Table:
  passed = [(stage, _passed(records.get(stage.name, ()))) for stage in (EDIT, WRITE)]
  return Table(
    name="lengths",
    caption="Thinking before and after, in characters, of the chains that passed.",
    columns=("stage", "chains", "before", "after", "kept", "invented numbers", "in chains"),
    rows=[_lengths_row(stage, of_stage) for stage, of_stage in passed if of_stage],
  )


def _lengths_row(stage: Stage, records: Sequence[Record]) -> tuple:
  before = sum(len(split_thinking(record["chain"]["reasoning"]).text) for record in records)
  after = sum(len(new_text(record, stage)) for record in records)
  invented: list[int | None] = [None, None]
  if all("invented" in record for record in records):  # `edit` of earlier versions lacks it
    counts = [len(record["invented"]) for record in records]
    invented = [sum(counts), sum(map(bool, counts))]
  return (stage.name, len(records), before, after, round(after / before, 3), *invented)


def format_edited(record: Record) -> str:
  """The steps of a chain beside what became of each, and the new chain where there is one."""
  chain, failed = record["chain"], record["failed"]
  head = printable(f"=== {record['id']}", one_line=True)
  lines = [head, "-- question", *indented(chain["question"])]
  if failed:
    lines.append(f"-- stays as it was: {failed['stage']} failed, {failed['reason']}")
    return "\n".join([*lines, *indented(chain["reasoning"])])
  steps = steps_of(record)
  if "edits" not in record:
    for step in steps:
      lines += [f"-- {printable(step.skill or 'step', one_line=True)}", *indented(step.text)]
    return "\n".join(lines)
  edits = edits_of(record)
  for edit, text in zip(edits, edited_texts(steps, edits), strict=True):
    for index in edit.steps:
      lines.append(f"-- {edit.action}: {printable(steps[index].skill or 'step', one_line=True)}")
      lines += indented(steps[index].text)
    if edit.text:
      lines += ["   becomes", *indented(text)]
  if "text" in record:
    invented = ", ".join(record["invented"]) or "none"
    lines += [f"-- written (invented numbers: {invented})", *indented(record["text"])]
  return "\n".join(lines)
