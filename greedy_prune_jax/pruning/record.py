"""The record that a prune run writes for a finished chain."""

import dataclasses
from typing import cast

from greedy_prune_jax.chains.chain import PrunedChain, ratio_key
from greedy_prune_jax.pruning.settings import (
  GREEDY,
  RACES,
  RUNS,
  OrderSettings,
  PrunerSettings,
  PruneSettings,
)
from greedy_prune_jax.pruning.tasks import PruneTask
from greedy_prune_jax.runs.records import Record
from greedy_prune_jax.scoring.objectives import Objective
from greedy_prune_jax.search.audit import audit_report, screen_report


def pruned_chain(task: PruneTask, settings: PruneSettings) -> PrunedChain:
  """The record of a finished task."""
  path, ids = task.path, task.path.segments.reasoning
  pruned = PrunedChain(
    chain=task.chain,
    pruner=settings.pruner,
    objective=settings.objective,
    ranking=settings.ranking,
    search=settings.search if settings.ranking == GREEDY else "none",
    unit=settings.unit,
    unit_sizes=path.unit_sizes,
    reasoning_ids=tuple(ids.tolist()),
    reasoning_tokens=task.tokens,
    deletion_order=tuple(path.deleted),
    nll={name: tuple(values) for name, values in path.nll.items()},
    pruned={},
    positions_scored=path.positions_scored,
    seconds=round(path.seconds, 3),
    trust=_trust(task, settings),
    move_sizes=path.move_sizes if settings.search == RUNS and settings.ranking == GREEDY else None,
  )
  texts = {ratio_key(ratio): pruned.text_at(ratio) for ratio in settings.keep_ratios}
  return dataclasses.replace(pruned, pruned=texts)


def _trust(task: PruneTask, settings: OrderSettings) -> Record | None:
  """Report on the errors of a search that estimates; None for other rankings and searches."""
  if settings.ranking != GREEDY or settings.search not in RACES:
    return None
  report = screen_report(task.path)
  if task.audit is not None and task.audit.finite:
    objective = cast(Objective, settings.objective)
    report["audit"] = audit_report(
      task.path, task.audit, objective, by_runs=settings.search == RUNS
    )
  return report


def metrics(pruned: PrunedChain) -> Record:
  """Line of the run's log on a pruned chain."""
  deletions = len(pruned.deletions)
  return {
    "id": pruned.chain.id,
    "reasoning_tokens": len(pruned.reasoning_ids),
    "deletions": deletions,
    "seconds_per_deletion": pruned.seconds / max(deletions, 1),
    "positions_per_second": pruned.positions_scored / max(pruned.seconds, 1e-9),
    **{f"nll_{name}_first": values[0] for name, values in pruned.nll.items()},
    **{f"nll_{name}_last": values[-1] for name, values in pruned.nll.items()},
  }


def not_finite(task: PruneTask, settings: PrunerSettings) -> str:
  """Reason for leaving out a chain on which the search met a NLL that is not finite."""
  return (
    f"chain {task.chain.id}: a likelihood is not finite after {task.path.num_deletions} deletions: "
    f"in {settings.dtype}, {settings.pruner} overflows on this text or has weights that are not "
    f"finite; try another dtype or pruner"
  )
