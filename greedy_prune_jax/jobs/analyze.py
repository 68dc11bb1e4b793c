"""Analyses pruned chains; see `configs/analyze.py` for the command."""

from greedy_prune_jax.jobs import startup

if __name__ == "__main__":
  startup.prepare_process()  # before the imports below, which take seconds

import contextlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from greedy_prune_jax.analysis.settings import MAY_CHANGE, AnalyzeSettings
from greedy_prune_jax.chains.reading import named_run
from greedy_prune_jax.errors import check_plots
from greedy_prune_jax.jobs.entry import define_paths, print_result, run_job
from greedy_prune_jax.parallel import refuse_processes
from greedy_prune_jax.runs.config import write_or_check_config
from greedy_prune_jax.runs.files import make_folder
from greedy_prune_jax.runs.lock import hold_locks


def analyze(config: Mapping[str, Any], workdir: str, pruned: Sequence[str]) -> None:
  """Runs the job and says where the report is."""
  check_plots()
  from greedy_prune_jax.analysis.run import run_analysis  # which imports what draws them

  refuse_processes("analyze runs as one process; leave --distributed out")
  settings = AnalyzeSettings.from_config(config)
  folder = Path(workdir)
  make_folder(folder)
  runs = [f"{name}={path.resolve()}" for name, path in map(named_run, pruned)]
  resolved = {**config, "pruned": runs}
  check_config = partial(write_or_check_config, folder / "config.json", resolved, MAY_CHANGE)
  with contextlib.ExitStack() as held:
    hold_locks(folder / "locks", 0, 1, held)
    run_analysis(settings, pruned, folder, check_config)
  print_result(f"report: {folder / 'report.html'}")


if __name__ == "__main__":
  pruned_of = define_paths("pruned", "Workdirs of prune, each as DIR or NAME=DIR")
  run_job(lambda config, workdir: analyze(config, workdir, pruned_of()))
