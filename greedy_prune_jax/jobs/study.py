"""Chains, rankings, students and their evaluation in one table; see `configs/study_cpu.py`.

python -m greedy_prune_jax.jobs.study --config=configs/study_cpu.py --workdir=DIR
"""

from greedy_prune_jax.jobs import startup

if __name__ == "__main__":
  startup.prepare_process()  # before the imports below, which take seconds

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from greedy_prune_jax.distill.termination import TERMINATED
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.jobs.entry import print_result, quiet_orbax, run_job
from greedy_prune_jax.parallel import refuse_processes
from greedy_prune_jax.reports.tables import format_table
from greedy_prune_jax.study.parts import StoppedError
from greedy_prune_jax.study.run import run_study
from greedy_prune_jax.study.settings import StudySettings


def study(config: Mapping[str, Any], workdir: str) -> None:
  """Runs the job, with whoever else works on it, prints its tables; a UserError if parts fail."""
  settings = StudySettings.from_config(config)
  refuse_processes(
    "processes of a study do not talk to each other: start the same command several times, "
    "without --distributed"
  )
  quiet_orbax()
  try:
    result = run_study(settings, Path(workdir))
  except StoppedError:
    print_result("stopped and saved; the same command goes on from here")
    sys.exit(TERMINATED)
  for table in result.tables:
    print_result(format_table(table) + "\n")
  print_result(
    f"{result.done} of {result.parts} parts are done, in {result.hours:.2f} hours of their own"
  )
  if failed := result.share.failed:
    named = "\n".join(f"  {name}: {why}" for name, why in failed.items())
    raise UserError(
      f"{len(failed)} parts cannot be done, nor {result.share.left} that need them; the tables "
      f"lack them:\n{named}"
    )


if __name__ == "__main__":
  run_job(study)
