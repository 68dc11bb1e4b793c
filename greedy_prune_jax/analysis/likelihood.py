"""Likelihood of the texts that runs leave: mean NLLs at their keep ratios, and in pairs.

A text that no model would write is hard to learn from, whatever it keeps. NLLs are the pruners'
own, so only runs of one pruner are compared.
"""

from collections.abc import Collection, Iterable, Sequence

import numpy as np

from greedy_prune_jax.analysis.patterns import LabelledRun
from greedy_prune_jax.analysis.report import Section
from greedy_prune_jax.chains.chain import PrunedChain, num_kept
from greedy_prune_jax.reports.intervals import mean_interval
from greedy_prune_jax.reports.tables import Cell, Table

NLLS = ("joint", "answer")


def nlls_at_ratios(chain: PrunedChain) -> dict[float, tuple[float, ...]]:
  """The `NLLS` of a whole chain and at each keep ratio that it was pruned to, nats per token.

  NaN stands for a text that was never scored.
  """
  found = {}
  for ratio in (1.0, *map(float, chain.pruned)):
    deletions = chain.deletions_to(num_kept(len(chain.reasoning_ids), ratio))
    values = (chain.nll[name][deletions] for name in NLLS)
    found[ratio] = tuple(np.nan if value is None else value for value in values)
  return found


def likelihood_section(runs: Sequence[LabelledRun]) -> Section:
  """Mean NLLs of each run, and differences of the first run to each other of the same pruner."""
  found = [{chain.chain.id: nlls_at_ratios(chain) for chain in run.chains} for run in runs]
  means: list[tuple[Cell, ...]] = []
  for run, chains in zip(runs, found, strict=True):
    for ratio in _ratios(chains.values()):
      values = np.array([nlls[ratio] for nlls in chains.values()])
      means.append((run.name, ratio, *_intervals(values), len(values)))
  pairs: list[tuple[Cell, ...]] = []
  for run, chains in zip(runs[1:], found[1:], strict=True):
    common = _same_chains(runs[0], run)
    if not common:
      continue
    nlls = [(found[0][chain_id], chains[chain_id]) for chain_id in common]
    for ratio in _ratios([one for pair in nlls for one in pair]):
      values = np.array([np.subtract(one[ratio], other[ratio]) for one, other in nlls])
      if ratio < 1:
        pairs.append((runs[0].name, run.name, ratio, *_intervals(values), len(values)))
  measures = [f"{name}{end}" for name in NLLS for end in ("", " low", " high")]
  bounds = "nats per token by the pruner; means over chains with 95% intervals (Student's t)"
  return Section(
    "How likely is what is left?",
    tables=[
      Table(
        "likelihood",
        f"NLL of reasoning and answer (joint), and of the answer: {bounds}.",
        ("run", "keep ratio", *measures, "chains"),
        means,
      ),
      Table(
        "likelihood_pairs",
        f"NLL of the first run minus that of another of the same pruner, on the same chains: "
        f"{bounds}.",
        ("run", "against", "keep ratio", *measures, "chains"),
        pairs,
      ),
    ],
  )


def _ratios(chains: Iterable[Collection[float]]) -> list[float]:
  """Keep ratios that all of the chains have, the highest first."""
  return sorted(set.intersection(*map(set, chains)), reverse=True)


def _intervals(values: np.ndarray) -> list[Cell]:
  """Mean, low and high of each column."""
  return [cell for column in values.T for cell in mean_interval(column)]


def _same_chains(one: LabelledRun, other: LabelledRun) -> list[str]:
  """Ids of the chains that both runs have, with the same text and pruner."""
  known = {chain.chain.id: chain for chain in one.chains}
  return [
    chain.chain.id
    for chain in other.chains
    if (mine := known.get(chain.chain.id)) is not None
    and (mine.pruner, mine.chain.reasoning) == (chain.pruner, chain.chain.reasoning)
  ]
