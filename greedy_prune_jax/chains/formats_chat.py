"""Rows that are conversations: `messages`, ShareGPT's `conversations`, and prompts with replies."""

from collections.abc import Iterator
from typing import Any

from greedy_prune_jax.chains.chain import Chain
from greedy_prune_jax.chains.formats_reply import chain_of_reply, gold, whole_reply
from greedy_prune_jax.chains.question_sets import rest
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs import records as fields
from greedy_prune_jax.runs.records import Record

_ROLES = {
  **dict.fromkeys(("system", "developer"), "system"),
  **dict.fromkeys(("user", "human"), "user"),
  **dict.fromkeys(("assistant", "gpt", "model", "bot"), "assistant"),
}
_THINKING_KEYS = ("reasoning_content", "reasoning", "thinking")
SYSTEMS = ("system", "system_prompt")  # the second in Nemotron's post-training sets
TARGETS = ("target", "expected_answer", "gold_answer", "ground_truth")


def parse_turns(key: str):
  """Makes the parser of rows with one question and one reply, perhaps a system prompt, at a key."""

  def parse(row: Record) -> Iterator[Chain]:
    yield _of_turns([_message(m, key) for m in _items(row, key)], row, key)

  return parse


def parse_pair(question: str, reply: str):
  """Makes the parser of rows that have a question under one key and the reply under another.

  The question may be a list of messages, as Nemotron's sets have it, and so may the reply.
  """

  def parse(row: Record) -> Iterator[Chain]:
    asked, replied = (_messages(row, key) for key in (question, reply))
    one_turn = [*asked, *(m | {"role": "assistant"} if m["role"] == "" else m for m in replied)]
    turns = [m | {"role": "user"} if m["role"] == "" else m for m in one_turn]
    yield _of_turns(turns, row, question, reply)

  return parse


def parse_alpaca(row: Record) -> Iterator[Chain]:
  """A row of Alpaca's form: `instruction` and `output`, and perhaps an `input` to work on."""
  given = fields.get_optional_text(row, "input")
  asked = "\n\n".join(filter(None, (fields.get_text(row, "instruction"), given)))
  yield chain_of_reply(
    fields.get_text(row, "output"),
    question=asked,
    system=fields.get_optional_text(row, "system"),
    target=gold(row, *TARGETS),
    extra=rest(row, "instruction", "input", "output", "system", *TARGETS),
  )


def _messages(row: Record, key: str) -> list[Record]:
  """The messages at a key; a text is one message of no role."""
  if isinstance(row.get(key), str):
    return [{"role": "", "text": fields.get_text(row, key), "thinking": None}]
  return [_message(m, key) for m in _items(row, key)]


def _items(row: Record, key: str) -> tuple[Record, ...]:
  if not (items := fields.get_items(row, key, dict)):
    raise UserError(f'"{key}" is empty')
  return items


def _of_turns(turns: list[Record], row: Record, *used: str) -> Chain:
  """The chain of a conversation of one question and one reply."""
  by_role = {
    role: [m for m in turns if m["role"] == role] for role in ("system", "user", "assistant")
  }
  roles = [message["role"] for message in turns if message["role"] != "system"]
  if roles != ["user", "assistant"]:
    raise UserError(
      f'"{used[0]}" has the turns {", ".join(roles) or "none"}; expected one of a user and one of '
      f"an assistant"
    )
  (user,), (reply,) = by_role["user"], by_role["assistant"]
  given = [fields.get_optional_text(row, key) for key in SYSTEMS]
  systems = dict.fromkeys([*given, *(m["text"] for m in by_role["system"])])  # some tell it twice
  return chain_of_reply(
    whole_reply(reply["thinking"], reply["text"]),
    question=user["text"],
    system="\n\n".join(filter(None, systems)) or None,
    target=gold(row, *TARGETS),
    extra=rest(row, *used, *SYSTEMS, *TARGETS),
  )


def _message(message: Record, key: str) -> Record:
  """One message, of `role` and `content` or ShareGPT's keys, as `role`, `text` and `thinking`."""
  is_sharegpt = "from" in message and "role" not in message
  role, content = ("from", "value") if is_sharegpt else ("role", "content")
  given = fields.get_text(message, role)
  if given not in _ROLES:
    raise UserError(f'"{key}" has the {role} {given!r}; expected one of {", ".join(_ROLES)}')
  thoughts = [fields.get_optional_text(message, name) for name in _THINKING_KEYS]
  thoughts = list(dict.fromkeys(filter(None, thoughts)))
  text = message.get(content)
  if isinstance(text, list):
    text, inner = _content_parts(text, content)
    thoughts += [inner] if inner else []
  elif text is None and thoughts:
    text = ""
  elif not isinstance(text, str):
    fields.get(message, content, str)
  if len(thoughts) > 1:
    raise UserError(f'"{key}" has a message with several thinkings, which differ')
  return {"role": _ROLES[given], "text": text, "thinking": thoughts[0] if thoughts else None}


def _content_parts(parts: list[Any], content: str) -> tuple[str, str]:
  """Text and thinking of a content that is a list of parts."""
  texts: dict[str, list[str]] = {"text": [], "thinking": []}
  for part in fields.get_items({content: parts}, content, dict):
    kind = fields.get_text(part, "type")
    if kind in ("text", "input_text", "output_text"):
      texts["text"].append(fields.get(part, "text", str))
    elif kind in ("thinking", "reasoning") and isinstance(part.get(kind), list):  # Mistral's
      texts["thinking"].append(_content_parts(part[kind], kind)[0])
    elif kind in ("thinking", "reasoning"):
      name = kind if isinstance(part.get(kind), str) else "text"
      texts["thinking"].append(fields.get(part, name, str))
    else:
      raise UserError(f'"{content}" has a part of type {kind!r}; expected text, or thinking')
  return "".join(texts["text"]), "".join(texts["thinking"])
