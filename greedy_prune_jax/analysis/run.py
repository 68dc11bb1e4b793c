"""The `analyze` run: pruned chains in; report, tables, plots and viewer out; resumable."""

import dataclasses
import functools
import importlib.metadata
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from greedy_prune_jax.analysis.agreement import compare_labels
from greedy_prune_jax.analysis.feature_store import FeatureStore, build_store
from greedy_prune_jax.analysis.importances import judgement_sections
from greedy_prune_jax.analysis.label_files import (
  labels_of_chains,
  labels_to_record,
  read_labels,
  renew_steps,
)
from greedy_prune_jax.analysis.likelihood import likelihood_section
from greedy_prune_jax.analysis.model_annotator import MODEL, WRITING, ModelAnnotator
from greedy_prune_jax.analysis.needed import is_planted, needed_section
from greedy_prune_jax.analysis.orders import order_section
from greedy_prune_jax.analysis.pattern_report import agreement_section, pattern_section
from greedy_prune_jax.analysis.patterns import LabelledRun
from greedy_prune_jax.analysis.rank_data import collect_rank_data
from greedy_prune_jax.analysis.rank_regression import NUM_FOLDS, fit_ranking
from greedy_prune_jax.analysis.regression_report import regression_section, run_regressions
from greedy_prune_jax.analysis.report import VIEWER, Section, write_report
from greedy_prune_jax.analysis.settings import AnalyzeSettings
from greedy_prune_jax.analysis.still_right import read_verdicts
from greedy_prune_jax.analysis.viewer import write_viewer
from greedy_prune_jax.chains.categories import Annotator, Labels
from greedy_prune_jax.chains.category_rules import offline_annotator
from greedy_prune_jax.chains.chain import PrunedChain
from greedy_prune_jax.chains.chat_template import load_chat_template
from greedy_prune_jax.chains.reading import named_run, read_pruned, run_of, warn_of_unfinished
from greedy_prune_jax.chains.segments import segment
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.models.pretrained import load_model, load_tokenizer
from greedy_prune_jax.parallel import make_mesh, weight_shardings
from greedy_prune_jax.rankings.attention_regression import TokenCounts, save_ranking
from greedy_prune_jax.runs.config import config_of
from greedy_prune_jax.runs.files import make_subfolder, user_path
from greedy_prune_jax.runs.jsonl import JsonlWriter
from greedy_prune_jax.runs.weights import check_moved
from greedy_prune_jax.teachers.load import load_teacher

_LABELLED_AT_ONCE = 16  # chains; a model's labels of more would be lost with a kill


@dataclasses.dataclass(frozen=True)
class Source:
  """A pruned workdir.

  Attributes:
    name: name in the report and of the run's files.
    config: the prune run's config; empty where there is none.
  """

  name: str
  path: Path
  config: Mapping[str, Any]
  chains: Sequence[PrunedChain]


def run_analysis(
  settings: AnalyzeSettings,
  pruned: Sequence[str],
  workdir: Path,
  check_config: Callable[[], None] = lambda: None,
) -> None:
  """Runs the parts that are asked for, and writes `report.html` and `viewer.html` in `workdir`.

  Labels, attention features and scores of regressions are stored as they are made; a run that was
  stopped goes on from them.

  Args:
    pruned: workdirs of prune, or their folders or files of pruned chains, each as `[NAME=]PATH`.
    check_config: called before anything is stored, and not if what is named cannot be used, so that
      a command with a slip in it binds nobody to it.

  Raises:
    UserError: something that the settings or the workdirs name cannot be used.
  """
  sources = read_sources(pruned, settings)
  verdicts = {}
  if "viewer" in settings.parts:
    verdicts = read_verdicts(settings.answers, {s.name: (s.path, s.chains) for s in sources})
  if "agreement" in settings.parts:
    for file in settings.other_labels:
      read_labels(user_path(file))  # before anything is labelled, and paid for
  annotator = _annotator(settings, workdir)
  check_config()
  runs = [
    LabelledRun(source.name, source.chains, _labels(workdir, source, annotator))
    for source in sources
  ]
  sections: list[Section] = []
  if "patterns" in settings.parts:
    sections.append(pattern_section(runs))
  if "agreement" in settings.parts and settings.other_labels:
    sections.append(_agreement(settings, runs))
  if "orders" in settings.parts and len(runs) > 1:
    sections.append(order_section(runs))
  if "likelihood" in settings.parts:
    sections.append(likelihood_section(runs))
  if "needed" in settings.parts:
    planted = [run for run in runs if all(map(is_planted, run.chains))]
    sections += [needed_section(planted)] if planted else []
  if "importances" in settings.parts:
    sections += judgement_sections(runs)
  stores = []
  if "regression" in settings.parts:
    stores = _feature_stores(settings, sources, workdir)
    sections.append(_regression(settings, sources, runs, stores, workdir))
  # First, so that a viewer that cannot be written takes no report along.
  write_report(
    workdir,
    provenance=_provenance(settings, sources),
    sections=sections,
    has_viewer="viewer" in settings.parts,
  )
  if "viewer" in settings.parts:
    limit = settings.viewer_chains or None
    shown = [
      LabelledRun(
        run.name,
        run.chains[:limit],
        run.labels[:limit],
        *_token_values(store, limit),
        verdicts=verdicts[run.name][:limit],
      )
      for run, store in zip(runs, stores or [None] * len(runs), strict=True)
    ]
    write_viewer(workdir / VIEWER, shown)


