"""The `prune` run: chains in, deletion orders and pruned texts out, resumable at any moment."""

import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import cast

import jax.numpy as jnp
from absl import logging
from tqdm import tqdm

from greedy_prune_jax.chains.chain import PrunedChain
from greedy_prune_jax.chains.reading import BadChain, skipper
from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.models.pretrained import load_config, load_model, load_tokenizer
from greedy_prune_jax.parallel import make_mesh, own_share, weight_shardings
from greedy_prune_jax.pruning.progress import Progress
from greedy_prune_jax.pruning.record import metrics, not_finite, pruned_chain
from greedy_prune_jax.pruning.settings import GREEDY, RACES, RUNS, OrderSettings, PruneSettings
from greedy_prune_jax.pruning.tasks import PruneTask, audit_id, check_any, check_texts, read_tasks
from greedy_prune_jax.rankings.follow import follow_ranking, path_positions
from greedy_prune_jax.rankings.interface import RankingInput, RankTokens, UnrankedError
from greedy_prune_jax.rankings.registry import RANKINGS
from greedy_prune_jax.runs.workdir import Workdir
from greedy_prune_jax.scoring.objectives import Objective
from greedy_prune_jax.scoring.scorer import AttentionKind
from greedy_prune_jax.search.capacity import choose_batching
from greedy_prune_jax.search.host import SearchSettings, prune_paths
from greedy_prune_jax.search.path import PrunePath
from greedy_prune_jax.search.runs import prune_by_runs
from greedy_prune_jax.search.work import search_positions, step_positions


def run_prune(settings: PruneSettings, workdir: Workdir) -> list[str]:
  """Prunes every chain that the workdir has not finished yet.

  Args:
    workdir: takes the records; see design section 4 for what they hold.

  Returns:
    Ids of the chains that were left out because a likelihood was not finite, or because a ranking
    could not order them; each is in the log and in `skipped.jsonl`.

  Raises:
    UserError: something that the settings name cannot be used. What was finished is on disk.
  """
  skip, mesh = skipper(settings.on_bad_chain, workdir), make_mesh(settings.mesh)
  tokenizer, config = load_tokenizer(settings.pruner), load_config(settings.pruner)
  check_ranking(settings, config)
  unfinished = workdir.load_unfinished()
  tasks = list(read_tasks(settings, tokenizer, config.max_positions, unfinished, skip))
  check_any(tasks, settings, workdir)
  check_texts(tasks, workdir)
  workdir.warn_of_gone({task.chain.id for task in tasks})
  if len(tasks) < settings.num_chains:
    logging.warning("only %d of the %d chains asked for", len(tasks), settings.num_chains)

  workdir.hold_weights(settings.pruner)
  model = load_model(settings.pruner, jnp.dtype(settings.dtype), shardings=weight_shardings(mesh))

  failed = []
  for searched in search_tasks(own_share(tasks), model, settings, workdir):
    if isinstance(searched, BadChain):
      failed.append(searched.id)
      with tqdm.external_write_mode(file=sys.stderr):  # the bar is taken away meanwhile
        logging.error("%s; going on with the other chains", searched.reason)
      workdir.write_skipped(dataclasses.asdict(searched))
    else:
      workdir.write_finished(searched.to_record())
      workdir.write_metrics(metrics(searched))
  return failed


def check_ranking(settings: PruneSettings, config: ModelConfig) -> None:
  """Raises a UserError where the ranking cannot be made, as far as it shows without weights."""
  if settings.ranking != GREEDY:
    RANKINGS[settings.ranking].check_settings(config, settings.ranking_settings)


def search_tasks(
  tasks: Sequence[PruneTask],
  model: Model,
  settings: PruneSettings,
  workdir: Workdir | None = None,
) -> Iterator[PrunedChain | BadChain]:
  """Searches batch by batch, under a progress bar; yields each chain that was not finished before.

  A chain on which a likelihood is not finite, or that a ranking cannot order, comes as `BadChain`.

  Args:
    tasks: this process's chains.
    workdir: keeps unfinished paths; None: nothing is kept.
  """
  if not tasks:
    return
  segments = [task.path.segments for task in tasks]
  ranking, batch_size = None, settings.batch_size
  if settings.ranking != GREEDY:
    # Chains follow a ranking one by one: the texts along one path fill the device.
    folder = None if workdir is None else workdir.path
    ranking_settings = dataclasses.replace(settings.ranking_settings, folder=folder)
    ranking, batch_size = RANKINGS[settings.ranking].make(model, ranking_settings), 1
  search = search_settings(settings)
  batching = choose_batching(segments, model, batch_size, [*step_positions_of(tasks, search)])
  search = search._replace(block_positions=batching.block_positions, kept_bytes=batching.kept_bytes)
  finished = frozenset() if workdir is None else workdir.finished_ids
  left = {task.chain.id: task.path for task in tasks if task.chain.id not in finished}
  positions = partial(search_positions, settings=search)
  if ranking:
    positions = partial(path_positions, deletions_per_step=search.deletions_per_step)
  with Progress(left, len(tasks) - len(left), positions) as progress:
    for batch, audited in itertools.product(batching.batches, (True, False)):
      todo = [tasks[i] for i in batch if (tasks[i].audit is not None) == audited]
      todo = [task for task in todo if task.chain.id in left]
      if not todo:
        continue
      report = partial(_Reporter, workdir=workdir, progress=progress)
      done, unranked = _search_batch(todo, model, ranking, search, report)
      for task in done:
        chain_id = task.chain.id
        reason = not_finite(task, settings) if not task.path.finite else unranked.get(chain_id)
        if reason is None:
          yield pruned_chain(task, settings)
        else:
          yield BadChain(place="", id=chain_id, reason=reason)


