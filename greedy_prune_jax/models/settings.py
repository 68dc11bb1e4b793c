"""The settings that jobs with a model share."""

import dataclasses

from greedy_prune_jax.parallel import MeshSettings
from greedy_prune_jax.runs.settings import DTYPES, JobSettings, check_choice, check_least


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSettings(JobSettings):
  """Base of the settings of jobs that run a model; the jobs' config files explain each key."""

  chat_template: str
  dtype: str
  batch_size: int
  mesh: MeshSettings
  compilation_cache: bool

  def __post_init__(self):
    super().__post_init__()
    check_choice("dtype", self.dtype, DTYPES)
    check_least(self, 0, "batch_size")
