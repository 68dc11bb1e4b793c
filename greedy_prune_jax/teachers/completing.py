"""A teacher as something that answers a list of prompts at once."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import logging

from greedy_prune_jax.teachers.teacher import Prompt, Teacher


class TeacherModel:
  """Answers prompts in their order; a teacher is opened when the first comes."""

  def __init__(self, open_teacher: Callable[[], Teacher]):
    """Takes what opens the teacher, at most once."""
    self._open_teacher = open_teacher
    self._teacher: Teacher | None = None

  def complete(self, prompts: Sequence[str], schema: Mapping[str, Any]) -> list[str | None]:
    """One reply a prompt; None, and why in the log, where there is none.

    Raises:
      UserError: there is no such teacher, or it answers nothing.
    """
    self._teacher = self._teacher or self._open_teacher()
    asked = [Prompt(id=str(i), question=prompt, schema=schema) for i, prompt in enumerate(prompts)]
    replies: dict[str, str | None] = {}
    for reply in self._teacher.write(asked):
      if reply.error is not None:
        logging.warning("no reply to a prompt: %s", reply.error)
      replies[reply.id] = reply.text if reply.error is None else None
    return [replies[prompt.id] for prompt in asked]
