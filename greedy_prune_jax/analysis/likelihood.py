"""Likelihood of the texts that runs leave: mean NLLs at their keep ratios, and in pairs.

A text that no model would write is hard to learn from, whatever it keeps. NLLs are the pruners'
own, so only runs of one pruner are compared.
"""

from collections.abc import Collection, Iterable, Sequence

import numpy as np
from jaxtyping import Float

from greedy_prune_jax.analysis.patterns import LabelledRun, common_places
from greedy_prune_jax.analysis.report import Section
from greedy_prune_jax.chains.chain import PrunedChain, share_of
from greedy_prune_jax.reports.intervals import column_intervals
from greedy_prune_jax.reports.questions import COUNT_AS_ONE
from greedy_prune_jax.reports.tables import Cell, Table

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
  means: list[tuple[Cell, ...]] = []
  for run, chains in zip(runs, found, strict=True):
    for ratio in _ratios(chains):
      values = np.array([nlls[ratio] for nlls in chains])
      means.append((run.name, ratio, *column_intervals(values, run.questions), *_num_told(values)))
  pairs: list[tuple[Cell, ...]] = []
  for run, chains in zip(runs[1:], found[1:], strict=True):
    places = [
      (mine, theirs)
      for mine, theirs in common_places(runs[0], run)
      if runs[0].chains[mine].pruner == run.chains[theirs].pruner
    ]
    nlls = [(found[0][mine], chains[theirs]) for mine, theirs in places]
    questions = [run.questions[theirs] for _, theirs in places]
    if not nlls:
      continue
    for ratio in _ratios([one for pair in nlls for one in pair]):
      values = np.array([np.subtract(one[ratio], other[ratio]) for one, other in nlls])
      if ratio < 1:
        pair = runs[0].name, run.name, ratio
        pairs.append((*pair, *column_intervals(values, questions), *_num_told(values)))
  measures = [f"{name}{end}" for name in NLLS for end in ("", " low", " high")]
  measures += [f"chains with {name}" for name in NLLS]
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


def _num_told(values: Float[np.ndarray, "B M"]) -> list[int]:
  """Number of chains that each column's mean is of: a text that was never scored is left out."""
  return (~np.isnan(values)).sum(axis=0).tolist()


def _ratios(chains: Iterable[Collection[float]]) -> list[float]:
  """Keep ratios that all of the chains have, the highest first."""
  return sorted(set.intersection(*map(set, chains)), reverse=True)
