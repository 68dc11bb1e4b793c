"""From a question to the text in which a model is asked it, and what follows the model's reply."""

import dataclasses
import datetime
from pathlib import Path
from typing import cast

import jinja2
from transformers import PreTrainedTokenizerFast

from greedy_prune_jax.errors import UserError

# For models that know no chat: each part on lines of its own, so that the reply starts a line.
_PLAIN = (
  "{% for message in messages %}"
  "{% if message.role == 'system' %}{{ message.content + '\n\n' }}"
  "{% elif message.role == 'user' %}{{ 'Question: ' + message.content + '\nAnswer:\n' }}"
  "{% else %}{{ message.content }}{{ eos_token | default('\n') }}{% endif %}{% endfor %}"
)

# Some templates write today's date into the system text. A run that is resumed tomorrow must score
# the same text, so the function by which they ask is replaced by one that gives a fixed day (the
# one that Llama 3 falls back to): a macro, because transformers lets no function into a template.
_DAY = datetime.datetime(2024, 7, 26)
_DATE_CODES = ("%-d", "%d", "%b", "%B", "%m", "%y", "%Y", "%a", "%A", "%H", "%M", "%S")
_FIXED_DATE = (
  "{%- macro strftime_now(format) -%}{{ format"
  + "".join(f" | replace('{code}', '{_DAY.strftime(code)}')" for code in _DATE_CODES)
  + " }}{%- endmacro +%}"
)

# What stands for a text when a template is tried out: no template changes plain capitals.
_SYSTEM, _QUESTION, _REPLY = "SYSTEMTEXT", "QUESTIONTEXT", "REPLYTEXT"


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
  """A chat template, bound to the tokenizer whose special tokens it uses.

  Attributes:
    tokenizer: renders it.
    source: the template, in Jinja.
    thinking: passed to templates of models that can be asked to think or not; False asks for a
      reply without a hidden part, which for some means that the prompt ends in an empty one.
    has_system_role: False if it refuses or loses a system text, which then goes before the
      question.
    tail: what it writes after the model's reply, such as `<|im_end|>` and a newline.
  """

  tokenizer: PreTrainedTokenizerFast
  source: str
  thinking: bool = False
  has_system_role: bool = dataclasses.field(init=False)
  tail: str = dataclasses.field(init=False)

  def __post_init__(self):
    object.__setattr__(self, "has_system_role", self._keeps_system_text())
    object.__setattr__(self, "tail", self._find_tail())

  def prompt(self, question: str, system: str | None = None) -> str:
    """The text up to where the model begins to write."""
    messages = [{"role": "user", "content": question}]
    if system and self.has_system_role:
      messages.insert(0, {"role": "system", "content": system})
    elif system:
      messages[0]["content"] = f"{system}\n\n{question}"
    return self._render(messages, add_generation_prompt=True)

  @property
  def stop_ids(self) -> list[int]:
    """What ends a reply: the end of a text, and the special token that the tail begins with."""
    stops = {cast(int | None, self.tokenizer.eos_token_id)}
    tail = cast(list[int], self.tokenizer(self.tail, add_special_tokens=False)["input_ids"])
    if tail and tail[0] in self.tokenizer.added_tokens_decoder:
      stops.add(tail[0])
    return sorted(stop for stop in stops if stop is not None)

  def _render(self, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
    text = self.tokenizer.apply_chat_template(
      messages,
      chat_template=_FIXED_DATE + self.source,
      add_generation_prompt=add_generation_prompt,
      tokenize=False,
      enable_thinking=self.thinking,
      thinking=self.thinking,
    )
    return cast(str, text)  # and not ids, because of tokenize=False

  def _keeps_system_text(self) -> bool:
    messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _QUESTION}]
    try:
      return _SYSTEM in self._render(messages, add_generation_prompt=True)
    except jinja2.TemplateError:  # how templates say that they want none
      return False

  def _find_tail(self) -> str:
    messages = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _REPLY}]
    text = self._render(messages, add_generation_prompt=False)
    before, found, tail = text.rpartition(_REPLY)
    if not found or _QUESTION not in before:
      raise UserError(f"it writes {text!r} for a question and a reply, and one of them is missing")
    return tail


def load_chat_template(
  name: str, tokenizer: PreTrainedTokenizerFast, *, thinking: bool = False
) -> ChatTemplate:
  """The chat template of that name, tried out.

  Args:
    name: `tokenizer` (the tokenizer's own), `plain` (a question-and-answer form for models that
      know no chat), or the path of a file with a Jinja template.
    tokenizer: the pruner's.
    thinking: see `ChatTemplate`.

  Raises:
    UserError: there is none of that name, or it does not work.
  """
  if name == "plain":
    source = _plain(tokenizer)
  elif name == "tokenizer":
    source = _own_template(tokenizer)
  else:
    source = _read_template(Path(name))
  try:
    return ChatTemplate(tokenizer, source, thinking)
  except (jinja2.TemplateError, TypeError, UserError) as error:
    raise UserError(
      f"chat_template={name} cannot be used: {error}. Pass another, or chat_template=plain"
    ) from error


def _plain(tokenizer: PreTrainedTokenizerFast) -> str:
  """The plain form, which opens with BOS if the tokenizer's texts do by themselves.

  Not those of all that have one do: SmolLM2's is the beginning of a turn.
  """
  ids = cast(list[int], tokenizer("")["input_ids"])
  opens = bool(ids) and ids[0] == tokenizer.bos_token_id
  return ("{{ bos_token }}" if opens else "") + _PLAIN


def _own_template(tokenizer: PreTrainedTokenizerFast) -> str:
  try:
    return tokenizer.get_chat_template()
  except ValueError as error:  # none, or several without a default one
    raise UserError(
      "chat_template=tokenizer, but this tokenizer has no chat template of its own (a base model's "
      "has none). Pass chat_template=plain for a question-and-answer form, or the path of a Jinja "
      "file"
    ) from error


def _read_template(path: Path) -> str:
  try:
    return path.read_text(encoding="utf-8")
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(
      f"chat_template={path} cannot be read: {error}. Expected tokenizer, plain, or the path of a "
      f"Jinja file"
    ) from error
