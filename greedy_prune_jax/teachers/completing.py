"""A teacher as something that answers a list of prompts at once."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from greedy_prune_jax.teachers.teacher import Prompt, Teacher


class TeacherModel:
  """Answers prompts in their order; a teacher is opened when the first comes."""

  def __init__(self, open_teacher: Callable[[], Teacher]):
    """Takes what opens the teacher, at most once."""
    self._open_teacher = open_teacher
    self._teacher: Teacher | None = None

  def complete(self, prompts: Sequence[str], schema: Mapping[str, Any]) -> list[str]:
    """One reply a prompt; an empty one where there is none.

    Raises:
      UserError: there is no such teacher, or it answers nothing.
    """
    self._teacher = self._teacher or self._open_teacher()
    asked = [Prompt(id=str(i), question=prompt, schema=schema) for i, prompt in enumerate(prompts)]
    replies = {reply.id: reply.text for reply in self._teacher.write(asked)}
    return [replies[prompt.id] for prompt in asked]
