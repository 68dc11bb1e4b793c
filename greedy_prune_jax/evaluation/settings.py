"""The settings of an `evaluate` run, checked before anything is loaded."""

import dataclasses

from greedy_prune_jax.chains.ratio_form import check_ratio_form, check_ratios
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.parallel import MeshSettings
from greedy_prune_jax.runs.settings import DTYPES, JobSettings, check_choice, check_least
from greedy_prune_jax.teachers.settings import WritingSettings, check_writing

# What a later run in the same workdir may set differently: nothing here changes a reply.
MAY_CHANGE = (
  *("models", "keep_ratios", "follow", "idle_minutes", "compare_with"),
  *("batch_size", "mesh.data", "mesh.model", "show_samples", "compilation_cache"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateSettings(JobSettings):
  """Settings of `configs/evaluate.py`, which explains each."""

  config_file = "configs/evaluate.py"

  models: tuple[str, ...]
  follow: bool
  idle_minutes: float
  chat_template: str
  ratio_form: str
  keep_ratios: tuple[float, ...]
  dtype: str
  questions: str
  split: str
  num_questions: int
  num_shots: int
  seed: int
  num_samples: int
  temperature: float
  top_p: float
  top_k: int
  max_new_tokens: int
  stop_strings: tuple[str, ...]
  compare_with: tuple[str, ...]
  batch_size: int
  mesh: MeshSettings
  show_samples: int
  compilation_cache: bool

  def __post_init__(self):
    check_choice("split", self.split, ("train", "test"))
    check_choice("dtype", self.dtype, DTYPES)
    check_least(self, 0, "num_questions", "num_shots", "seed", "top_k", "batch_size")
    check_least(self, 0, "show_samples", "idle_minutes")
    check_least(self, 1, "num_samples", "max_new_tokens")
    check_writing(self.temperature, self.top_p, self.stop_strings)
    if self.temperature == 0 and self.num_samples > 1:
      raise UserError(
        f"num_samples={self.num_samples} at temperature=0 would be that many equal samples; set a "
        "temperature above 0, or num_samples=1"
      )
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

  @property
  def writing(self) -> WritingSettings:
    """Settings of the models' writing."""
    names = (field.name for field in dataclasses.fields(WritingSettings))
    return WritingSettings(**{name: getattr(self, name) for name in names})
