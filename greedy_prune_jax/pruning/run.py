"""The `prune` run: chains in, deletion orders and pruned texts out, resumable at any moment."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
from absl import logging
from transformers import PreTrainedTokenizerFast

from greedy_prune_jax.chains.chain import Chain, PrunedChain, ratio_key
from greedy_prune_jax.chains.chat_template import load_chat_template
from greedy_prune_jax.chains.datasets import is_generated
from greedy_prune_jax.chains.errors import UserError
from greedy_prune_jax.chains.fields import Record
from greedy_prune_jax.chains.reading import BadChain, read_chains
from greedy_prune_jax.chains.segments import (
  Segments,
  check_length,
  decode_kept,
  segment,
  token_texts,
)
from greedy_prune_jax.chains.workdir import Workdir
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.models.pretrained import load_model, load_tokenizer
from greedy_prune_jax.parallel import make_mesh, weight_shardings
from greedy_prune_jax.pruning.audit import audit_report, screen_report
from greedy_prune_jax.pruning.capacity import choose_batching
from greedy_prune_jax.pruning.drp.step_units import SKILL_STEP, skill_step_sizes
from greedy_prune_jax.pruning.progress import Progress, search_positions
from greedy_prune_jax.pruning.rankings.interface import Ranking, RankingInput, UnrankedError
from greedy_prune_jax.pruning.rankings.path import follow_ranking, path_positions
from greedy_prune_jax.pruning.rankings.registry import RANKINGS
from greedy_prune_jax.pruning.screening import estimate_positions
from greedy_prune_jax.pruning.search import PrunePath, Settings, prune_paths
from greedy_prune_jax.pruning.settings import GREEDY, SCREENED, PruneSettings, num_kept
from greedy_prune_jax.pruning.units import unit_sizes
from greedy_prune_jax.scoring.objectives import Objective
from greedy_prune_jax.scoring.scorer import Attention


@dataclasses.dataclass(frozen=True)
class Task:
  """A chain, and what is known of its deletion order.

  Attributes:
    chain: the input.
    path: of the run's search or ranking.
    audit: of the exact search beside it; None for a chain that is not audited.
  """

  chain: Chain
  path: PrunePath
  audit: PrunePath | None = None


def _audit_id(chain: Chain) -> str:
  """Under which the workdir knows the exact search of an audit until it is finished."""
  return f"audit of {chain.id}"


def run_prune(settings: PruneSettings, workdir: Workdir) -> list[str]:
  """Prunes every chain that the workdir has not finished yet.

  Args:
    settings: of the run.
    workdir: takes the records; see design section 4 for what they hold.

  Returns:
    Ids of the chains that were left out because a likelihood was not finite, or because a ranking
    could not order them; each is in the log and in `skipped.jsonl`.

  Raises:
    UserError: something that the settings name cannot be used. What was finished is on disk.
  """
  skip = _skipper(settings, workdir)
  mesh = make_mesh(settings.mesh)
  if settings.attention == "pallas" and mesh.size > 1:
    raise UserError(
      f"attention=pallas runs on one device, and this process's mesh has {mesh.size}; set "
      f"mesh.data=1 and mesh.model=1, with one process for each device, or attention=xla"
    )
  tokenizer = load_tokenizer(settings.pruner)
  tasks = list(read_tasks(settings, tokenizer, workdir.load_unfinished(), skip))
  check_any(tasks, settings, workdir)
  _check_texts(tasks, workdir)
  if len(tasks) < settings.num_chains:
    logging.warning("only %d of the %d chains asked for", len(tasks), settings.num_chains)
  model = load_model(settings.pruner, jnp.dtype(settings.dtype), shardings=weight_shardings(mesh))
  tasks = usable_tasks(tasks, settings, model.config.max_positions, skip)
  check_any(tasks, settings, workdir)
  own = tasks[jax.process_index() :: jax.process_count()]
  return _search(own, model, tokenizer, settings, workdir) if own else []


def _check_texts(tasks: Sequence[Task], workdir: Workdir) -> None:
  """A UserError if a chain's text is no longer that which an earlier run finished."""
  by_id = {task.chain.id: task for task in tasks}
  for record in workdir.output("pruned").records():
    task = by_id.get(record["id"])
    if task is None:
      continue
    now = dataclasses.replace(task.chain, extra={})
    then = dataclasses.replace(Chain.from_record(record), extra={})
    sizes = record.get("unit_sizes")
    if now != then or task.path.unit_sizes != (sizes and tuple(sizes)):
      raise UserError(_other_text(now))


def _other_text(chain: Chain) -> str:
  return (
    f"chain {chain.id} has another text, or other units, than when this workdir was begun; go on "
    f"with the old ones, or choose another workdir"
  )


def check_any(
  tasks: Sequence[Task], settings: PruneSettings, workdir: Workdir | None = None
) -> None:
  """Raises a UserError if there is nothing to prune, which says what has left chains out."""
  if tasks:
    return
  limit = settings.max_reasoning_tokens
  shorter = f" of at most max_reasoning_tokens={limit} tokens" if limit else ""
  skipped = workdir and workdir.path / "skipped.jsonl"
  more = f"; see {skipped}" if skipped and skipped.exists() else ""
  raise UserError(f"{settings.chains} has no chain{shorter} that can be pruned{more}")


