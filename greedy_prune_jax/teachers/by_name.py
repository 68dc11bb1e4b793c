"""From what a config calls a teacher to the teacher."""

from greedy_prune_jax.teachers.endpoint_settings import ENDPOINT, EndpointSettings
from greedy_prune_jax.teachers.local import LocalTeacher
from greedy_prune_jax.teachers.openai_endpoint import OpenAITeacher
from greedy_prune_jax.teachers.teacher import Teacher, WritingSettings


def load_teacher(
  name: str,
  writing: WritingSettings,
  endpoint: EndpointSettings,
  *,
  chat_template: str = "tokenizer",
  dtype: str = "float32",
  batch_size: int = 0,
) -> Teacher:
  """The teacher of that name.

  Args:
    name: `openai` for an OpenAI-compatible endpoint, else a model (see `load_model`).
    writing: how it is to write.
    endpoint: of `openai`.
    chat_template: of a model; see `load_chat_template`.
    dtype: of a model's weights.
    batch_size: a model's most replies at once; 0: chosen from the device's memory.

  Raises:
    UserError: there is no such model, or it cannot be used.
  """
  if name == ENDPOINT:
    return OpenAITeacher(endpoint, writing)
  return LocalTeacher.load(
    name, writing, chat_template=chat_template, dtype=dtype, batch_size=batch_size
  )
