"""The settings that jobs with chains share."""

import dataclasses

from greedy_prune_jax.chains.formats import ColumnSettings
from greedy_prune_jax.chains.question_sets import meant_by_zero
from greedy_prune_jax.runs.settings import JobSettings, check_least


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChainSettings(JobSettings):
  """Base of the settings of jobs that read chains; the jobs' config files explain each key."""

  chains: str
  columns: ColumnSettings
  num_chains: int
  seed: int

  def __post_init__(self):
    super().__post_init__()
    check_least(self, 0, "num_chains", "seed")

  @property
  def may_grow(self) -> dict[str, float]:
    """Numbers of inputs that a later run in the same workdir may set higher; see `Workdir`."""
    return {"num_chains": meant_by_zero(self.chains)}
