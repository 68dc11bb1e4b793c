"""The settings of a `sample` run, checked before anything is loaded."""

import dataclasses

from greedy_prune_jax.teachers.settings import MAY_CHANGE as ENDPOINT_MAY_CHANGE
from greedy_prune_jax.teachers.settings import QuestionJobSettings, TeacherJobSettings

# Settings that a later run in the same workdir may change: none of them changes a reply.
MAY_CHANGE = (
  *("batch_size", "mesh.data", "mesh.model", "show_samples", "compilation_cache"),
  *ENDPOINT_MAY_CHANGE,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleSettings(QuestionJobSettings, TeacherJobSettings):
  """Settings of `configs/sample.py`, which explains each."""

  config_file = "configs/sample.py"

  instruction: str

  def __post_init__(self):
    super().__post_init__()
    self.check_model_is_named()
