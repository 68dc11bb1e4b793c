"""Likelihood of the texts that runs leave: mean NLLs at their keep ratios, and in pairs.

A text that no model would write is hard to learn from, whatever it keeps. NLLs are the pruners'
own, so only runs of one pruner are compared.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from greedy_prune_jax.analysis.patterns import LabelledRun, common_places
from greedy_prune_jax.analysis.report import Section
from greedy_prune_jax.chains.chain import PrunedChain, share_of
from greedy_prune_jax.reports.intervals import AMOUNT, ANY_NUMBER, Scale, column_intervals
from greedy_prune_jax.reports.questions import COUNT_AS_ONE
from greedy_prune_jax.reports.tables import Cell, Table, interval_columns

NLLS = ("joint", "answer")


def nlls_at_ratios(chain: PrunedChain) -> dict[float, tuple[float, ...]]:
  """The `NLLS` of a whole chain and at each keep ratio that it was pruned to, nats per token.

  NaN stands for a text that was never scored.
  """
  found = {}
  for ratio in (1.0, *map(float, chain.pruned)):
    deletions = chain.deletions_to(share_of(len(chain.reasoning_ids), ratio))
    values = (chain.nll[name][deletions] for name in NLLS)
    found[ratio] = tuple(np.nan if value is None else value for value in values)
  return found


def likelihood_section(runs: Sequence[LabelledRun]) -> Section:
  """Mean NLLs of each run, and differences of the first run to each other of the same pruner."""
  found = [[nlls_at_ratios(chain) for chain in run.chains] for run in runs]
  means, pairs = [], []
  for run, nlls in zip(runs, found, strict=True):
    means += _rows((run.name,), nlls, run.questions, AMOUNT)
  for run, nlls in zip(runs[1:], found[1:], strict=True):
    differences, questions = [], []
    for mine, theirs in common_places(runs[0], run):
      if runs[0].chains[mine].pruner == run.chains[theirs].pruner:
        one, other = found[0][mine], nlls[theirs]
        ratios = [ratio for ratio in one if ratio in other and ratio < 1]
        differences.append({ratio: np.subtract(one[ratio], other[ratio]) for ratio in ratios})
        questions.append(run.chains[theirs].chain.question)
    pairs += _rows((runs[0].name, run.name), differences, questions, ANY_NUMBER)
  measures = [*interval_columns(*NLLS), *(f"chains with {name}" for name in NLLS)]
  bounds = "nats per token by the pruner; means over chains with 95% intervals (Student's t; "
  bounds += f"{COUNT_AS_ONE})"
  return Section(
    "How likely is what is left?",
    tables=[
      Table(
        "likelihood",
        f"NLL of reasoning and answer (joint), and of the answer: {bounds}.",
        ("run", "keep ratio", *measures),
        means,
      ),
      Table(
        "likelihood_pairs",
        f"NLL of the first run minus that of another of the same pruner, on the same chains: "
        f"{bounds}.",
        ("run", "against", "keep ratio", *measures),
        pairs,
      ),
    ],
  )


def _rows(
  head: tuple[str, ...],
  nlls: Sequence[Mapping[float, Any]],
  questions: Sequence[str],
  scale: Scale,
) -> list[tuple[Cell, ...]]:
  """Means over chains of `NLLS` at each keep ratio that all chains have, the highest first."""
  rows = []
  for ratio in sorted(set.intersection(*map(set, nlls)) if nlls else (), reverse=True):
    values = np.array([of_chain[ratio] for of_chain in nlls])
    num_told = (~np.isnan(values)).sum(axis=0).tolist()  # a text that was never scored is left out
    rows.append((*head, ratio, *column_intervals(values, questions, scale, scale), *num_told))
  return rows
