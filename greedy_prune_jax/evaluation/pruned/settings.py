"""The settings of an `evaluate_pruned` run, checked before anything is loaded."""

import dataclasses
import math
from pathlib import Path

from greedy_prune_jax.chains.reading import named_run
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.settings import check_least
from greedy_prune_jax.teachers.settings import WritingJobSettings

# What a later run in the same workdir may set differently: nothing here changes a reply.
MAY_CHANGE = ("batch_size", "mesh.data", "mesh.model", "compilation_cache")
# Numbers of inputs that a later run may set higher, and what 0 stands for.
MAY_GROW = {"num_chains": math.inf}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluatePrunedSettings(WritingJobSettings):
  """Settings of `configs/evaluate_pruned.py`, which explains each."""

  config_file = "configs/evaluate_pruned.py"

  pruned: tuple[str, ...]
  num_chains: int
  model: str
  begin_answer: bool

  def __post_init__(self):
    super().__post_init__()
    check_least(self, 0, "num_chains")
    if not self.pruned:
      raise UserError(
        "pruned is empty; expected workdirs of prune runs, as (DIR,) or (NAME=DIR,OTHER=DIR)"
      )
    names = list(self.runs)
    if len(names) < len(self.pruned):
      raise UserError(
        f"pruned={self.pruned} has two runs of one name; name them apart, as NAME=DIR"
      )

  @property
  def runs(self) -> dict[str, Path]:
    """Workdirs of prune runs, by the names that they go by: NAME of `NAME=DIR`, or the folder's."""
    return dict(map(named_run, self.pruned))
