"""From what a config calls a teacher to the teacher."""

from jax.sharding import Mesh

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.parallel import make_mesh
from greedy_prune_jax.runs.workdir import Workdir
from greedy_prune_jax.teachers.local import LocalTeacher
from greedy_prune_jax.teachers.openai_batches import OpenAIBatchTeacher
from greedy_prune_jax.teachers.openai_endpoint import OpenAITeacher
from greedy_prune_jax.teachers.settings import (
  ENDPOINT,
  EndpointSettings,
  TeacherJobSettings,
  WritingSettings,
)
from greedy_prune_jax.teachers.teacher import Teacher


def load_job_teacher(settings: TeacherJobSettings, workdir: Workdir) -> Teacher:
  """The teacher of a job, whose workdir notes its weights and batches; see `load_teacher`."""
  endpoint, mesh = settings.endpoint, make_mesh(settings.mesh)
  if settings.teacher == ENDPOINT and endpoint.batch:
    return OpenAIBatchTeacher(endpoint, settings.writing, workdir.path)
  if settings.teacher == ENDPOINT:
    return OpenAITeacher(endpoint, settings.writing)
  workdir.hold_weights(settings.teacher)
  return LocalTeacher.load(
    settings.teacher,
    settings.writing,
    chat_template=settings.chat_template,
    dtype=settings.dtype,
    batch_size=settings.batch_size,
    mesh=mesh,
  )


def load_teacher(
  name: str, writing: WritingSettings, endpoint: EndpointSettings, *, mesh: Mesh | None = None
) -> Teacher:
  """The teacher of that name, for replies a few at a time, for which no batch is made.

  Args:
    name: `openai` for an OpenAI-compatible endpoint, else a model (see `load_model`).
    endpoint: endpoint of `openai`.
    mesh: mesh on which a model runs; None: the default device.

  Raises:
    UserError: there is no such model, or it cannot be used.
  """
  if name != ENDPOINT:
    return LocalTeacher.load(name, writing, mesh=mesh)
  if endpoint.batch:
    raise UserError(
      f"endpoint.batch={endpoint.batch}: this job asks for a few replies at a time, and a batch "
      "may take a day each time; set endpoint.batch=0"
    )
  return OpenAITeacher(endpoint, writing)
