"""Measures what a model still answers; see `configs/evaluate_pruned.py`.

python -m greedy_prune_jax.jobs.evaluate_pruned --config=configs/evaluate_pruned.py --workdir=DIR
"""

from greedy_prune_jax.jobs import startup

if __name__ == "__main__":
  startup.prepare_process()  # before the imports below, which take seconds

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from greedy_prune_jax.chains.pruned_answers import OUTPUT, read_pruned_answers
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.evaluation.pruned.run import (
  count_cut_off,
  pruned_accuracy_table,
  pruned_pairs_table,
  run_evaluate_pruned,
)
from greedy_prune_jax.evaluation.pruned.settings import MAY_CHANGE, MAY_GROW, EvaluatePrunedSettings
from greedy_prune_jax.jobs.entry import print_result, run_in_workdir, run_job
from greedy_prune_jax.reports.tables import format_table, write_table


def evaluate_pruned(config: Mapping[str, Any], workdir: str) -> None:
  """Runs the job, prints its tables and writes them; a UserError for texts without an answer."""
  settings = EvaluatePrunedSettings.from_config(config)
  failed = run_in_workdir(
    lambda run: run_evaluate_pruned(settings, run),
    workdir,
    config,
    output=OUTPUT,
    may_change=MAY_CHANGE,
    may_grow=MAY_GROW,
  )
  names = list(settings.runs)  # replies are stored as they end, and other runs' may end first
  records = sorted(read_pruned_answers(Path(workdir)), key=lambda one: names.index(one["run"]))
  if jax.process_index() == 0 and records:
    for table in (pruned_accuracy_table(records), pruned_pairs_table(records)):
      write_table(Path(workdir), table)
      print_result(format_table(table) + "\n")
    num_cut_off, total = count_cut_off(records)
    if num_cut_off:
      print_result(
        f"{num_cut_off} of {total} replies were cut off before an answer, and count as wrong: "
        f"max_new_tokens={settings.writing.max_new_tokens} is too little for them.\n"
      )
  if failed:
    raise UserError(
      f"{failed} texts got no answer; {workdir}/skipped*.jsonl says why. Their chains are not in "
      f"the table; the same command asks for them again."
    )


if __name__ == "__main__":
  run_job(evaluate_pruned)
