"""The settings of a `prune` run, checked before anything is loaded."""

import dataclasses
from typing import cast

from greedy_prune_jax.accelerators import ACCELERATORS
from greedy_prune_jax.chains.chain import ratio_key
from greedy_prune_jax.chains.settings import ChainSettings
from greedy_prune_jax.chains.thinking_chains import MODES
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.settings import ModelSettings
from greedy_prune_jax.parallel import SearchMeshSettings
from greedy_prune_jax.pruning.budget import parse_budgets
from greedy_prune_jax.rankings.interface import RankingSettings
from greedy_prune_jax.rankings.registry import RANKINGS
from greedy_prune_jax.runs.settings import ON_BAD_CHAIN, JobSettings, check_choice, check_least
from greedy_prune_jax.scoring.objectives import OBJECTIVES, Objective
from greedy_prune_jax.scoring.scorer import ATTENTIONS
from greedy_prune_jax.search.screen import ScreenSettings
from greedy_prune_jax.search.skill_steps import SKILL_STEP
from greedy_prune_jax.search.units import UNITS
from greedy_prune_jax.teachers.settings import MAY_CHANGE as ENDPOINT_MAY_CHANGE
from greedy_prune_jax.teachers.settings import EndpointSettings

GREEDY = "greedy"  # the ranking that is a search
SCREENED = "screened"
RUNS = "runs"
SEARCHES = ("exact", SCREENED, RUNS)
RACES = (SCREENED, RUNS)  # searches that `screen` and `audit` are for

