"""The settings of an `evaluate_pruned` run, checked before anything is loaded."""

import dataclasses
from pathlib import Path

from greedy_prune_jax.chains.reading import run_of
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.parallel import MeshSettings
from greedy_prune_jax.runs.settings import DTYPES, JobSettings, check_choice, check_least
from greedy_prune_jax.teachers.settings import WritingSettings

# What a later run in the same workdir may set differently: nothing here changes a reply.
MAY_CHANGE = ("batch_size", "mesh.data", "mesh.model", "compilation_cache")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluatePrunedSettings(JobSettings):
  """Settings of `configs/evaluate_pruned.py`, which explains each."""

  config_file = "configs/evaluate_pruned.py"

  pruned: tuple[str, ...]
  num_chains: int
  model: str
  chat_template: str
  dtype: str
  begin_answer: bool
  max_new_tokens: int
  batch_size: int
  mesh: MeshSettings
  compilation_cache: bool

  def __post_init__(self):
    check_choice("dtype", self.dtype, DTYPES)
    check_least(self, 0, "num_chains", "batch_size")
    check_least(self, 1, "max_new_tokens")
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
    named = {}
    for entry in self.pruned:
      name, is_named, folder = entry.partition("=")
      path = Path(folder if is_named else entry)
      named[name if is_named else run_of(path).name] = path
    return named

  @property
  def writing(self) -> WritingSettings:
    """Replies are greedy: there is one for each pruned text."""
    return WritingSettings(max_new_tokens=self.max_new_tokens)
