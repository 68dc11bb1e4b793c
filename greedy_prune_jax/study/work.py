"""Work of a study's parts: the runs of the other jobs, one after the other."""

import itertools
import random
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from absl import logging

from greedy_prune_jax.chains.chain import Chain
from greedy_prune_jax.chains.question_sets import (
  is_generated,
  load_questions,
  rows_to_read,
  split_source,
)
from greedy_prune_jax.chains.reading import read_chains
from greedy_prune_jax.distill.run import run_distill
from greedy_prune_jax.distill.settings import DistillSettings
from greedy_prune_jax.distill.termination import terminated
from greedy_prune_jax.distill.workdir import bind_config, has_ended
from greedy_prune_jax.drp import summary
from greedy_prune_jax.drp.run import OUTPUTS, run_drp
from greedy_prune_jax.drp.settings import MAY_CHANGE as DRP_MAY_CHANGE
from greedy_prune_jax.drp.settings import DrpSettings
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.evaluation.run import OUTPUT, run_evaluate
from greedy_prune_jax.evaluation.settings import MAY_CHANGE as EVALUATE_MAY_CHANGE
from greedy_prune_jax.evaluation.settings import EvaluateSettings
from greedy_prune_jax.models.pretrained import load_tokenizer
from greedy_prune_jax.pruning.run import run_prune
from greedy_prune_jax.pruning.settings import PruneSettings
from greedy_prune_jax.runs.files import explain_os_errors, make_folder, replace_file
from greedy_prune_jax.runs.jsonl import encode_line
from greedy_prune_jax.runs.workdir import Workdir
from greedy_prune_jax.study.parts import StoppedError
from greedy_prune_jax.study.settings import BASE, StudySettings

# Of a generated set, which has no end, so many times the chains that are wanted are looked at.
_LOOK_AT = 20


def make_chains(settings: StudySettings, path: Path, chains_seed: int) -> None:
  """Writes chains of the study, none of whose questions is asked in a test.

  Args:
    chains_seed: seed of a question set's order and, where chains are fresh, of any others'.

  Raises:
    UserError: there are fewer than wanted.
  """
  if split_source(settings.chains) is not None:
    logging.warning(
      "%s: the study is on the dataset's own worked solutions; students do better on chains that "
      "a model wrote",
      settings.chains,
    )
  asked = _test_questions(settings)
  chains = list(itertools.islice(_usable(settings, asked, chains_seed), settings.num_chains))
  if len(chains) < settings.num_chains:
    longest = settings.max_reasoning_tokens
    limit = f" of at most max_reasoning_tokens={longest}" if longest else ""
    raise UserError(
      f"{settings.chains} has {len(chains)} chains{limit} whose questions are in no test; expected "
      f"num_chains={settings.num_chains}"
    )
  make_folder(path.parent)
  replace_file(path, b"".join(encode_line(chain.to_record()) for chain in chains))


def _test_questions(settings: StudySettings) -> set[str]:
  """The texts of all questions of all tests."""
  texts = set()
  for changes in settings.tests.values():
    test = settings.evaluate_config(changes, "")
    number = rows_to_read(test["questions"], test["num_questions"], test["num_shots"])
    questions = load_questions(
      test["questions"], split=test["split"], num_questions=number, seed=test["seed"]
    )
    texts |= {question.question for question in questions}
  return texts


def _usable(settings: StudySettings, asked: set[str], chains_seed: int) -> Iterator[Chain]:
  """Chains that are short enough for the study, and in no test; no question twice."""
  pruner = settings.prune["pruner"]
  on_base = settings.base and pruner == BASE
  tokenizer = load_tokenizer(settings.base_config()["student"] if on_base else pruner)
  wanted = _LOOK_AT * settings.num_chains if is_generated(settings.chains) else 0
  seen = set(asked)
  chains = read_chains(settings.chains, num_chains=wanted, seed=chains_seed)
  if settings.fresh_chains and split_source(settings.chains) is None:
    chains = list(chains)  # in an order of their own, which is the same for all seeds
    random.Random(chains_seed).shuffle(chains)
  for chain in chains:
    ids = tokenizer(chain.reasoning, add_special_tokens=False, verbose=False)["input_ids"]
    if settings.max_reasoning_tokens and len(ids) > settings.max_reasoning_tokens:
      continue
    if chain.question not in seen:
      seen.add(chain.question)
      yield chain