def _search_batch(
  tasks: Sequence[PruneTask],
  model: Model,
  ranking: RankTokens | None,
  search: SearchSettings,
  make_reporter: Callable[[Mapping[str, PrunePath]], "_Reporter"],
) -> tuple[list[PruneTask], dict[str, str]]:
  """The tasks of a batch, all audited or none, with whole paths; and why some have none, by id."""
  unranked: dict[str, str] = {}
  report = make_reporter({task.chain.id: task.path for task in tasks})
  if ranking is not None:
    paths, unranked = _follow(tasks, model, ranking, search, report)
    return _with_paths(tasks, paths), unranked
  to_audit = {audit_id(task.chain): task.audit for task in tasks if task.audit is not None}
  checked = search._replace(check=bool(to_audit))
  prune = prune_by_runs if search.by_runs else prune_paths
  tasks = _with_paths(tasks, prune(model, [task.path for task in tasks], checked, report))
  if to_audit:
    exact, report = search._replace(screen=None), make_reporter(to_audit)
    audits = prune(model, [*to_audit.values()], exact, report)
    tasks = [
      dataclasses.replace(task, audit=audit) for task, audit in zip(tasks, audits, strict=True)
    ]
  return tasks, unranked


def _with_paths(tasks: Sequence[PruneTask], paths: Sequence[PrunePath]) -> list[PruneTask]:
  return [dataclasses.replace(task, path=path) for task, path in zip(tasks, paths, strict=True)]


def step_positions_of(tasks: Sequence[PruneTask], search: SearchSettings) -> Iterator[float]:
  """Token positions that a step of the search of each chain runs, about."""
  for path in (task.path for task in tasks):
    reasoning, answer = path.segments.reasoning, path.segments.answer
    yield step_positions(len(reasoning), len(path.sizes), len(answer), search)


def search_settings(settings: OrderSettings) -> SearchSettings:
  """Settings of the search, but for the sizes that depend on the device."""
  return SearchSettings(
    objective=cast(Objective, settings.objective),
    block_positions=0,
    attention=cast(AttentionKind, settings.attention),
    screen=settings.screen if settings.search in RACES else None,
    deletions_per_step=settings.deletions_per_step,
    by_runs=settings.search == RUNS,
    max_runs=settings.max_runs,
  )


def _follow(
  tasks: Sequence[PruneTask],
  model: Model,
  ranking: RankTokens,
  search: SearchSettings,
  report: "_Reporter",
) -> tuple[list[PrunePath], dict[str, str]]:
  """Paths in the order of a ranking other than greedy search; and why it gave none, by chain id."""
  paths, unranked = [], {}
  for task in tasks:
    chain_id, path = task.chain.id, task.path
    chain = RankingInput(chain_id, path.segments, task.tokens, path.unit_sizes, task.chain.extra)
    try:
      path = follow_ranking(model, path, ranking, chain, search, partial(report.one, chain_id))
    except UnrankedError as error:
      unranked[chain_id] = str(error)
    paths.append(path)
  return paths, unranked


class _Reporter:
  """Stores and shows longer paths each time that a search comes back to the host."""

  def __init__(self, paths: Mapping[str, PrunePath], workdir: Workdir | None, progress: Progress):
    """Takes the paths as they are, by the id under which a workdir keeps them unfinished."""
    self._stored = {path_id: len(path.deleted) for path_id, path in paths.items()}
    self._workdir, self._progress = workdir, progress

  def __call__(self, paths: Sequence[PrunePath]) -> None:
    """Stores all paths of the batch, in the order of the ids."""
    for path_id, path in zip(self._stored, paths, strict=True):
      self.one(path_id, path)

  def one(self, path_id: str, path: PrunePath) -> None:
    """Stores one path, if it has grown."""
    grown = len(path.deleted) > self._stored[path_id] and path.finite
    if grown and self._workdir is not None:
      self._stored[path_id] = len(path.deleted)
      state = path.state | {"digest": path.digest}
      self._workdir.write_unfinished(path_id, self._stored[path_id], state)
    self._progress.update({path_id: path})
