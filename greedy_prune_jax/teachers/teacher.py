"""Interface of all teachers: prompts in, replies out as they come."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from greedy_prune_jax.chains.thinking import hide_thinking, never_stops
from greedy_prune_jax.runs.records import Record, check_form

# Reasons for which replies end.
STOPPED, CUT_OFF, BROKEN, REFUSED, FAILED = "stop", "length", "not_finite", "refusal", "failed"
TOOL_CALL = "tool_calls"
# Ends of a reply's thinking: its own closing tag, one written for it, or none.
OWN, FORCED, NEVER = "own", "forced", "never"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatPrompt:
  """Request for one reply.

  Attributes:
    id: unique within a run.
    question: the user's words.
    system: system text, or None.
    reply_start: beginning of the reply, given in parts that no token spans, as those of
      `Segments`; the teacher goes on from there.
    thinking_form: name of a form of thinking if the reply begins with thinking; the first part of
      `reply_start` is then the thinking, and the second begins with the closing tag.
    seed: seed of the reply's randomness, from 0 to 2**32 - 1.
    schema: JSON schema that the reply should follow; an endpoint that can is held to it, others are
      asked in words. `structured.read_object` reads what they write.
  """

  id: str
  question: str
  system: str | None = None
  reply_start: tuple[str, ...] = ()
  thinking_form: str | None = None
  seed: int = 0
  schema: Mapping[str, Any] | None = dataclasses.field(default=None, hash=False)

  @property
  def digest(self) -> str:
    """Hash of all that the teacher is told, by which a resumed run knows what it asked."""
    told = [self.question, self.system, self.reply_start, self.thinking_form, self.schema]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reply:
  """Text that a teacher wrote, or its failure.

  Attributes:
    id: id of the prompt.
    text: the reply without its stop string and without the prompt's `reply_start`.
    finish_reason: `stop`, `length` (cut off), `not_finite` (the model broke down), `refusal` (the
      text says so), `tool_calls`, or an endpoint's own word that we do not know; `failed` if there
      is no reply.
    num_tokens: tokens written, thinking included; None where the teacher does not say.
    thinking: text of the model's thinking before it, without tags; None where there is none apart.
    thinking_form: name of the thinking's form (`chains.thinking.FORMS`); None without thinking.
    thinking_end: end of the thinking: `own` (the model ended it), `forced` (the closing tag was
      written for it) or `never` (it was cut off, and `text` is empty); None without thinking.
    num_thinking_tokens: tokens of the thinking; None where the teacher does not say.
    error: reason why there is no reply; None if there is one.
    served: model that wrote it, as the endpoint says; None where it does not.
  """

  id: str
  text: str
  finish_reason: str
  num_tokens: int | None = None
  thinking: str | None = None
  thinking_form: str | None = None
  thinking_end: str | None = None
  num_thinking_tokens: int | None = None
  error: str | None = None
  served: str | None = None

  @classmethod
  def failed(cls, prompt: ChatPrompt, error: str) -> "Reply":
    """No reply, and why."""
    return cls(id=prompt.id, text="", finish_reason=FAILED, error=error)

  @classmethod
  def from_record(cls, record: Record) -> "Reply":
    """Reads what `to_record` wrote, also of versions that knew no thinking."""
    names = [field.name for field in dataclasses.fields(cls)]
    record = dict.fromkeys(names) | record
    check_form(record, _REPLY_FORM)
    return cls(**{name: record[name] for name in names})

  def to_record(self) -> Record:
    """The reply as a JSON object."""
    return dataclasses.asdict(self)


def prompt_seed(seed: int, prompt_id: str) -> int:
  """A prompt's seed by a hash, so that it depends on no other prompt, nor on how many there are."""
  digest = hashlib.sha256(f"{seed}/{prompt_id}".encode()).digest()
  return int.from_bytes(digest[:4], "big")


def unanswered(text: str, finish_reason: str, thinking_end: str | None) -> str | None:
  """The way in which a reply, of these attributes, does not say all; None where it may."""
  ends = {CUT_OFF: "cut off", BROKEN: "broken down", REFUSED: "refused"}
  if thinking_end == NEVER or never_stops(text):
    return "still thinking"
  if finish_reason in ends:
    return ends[finish_reason]
  if not hide_thinking(text).strip():
    return "tool call" if finish_reason == TOOL_CALL else "empty"
  return None


def served_key(reply: Reply) -> Record:
  """The key `served` of a record made of a reply; none where nobody says which model wrote it."""
  return {"served": reply.served} if reply.served else {}


_REPLY_FORM = {
  **dict.fromkeys(("id", "text", "finish_reason"), str),
  **dict.fromkeys(("num_tokens", "num_thinking_tokens"), (int, type(None))),
  **dict.fromkeys(
    ("thinking", "thinking_form", "thinking_end", "error", "served"), (str, type(None))
  ),
}


@runtime_checkable
class Teacher(Protocol):
  """Whoever answers prompts with texts."""

  def write(self, prompts: Sequence[ChatPrompt]) -> Iterator[Reply]:
    """Yields one reply a prompt, in the order in which they are finished.

    A prompt that cannot be answered gets a reply that says so (`Reply.failed`).

    Raises:
      UserError: none of the prompts can be answered, or no more of them.
    """
    ...
