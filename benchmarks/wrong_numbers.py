"""Solutions of GSM8K in each of which one result is changed, as rows of ProcessBench's structure.

    python -m benchmarks.wrong_numbers GSM8K.jsonl rows.jsonl

GSM8K.jsonl is a published split with its `<<6*7=42>>`. Of each solution of five steps or more, nine
in ten get another number for the result of one step, neither the first nor the last; the steps
behind it go on as if nothing had happened. `label` is that step, or -1. Prune the rows by several
orders; `analyze` tells which of them take the wrong step away first (table `first_errors`).
"""

import argparse
import random
import re
from collections.abc import Iterator
from pathlib import Path

from greedy_prune_jax.runs.files import replace_file
from greedy_prune_jax.runs.jsonl import encode_line, read_records

_RESULT = re.compile(r"=(\d+)>>(\d+)")
_CALCULATION = re.compile(r"<<.*?>>")
_SHIFTS = (-20, -10, -7, -3, -2, -1, 1, 2, 3, 7, 10, 20)
_WRONG_SHARE = 0.9
_LEAST_STEPS = 5


def main() -> None:
  """Writes the rows."""
  parser = argparse.ArgumentParser(description="Solutions with a wrong number.")
  parser.add_argument("gsm8k", type=Path)
  parser.add_argument("out", type=Path)
  parser.add_argument("--num_rows", type=int, default=80)
  parser.add_argument("--seed", type=int, default=0)
  args = parser.parse_args()
  rows = _rows(args.gsm8k, args.num_rows, random.Random(args.seed))
  replace_file(args.out, b"".join(map(encode_line, rows)))


def _rows(path: Path, num_rows: int, rng: random.Random) -> Iterator[dict]:
  number = 0
  for solution in read_records(path):
    text, _, answer = solution["answer"].rpartition("\n#### ")
    steps = [step for step in text.split("\n") if step.strip()]
    results = {
      place: match
      for place, step in enumerate(steps[:-1])
      if place and (match := _RESULT.search(step)) and match[1] == match[2]
    }
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


def _changed(step: str, result: re.Match[str], rng: random.Random) -> str:
  """The step with another number, not below zero, for its result."""
  right = int(result[1])
  number = rng.choice([right + shift for shift in _SHIFTS if right + shift >= 0])
  return step[: result.start(2)] + str(number) + step[result.end(2) :]


if __name__ == "__main__":
  main()