def prune_arm(config: Mapping[str, Any], folder: Path) -> None:
  """Prunes all chains by one ranking.

  Raises:
    UserError: a chain could not be pruned: all arms must have the same.
  """
  settings = PruneSettings.from_config(config)
  with Workdir(folder, config, output="pruned", may_change=settings.may_change) as workdir:
    if failed := run_prune(settings, workdir):
      raise UserError(f"{len(failed)} chains could not be pruned; see {folder}/skipped.jsonl")
    workdir.remove_unfinished()
  jax.clear_caches()  # the next part has shapes of its own


def edit_arm(config: Mapping[str, Any], folder: Path) -> None:
  """Has a teacher edit all chains (DRP), and sums up how that went in the arm's folder.

  Raises:
    UserError: there is no reply on some chains; they are asked about again with the next run.
  """
  settings = DrpSettings.from_config(config)
  outputs = {"output": OUTPUTS[0], "further_outputs": OUTPUTS[1:]}
  with Workdir(folder, config, **outputs, may_change=DRP_MAY_CHANGE) as workdir:
    failed = run_drp(settings, workdir)
    summary.write_tables(folder, summary.make_tables(summary.read_all(folder), settings.on_failure))
    if failed:
      raise UserError(f"there is no reply on {failed} chains; see {folder}/skipped.jsonl")
    workdir.remove_unfinished()


def train_and_test(
  distill: Mapping[str, Any],
  tests: Mapping[str, Mapping[str, Any]],
  folder: Path,
  *,
  keep_student: bool,
) -> None:
  """Trains one student, has it answer every test, and keeps what it answered.

  Args:
    distill, tests: configs of the training, and of the evaluations by name.
    folder: workdir of the training; evaluations have theirs in `evaluate/`.
    keep_student: else its checkpoints are removed in the end.

  Raises:
    StoppedError: SIGTERM came during the training, which has saved.
    UserError: the training broke down, a question got no answer, or what is there was made with
      another config.
  """
  checkpoints, removed = folder / "checkpoints", folder / "checkpoints.removed"
  train(distill, folder)
  for name, config in tests.items():
    _test(config, folder / "evaluate" / name, answered=not checkpoints.exists())
  with explain_os_errors(folder):
    if not keep_student and checkpoints.exists():
      checkpoints.rename(removed)  # at once, so that no half of them is taken for a student
    shutil.rmtree(removed, ignore_errors=True)
  jax.clear_caches()


def train(config: Mapping[str, Any], folder: Path) -> None:
  """Trains a student, or goes on with it; nothing if it has ended.

  Raises:
    StoppedError, UserError: see `train_and_test`.
  """
  make_folder(folder)
  bind_config(folder, config)
  if has_ended(folder):
    return
  settings = DistillSettings.from_config(config)
  with terminated() as should_stop:
    result = run_distill(settings, folder, should_stop)
    if result.stopped or should_stop(result.step):  # the signal may come behind the last step
      raise StoppedError


def _test(config: Mapping[str, Any], folder: Path, *, answered: bool) -> None:
  """Has a student asked, unless it has answered all before it was removed."""
  settings = EvaluateSettings.from_config(config)
  with Workdir(folder, config, output=OUTPUT, may_change=EVALUATE_MAY_CHANGE) as workdir:
    if answered and workdir.finished_ids:
      return
    if failed := run_evaluate(settings, workdir):
      raise UserError(f"{failed} samples have no reply; see {folder}/skipped.jsonl")
    workdir.remove_unfinished()
