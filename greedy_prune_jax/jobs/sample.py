"""Lets a teacher answer questions and keeps chains that reach the answer; see `configs/sample.py`.

python -m greedy_prune_jax.jobs.sample --config=configs/sample.py --workdir=DIR
"""

from greedy_prune_jax.jobs import startup

if __name__ == "__main__":
  startup.prepare_process()  # before the imports below, which take seconds

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.jobs.entry import print_result, run_in_workdir, run_job
from greedy_prune_jax.runs.workdir import Workdir
from greedy_prune_jax.sample.run import OUTPUT, run_sample
from greedy_prune_jax.sample.settings import MAY_CHANGE, SampleSettings
from greedy_prune_jax.sample.summary import (
  format_samples,
  format_summary,
  read_samples,
  summarise,
  write_summary,
)


def sample(config: Mapping[str, Any], workdir: str) -> None:
  """Runs the job, prints some samples and sums it up; a UserError for those without a reply."""
  settings = SampleSettings.from_config(config)
  first = jax.process_index() == 0

  def work(run: Workdir) -> int:
    try:
      return run_sample(settings, run)
    except BaseException:  # a teacher that gave out half-way has written half
      if first:
        _sum_up(run.path, settings.show_samples)
      raise

  failed = run_in_workdir(
    work, workdir, config, output=OUTPUT, may_change=MAY_CHANGE, may_grow=settings.may_grow
  )
  if first:
    _sum_up(Path(workdir), settings.show_samples)
  if failed:
    raise UserError(
      f"{failed} samples have no reply; {workdir}/skipped*.jsonl says why. Their questions are not "
      f"in the summary; the same command asks for them again."
    )


def _sum_up(workdir: Path, show_samples: int) -> None:
  """Prints samples of the first questions, and prints and writes the summary of all."""
  records = read_samples(workdir)
  if not records:
    return
  for record in records[:show_samples]:
    print_result(format_samples(record, most=2) + "\n")
  summary = summarise(records)
  write_summary(workdir, summary)
  print_result(format_summary(summary))


if __name__ == "__main__":
  run_job(sample)