def read_sources(pruned: Sequence[str], settings: AnalyzeSettings) -> list[Source]:
  """Reads the pruned workdirs; names are the settings', or those of `named_run`.

  Raises:
    UserError: a workdir holds no pruned chains, or names are too few or repeated.
  """
  if not pruned:
    raise UserError("no pruned workdir given; pass --pruned=WORKDIR[,WORKDIR...]")
  own_names, places = zip(*map(named_run, pruned), strict=True)
  places = [place if place.is_file() else run_of(place) for place in map(Path.resolve, places)]
  names = settings.names or own_names
  if len(names) != len(pruned) or len(set(names)) != len(names):
    raise UserError(
      f"{len(pruned)} pruned workdirs need as many different names, not {names}; give NAME=WORKDIR"
    )
  return [_read_source(*source, settings) for source in zip(names, places, strict=True)]


def _read_source(name: str, path: Path, settings: AnalyzeSettings) -> Source:
  if name != Path(name).name or name in ("", ".", ".."):
    raise UserError(f"the name {name!r} of a run cannot be a file's name; give NAME=WORKDIR")
  warn_of_unfinished(path)
  chains = list(itertools.islice(read_pruned(path), settings.num_chains or None))
  if not chains:
    raise UserError(f"{path} holds no finished chains yet")
  if "regression" in settings.parts and len(chains) < NUM_FOLDS:
    raise UserError(
      f"{path} holds {len(chains)} chains; the regression needs at least {NUM_FOLDS}, one for each "
      "fold; prune more, or leave regression out: --config.parts=\"('patterns','viewer')\""
    )
  return Source(name, path, config_of(run_of(path)), chains)


def _annotator(settings: AnalyzeSettings, workdir: Path) -> Annotator:
  """The annotator that the settings name."""
  if settings.annotator != MODEL:
    return offline_annotator(settings.annotator)
  open_teacher = functools.partial(
    load_teacher,
    settings.text_model,
    WRITING,
    settings.endpoint,
    mesh=make_mesh(settings.mesh),
  )
  return ModelAnnotator(open_teacher, replies_path=workdir / "replies.jsonl")


def _labels(workdir: Path, source: Source, annotator: Annotator) -> list:
  """The labels of a run's chains: those that are stored, and new ones for the rest."""
  path = workdir / "labels" / f"{source.name}.jsonl"
  make_subfolder(path.parent)
  with JsonlWriter(path) as writer:  # opened first, as it cuts off what a killed run left of a line
    stored = read_labels(path)
    missing = [chain for chain in source.chains if chain.chain.id not in stored]
    if missing:
      logging.info("labelling %d chains of %s", len(missing), source.name)
    for start in range(0, len(missing), _LABELLED_AT_ONCE):
      group = missing[start : start + _LABELLED_AT_ONCE]
      new = annotator.annotate([chain.reasoning_tokens for chain in group])
      for chain, labels in zip(group, new, strict=True):
        if labels is None:  # not stored, so that the next run asks again
          logging.warning("no labels for chain %s: it is unlabelled in this report", chain.chain.id)
          labels = (None,) * len(chain.reasoning_tokens)
        else:
          writer.write(labels_to_record(chain, labels))
        stored[chain.chain.id] = (chain.reasoning_tokens, labels)
  renew_steps(path, source.chains)
  return labels_of_chains(source.chains, stored)


