"""An annotator that asks a text model, checks every reply, and counts what stays unlabelled."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from greedy_prune_jax.chains.categories import GUIDE, Category, Labels
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs import records as fields
from greedy_prune_jax.runs.jsonl import JsonlWriter, read_records
from greedy_prune_jax.teachers.replies import watch_served
from greedy_prune_jax.teachers.settings import WritingSettings
from greedy_prune_jax.teachers.structured import read_object
from greedy_prune_jax.teachers.teacher import ChatPrompt, Reply, Teacher, served_key

MODEL = "model"  # the annotator's name
WRITING = WritingSettings(max_new_tokens=8192)  # some 25 a label, of up to 200 at once

# What a reply must be; handed to models that can be held to a schema.
REPLY_SCHEMA: Mapping[str, Any] = {
  "type": "object",
  "properties": {
    "labels": {
      "type": "array",
      "items": {
        "type": "object",
        "properties": {
          "position": {"type": "integer"},
          "category": {"enum": [str(category) for category in Category]},
        },
        "required": ["position", "category"],
        "additionalProperties": False,
      },
    }
  },
  "required": ["labels"],
  "additionalProperties": False,
}


@dataclasses.dataclass(frozen=True)
class _Piece:
  """Consecutive tokens of one chain that one prompt asks about."""

  chain: int
  start: int
  stop: int


@dataclasses.dataclass
class ModelAnnotator:
  """Labels by a text model: every token answered for exactly once, else asked again.

  Attributes:
    open_teacher: opens the teacher that answers the prompts; called once, for the first of them.
    tokens_per_prompt: longer chains are asked about in parts, each with the whole text in view.
    max_attempts: number of requests for a part, after which its tokens stay unlabelled.
    replies_path: every prompt and reply is appended here, or None.
    num_unlabelled: tokens left unlabelled so far.
    num_retries: prompts that had to be asked again so far.
  """

  open_teacher: Callable[[], Teacher]
  tokens_per_prompt: int = 200
  max_attempts: int = 3
  replies_path: Path | None = None
  num_unlabelled: int = 0
  num_retries: int = 0

  @functools.cached_property
  def _teacher(self) -> Teacher:
    return self.open_teacher()

  def annotate(self, chains: Sequence[Sequence[str]]) -> list[Labels | None]:
    """See `Annotator`; None marks tokens that the model never answered for properly."""
    size = self.tokens_per_prompt
    waiting: dict[_Piece, str | None] = {
      _Piece(i, start, min(start + size, len(tokens))): ""
      for i, tokens in enumerate(chains)
      for start in range(0, len(tokens), size)
    }
    labels: list[list[Category | None]] = [[None] * len(tokens) for tokens in chains]
    for attempt in range(self.max_attempts):
      if not waiting:
        break
      self.num_retries += len(waiting) if attempt else 0
      waiting = self._ask(chains, waiting, labels)
    self.num_unlabelled += sum(piece.stop - piece.start for piece in waiting)
    unanswered = {piece.chain for piece, complaint in waiting.items() if complaint is None}
    return [
      None if i in unanswered else tuple(chain_labels) for i, chain_labels in enumerate(labels)
    ]

  def _ask(
    self,
    chains: Sequence[Sequence[str]],
    waiting: Mapping[_Piece, str | None],
    labels: list[list[Category | None]],
  ) -> dict[_Piece, str | None]:
    """Asks once, fills `labels`; returns the pieces to ask again with what was wrong.

    None stands for no reply, of which there is nothing to complain.
    """
    prompts = [
      labelling_prompt(chains[piece.chain], piece.start, piece.stop, complaint or "")
      for piece, complaint in waiting.items()
    ]
    replies = self._replies(prompts)
    failed: dict[_Piece, str | None] = {}
    for piece, reply in zip(waiting, replies, strict=True):
      if reply.error is not None:
        failed[piece] = None
        continue
      try:
        found = parse_reply(reply.text, piece.start, piece.stop)
        labels[piece.chain][piece.start : piece.stop] = found
      except UserError as error:
        failed[piece] = str(error)
    self._store(prompts, replies)
    return failed

  def _replies(self, prompts: Sequence[str]) -> list[Reply]:
    """One reply a prompt, in order; the log says why there is none."""
    asked = [
      ChatPrompt(id=str(i), question=prompt, schema=REPLY_SCHEMA)
      for i, prompt in enumerate(prompts)
    ]
    replies: dict[str, Reply] = {}
    for reply in watch_served(self._teacher.write(asked), self._served):
      if reply.error is not None:
        logging.warning("no reply to a prompt: %s", reply.error)
      replies[reply.id] = reply
    return [replies[prompt.id] for prompt in asked]

  @functools.cached_property
  def _served(self) -> set[str]:
    """The models that wrote the replies so far, those of former runs included."""
    if self.replies_path is None or not self.replies_path.exists():
      return set()
    check = functools.partial(fields.check_form, form={"served?": str})
    records = read_records(self.replies_path, drop_torn=True, check=check)
    return {record["served"] for record in records if "served" in record}

  def _store(self, prompts: Sequence[str], replies: Sequence[Reply]) -> None:
    if self.replies_path is None:
      return
    with JsonlWriter(self.replies_path) as writer:
      for prompt, reply in zip(prompts, replies, strict=True):
        text = reply.text if reply.error is None else None
        writer.write({"prompt": prompt, "reply": text, **served_key(reply)})


def labelling_prompt(tokens: Sequence[str], start: int, stop: int, complaint: str = "") -> str:
  """The request for the categories of `tokens[start:stop]`.

  Args:
    tokens: the whole chain's tokens; their text is shown for context.
    complaint: the fault of the reply before, or empty.
  """
  guide = "\n".join(f"- {category}: {meaning}" for category, meaning in GUIDE.items())
  listed = json.dumps(
    [{"position": i, "token": tokens[i]} for i in range(start, stop)], ensure_ascii=False
  )
  again = f"\nYour last reply could not be used: {complaint}\n" if complaint else ""
  return (
    "Give every token of a chain of thought the category of what it does in this text. A token "
    "that is a piece of a word gets the word's category.\n\n"
    f"Categories:\n{guide}\n\n"
    f"Text:\n{''.join(tokens)}\n\n"
    f"Tokens:\n{listed}\n{again}\n"
    'Reply with one JSON object {"labels": [{"position": ..., "category": ...}, ...]} that has '
    "every position listed above exactly once, and nothing else."
  )


def parse_reply(reply: str, start: int, stop: int) -> list[Category]:
  """The categories of positions `start` to `stop`, from a reply.

  Raises:
    UserError: it is no JSON of the schema, or does not answer for each position exactly once.
  """
  try:
    items = read_object(reply, REPLY_SCHEMA)["labels"]
    answered = [(fields.get(item, "position", int), Category(item["category"])) for item in items]
  except (KeyError, TypeError, ValueError) as error:
    raise UserError(f"it is not JSON of the form asked for ({error!r})") from error
  expected = range(start, stop)
  positions = [position for position, _ in answered]
  missing = sorted(set(expected).difference(positions))
  excess = len(positions) - len(set(positions).intersection(expected))
  if missing or excess:
    raise UserError(
      f"it must have each position from {start} to {stop - 1} exactly once; "
      f"missing are {missing[:8]}, and {excess} are repeated or were not asked for"
    )
  category_of = dict(answered)
  return [category_of[position] for position in expected]