def _search(
  tasks: Sequence[Task],
  model: Model,
  tokenizer: PreTrainedTokenizerFast,
  settings: PruneSettings,
  workdir: Workdir,
) -> list[str]:
  """Searches on this process's chains, batch by batch; ids of those that had to be left out."""
  segments = [task.path.segments for task in tasks]
  ranking, batch_size = None, settings.batch_size
  if settings.ranking != GREEDY:
    # Chains follow a ranking one by one: the texts along one path fill the device.
    told = dataclasses.replace(settings.ranking_settings, folder=workdir.path)
    ranking, batch_size = RANKINGS[settings.ranking](model, told), 1
  batches, block_positions = choose_batching(
    segments, model, batch_size, estimates=widest_estimates(settings, segments)
  )
  search = search_settings(settings, block_positions)
  finished = workdir.finished_ids
  left = [task.path for task in tasks if task.chain.id not in finished]
  failed = []
  positions = partial(search_positions, settings=search)
  if ranking:
    positions = partial(path_positions, deletions_per_step=search.deletions_per_step)
  with Progress(left, len(tasks) - len(left), positions) as progress:
    for batch, audited in itertools.product(batches, (True, False)):
      todo = [tasks[i] for i in batch if (tasks[i].audit is not None) == audited]
      todo = [task for task in todo if task.chain.id not in finished]
      if not todo:
        continue
      unranked: Mapping[str, str] = {}
      report = _reporter({task.chain.id: task.path for task in todo}, workdir, progress)
      if ranking:
        unranked = _follow(todo, model, tokenizer, ranking, search, report)
      else:
        prune_paths(model, [task.path for task in todo], search._replace(check=audited), report)
      audits = {_audit_id(task.chain): task.audit for task in todo if task.audit is not None}
      if audits:
        exact = search._replace(screen=None)
        prune_paths(model, [*audits.values()], exact, _reporter(audits, workdir, progress))
      for task in todo:
        chain_id = task.chain.id
        reason = _not_finite(task, settings) if not task.path.finite else unranked.get(chain_id)
        if reason is None:
          pruned = _pruned_chain(task, settings, tokenizer)
          workdir.write_finished(pruned.to_record())
          workdir.write_metrics(_metrics(pruned))
        else:
          failed.append(chain_id)
          with progress.set_aside():
            logging.error("%s; going on with the other chains", reason)
          workdir.write_skipped(dataclasses.asdict(BadChain(place="", id=chain_id, reason=reason)))
  return failed


def widest_estimates(settings: PruneSettings, segments: Sequence[Segments]) -> int:
  """Positions of estimates that run at once for one chain; 0 where there are none."""
  if settings.search != SCREENED or settings.ranking != GREEDY:
    return 0
  tail = max(len(s.answer) for s in segments) if settings.objective == "answer" else 0
  return estimate_positions(settings.screen, tail)


def search_settings(settings: PruneSettings, block_positions: int) -> Settings:
  """What the search is told; `block_positions` go through the model at once."""
  return Settings(
    objective=cast(Objective, settings.objective),
    block_positions=block_positions,
    attention=cast(Attention, settings.attention),
    screen=settings.screen if settings.search == SCREENED else None,
    deletions_per_step=settings.deletions_per_step,
  )


def _follow(
  tasks: Sequence[Task],
  model: Model,
  tokenizer: PreTrainedTokenizerFast,
  ranking: Ranking,
  search: Settings,
  report: Callable[[], None],
) -> dict[str, str]:
  """Deletes in the order of a ranking other than greedy search; why it could not, by chain id."""
  unranked = {}
  for task in tasks:
    tokens = tuple(token_texts(tokenizer, task.chain.reasoning))
    chain = RankingInput(task.chain.id, task.path.segments, tokens, task.path.unit_sizes)
    try:
      follow_ranking(model, task.path, ranking, chain, search, report)
    except UnrankedError as error:
      unranked[task.chain.id] = str(error)
  return unranked


