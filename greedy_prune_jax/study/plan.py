"""From a study's settings to its parts.

chains                          chains/chains.jsonl: those that every arm starts from
prune/ARM                       a workdir of prune, down to the lowest keep ratio
drp/ARM                         a workdir of drp
students/STUDENT/ARM/...        a workdir of distill, and below it one of evaluate a test
"""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from greedy_prune_jax.distill.settings import MAY_CHANGE as DISTILL_MAY_CHANGE
from greedy_prune_jax.drp.settings import MAY_CHANGE as DRP_MAY_CHANGE
from greedy_prune_jax.evaluation.settings import MAY_CHANGE as EVALUATE_MAY_CHANGE
from greedy_prune_jax.pruning.settings import PruneSettings
from greedy_prune_jax.study.parts import Part
from greedy_prune_jax.study.settings import ANSWER_ONLY, NO_PRUNING, StudySettings
from greedy_prune_jax.study.work import edit_arm, make_chains, prune_arm, train_and_test


@dataclasses.dataclass(frozen=True)
class Condition:
  """A place in the study's table: one kind of student, on one arm at one keep ratio.

  Attributes:
    student: a key of `students`.
    arm: a key of `arms`, `edited` or `ready`, or one of the two ends.
    keep_ratio: share of the reasoning that it is trained on; 1 for edited and ready chains.
  """

  student: str
  arm: str
  keep_ratio: float

  def folder(self, seed: int) -> str:
    """Folder of its student of a seed, and name of that part."""
    return f"students/{self.student}/{self.arm}/keep-{self.keep_ratio:g}/seed-{seed}"


def conditions(settings: StudySettings) -> list[Condition]:
  """All conditions, in the order of the table: the ends, the arms, edited and ready chains."""
  ratios = sorted(settings.keep_ratios, reverse=True)
  return [
    Condition(student, arm, ratio)
    for student in settings.students
    for arm, ratio in (
      (NO_PRUNING, 1.0),
      (ANSWER_ONLY, 0.0),
      *((arm, ratio) for arm in settings.arms for ratio in ratios),
      *((arm, 1.0) for arm in (*settings.edited, *settings.ready)),
    )
  ]


def plan(settings: StudySettings, folder: Path) -> list[Part]:
  """The parts of a study.

  Students come keep ratio by keep ratio, in the order of the settings, and below that seed by seed:
  a study that is looked at half-way has all arms and seeds of some ratio.
  """
  chains = folder / "chains" / "chains.jsonl"
  parts = [
    Part(
      name="chains",
      needs=(),
      config=_chains_config(settings),
      may_change=(),
      run=functools.partial(make_chains, settings, chains),
    )
  ]
  parts += _prune_parts(settings, folder, chains)
  parts += _drp_parts(settings, folder, chains)
  turns = {ratio: turn for turn, ratio in enumerate(settings.keep_ratios)}
  parts += [
    _student_part(settings, folder, chains, condition, seed)
    for turn in range(max(len(turns), 1))  # whole chains and answers alone come in the first
    for seed in settings.seeds
    for condition in conditions(settings)
    if turns.get(condition.keep_ratio, 0) == turn
  ]
  return parts


def _chains_config(settings: StudySettings) -> dict[str, Any]:
  names = ("chains", "num_chains", "max_reasoning_tokens", "chains_seed")
  asked = ("questions", "split", "num_questions", "num_shots", "seed")
  tests = {
    name: {key: settings.evaluate_config(changes, "")[key] for key in asked}
    for name, changes in settings.tests.items()
  }
  pruner = settings.prune["pruner"]
  return {name: getattr(settings, name) for name in names} | {"tests": tests, "pruner": pruner}


def _prune_parts(settings: StudySettings, folder: Path, chains: Path) -> Iterator[Part]:
  for arm, changes in settings.arms.items():
    config = settings.prune_config(changes, str(chains))
    yield Part(
      name=f"prune/{arm}",
      needs=("chains",),
      config=config,
      may_change=PruneSettings.from_config(config).may_change,
      run=functools.partial(prune_arm, config, folder / "prune" / arm),
    )


def _drp_parts(settings: StudySettings, folder: Path, chains: Path) -> Iterator[Part]:
  for arm, changes in settings.edited.items():
    config = settings.drp_config(changes, str(chains))
    yield Part(
      name=f"drp/{arm}",
      needs=("chains",),
      config=config,
      may_change=DRP_MAY_CHANGE,
      run=functools.partial(edit_arm, config, folder / "drp" / arm),
    )


def _student_part(
  settings: StudySettings, folder: Path, chains: Path, condition: Condition, seed: int
) -> Part:
  source, needs = str(chains), "chains"
  if condition.arm in settings.ready:
    source = settings.ready[condition.arm]
  elif condition.arm in settings.edited:
    source, needs = str(folder / "drp" / condition.arm), f"drp/{condition.arm}"
  elif condition.arm in settings.arms:
    source, needs = str(folder / "prune" / condition.arm), f"prune/{condition.arm}"
  name = condition.folder(seed)
  changes = settings.students[condition.student]
  distill = settings.distill_config(changes, source, condition.keep_ratio, seed)
  student = f"student={folder / name}"
  tests = {
    test: settings.evaluate_config(changes, student) for test, changes in settings.tests.items()
  }
  may_change = [f"distill.{key}" for key in DISTILL_MAY_CHANGE]
  may_change += [f"tests.{test}.{key}" for test in tests for key in EVALUATE_MAY_CHANGE]
  return Part(
    name=name,
    needs=(needs,),
    config={"distill": distill, "tests": tests},
    may_change=may_change,
    run=functools.partial(
      train_and_test, distill, tests, folder / name, keep_student=settings.keep_students
    ),
  )