# What a later run in the same workdir may set differently: nothing here changes a chain's result.
_MAY_CHANGE = (
  *("attention", "batch_size", "mesh.data", "mesh.sequence", "mesh.model"),
  *("on_bad_chain", "show_chains", "compilation_cache", "dry_run"),
  *("budget", "budget_new_tokens"),
  *("plan.device", "plan.num_devices", "plan.peak_flops", "plan.utilisation"),
  *ENDPOINT_MAY_CHANGE,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanSettings:
  """The group `plan` of `configs/prune.py`; see there for what each setting means."""

  device: str
  num_devices: int
  peak_flops: float
  utilisation: float

  def __post_init__(self):
    check_choice("plan.device", self.device, ("", *ACCELERATORS))
    check_least(self, 0, "num_devices", "peak_flops")
    if not 0 < self.utilisation <= 1:
      raise UserError(
        f"plan.utilisation={self.utilisation}; expected a share of the peak, above 0 and up to 1"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrunerSettings(ModelSettings):
  """The model that scores."""

  pruner: str
  mesh: SearchMeshSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskSettings(ChainSettings, PrunerSettings):
  """The chains, and how far each is pruned, in which units."""

  chains_ratio: float
  max_reasoning_tokens: int
  thinking: str
  unit: str
  steps: str
  keep_ratios: tuple[float, ...]
  audit: int
  on_bad_chain: str

  def __post_init__(self):
    super().__post_init__()
    check_choice("thinking", self.thinking, MODES)
    check_choice("unit", self.unit, (*UNITS, SKILL_STEP))
    check_choice("on_bad_chain", self.on_bad_chain, ON_BAD_CHAIN)
    check_least(self, 0, "max_reasoning_tokens", "audit")
    if self.steps and self.unit != SKILL_STEP:
      raise UserError(
        f"steps={self.steps!r} is read by unit={SKILL_STEP} alone, not {self.unit}; set steps=''"
      )
    if not 0 < self.chains_ratio <= 1:
      raise UserError(
        f"chains_ratio={self.chains_ratio}; expected 1, or the keep ratio, above 0, at which the "
        f"chains of a prune workdir are pruned again"
      )
    if not self.keep_ratios:
      raise UserError("keep_ratios is empty; expected a tuple such as (0.9,0.7,0.5)")
    for ratio in self.keep_ratios:
      if not 0 <= ratio < 1:
        raise UserError(
          f"keep_ratios={self.keep_ratios} has {ratio!r}; a keep ratio is a number from 0 to below "
          f"1, the share of the reasoning tokens that stay"
        )
    if len({ratio_key(ratio) for ratio in self.keep_ratios}) < len(self.keep_ratios):
      raise UserError(f"keep_ratios={self.keep_ratios} repeats a ratio")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BudgetSettings(PrunerSettings):
  """The budgets that are read off the finished paths."""

  budget: str
  budget_new_tokens: int

  def __post_init__(self):
    super().__post_init__()
    check_least(self, 1, "budget_new_tokens")
    parse_budgets(self.budget)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OrderSettings(JobSettings):
  """The search or the ranking that orders deletions."""

  objective: str
  search: str
  screen: ScreenSettings
  deletions_per_step: int
  max_runs: int
  attention: str
  ranking: str
  ranking_seed: int
  attention_layers: tuple[int, ...]
  attention_heads: tuple[int, ...]
  attention_regression: str
  other_run: str
  llmlingua_model: str
  text_model: str
  endpoint: EndpointSettings

  def __post_init__(self):
    super().__post_init__()
    check_choice("objective", self.objective, OBJECTIVES)
    check_choice("search", self.search, SEARCHES)
    check_choice("attention", self.attention, ATTENTIONS)
    check_least(self, 0, "ranking_seed")
    check_least(self, 1, "deletions_per_step")
    check_least(self, 0, "max_runs")
    if self.ranking not in (GREEDY, *RANKINGS):
      known = [f"  {name}: {ranking.about}" for name, ranking in RANKINGS.items()]
      raise UserError(
        "\n".join([f"ranking={self.ranking!r}; expected {GREEDY} (search), or one of", *known])
      )
    self._check_needs()

  def _check_needs(self) -> None:
    """A UserError where a ranking lacks what it needs, or has what only another reads."""
    for ranking, record in RANKINGS.items():
      for name in record.options:
        readers = [other for other in RANKINGS if name in RANKINGS[other].options]
        if getattr(self, name) and self.ranking not in readers:
          raise UserError(
            f"{name}={getattr(self, name)} is read by ranking={' and '.join(readers)} alone, not "
            f"{self.ranking}"
          )
      for name, meaning in record.needs.items():
        if bool(getattr(self, name)) != (self.ranking == ranking):
          raise UserError(
            f"ranking={self.ranking}, {name}={getattr(self, name)!r}: the ranking {ranking}, and "
            f"no other, needs {meaning}"
          )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PruneSettings(TaskSettings, BudgetSettings, OrderSettings):
  """Settings of `configs/prune.py`, which tells what each of them means.

  Parts of the run take one of the bases.
  """

  config_file = "configs/prune.py"

  show_chains: int
  dry_run: bool
  plan: PlanSettings

  def __post_init__(self):
    super().__post_init__()
    check_least(self, 0, "show_chains")
    if self.audit and not (self.search in RACES and self.ranking == GREEDY):
      raise UserError(
        f"audit={self.audit}: it sets a search that estimates beside an exact one; expected "
        f"ranking={GREEDY} and search={' or '.join(RACES)}, or audit=0"
      )
    if self.max_runs and self.search != RUNS:
      raise UserError(
        f"max_runs={self.max_runs} with search={self.search}, which deletes no runs; expected "
        f"search={RUNS}, or max_runs=0"
      )
    if self.ranking == "text_model" and not any(self.keep_ratios):
      raise UserError(
        f"keep_ratios={self.keep_ratios} with ranking=text_model, which orders tokens by the "
        f"compressions to these; expected at least one above 0"
      )
    if self.search == RUNS and self.ranking == GREEDY and self.deletions_per_step != 1:
      raise UserError(
        f"deletions_per_step={self.deletions_per_step} with search={RUNS}, which deletes runs of "
        "units, as long as it finds best; expected deletions_per_step=1, or another search"
      )

  @property
  def may_change(self) -> tuple[str, ...]:
    """Keys that a later run in the same workdir may set differently."""
    if self.search in RACES:
      return _MAY_CHANGE
    return (*_MAY_CHANGE, *(f"screen.{field.name}" for field in dataclasses.fields(ScreenSettings)))

  @property
  def ranking_settings(self) -> RankingSettings:
    """Settings that the ranking reads."""
    return RankingSettings(
      objective=cast(Objective, self.objective),
      seed=self.ranking_seed,
      attention_layers=self.attention_layers,
      attention_heads=self.attention_heads,
      attention_regression=self.attention_regression,
      other_run=self.other_run,
      llmlingua_model=self.llmlingua_model,
      text_model=self.text_model,
      endpoint=self.endpoint,
      keep_ratios=self.keep_ratios,
    )
