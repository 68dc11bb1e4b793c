"""The settings of a `sample` run, checked before anything is loaded."""

import dataclasses

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.settings import check_choice, check_least
from greedy_prune_jax.teachers.settings import MAY_CHANGE as ENDPOINT_MAY_CHANGE
from greedy_prune_jax.teachers.settings import TeacherJobSettings

# Settings that a later run in the same workdir may change: none of them changes a reply.
MAY_CHANGE = (
  *("batch_size", "mesh.data", "mesh.model", "show_samples", "compilation_cache"),
  *ENDPOINT_MAY_CHANGE,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleSettings(TeacherJobSettings):
  """Settings of `configs/sample.py`, which explains each."""

  config_file = "configs/sample.py"

  questions: str
  split: str
  num_questions: int
  num_shots: int
  instruction: str
  seed: int
  num_samples: int
  stop_strings: tuple[str, ...]
  show_samples: int

  def __post_init__(self):
    super().__post_init__()
    check_choice("split", self.split, ("train", "test"))
    check_least(self, 0, "num_questions", "num_shots", "seed", "show_samples")
    check_least(self, 1, "num_samples")
    self.check_model_is_named()
    if self.temperature == 0 and self.num_samples > 1:
      raise UserError(
        f"num_samples={self.num_samples} at temperature=0 would be that many equal samples; set a "
        "temperature above 0, or num_samples=1"
      )
