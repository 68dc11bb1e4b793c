"""From a study's settings to its parts.

base                            a workdir of distill: the model that pruners and students start from
chains                          chains/chains.jsonl: those that every arm starts from
prune/ARM                       a workdir of prune, down to the lowest keep ratio
drp/ARM                         a workdir of drp
students/STUDENT/ARM/...        a workdir of distill, and below it one of evaluate a test

With `fresh_chains` the first of these, and what is made of them, are there for each seed: below
`seed-0`, `seed-1`, ...
"""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from greedy_prune_jax.distill.export import EXPORT
from greedy_prune_jax.distill.settings import MAY_CHANGE as DISTILL_MAY_CHANGE
from greedy_prune_jax.drp.settings import MAY_CHANGE as DRP_MAY_CHANGE
from greedy_prune_jax.evaluation.settings import MAY_CHANGE as EVALUATE_MAY_CHANGE
from greedy_prune_jax.pruning.settings import PruneSettings
from greedy_prune_jax.study.parts import Part
from greedy_prune_jax.study.settings import ANSWER_ONLY, BASE, NO_PRUNING, StudySettings
from greedy_prune_jax.study.work import edit_arm, make_chains, prune_arm, train, train_and_test


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
  parts = []
  if settings.base:
    config = settings.base_config()
    train_base = functools.partial(train, config, folder / BASE)
    parts.append(Part(BASE, (), config, DISTILL_MAY_CHANGE, train_base))
  turns = {ratio: turn for turn, ratio in enumerate(settings.keep_ratios)}
  drawn = set()
  for turn in range(max(len(turns), 1)):  # whole chains and answers alone come in the first
    for seed in settings.seeds:
      draw = _draw(settings, seed)
      if draw not in drawn:
        drawn.add(draw)
        parts.append(_chains_part(settings, folder, draw))
        parts += _arm_parts(settings, folder, draw)
      parts += [
        _student_part(settings, folder, condition, seed)
        for condition in conditions(settings)
        if turns.get(condition.keep_ratio, 0) == turn
      ]
  return parts


class _Draw(NamedTuple):
  """Chains that some students share.

  Attributes:
    suffix: suffix of the names of parts that work on them.
    seed: added to `chains_seed`, and the seed of random rankings where there are several draws.
  """

  suffix: str
  seed: int

  def chains(self, folder: Path) -> Path:
    """The file of the chains."""
    return folder / f"chains{self.suffix}" / "chains.jsonl"


def _draw(settings: StudySettings, seed: int) -> _Draw:
  """The chains of a seed's students."""
  return _Draw(f"/seed-{seed}", seed) if settings.fresh_chains else _Draw("", 0)


def _chains_part(settings: StudySettings, folder: Path, draw: _Draw) -> Part:
  chains_seed = settings.chains_seed + draw.seed
  asked = ("questions", "split", "num_questions", "num_shots", "seed")
  return Part(
    name=f"chains{draw.suffix}",
    needs=(),
    config={
      "chains": settings.chains,
      "num_chains": settings.num_chains,
      "max_reasoning_tokens": settings.max_reasoning_tokens,
      "chains_seed": chains_seed,
      "tests": {
        name: {key: settings.evaluate_config(changes, "")[key] for key in asked}
        for name, changes in settings.tests.items()
      },
      "pruner": settings.prune["pruner"],
    },
    may_change=(),
    run=functools.partial(make_chains, settings, draw.chains(folder), chains_seed),
  )


def _on_base(
  settings: StudySettings, folder: Path, config: dict[str, Any], key: str
) -> tuple[dict[str, Any], tuple[str, ...]]:
  """A config with the place of the base where it names it, and the part that it then needs."""
  if not settings.base or config[key] != BASE:
    return config, ()
  return config | {key: str(folder / BASE / EXPORT)}, (BASE,)


def _arm_parts(settings: StudySettings, folder: Path, draw: _Draw) -> Iterator[Part]:
  """The runs of `prune` and of `drp` on some chains."""
  chains, needs = str(draw.chains(folder)), f"chains{draw.suffix}"
  for arm, changes in settings.arms.items():
    name = f"prune/{arm}{draw.suffix}"
    config = settings.prune_config(changes, chains)
    if settings.fresh_chains:
      config["ranking_seed"] = draw.seed
    config, base = _on_base(settings, folder, config, "pruner")
    may_change = PruneSettings.from_config(config).may_change
    run = functools.partial(prune_arm, config, folder / name)
    yield Part(name, (needs, *base), config, may_change, run)
  for arm, changes in settings.edited.items():
    name = f"drp/{arm}{draw.suffix}"
    config = settings.drp_config(changes, chains)
    run = functools.partial(edit_arm, config, folder / name)
    yield Part(name, (needs,), config, DRP_MAY_CHANGE, run)


def _student_part(settings: StudySettings, folder: Path, condition: Condition, seed: int) -> Part:
  draw = _draw(settings, seed)
  source, needs = str(draw.chains(folder)), f"chains{draw.suffix}"
  if condition.arm in settings.ready:
    source = settings.ready[condition.arm]
  for job, arms in (("prune", settings.arms), ("drp", settings.edited)):
    if condition.arm in arms:
      needs = f"{job}/{condition.arm}{draw.suffix}"
      source = str(folder / needs)
  name = condition.folder(seed)
  changes = settings.students[condition.student]
  distill = settings.distill_config(changes, source, condition.keep_ratio, seed)
  distill, base = _on_base(settings, folder, distill, "student")
  student = f"student={folder / name}"
  tests = {
    test: settings.evaluate_config(changes, student) for test, changes in settings.tests.items()
  }
  may_change = [f"distill.{key}" for key in DISTILL_MAY_CHANGE]
  may_change += [f"tests.{test}.{key}" for test in tests for key in EVALUATE_MAY_CHANGE]
  return Part(
    name=name,
    needs=(needs, *base),
    config={"distill": distill, "tests": tests},
    may_change=may_change,
    run=functools.partial(
      train_and_test, distill, tests, folder / name, keep_student=settings.keep_students
    ),
  )
