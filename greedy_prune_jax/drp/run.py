"""The `drp` run: chains in, shorter chains that a teacher edited out.

Source: distilled reasoning pruning, arXiv 2505.13975: a teacher that answers briefly splits a chain
into steps of one skill each, prunes them, and puts the rest together in the chain's own style. The
prompts are ours, and so are the checks. A workdir of this run holds

    decomposed, edited, written   results of each stage, a chain a line; see `records`
    chains                        new chains of the last stage that was run, input of `distill`
    unfinished                    replies on chains that a stage is not through with
    summary.json, skills.csv, ...  see `summary`
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import jax

from greedy_prune_jax.chains.reading import BadChain, read_chains, skipper
from greedy_prune_jax.chains.steps import check_record, read_finished, read_stage
from greedy_prune_jax.drp.asking import ask_teacher
from greedy_prune_jax.drp.items import Item, rule_steps
from greedy_prune_jax.drp.records import RULES, finished_record, new_chain, passed_on
from greedy_prune_jax.drp.settings import DrpSettings
from greedy_prune_jax.drp.stages import DECOMPOSE, EDIT, STAGES, WRITE, Stage
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.parallel import own_share
from greedy_prune_jax.runs.files import explain_os_errors, replace_file, user_path
from greedy_prune_jax.runs.jsonl import encode_line, process_files, read_records
from greedy_prune_jax.runs.records import Record
from greedy_prune_jax.runs.workdir import Workdir
from greedy_prune_jax.teachers.load import load_job_teacher
from greedy_prune_jax.teachers.teacher import Teacher

OUTPUTS = tuple(stage.output for stage in (DECOMPOSE, EDIT, WRITE))  # of the workdir
_BEFORE = {EDIT.name: DECOMPOSE, WRITE.name: EDIT}


def run_drp(settings: DrpSettings, workdir: Workdir) -> int:
  """Takes every chain through the stages that the workdir has not finished yet.

  Args:
    workdir: opened with `OUTPUTS`; takes the records.

  Returns:
    How many chains a stage got no reply on; the log and `skipped.jsonl` say why.

  Raises:
    UserError: something that the settings name cannot be used, or the budget is spent. What was
      answered is on disk.
  """
  items = read_items(settings, workdir)
  workdir.warn_of_gone(items)
  open_teacher = functools.cache(functools.partial(load_job_teacher, settings, workdir))
  own = dict(own_share(list(items.items())))
  served, failed = _served(workdir), 0
  try:
    for stage in settings.chosen_stages:
      failed += _run_stage(stage, own, settings, workdir, open_teacher, served)
  finally:  # whatever stopped it
    if settings.chosen_stages[-1] is not DECOMPOSE:
      _write_chains(workdir.path, settings.chosen_stages[-1], settings.on_failure)
  return failed


def read_items(settings: DrpSettings, workdir: Workdir) -> dict[str, Item]:
  """All chains of a run, by id.

  Raises:
    UserError: there are none, or, if `on_bad_chain` is `error`, one cannot be used.
  """
  on_bad = skipper(settings.on_bad_chain, workdir)
  items = {}
  for chain in read_chains(
    settings.chains,
    num_chains=settings.num_chains,
    seed=settings.seed,
    columns=settings.columns,
    on_bad=on_bad,
  ):
    try:
      items[chain.id] = Item.of(chain)
    except UserError as error:
      if on_bad is None:
        raise
      on_bad(BadChain(place="", id=chain.id, reason=str(error)))
  if not items:
    raise UserError(f"{settings.chains} has no chain that can be used; see {workdir.path}")
  return items


def items_to_do(
  stage: Stage, items: Mapping[str, Item], settings: DrpSettings, workdir: Workdir
) -> Iterator[tuple[Item, Record | None]]:
  """The chains that a stage is not through with, each with its record of the stage before.

  The record is None where the stage before has not come to the chain yet.

  Raises:
    UserError: `settings.stored` holds nothing of the stage before, or a chain is not that of then.
  """
  for record in read_stage(workdir.path, stage.output):
    if (item := items.get(record["id"])) is not None:
      item.check_chain(record)
  left = {key: item for key, item in items.items() if key not in workdir.output(stage.output).ids}
  before, known = _BEFORE.get(stage.name), {}
  if before is not None:
    if settings.stored and before.name not in settings.stages:
      known = read_finished(user_path(settings.stored), before.output)
    known |= {record["id"]: record for record in read_stage(workdir.path, before.output)}
  for key, item in left.items():
    yield item, known.get(key)


def _run_stage(
  stage: Stage,
  items: Mapping[str, Item],
  settings: DrpSettings,
  workdir: Workdir,
  open_teacher: Callable[[], Teacher],
  served: set[str],
) -> int:
  """Takes chains through one stage; how many there is no reply on."""
  output, todo = workdir.output(stage.output), {}
  for item, before in items_to_do(stage, items, settings, workdir):
    if stage is DECOMPOSE:
      todo[item.chain.id] = item
    elif before is None:
      _check_asked(stage, item, settings)
    elif before["failed"]:
      output.write(passed_on(before))
    else:
      todo[item.chain.id] = item.with_results(before)
  if stage is DECOMPOSE and settings.splitter == RULES:
    for item in todo.values():
      output.write(finished_record(stage, item, RULES, rule_steps(item)))
    return 0
  return ask_teacher(stage, todo, settings, workdir, open_teacher, served)


def _served(workdir: Workdir) -> set[str]:
  """The models that wrote what the workdir's own runs have finished."""
  return {
    made["served"]
    for stage in STAGES.values()
    for record in read_stage(workdir.path, stage.output)
    if "served" in (made := record["made_by"].get(stage.name, {}))
  }


def _check_asked(stage: Stage, item: Item, settings: DrpSettings) -> None:
  """A UserError where the stage before was never run on a chain; it may have got no reply."""
  before = _BEFORE[stage.name]
  if before.name not in settings.stages:
    raise UserError(
      f"chain {item.chain.id}: the stage {stage.name} needs what {before.name} finds, and nothing "
      f"is stored of it; run {before.name} first, or name a workdir that has it by stored"
    )


def _write_chains(workdir: Path, stage: Stage, on_failure: str) -> None:
  """Makes `chains/` of a stage's records, file by file; each process does its share of the files.

  A file is there whole or as it was before.
  """
  folder, files = workdir / "chains", process_files(workdir / stage.output)
  with explain_os_errors(folder):
    folder.mkdir(exist_ok=True)
    for path in own_share(files):
      lines = map(encode_line, _chain_records(path, stage, on_failure))
      replace_file(folder / path.name, b"".join(lines))
    if jax.process_index() == 0:
      for path in process_files(folder):
        if path.name not in {file.name for file in files}:
          path.unlink()  # of another stage, which more processes ran


def _chain_records(path: Path, stage: Stage, on_failure: str) -> Iterable[Record]:
  check = functools.partial(check_record, output=stage.output)
  for record in read_records(path, drop_torn=True, check=check):
    if (chain := new_chain(record, stage, on_failure)) is not None:
      yield chain.to_record()