def read_tasks(
  settings: PruneSettings,
  tokenizer: PreTrainedTokenizerFast,
  found: Mapping[str, Record],
  skip: Callable[[BadChain], None] | None,
) -> Iterator[Task]:
  """The first chains whose reasoning is not longer than wanted, as many as wanted.

  Args:
    settings: of the run.
    tokenizer: the pruner's.
    found: what an earlier run had found, by chain id.
    skip: called with every chain that cannot be used; None to let the error out.
  """
  template = load_chat_template(settings.chat_template, tokenizer)
  limit = settings.max_reasoning_tokens
  wanted = settings.num_chains
  if limit:  # some are left out; the generator, which has no end, is looked through so far
    wanted = 100 * wanted if is_generated(settings.chains) else 0
  chains = read_chains(settings.chains, num_chains=wanted, seed=settings.seed, on_bad=skip)
  segmented = ((chain, segment(chain, tokenizer, template)) for chain in chains)

  sizes_of = _unit_sizes(settings)

  def start(chain: Chain, parts: Segments) -> Task | None:
    try:
      sizes = sizes_of(chain, token_texts(tokenizer, chain.reasoning))
    except UserError as error:
      if skip is None:
        raise
      skip(BadChain(place="", id=chain.id, reason=str(error)))
      return None
    marks = tuple(num_kept(len(parts.reasoning), ratio) for ratio in settings.keep_ratios)

    def path(path_id: str) -> PrunePath:
      state = dict(found.get(path_id, {}))
      path = PrunePath(parts, floor=min(marks), unit_sizes=sizes, marks=marks)
      if state and state.pop("digest", path.digest) != path.digest:
        raise UserError(_other_text(chain))
      return dataclasses.replace(path, **state)

    return Task(chain, path(chain.id), path(_audit_id(chain)))

  tasks = (
    start(chain, parts) for chain, parts in segmented if not limit or len(parts.reasoning) <= limit
  )
  return itertools.islice((task for task in tasks if task), settings.num_chains or None)


def _unit_sizes(
  settings: PruneSettings,
) -> Callable[[Chain, Sequence[str]], tuple[int, ...] | None]:
  """What gives the units of a chain, from it and the texts of its tokens."""
  if settings.unit == SKILL_STEP:
    return skill_step_sizes(settings.steps)
  return lambda _, tokens: unit_sizes(settings.unit, tokens)


def _skipper(settings: PruneSettings, workdir: Workdir) -> Callable[[BadChain], None] | None:
  """What to do with a chain that cannot be used: record it, or None to let the error out."""
  if settings.on_bad_chain == "error":
    return None

  def skip(bad: BadChain) -> None:
    logging.warning("left out %s: %s", bad.place or bad.id, bad.reason)
    if jax.process_index() == 0:  # all processes see all chains
      workdir.write_skipped(dataclasses.asdict(bad))

  return skip


def usable_tasks(
  tasks: Sequence[Task],
  settings: PruneSettings,
  max_positions: int,
  skip: Callable[[BadChain], None] | None,
) -> list[Task]:
  """The tasks that the model can do, the first `settings.audit` of them with an audit."""
  usable = []
  for task in tasks:
    try:
      check_length(task.path.segments, task.chain, max_positions)
    except UserError as error:
      if skip is None:
        raise
      skip(BadChain(place="", id=task.chain.id, reason=str(error)))
    else:
      audit = task.audit if len(usable) < settings.audit else None
      usable.append(dataclasses.replace(task, audit=audit))
  return usable


def _reporter(
  paths: Mapping[str, PrunePath], workdir: Workdir, progress: Progress
) -> Callable[[], None]:
  """Stores and shows what the search has found each time that it comes back to the host.

  Args:
    paths: by the id under which the workdir keeps what was found.
    workdir: of the run.
    progress: of the run.
  """
  stored = {path_id: len(path.deleted) for path_id, path in paths.items()}

  def report() -> None:
    for path_id, path in paths.items():
      if len(path.deleted) > stored[path_id] and path.finite:
        stored[path_id] = len(path.deleted)
        state = {key: getattr(path, key) for key in (*_STATE, "digest")}
        workdir.write_unfinished(path_id, stored[path_id], state)
    progress.update()

  return report


# Of a path, to go on from.
_STATE = ("deleted", "nll", "positions_scored", "seconds", "known", "tally")


def _pruned_chain(
  task: Task, settings: PruneSettings, tokenizer: PreTrainedTokenizerFast
) -> PrunedChain:
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
    reasoning_tokens=tuple(token_texts(tokenizer, task.chain.reasoning)),
    deletion_order=tuple(path.deleted),
    nll={name: tuple(values) for name, values in path.nll.items()},
    pruned={},
    positions_scored=path.positions_scored,
    seconds=round(path.seconds, 3),
    trust=_trust(task, settings),
  )
  texts = {}
  for ratio in settings.keep_ratios:
    kept = pruned.kept_positions(num_kept(len(ids), ratio))
    texts[ratio_key(ratio)] = decode_kept(tokenizer, ids, kept)
  return dataclasses.replace(pruned, pruned=texts)


def _trust(task: Task, settings: PruneSettings) -> Record | None:
  """How far to trust a screened search; None for other rankings and searches."""
  if settings.ranking != GREEDY or settings.search != SCREENED:
    return None
  report = screen_report(task.path)
  if task.audit is not None and task.audit.finite:
    report["audit"] = audit_report(task.path, task.audit, cast(Objective, settings.objective))
  return report


def _metrics(pruned: PrunedChain) -> Record:
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


def _not_finite(task: Task, settings: PruneSettings) -> str:
  """Why a chain is left out on which the search met a NLL that is not finite."""
  return (
    f"chain {task.chain.id}: a likelihood is not finite after {task.path.num_deletions} deletions: "
    f"in {settings.dtype}, {settings.pruner} overflows on this text or has weights that are not "
    f"finite; try another dtype or pruner"
  )
