"""A chain and what DRP made of it, as text to read."""

from greedy_prune_jax.chains.fields import Record
from greedy_prune_jax.chains.printing import indented
from greedy_prune_jax.pruning.drp.steps import edited_texts, edits_of, steps_of


def format_edited(record: Record) -> str:
  """The steps of a chain beside what became of each, and the new chain where there is one."""
  chain, failed = record["chain"], record["failed"]
  lines = [f"=== {record['id']}", "-- question", *indented(chain["question"])]
  if failed:
    lines.append(f"-- stays as it was: {failed['stage']} failed, {failed['reason']}")
    return "\n".join([*lines, *indented(chain["reasoning"])])
  steps = steps_of(record)
  if "edits" not in record:
    for step in steps:
      lines += [f"-- {step.skill or 'step'}", *indented(step.text)]
    return "\n".join(lines)
  edits = edits_of(record)
  for edit, text in zip(edits, edited_texts(steps, edits), strict=True):
    for index in edit.steps:
      lines.append(f"-- {edit.action}: {steps[index].skill or 'step'}")
      lines += indented(steps[index].text)
    if edit.text:
      lines += ["   becomes", *indented(text)]
  if "text" in record:
    invented = ", ".join(record["invented"]) or "none"
    lines += [f"-- written (invented numbers: {invented})", *indented(record["text"])]
  return "\n".join(lines)
