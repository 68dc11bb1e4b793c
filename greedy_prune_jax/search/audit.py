"""Reports on a screened search's errors: those that it saw itself, and exact search beside it."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from greedy_prune_jax.chains.chain import unit_starts
from greedy_prune_jax.runs.records import Record
from greedy_prune_jax.scoring.objectives import Objective
from greedy_prune_jax.search.path import PrunePath


def prune_ranks(path: PrunePath, *, by_runs: bool = False) -> Int[np.ndarray, " N"]:
  """Prune rank of each reasoning token: the number of tokens deleted before it.

  Tokens that are left share the highest, and those that left at once share theirs.

  Args:
    path: deletions and units.
    by_runs: True for a path of a search by runs, in which a whole run leaves at once.
  """
  sizes = path.move_sizes if by_runs else path.deleted_sizes
  ranks = np.full(sum(path.sizes), len(path.deleted))
  ranks[list(path.deleted)] = np.repeat(unit_starts(sizes), sizes)
  return ranks


def screen_report(path: PrunePath) -> Record:
  """A screened search's own view of its estimates.

  Returns:
    `scored_per_step`: units that were estimated and then scored exactly. `error`: root mean square
    of estimate less exact score over all of them, nats per token. `upsets`: the share of them that
    were better than estimated by more than the margin.
  """
  tally = path.tally
  return {
    "scored_per_step": tally["num_scored"] / max(tally["steps"], 1),
    "error": math.sqrt(tally["squared_error"] / max(tally["num_scored"], 1)),
    "upsets": tally["upsets"] / max(tally["num_scored"], 1),
  }


def audit_report(
  screened: PrunePath, exact: PrunePath, objective: Objective, *, by_runs: bool = False
) -> Record:
  """A checked screened search beside the exact search of the same chain.

  Args:
    screened: searched with `Settings.check`.
    exact: path of exact search with the same segments, units and floor.
    objective: objective whose NLLs are compared.
    by_runs: True for paths of a search by runs.

  Returns:
    `regret`: mean NLL along the screened path over that along the exact one, less 1, at numbers of
    deletions where both are known. `spearman`, `kendall`: correlation of the prune ranks; None
    where either do not vary.
    `same_winner`: share of the screened steps that deleted the unit that exact search would have
    deleted there. `lost_per_step`: nats per token by which the others were worse, over all steps.
    `positions_exact`: token positions that exact search ran.
  """
  from scipy.stats import kendalltau, spearmanr  # a second that runs without an audit save

  (gone, nlls), exact_path = (_known_nlls(path, objective) for path in (screened, exact))
  both = gone <= exact_path[0][-1]
  ours, best = nlls[both].mean(), np.interp(gone[both], *exact_path).mean()
  ranks = prune_ranks(screened, by_runs=by_runs), prune_ranks(exact, by_runs=by_runs)
  constant = any(np.ptp(some) == 0 for some in ranks)
  steps = max(screened.tally["steps"], 1)
  return {
    "regret": float(ours / best - 1),
    "spearman": None if constant else _statistic(spearmanr(*ranks)),
    "kendall": None if constant else _statistic(kendalltau(*ranks)),
    "same_winner": 1 - screened.tally["missed"] / steps,
    "lost_per_step": screened.tally["lost"] / steps,
    "positions_exact": exact.positions_scored,
  }


def _known_nlls(path: PrunePath, objective: Objective) -> tuple[np.ndarray, np.ndarray]:
  """Numbers of tokens that had left, and the NLLs of the texts that were scored there."""
  pairs = zip(path.tokens_gone, path.nll[objective], strict=True)
  known = [(gone, nll) for gone, nll in pairs if nll is not None]
  return np.array([gone for gone, _ in known]), np.array([nll for _, nll in known])


def format_trust(records: Sequence[Mapping[str, Any]]) -> str:
  """The reports of a run's chains, `trust` of their records, as a few lines to read."""
  lines = [
    f"means over {len(records)} chains: {_mean(records, 'scored_per_step'):.1f} exact "
    f"scores a step; estimates were off by {_mean(records, 'error'):.4f} nats per token, "
    f"{_mean(records, 'upsets'):.0%} of them too high by more than the margin"
  ]
  audits = [record["audit"] for record in records if "audit" in record]
  if audits:
    lines.append(
      f"beside exact search, means over {len(audits)} of them: "
      f"NLL regret {_mean(audits, 'regret'):.2%}, "
      f"Spearman {_mean(audits, 'spearman'):.3f}, Kendall {_mean(audits, 'kendall'):.3f} of the "
      f"ranks, the exact winner deleted in {_mean(audits, 'same_winner'):.0%} of the steps"
    )
  return "\n".join(lines)


def _statistic(result: Any) -> float:
  return float(result.statistic)


def _mean(records: Sequence[Mapping[str, Any]], key: str) -> float:
  values = [record[key] for record in records if record[key] is not None]
  return statistics.fmean(values) if values else math.nan
