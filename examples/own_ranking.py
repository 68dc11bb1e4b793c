"""A ranking of your own beside greedy search: the longest tokens leave first.

    python examples/own_ranking.py

One record of `RANKINGS` is all that it takes; `--config.ranking=longest_first` then works in the
`prune` job of this process, too. A minute on 2 CPU cores.
"""

import argparse

import numpy as np

import greedy_prune_jax as gp
from greedy_prune_jax.rankings.interface import RankedTokens
from greedy_prune_jax.rankings.registry import RANKINGS, Ranking, no_runs


def longest_first(model, settings):
  """The longest tokens leave first."""
  return lambda chain: RankedTokens.of(np.array([-len(text) for text in chain.tokens]), chain)


RANKINGS["longest_first"] = Ranking(
  about="the longest token first", maker=longest_first, model_runs=no_runs
)


def main(model_name: str) -> None:
  """Prunes one chain by both rankings, and prints what they keep and what it costs."""
  model = gp.load(model_name)
  chain = gp.Chain(
    id="pencils",
    question="A kid has 11 pencils. His brother has 4 fewer. How many do they have together?",
    reasoning="His brother has 11 - 4 = 7 pencils.\nTogether, they have 11 + 7 = 18 pencils.\n",
    answer='{"answer": "18"}',
  )
  for ranking in ("greedy", "longest_first"):
    pruned = model.prune(chain, ranking=ranking, keep=0.5)
    print(f"{ranking}: joint NLL {pruned.nll['joint'][-1]:.3f} nats per token")
    print(pruned.text(0.5))


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--model", default="smollm2-135m-instruct")
  main(parser.parse_args().model)
