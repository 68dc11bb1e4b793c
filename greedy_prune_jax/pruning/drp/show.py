"""A chain and what DRP made of it, as text to read."""

import textwrap

from greedy_prune_jax.chains.fields import Record
from greedy_prune_jax.pruning.drp.steps import edited_texts, edits_of, steps_of

_WIDTH = 100


def format_edited(record: Record) -> str:
  """The steps of a chain beside what became of each, and the new chain where there is one."""
  chain, failed = record["chain"], record["failed"]
  lines = [f"=== {record['id']}", "-- question", *_wrapped(chain["question"])]
  if failed:
    lines.append(f"-- stays as it was: {failed['stage']} failed, {failed['reason']}")
    return "\n".join([*lines, *_wrapped(chain["reasoning"])])
  steps = steps_of(record)
  if "edits" not in record:
    for step in steps:
      lines += [f"-- {step.skill or 'step'}", *_wrapped(step.text)]
    return "\n".join(lines)
  edits = edits_of(record)
  for edit, text in zip(edits, edited_texts(steps, edits), strict=True):
    for index in edit.steps:
      lines.append(f"-- {edit.action}: {steps[index].skill or 'step'}")
      lines += _wrapped(steps[index].text)
    if edit.text:
      lines += ["   becomes", *_wrapped(text)]
  if "text" in record:
    invented = ", ".join(record["invented"]) or "none"
    lines += [f"-- written (invented numbers: {invented})", *_wrapped(record["text"])]
  return "\n".join(lines)


def _wrapped(text: str) -> list[str]:
  return [
    "    " + part
    for line in text.strip("\n").split("\n")
    for part in textwrap.wrap(line, _WIDTH - 4, drop_whitespace=False) or [""]
  ]
