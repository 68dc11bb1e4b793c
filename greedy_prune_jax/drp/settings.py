"""The settings of a `drp` run, checked before anything is loaded."""

import dataclasses

from greedy_prune_jax.chains.settings import ChainSettings
from greedy_prune_jax.drp.records import ON_FAILURE, RULES
from greedy_prune_jax.drp.stages import DECOMPOSE, STAGES, Stage
from greedy_prune_jax.errors import UserError, check_package
from greedy_prune_jax.runs.settings import ON_BAD_CHAIN, check_choice, check_least
from greedy_prune_jax.teachers.settings import MAY_CHANGE as ENDPOINT_MAY_CHANGE
from greedy_prune_jax.teachers.settings import TeacherJobSettings

SPLITTERS = ("teacher", RULES)

# Settings that a later run in the same workdir may change: none of them changes what is stored of a
# chain. `stages` names those that are run now, `on_failure` decides what `chains` is made of.
MAY_CHANGE = (
  *("stages", "stored", "on_failure", "dry_run", "batch_size", "mesh.data", "mesh.model"),
  *("on_bad_chain", "show_chains", "compilation_cache"),
  *ENDPOINT_MAY_CHANGE,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrpSettings(ChainSettings, TeacherJobSettings):
  """Settings of `configs/drp.py`, which explains each."""

  config_file = "configs/drp.py"

  stages: tuple[str, ...]
  splitter: str
  stored: str
  max_attempts: int
  on_failure: str
  on_bad_chain: str
  dry_run: bool
  show_chains: int

  def __post_init__(self):
    super().__post_init__()
    names = tuple(STAGES)
    start = names.index(self.stages[0]) if self.stages and self.stages[0] in names else 0
    if not self.stages or self.stages != names[start : start + len(self.stages)]:
      raise UserError(
        f"stages={self.stages}; expected one or more of {names}, in this order and without a gap"
      )
    check_choice("splitter", self.splitter, SPLITTERS)
    check_choice("on_failure", self.on_failure, ON_FAILURE)
    check_choice("on_bad_chain", self.on_bad_chain, ON_BAD_CHAIN)
    check_least(self, 0, "show_chains")
    check_least(self, 1, "max_attempts")
    if self.stored and DECOMPOSE.name in self.stages:
      raise UserError(
        f"stored={self.stored!r}, but the stage {DECOMPOSE.name}, which makes the steps, is to be "
        f"run; leave it out of stages, or set stored=''"
      )
    if self.asks:
      self.check_model_is_named()
      for package in ("json-repair", "rapidfuzz"):
        check_package(package, "checking a teacher's replies", "drp")

  @property
  def asks(self) -> bool:
    """True if the run asks a teacher."""
    return self.splitter != RULES or self.stages != (DECOMPOSE.name,)

  @property
  def chosen_stages(self) -> list[Stage]:
    """The stages to run."""
    return [STAGES[name] for name in self.stages]