def _agreement(settings: AnalyzeSettings, runs: Sequence[LabelledRun]) -> Section:
  """The annotator beside each file of other labels, on the chains that the file has.

  Labels hold for one tokenizer only: chains of other tokens than the file's are left out.
  """
  agreements = {}
  for file in settings.other_labels:
    stored = read_labels(user_path(file))
    ours: dict[str, Labels] = {}  # a chain of several runs counts once
    for run in runs:
      for chain, labels in zip(run.chains, run.labels, strict=True):
        texts, _ = stored.get(chain.chain.id, (None, None))
        if texts == chain.reasoning_tokens:
          ours.setdefault(chain.chain.id, labels)
    theirs = [stored[chain_id][1] for chain_id in ours]
    pairs = zip(itertools.chain(*ours.values()), itertools.chain(*theirs), strict=True)
    if not any(None not in pair for pair in pairs):
      raise UserError(
        f"{file} has no labels of the tokens of any chain that is analysed, or none where the "
        f"annotator {settings.annotator} has any"
      )
    agreements[f"{settings.annotator} and {file}"] = compare_labels(list(ours.values()), theirs)
  return agreement_section(agreements)


def _regression(
  settings: AnalyzeSettings,
  sources: Sequence[Source],
  runs: Sequence[LabelledRun],
  stores: Sequence[FeatureStore],
  workdir: Path,
) -> Section:
  """Regressions, and a fitted ranking of each run."""
  data, rankings = [], []
  for source, run, store in zip(sources, runs, stores, strict=True):
    counts = TokenCounts.of([chain.reasoning_ids for chain in run.chains])
    data.append(collect_rank_data(run, store, counts))
    ranking = fit_ranking(
      data[-1], counts, pruner=source.chains[0].pruner, annotator=settings.annotator
    )
    save_ranking(workdir / "rankings" / source.name, ranking)
    rankings.append(ranking)
  scores = workdir / "regressions.jsonl"
  rows = run_regressions(scores, data, settings.regressors, settings.late_share)
  return regression_section(data, rankings, rows, settings.late_share)


def _feature_stores(
  settings: AnalyzeSettings, sources: Sequence[Source], workdir: Path
) -> list[FeatureStore]:
  """Attention features of all runs; a model of several is loaded once."""
  shardings = weight_shardings(make_mesh(settings.mesh))
  get_model = functools.cache(
    lambda name: load_model(name, jnp.dtype(settings.dtype), shardings=shardings)
  )
  return [_features(settings, source, workdir, get_model) for source in sources]


def _token_values(store: FeatureStore | None, limit: int | None) -> tuple[list | None, list | None]:
  """Surprisals of the first chains' tokens, and the attention that these get from the answer."""
  if store is None:
    return None, None
  chains = range(len(store.ids))[:limit]
  surprisals = [store.surprisal[store.rows(chain)].tolist() for chain in chains]
  return surprisals, [store.answer_attention(chain).tolist() for chain in chains]


def _features(settings: AnalyzeSettings, source: Source, workdir: Path, get_model) -> FeatureStore:
  """Attention features of a run's chains, read by the model that pruned them."""
  noted = source.chains[0].pruner
  pruner = settings.pruner or noted
  try:
    tokenizer = load_tokenizer(pruner)
  except UserError as error:
    raise UserError(
      f"{source.path} was pruned by {noted}, which regression needs: {error} If it lies elsewhere "
      f"now, pass its place as --config.pruner; or leave regression out of parts"
    ) from error
  check_moved(run_of(source.path), noted, pruner)
  template = load_chat_template(source.config.get("chat_template", "tokenizer"), tokenizer)
  segments = [segment(chain.chain, tokenizer, template) for chain in source.chains]
  for chain, segmented in zip(source.chains, segments, strict=True):
    if not np.array_equal(segmented.reasoning, chain.reasoning_ids):
      raise UserError(
        f"{pruner} tokenises chain {chain.chain.id} of {source.path} otherwise than when it was "
        "pruned; the pruner must be the same model"
      )
  model: Model = get_model(pruner)
  return build_store(
    workdir / "features" / source.name,
    model,
    [chain.chain.id for chain in source.chains],
    segments,
    pruner=noted,
    dtype=settings.feature_dtype,
    batch_positions=settings.batch_positions,
  )


def _provenance(
  settings: AnalyzeSettings, sources: Sequence[Source]
) -> dict[str, dict[str, object]]:
  packages = ("jax", "jaxlib", "flax", "numpy", "scikit-learn", "textblob", "matplotlib")
  versions: dict[str, object] = {name: importlib.metadata.version(name) for name in packages}
  return {
    "Devices": {str(device): device.device_kind for device in jax.devices()},
    "Versions": versions,
    "Analysis": dataclasses.asdict(settings),
    **{f"Pruning of {source.name} ({source.path})": dict(source.config) for source in sources},
  }
