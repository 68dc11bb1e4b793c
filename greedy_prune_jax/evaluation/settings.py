"""The settings of an `evaluate` run, checked before anything is loaded."""

import dataclasses

from greedy_prune_jax.chains.ratio_form import check_ratio_form, check_ratios
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.settings import check_least
from greedy_prune_jax.teachers.settings import QuestionJobSettings

# What a later run in the same workdir may set differently: nothing here changes a reply.
MAY_CHANGE = (
  *("models", "keep_ratios", "follow", "idle_minutes", "compare_with"),
  *("batch_size", "mesh.data", "mesh.model", "show_samples", "compilation_cache"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateSettings(QuestionJobSettings):
  """Settings of `configs/evaluate.py`, which explains each."""

  config_file = "configs/evaluate.py"

  models: tuple[str, ...]
  follow: bool
  idle_minutes: float
  ratio_form: str
  keep_ratios: tuple[float, ...]
  compare_with: tuple[str, ...]

  def __post_init__(self):
    super().__post_init__()
    check_least(self, 0, "idle_minutes")
    if not self.models:
      raise UserError(
        "models is empty; expected workdirs of distill runs or models, as (PLACE,) or "
        "(NAME=PLACE,OTHER=PLACE)"
      )
    check_ratio_form(self.ratio_form)
    if self.keep_ratios:
      check_ratios(self.keep_ratios)
    if self.ratio_form and not self.keep_ratios:
      raise UserError(f"ratio_form={self.ratio_form!r} needs keep_ratios to tell, such as (0.5,)")
