"""Stored answers of a model to pruned chains: of `evaluate_pruned`, and of the budget `right`.

An `evaluate_pruned` workdir holds them in `answers`, a prune workdir in `budgets.jsonl`.
"""

from pathlib import Path

from greedy_prune_jax.chains.chain import ratio_of
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.jsonl import read_output, read_records
from greedy_prune_jax.runs.records import Record, check_form

OUTPUT = "answers"
BUDGETS = "budgets.jsonl"
RIGHT = "right"  # the budget that asks the pruner for its answer

_ANSWER = {"text": str, "value": (str, type(None)), "correct": bool, "finish_reason": str}
_ANSWERS_FORM = {
  **dict.fromkeys(("run", "ranking", "objective", "chain", "target"), str),
  "answers": {"*": _ANSWER},
}
_BUDGET_FORM = {"id": str, "budget": str, "holds": bool, "deletions": int, "text": str}


def read_pruned_answers(workdir: Path) -> list[Record]:
  """The records of an `evaluate_pruned` run's workdir; a UserError where a line is none."""
  return list(read_output(workdir, OUTPUT, _check_answers))


def _check_answers(record: Record) -> None:
  check_form(record, _ANSWERS_FORM)
  for key in record["answers"]:
    ratio = ratio_of(key)
    if ratio is None or not 0 <= ratio <= 1:
      raise UserError(f'"answers" has {key!r}; expected keep ratios, such as 0.5')


def read_budgets(workdir: Path) -> list[Record]:
  """Results of all budgets in a prune workdir, if any; a UserError where a line is none."""
  path = workdir / BUDGETS
  if not path.is_file():
    return []
  return list(read_records(path, check=lambda record: check_form(record, _BUDGET_FORM)))


def read_right_budgets(workdir: Path) -> dict[str, Record]:
  """Results of the budget `right`, by chain; see `read_budgets`."""
  return {record["id"]: record for record in read_budgets(workdir) if record["budget"] == RIGHT}
