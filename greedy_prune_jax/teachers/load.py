"""From what a config calls a teacher to the teacher."""

from pathlib import Path

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
  if settings.teacher != ENDPOINT:
    workdir.hold_weights(settings.teacher)
  return load_teacher(
    settings.teacher,
    settings.writing,
    settings.endpoint,
    chat_template=settings.chat_template,
    dtype=settings.dtype,
    batch_size=settings.batch_size,
    mesh=make_mesh(settings.mesh),
    folder=workdir.path,
  )


def load_teacher(
  name: str,
  writing: WritingSettings,
  endpoint: EndpointSettings,
  *,
  chat_template: str = "tokenizer",
  dtype: str = "float32",
  batch_size: int = 0,
  mesh: Mesh | None = None,
  folder: Path | None = None,
) -> Teacher:
  """The teacher of that name.

  Args:
    name: `openai` for an OpenAI-compatible endpoint, else a model (see `load_model`).
    endpoint: endpoint of `openai`.
    chat_template: chat template of a model; see `load_chat_template`.
    dtype: dtype of a model's weights.
    batch_size: a model's most replies at once; 0: chosen from the devices' memory.
    mesh: mesh on which a model runs; None: the default device.
    folder: folder of the run, for notes of batches; None where replies are wanted a few at a time,
      for which no batch is made.

  Raises:
    UserError: there is no such model, or it cannot be used.
  """
  if name == ENDPOINT and endpoint.batch:
    if folder is None:
      raise UserError(
        f"endpoint.batch={endpoint.batch}: this job asks for a few replies at a time, and a batch "
        "may take a day each time; set endpoint.batch=0"
      )
    return OpenAIBatchTeacher(endpoint, writing, folder)
  if name == ENDPOINT:
    return OpenAITeacher(endpoint, writing)
  return LocalTeacher.load(
    name, writing, chat_template=chat_template, dtype=dtype, batch_size=batch_size, mesh=mesh
  )
