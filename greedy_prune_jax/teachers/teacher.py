"""What all teachers share: prompts in, replies out as they come."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from absl import logging

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs import records as fields
from greedy_prune_jax.runs.records import Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
  """What one reply is asked for.

  Attributes:
    id: unique within a run.
    question: what the user says.
    system: system text, or None.
    reply_start: with what the reply begins already, in parts that no token spans, as those of
      `Segments`; the teacher goes on from there.
    seed: of the reply's randomness, from 0 to 2**32 - 1.
    schema: JSON schema that the reply should follow; an endpoint that can is held to it, others are
      asked in words. `structured.read_object` reads what they write.
  """

  id: str
  question: str
  system: str | None = None
  reply_start: tuple[str, ...] = ()
  seed: int = 0
  schema: Mapping[str, Any] | None = dataclasses.field(default=None, hash=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reply:
  """What a teacher wrote.

  Attributes:
    id: of the prompt.
    text: without what ended it, and without the prompt's `reply_start`.
    finish_reason: `stop`, `length` (cut off), `not_finite` (the model broke down), or what else an
      endpoint says; `failed` if there is no reply.
    num_tokens: how many tokens were written; None where nobody knows.
    error: why there is no reply; None if there is one.
  """

  id: str
  text: str
  finish_reason: str
  num_tokens: int | None = None
  error: str | None = None

  @classmethod
  def failed(cls, prompt: Prompt, error: str) -> "Reply":
    """No reply, and why."""
    return cls(id=prompt.id, text="", finish_reason="failed", error=error)

  @classmethod
  def from_record(cls, record: Record) -> "Reply":
    """Reads what `to_record` wrote."""
    return cls(
      id=fields.get(record, "id", str),
      text=fields.get(record, "text", str),
      finish_reason=fields.get(record, "finish_reason", str),
      num_tokens=fields.get(record, "num_tokens", int, type(None)),
      error=fields.get(record, "error", str, type(None)),
    )

  def to_record(self) -> Record:
    """The reply as a JSON object."""
    return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WritingSettings:
  """How a teacher writes; see `greedy_prune_jax.models.sampler.Request` for each.

  An endpoint that knows no `top_k` is not told of 0, which is all.
  """

  max_new_tokens: int
  temperature: float = 0.0
  top_p: float = 1.0
  top_k: int = 0
  stop_strings: tuple[str, ...] = ()


@runtime_checkable
class Teacher(Protocol):
  """Whoever answers prompts with texts."""

  def write(self, prompts: Sequence[Prompt]) -> Iterator[Reply]:
    """Yields one reply a prompt, in the order in which they are finished.

    A prompt that cannot be answered gets a reply that says so (`Reply.failed`).

    Raises:
      UserError: none of the prompts can be answered, or no more of them.
    """
    ...


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


def check_writing(temperature: float, top_p: float, stop_strings: tuple[str, ...]) -> None:
  """A UserError where no teacher could write like this."""
  if not temperature >= 0:
    raise UserError(f"temperature={temperature}; expected 0 or more")
  if not 0 < top_p <= 1:
    raise UserError(f"top_p={top_p}; expected a number above 0, up to 1 (all tokens)")
  if not all(isinstance(stop, str) and stop for stop in stop_strings):
    raise UserError(f"stop_strings={stop_strings}; expected a tuple of strings, none empty")
