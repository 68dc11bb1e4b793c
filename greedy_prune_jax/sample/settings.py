"""The settings of a `sample` run, checked before anything is loaded."""

import dataclasses

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.parallel import MeshSettings
from greedy_prune_jax.runs.settings import DTYPES, JobSettings, check_choice, check_least
from greedy_prune_jax.teachers.endpoint_settings import ENDPOINT, EndpointSettings
from greedy_prune_jax.teachers.endpoint_settings import MAY_CHANGE as ENDPOINT_MAY_CHANGE
from greedy_prune_jax.teachers.teacher import WritingSettings, check_writing

# What a later run in the same workdir may set differently: nothing here changes a reply.
MAY_CHANGE = (
  *("batch_size", "mesh.data", "mesh.model", "show_samples", "compilation_cache"),
  *ENDPOINT_MAY_CHANGE,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleSettings(JobSettings):
  """What `configs/sample.py` sets; see there for what each setting means."""

  config_file = "configs/sample.py"

  questions: str
  split: str
  num_questions: int
  num_shots: int
  instruction: str
  seed: int
  teacher: str
  chat_template: str
  dtype: str
  endpoint: EndpointSettings
  num_samples: int
  temperature: float
  top_p: float
  top_k: int
  max_new_tokens: int
  stop_strings: tuple[str, ...]
  batch_size: int
  mesh: MeshSettings
  show_samples: int
  compilation_cache: bool

  def __post_init__(self):
    check_choice("split", self.split, ("train", "test"))
    check_choice("dtype", self.dtype, DTYPES)
    check_least(
      self, 0, "num_questions", "num_shots", "seed", "top_k", "batch_size", "show_samples"
    )
    check_least(self, 1, "num_samples", "max_new_tokens")
    endpoint = self.endpoint
    if self.teacher == ENDPOINT and not endpoint.model:
      raise UserError("teacher=openai needs endpoint.model, the model's name at the endpoint")
    check_writing(self.temperature, self.top_p, self.stop_strings)
    if self.temperature == 0 and self.num_samples > 1:
      raise UserError(
        f"num_samples={self.num_samples} at temperature=0 would be that many equal samples; set a "
        "temperature above 0, or num_samples=1"
      )

  @property
  def teacher_name(self) -> str:
    """Who writes: the model, also where an endpoint runs it."""
    return self.endpoint.model if self.teacher == ENDPOINT else self.teacher

  @property
  def writing(self) -> WritingSettings:
    """How the teacher is to write."""
    names = (field.name for field in dataclasses.fields(WritingSettings))
    return WritingSettings(**{name: getattr(self, name) for name in names})
