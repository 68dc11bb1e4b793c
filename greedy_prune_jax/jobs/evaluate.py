"""Measures how students and other models answer questions; see `configs/evaluate.py`.

python -m greedy_prune_jax.jobs.evaluate --config=configs/evaluate.py --workdir=DIR
"""

from greedy_prune_jax.jobs import startup

if __name__ == "__main__":
  startup.prepare_process()  # before the imports below, which take seconds

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.evaluation.candidates import parse_entries
from greedy_prune_jax.evaluation.run import OUTPUT, by_run, read_evaluation, run_evaluate
from greedy_prune_jax.evaluation.scores import accuracy_table, outcomes_table, pairs_table
from greedy_prune_jax.evaluation.settings import MAY_CHANGE, EvaluateSettings
from greedy_prune_jax.jobs.entry import print_result, quiet_orbax, run_in_workdir, run_job
from greedy_prune_jax.reports.tables import Table, format_table, write_table
from greedy_prune_jax.runs.files import user_path
from greedy_prune_jax.runs.records import Record
from greedy_prune_jax.sample.summary import format_samples


def evaluate(config: Mapping[str, Any], workdir: str) -> None:
  """Runs the job, prints its tables and writes them; a UserError for samples without a reply."""
  settings, folder = EvaluateSettings.from_config(config), Path(workdir)
  first = jax.process_index() == 0
  compared_runs(settings.compare_with)  # a wrong path is told at once
  quiet_orbax()

  def report() -> None:
    """Reports the results so far, for those who look at a run that follows a training."""
    if first and settings.follow:
      print_result(format_table(_write_tables(folder, settings)[0]))

  failed = run_in_workdir(
    lambda run: run_evaluate(settings, run, report),
    workdir,
    config,
    output=OUTPUT,
    may_change=MAY_CHANGE,
    may_grow=settings.may_grow,
  )
  if first and (runs := _runs(folder, settings)):
    shown = next(iter(runs.values()))
    for record in shown[: settings.show_samples]:
      print_result(format_samples(record, most=2) + "\n")
    for table in _write_tables(folder, settings):
      print_result(format_table(table))
  if failed:
    raise UserError(
      f"{failed} samples have no reply; {workdir}/skipped*.jsonl says why. Their questions are not "
      f"in the table; the same command asks for them again."
    )


def _runs(folder: Path, settings: EvaluateSettings) -> Mapping[str, list[Record]]:
  """The run's own records; models of the settings first, though others were asked before them."""
  names = [entry.name for entry in parse_entries(settings.models)]
  return by_run(read_evaluation(folder), names)


def _write_tables(folder: Path, settings: EvaluateSettings) -> list[Table]:
  """Writes the tables of accuracies, outcomes and pairs; returns those to print."""
  runs = {**_runs(folder, settings), **compared_runs(settings.compare_with)}
  tables = [accuracy_table(runs), outcomes_table(runs), pairs_table(runs)]
  for table in tables:
    write_table(folder, table)  # without pairs too: what is there may be of earlier runs
  return tables if len(runs) > 1 else tables[:2]


def compared_runs(compare_with: Sequence[str]) -> dict[str, list[Record]]:
  """The records of other evaluations by run, which is named after its workdir too.

  Args:
    compare_with: workdirs of the runs; of several with one name the whole paths are shown.

  Raises:
    UserError: one of them has no answers.
  """
  runs: dict[str, list[Record]] = {}
  folders = list(map(user_path, compare_with))
  names = [folder.name for folder in folders]
  for other, name in zip(folders, names, strict=True):
    records_of = by_run(read_evaluation(other))
    if not records_of:
      raise UserError(f"compare_with: {other} has no answers; expected an evaluate run's workdir")
    label = name if names.count(name) == 1 else other
    runs |= {f"{label}: {run}": records for run, records in records_of.items()}
  return runs


if __name__ == "__main__":
  run_job(evaluate)
