"""The settings of a study, checked before anything is run."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from greedy_prune_jax.distill.settings import DistillSettings
from greedy_prune_jax.drp.settings import DrpSettings
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.evaluation.settings import EvaluateSettings
from greedy_prune_jax.pruning.settings import PruneSettings
from greedy_prune_jax.runs.settings import JobSettings, check_least

# The two ends of every study: all of the reasoning, and none of it.
NO_PRUNING, ANSWER_ONLY = "no_pruning", "answer_only"

# The name under which arms and students find the model of `base`.
BASE = "base"

# The job whose settings each group changes.
_JOBS = {"arms": "prune", "edited": "drp", "students": "distill", "tests": "evaluate"}

_LONGEST_POLL = 86_400  # seconds
_NAME = re.compile(r"\w[\w.-]*")

# What the study decides itself, so that all parts work on the same.
_OWN = {
  "prune": ("chains", "num_chains", "seed", "max_reasoning_tokens", "keep_ratios"),
  "drp": ("chains", "num_chains", "show_chains", "dry_run"),
  "distill": ("chains", "num_chains", "keep_ratios", "seed", "export"),
  "evaluate": ("models", "follow", "compare_with", "keep_ratios"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudySettings(JobSettings):
  """Settings of `configs/study_*.py`; `configs/study_cpu.py` explains each."""

  config_file = "configs/study_cpu.py"

  chains: str
  num_chains: int
  max_reasoning_tokens: int
  chains_seed: int
  fresh_chains: bool
  keep_ratios: tuple[float, ...]
  seeds: tuple[int, ...]
  base: dict[str, Any] = dataclasses.field(hash=False)
  arms: dict[str, Any] = dataclasses.field(hash=False)
  reference: str
  edited: dict[str, Any] = dataclasses.field(hash=False)
  ready: dict[str, Any] = dataclasses.field(hash=False)
  students: dict[str, Any] = dataclasses.field(hash=False)
  tests: dict[str, Any] = dataclasses.field(hash=False)
  prune: dict[str, Any] = dataclasses.field(hash=False)
  drp: dict[str, Any] = dataclasses.field(hash=False)
  distill: dict[str, Any] = dataclasses.field(hash=False)
  evaluate: dict[str, Any] = dataclasses.field(hash=False)
  keep_students: bool
  poll_seconds: float
  compilation_cache: bool

  def __post_init__(self):
    check_least(self, 0, "max_reasoning_tokens", "chains_seed")
    check_least(self, 1, "num_chains")
    if not 0 < self.poll_seconds <= _LONGEST_POLL:
      raise UserError(
        f"poll_seconds={self.poll_seconds}; expected a number above 0, up to {_LONGEST_POLL}"
      )
    good = all(type(seed) is int and seed >= 0 for seed in self.seeds)
    if not self.seeds or not good or len(set(self.seeds)) < len(self.seeds):
      raise UserError(
        f"seeds={self.seeds}; expected different whole numbers from 0 on, such as (0, 1, 2)"
      )
    for name in ("students", "tests"):
      if not getattr(self, name):
        raise UserError(f"{name} is empty; expected at least one")
    arms = [*self.arms, *self.edited, *self.ready]
    for name in (*arms, *self.students, *self.tests):
      if not _NAME.fullmatch(name):
        raise UserError(f"{name!r} names a folder; expected letters, digits, _, - and . alone")
    for name in arms:
      if name in (NO_PRUNING, ANSWER_ONLY) or arms.count(name) > 1:
        raise UserError(f"an arm is called {name}, as another is; choose another name")
    self._check_parts()
    check_reference(self.reference, arms)

  def _check_parts(self) -> None:
    """Makes every job's settings once, so that a mistake shows before the first hour is spent."""
    for arm, chains in self.ready.items():
      if not isinstance(chains, str):
        raise UserError(f"ready.{arm}={chains!r}; expected the name of a file of chains")
    if self.base:
      self._check_base()
    for group, job in _JOBS.items():
      for key, changes in getattr(self, group).items():
        name = f"{group}.{key}"
        if not isinstance(changes, Mapping):
          raise UserError(f"{name}={changes!r}; expected a group of settings")
        if own := sorted(set(changes) & set(_OWN[job])):
          raise UserError(f"{name} sets {own[0]}, which the study sets for all parts alike")
        try:
          getattr(self, f"_{job}")(changes)
        except UserError as error:
          raise UserError(f"{name}: {error}") from error

  def _check_base(self) -> None:
    """Checks what the base is told, and that it starts from something else than itself."""
    try:
      made = DistillSettings.from_config(self.base_config())
    except UserError as error:
      raise UserError(f"base: {error}") from error
    if made.student == BASE:
      raise UserError(
        "base.student=base; expected the model, or the tokenizer, that it starts from"
      )

  def _prune(self, changes: Mapping[str, Any]) -> None:
    PruneSettings.from_config(self.prune_config(changes, "chains"))

  def _drp(self, changes: Mapping[str, Any]) -> None:
    settings = DrpSettings.from_config(self.drp_config(changes, "chains"))
    if settings.stages[-1] == "decompose":
      raise UserError(f"stages={settings.stages} make no chains; expected edit or write at the end")

  def _distill(self, changes: Mapping[str, Any]) -> None:
    for ratio in (*self.keep_ratios, 0.0, 1.0):
      DistillSettings.from_config(self.distill_config(changes, "chains", ratio, 0))

  def _evaluate(self, changes: Mapping[str, Any]) -> None:
    EvaluateSettings.from_config(self.evaluate_config(changes, "student"))

  def base_config(self) -> dict[str, Any]:
    """The config of the `distill` run of the model that all parts start from."""
    return {**_merged(self.distill, self.base), "export": "last"}

  def prune_config(self, changes: Mapping[str, Any], chains: str) -> dict[str, Any]:
    """The config of the `prune` run of an arm."""
    own = {"chains": chains, "num_chains": 0, "max_reasoning_tokens": 0, "show_chains": 0}
    ratios = tuple(sorted(self.keep_ratios, reverse=True))  # the study's order is its students' own
    return {**_merged(self.prune, changes), **own, "keep_ratios": ratios}

  def drp_config(self, changes: Mapping[str, Any], chains: str) -> dict[str, Any]:
    """The config of the `drp` run of an arm."""
    own = {"chains": chains, "num_chains": 0, "show_chains": 0, "dry_run": False}
    return {**_merged(self.drp, changes), **own}

  def distill_config(
    self, changes: Mapping[str, Any], chains: str, keep_ratio: float, seed: int
  ) -> dict[str, Any]:
    """The config of the `distill` run of one student."""
    own = {"chains": chains, "num_chains": 0, "keep_ratios": (keep_ratio,), "seed": seed}
    return {**_merged(self.distill, changes), **own, "export": "none"}

  def evaluate_config(self, changes: Mapping[str, Any], student: str) -> dict[str, Any]:
    """The config of the `evaluate` run of one student on one test."""
    own = {"models": (student,), "follow": False, "compare_with": (), "keep_ratios": ()}
    return {**_merged(self.evaluate, changes), **own}


def check_reference(reference: str, arms: Sequence[str]) -> None:
  """A UserError unless a reference is one of the arms, or empty."""
  if reference and reference not in arms:
    raise UserError(
      f"reference={reference!r} is no arm; expected one of {', '.join(arms) or 'none'}, or "
      f"nothing for a study without a table of differences"
    )


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
  """A config with some of its keys, also in groups, set differently."""
  merged = dict(base)
  for key, value in changes.items():
    known = merged.get(key)
    if isinstance(value, Mapping) and isinstance(known, Mapping):
      value = _merged(known, value)
    merged[key] = value
  return merged
