"""Prunes chains by likelihood.

python -m greedy_prune_jax.jobs.prune --config=configs/prune.py --workdir=DIR
"""

from greedy_prune_jax.jobs import startup

if __name__ == "__main__":
  startup.prepare_process()  # before the imports below, which take seconds

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from greedy_prune_jax.chains.kept_chains import describe_kept
from greedy_prune_jax.chains.reading import describe_first, read_pruned, skipper
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.jobs.entry import print_result, run_in_workdir, run_job
from greedy_prune_jax.pruning.estimate import estimate_run
from greedy_prune_jax.pruning.run import run_prune
from greedy_prune_jax.pruning.settings import PruneSettings
from greedy_prune_jax.pruning.show import format_mean_nlls, format_pruned
from greedy_prune_jax.search.audit import format_trust


def prune(config: Mapping[str, Any], workdir: str) -> None:
  """Runs the job and prints some of what it found; of a dry run, what it would cost.

  Raises:
    UserError: something that the config names cannot be used, the workdir cannot be written, or
      chains had to be left out though `on_bad_chain` is `error`.
  """
  settings = PruneSettings.from_config(config)
  if settings.dry_run:
    if jax.process_index() == 0:
      print_result(_describe(settings) + "\n")
      print_result(estimate_run(settings))
    return
  failed = run_in_workdir(
    lambda run: run_prune(settings, run),
    workdir,
    config,
    output="pruned",
    may_change=settings.may_change,
    may_grow=settings.may_grow,
  )
  if settings.show_chains and jax.process_index() == 0:
    _show(workdir, settings.show_chains)
  if settings.budget and jax.process_index() == 0:
    from greedy_prune_jax.pruning.run_budgets import run_budgets  # with all of `teachers`

    print_result(run_budgets(settings, Path(workdir)))
  if failed and settings.on_bad_chain == "error":
    named = ", ".join(failed[:5]) + (", ..." if len(failed) > 5 else "")
    raise UserError(
      f"{len(failed)} of the chains could not be pruned ({named}); {workdir}/skipped*.jsonl says "
      f"why. All others are done. Pass --config.on_bad_chain=skip to accept this."
    )


def _describe(settings: PruneSettings) -> str:
  """The first chain that the run reads."""
  on_bad = skipper(settings.on_bad_chain)
  if settings.chains_ratio == 1:
    return describe_first(settings.chains, settings.columns, seed=settings.seed, on_bad=on_bad)
  return describe_kept(settings.chains, settings.chains_ratio, on_bad=on_bad)


def _show(workdir: str, num_chains: int) -> None:
  """Prints the first pruned chains, and a table of all."""
  for pruned in itertools.islice(read_pruned(workdir), num_chains):
    print_result(format_pruned(pruned) + "\n")
  print_result(format_mean_nlls(read_pruned(workdir)))
  trust = [pruned.trust for pruned in read_pruned(workdir) if pruned.trust is not None]
  if trust:
    print_result(format_trust(trust))


if __name__ == "__main__":
  run_job(prune)
