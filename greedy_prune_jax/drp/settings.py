"""The settings of a `drp` run, checked before anything is loaded."""

import dataclasses
import importlib.util

from greedy_prune_jax.chains.formats import ColumnSettings
from greedy_prune_jax.drp.asking import Asking
from greedy_prune_jax.drp.records import ON_FAILURE, RULES
from greedy_prune_jax.drp.stages import DECOMPOSE, STAGES, Stage
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.parallel import MeshSettings
from greedy_prune_jax.runs.settings import (
  DTYPES,
  ON_BAD_CHAIN,
  JobSettings,
  check_choice,
  check_least,
)
from greedy_prune_jax.teachers.endpoint_settings import ENDPOINT, EndpointSettings
from greedy_prune_jax.teachers.endpoint_settings import MAY_CHANGE as ENDPOINT_MAY_CHANGE
from greedy_prune_jax.teachers.teacher import WritingSettings, check_writing

SPLITTERS = ("teacher", RULES)

# What a later run in the same workdir may set differently: nothing here changes what is stored of a
# chain. `stages` says which are run now, `on_failure` what `chains` is made of afterwards.
MAY_CHANGE = (
  *("stages", "stored", "on_failure", "dry_run", "batch_size", "mesh.data", "mesh.model"),
  *("on_bad_chain", "show_chains", "compilation_cache"),
  *ENDPOINT_MAY_CHANGE,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrpSettings(JobSettings):
  """What `configs/drp.py` sets; see there for what each setting means."""

  config_file = "configs/drp.py"

  chains: str
  columns: ColumnSettings
  num_chains: int
  seed: int
  stages: tuple[str, ...]
  splitter: str
  stored: str
  teacher: str
  chat_template: str
  dtype: str
  endpoint: EndpointSettings
  temperature: float
  top_p: float
  top_k: int
  max_new_tokens: int
  max_attempts: int
  on_failure: str
  on_bad_chain: str
  dry_run: bool
  batch_size: int
  mesh: MeshSettings
  show_chains: int
  compilation_cache: bool

  def __post_init__(self):
    names = tuple(STAGES)
    start = names.index(self.stages[0]) if self.stages and self.stages[0] in names else 0
    if not self.stages or self.stages != names[start : start + len(self.stages)]:
      raise UserError(
        f"stages={self.stages}; expected one or more of {names}, in this order and without a gap"
      )
    check_choice("splitter", self.splitter, SPLITTERS)
    check_choice("dtype", self.dtype, DTYPES)
    check_choice("on_failure", self.on_failure, ON_FAILURE)
    check_choice("on_bad_chain", self.on_bad_chain, ON_BAD_CHAIN)
    check_least(self, 0, "num_chains", "seed", "top_k", "batch_size", "show_chains")
    check_least(self, 1, "max_new_tokens", "max_attempts")
    check_writing(self.temperature, self.top_p, ())
    if self.stored and DECOMPOSE.name in self.stages:
      raise UserError(
        f"stored={self.stored!r}, but the stage {DECOMPOSE.name}, which makes the steps, is to be "
        f"run; leave it out of stages, or set stored=''"
      )
    endpoint = self.endpoint
    if self.asks:
      if self.teacher == ENDPOINT and not endpoint.model:
        raise UserError("teacher=openai needs endpoint.model, the model's name at the endpoint")
      _check_packages()

  @property
  def asks(self) -> bool:
    """Whether a teacher is asked at all."""
    return self.splitter != RULES or self.stages != (DECOMPOSE.name,)

  @property
  def chosen_stages(self) -> list[Stage]:
    """The stages to run."""
    return [STAGES[name] for name in self.stages]

  @property
  def asking(self) -> Asking:
    """How stages ask; the teacher is named by its model, also where an endpoint runs it."""
    name = self.endpoint.model if self.teacher == ENDPOINT else self.teacher
    return Asking(name, self.max_attempts, self.seed)

  @property
  def writing(self) -> WritingSettings:
    """How the teacher is to write."""
    return WritingSettings(
      max_new_tokens=self.max_new_tokens,
      temperature=self.temperature,
      top_p=self.top_p,
      top_k=self.top_k,
    )


def _check_packages() -> None:
  for name, package in (("json_repair", "json-repair"), ("rapidfuzz", "rapidfuzz")):
    if importlib.util.find_spec(name) is None:
      raise UserError(
        f"checking a teacher's replies needs the package {package}; install it with: "
        "pip install 'greedy_prune_jax[drp]'"
      )
