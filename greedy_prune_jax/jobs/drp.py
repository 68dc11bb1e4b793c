"""Lets a teacher shorten chains step by step (DRP); see `configs/drp.py`.

python -m greedy_prune_jax.jobs.drp --config=configs/drp.py --workdir=DIR
"""

from greedy_prune_jax.jobs import startup

if __name__ == "__main__":
  startup.prepare_process()  # before the imports below, which take seconds

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from greedy_prune_jax.chains.reading import describe_first, skipper
from greedy_prune_jax.drp import summary
from greedy_prune_jax.drp.estimate import estimate_cost, token_counter
from greedy_prune_jax.drp.run import OUTPUTS, read_items, run_drp
from greedy_prune_jax.drp.settings import MAY_CHANGE, DrpSettings
from greedy_prune_jax.drp.summary import format_edited
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.jobs.entry import print_result, run_in_workdir, run_job
from greedy_prune_jax.runs.workdir import Workdir

_WORKDIR = {
  "output": OUTPUTS[0],
  "further_outputs": OUTPUTS[1:],
  "may_change": MAY_CHANGE,
}


def drp(config: Mapping[str, Any], workdir: str) -> None:
  """Says what the run will take, does it, sums it up; a UserError for chains without a reply."""
  settings = DrpSettings.from_config(config)
  first = jax.process_index() == 0
  if settings.dry_run:
    if first:
      on_bad = skipper(settings.on_bad_chain)
      row = describe_first(settings.chains, settings.columns, seed=settings.seed, on_bad=on_bad)
      print_result(row + "\n")
      with Workdir(workdir, config, may_grow=settings.may_grow, **_WORKDIR) as run:
        _print_cost(settings, run)
    return

  def work(run: Workdir) -> int:
    if first and settings.asks:
      _print_cost(settings, run)
    try:
      return run_drp(settings, run)
    except BaseException:  # a teacher that gave out half-way has done half
      if first:
        _sum_up(run.path, settings)
      raise

  failed = run_in_workdir(work, workdir, config, may_grow=settings.may_grow, **_WORKDIR)
  if first:
    _sum_up(Path(workdir), settings)
  if failed:
    raise UserError(
      f"there is no reply on {failed} chains; {workdir}/skipped*.jsonl says why. The same command "
      "asks for them again."
    )


def _print_cost(settings: DrpSettings, run: Workdir) -> None:
  """Prints the numbers of requests and tokens to come, and whether the budget allows them."""
  items = read_items(settings, run)
  costs = estimate_cost(settings, items, run, token_counter(settings))
  table = summary.cost_table(costs, len(items), settings.max_attempts)
  print_result(summary.format_tables([table]))
  endpoint = settings.endpoint
  tokens = sum(stage.read + stage.written for stage in costs)
  requests = sum(stage.requests for stage in costs)
  for name, needed in (("max_requests", requests), ("max_tokens", tokens)):
    if 0 < getattr(endpoint, name) < needed:
      print_result(f"endpoint.{name}={getattr(endpoint, name)} will not be enough for this")
  print_result("")


def _sum_up(workdir: Path, settings: DrpSettings) -> None:
  """Prints the first edited chains, and prints and writes the summary of all."""
  records = summary.read_all(workdir)
  if not records:
    return
  furthest = list(records.values())[-1]
  for record in furthest[: settings.show_chains]:
    print_result(format_edited(record) + "\n")
  tables = summary.make_tables(records, settings.on_failure)
  summary.write_tables(workdir, tables)
  print_result(summary.format_tables(tables))


if __name__ == "__main__":
  run_job(drp)
