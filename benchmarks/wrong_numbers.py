"""Solutions of GSM8K in each of which one result is changed, as rows of ProcessBench's structure.

    python -m benchmarks.wrong_numbers GSM8K.jsonl rows.jsonl
    python -m benchmarks.wrong_numbers GSM8K.jsonl --score WORKDIR WORKDIR ...

GSM8K.jsonl is a published split with its `<<6*7=42>>`. Of each solution of five steps or more, nine
in ten get another number for the result of one step, neither the first nor the last; the steps
behind it go on as if nothing had happened. `label` is that step, or -1. Prune the rows by several
orders; the second command tells which of them take the wrong step away first: AUC of the steps that
could have been changed against the one that was. `analyze` (table `first_errors`) holds all other
steps against it, of which the first and the last never are the wrong one; what an order does with
the ends of a chain moves that AUC off 0.5, though it finds no wrong number.
"""

import argparse
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from greedy_prune_jax.analysis.importances import FIRST_ERRORS, parts_of
from greedy_prune_jax.analysis.needed import ranked_above
from greedy_prune_jax.chains.chain import PrunedChain
from greedy_prune_jax.chains.reading import read_pruned
from greedy_prune_jax.reports.intervals import SHARE, mean_interval
from greedy_prune_jax.reports.questions import COUNT_AS_ONE
from greedy_prune_jax.reports.tables import Table, format_table
from greedy_prune_jax.runs.files import replace_file
from greedy_prune_jax.runs.jsonl import encode_line, read_records

_RESULT = re.compile(r"=(\d+)>>(\d+)")
_CALCULATION = re.compile(r"<<.*?>>")
_SHIFTS = (-20, -10, -7, -3, -2, -1, 1, 2, 3, 7, 10, 20)
_WRONG_SHARE = 0.9
_LEAST_STEPS = 5


def main() -> None:
  """Writes the rows, or scores orders of them."""
  parser = argparse.ArgumentParser(description="Solutions with a wrong number.")
  parser.add_argument("gsm8k", type=Path)
  parser.add_argument("out", type=Path, nargs="?")
  parser.add_argument("--score", type=Path, nargs="+", help="Workdirs of prune runs of the rows.")
  parser.add_argument("--num_rows", type=int, default=80)
  parser.add_argument("--seed", type=int, default=0)
  args = parser.parse_args()
  if (args.out is None) == (args.score is None):
    parser.error("name either the file of the rows or --score with workdirs")
  if args.score is not None:
    runs = {path.name: list(read_pruned(path)) for path in args.score}
    print(format_table(score_table(runs, changeable_steps(args.gsm8k))))
    return
  rows = _rows(args.gsm8k, args.num_rows, random.Random(args.seed))
  replace_file(args.out, b"".join(map(encode_line, rows)))


def _rows(path: Path, num_rows: int, rng: random.Random) -> Iterator[dict]:
  number = 0
  for solution in read_records(path):
    text, _, answer = solution["answer"].rpartition("\n#### ")
    steps = _steps(text)
    results = _results(steps)
    if len(steps) < _LEAST_STEPS or not results:
      continue
    wrong = rng.choice(list(results)) if rng.random() < _WRONG_SHARE else -1
    if wrong in results:
      steps[wrong] = _changed(steps[wrong], results[wrong], rng)
    yield {
      "id": f"gsm8k-{number}",
      "generator": "human, one result changed",
      "problem": solution["question"],
      "steps": [_CALCULATION.sub("", step) for step in steps] + [f"The answer is {answer}."],
      "final_answer_correct": True,
      "label": wrong,
    }
    number += 1
    if number == num_rows:
      return


def _steps(text: str) -> list[str]:
  return [step for step in text.split("\n") if step.strip()]


def _results(steps: Sequence[str]) -> dict[int, re.Match[str]]:
  """The results that can be changed, by step: whole numbers, neither in the first nor the last."""
  return {
    place: match
    for place, step in enumerate(steps[:-1])
    if place and (match := _RESULT.search(step)) and match[1] == match[2]
  }


def changeable_steps(path: Path) -> dict[str, list[int]]:
  """Steps whose result can be changed, of each question of a published split."""
  return {
    solution["question"]: list(_results(_steps(solution["answer"].rpartition("\n#### ")[0])))
    for solution in read_records(path)
  }


def score_table(
  runs: Mapping[str, Sequence[PrunedChain]], changeable: Mapping[str, Sequence[int]]
) -> Table:
  """AUC of the changeable steps against the wrong one, of earlier and longer steps and of runs.

  Args:
    runs: pruned chains of the rows, by name.
    changeable: steps that could have been changed, by question; see `changeable_steps`.
  """
  found: dict[str, dict[str, float]] = {"earlier steps": {}, "longer steps": {}}
  for name, chains in runs.items():
    found[name] = {}
    for chain in chains:
      parts, question = parts_of(chain, FIRST_ERRORS), chain.chain.question
      if parts is None or not (parts.value == 0).any():
        continue
      wrong, able = parts.value == 0, np.zeros(len(parts.value), bool)
      able[list(changeable[question])] = True
      others = able & ~wrong
      scores = {name: parts.rank, "earlier steps": -parts.position, "longer steps": parts.length}
      for order, values in scores.items():
        auc = ranked_above(values, others, wrong) if others.any() else np.nan
        found[order][question] = auc
  rows = []
  for name, by_question in found.items():
    auc = np.array(list(by_question.values()), float)
    interval = mean_interval(auc, list(by_question), SHARE)
    rows.append((name, *interval, int(np.isfinite(auc).sum())))
  caption = (
    "Orders of deletion against the wrong step: AUC of the other steps whose result could have "
    "been changed. Above 0.5 the wrong one leaves early. Means over chains with 95% intervals "
    f"(Student's t; {COUNT_AS_ONE}); chains without another such step are left out."
  )
  return Table("wrong_numbers", caption, ("order", "AUC", "low", "high", "chains"), rows)


def _changed(step: str, result: re.Match[str], rng: random.Random) -> str:
  """The step with another number, not below zero, for its result."""
  right = int(result[1])
  number = rng.choice([right + shift for shift in _SHIFTS if right + shift >= 0])
  return step[: result.start(2)] + str(number) + step[result.end(2) :]


if __name__ == "__main__":
  main()
