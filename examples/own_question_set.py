"""A question set of your own: generated squares, with worked solutions to prune.

    python examples/own_question_set.py

`QUESTION_SETS["squares"]` then works wherever `gsm8k` does: in `sample`, `prune`, `distill` and
`evaluate` of this process. A minute on 2 CPU cores.
"""

import argparse

import greedy_prune_jax as gp
from greedy_prune_jax.chains import answers
from greedy_prune_jax.chains.question_sets import QUESTION_SETS, QuestionSet
from greedy_prune_jax.chains.reading import read_chains
from greedy_prune_jax.chains.sources import Row


def make_rows(num_rows: int, first: int, options: str) -> list[Row]:
  """Rows `first`, `first + 1`, ...: equal numbers give equal rows."""
  numbers = range(first, first + num_rows)
  return [Row(f"squares/{i}", f"row {i}", {"number": i % 90 + 10}) for i in numbers]


def parse(row: dict) -> dict:
  """The question, its gold answer and its worked solution from one row."""
  number = row["number"]
  tens, ones = number // 10 * 10, number % 10
  return {
    "question": f"What is {number} times {number}?",
    "target": str(number**2),
    "rationale": f"{number} * {tens} = {number * tens} and {number} * {ones} = {number * ones}.\n"
    f"Together, this is {number**2}.\n",
  }


QUESTION_SETS["squares"] = QuestionSet(form=answers.NUMBER, parse=parse, generate=make_rows)


def main(model_name: str, num_chains: int) -> None:
  """Prunes the first chains of the set, and prints half of each."""
  model = gp.load(model_name)
  for pruned in model.prune(read_chains("squares", num_chains=num_chains), keep=0.5):
    print(f"{pruned.chain.id}: {pruned.chain.question}")
    print(f"whole: {pruned.chain.reasoning!r}")
    print(f"half:  {pruned.text(0.5)!r}")


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--model", default="smollm2-135m-instruct")
  parser.add_argument("--num_chains", type=int, default=2)
  args = parser.parse_args()
  main(args.model, args.num_chains)
