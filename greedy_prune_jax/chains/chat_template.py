"""From a question to the text in which a model is asked it, and what follows the model's reply."""

import dataclasses
import datetime
from pathlib import Path
from typing import cast

from transformers import PreTrainedTokenizerFast

from greedy_prune_jax.chains.thinking import FORMS, ThinkingForm, find_form
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.files import read_bytes, user_path
from greedy_prune_jax.runs.worker import Worker

_MOST_BYTES = 1 << 20  # of a template's file
_MOST_SECONDS = 2.0  # of a processor for a text; a good template takes milliseconds
_RENDERER = Worker("greedy_prune_jax.chains.template_worker", _MOST_SECONDS)

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
_DATE_CODES = (  # all of strftime's
  *(f"%-{letter}" for letter in "dmyHIMSjeklCUWVu"),
  *(f"%{letter}" for letter in "aAwdbBmyYHIpMSfzZjUWcxXGuVhDFTRengklPrCt%"),
)
FIXED_DATE = (
  "{%- macro strftime_now(format) -%}{{ format"
  + "".join(f" | replace('{code}', '{_DAY.strftime(code)}')" for code in _DATE_CODES)
  + " }}{%- endmacro +%}"
)

# What stands for a text when a template is tried out: no template changes plain capitals.
_SYSTEM, _QUESTION, _REPLY, _THOUGHT = "SYSTEMTEXT", "QUESTIONTEXT", "REPLYTEXT", "THOUGHTTEXT"
# Keys under which templates look for the thinking of a reply.
_THINKING_KEYS = ("reasoning_content", "reasoning", "thinking")


@dataclasses.dataclass(frozen=True)
class ThinkingLayout:
  """The texts around a reply's thinking.

  Attributes:
    form: tags of the thinking.
    opening: text between the prompt and the thinking; empty where the prompt has the tag.
    closing: text between the thinking and what follows it: white space and closing tag.
    stated: True if the template writes these texts itself; else they are the usual ones.
  """

  form: ThinkingForm
  opening: str
  closing: str
  stated: bool = False

  @classmethod
  def usual(cls, form: ThinkingForm, *, opened: bool = False) -> "ThinkingLayout":
    """Tags on lines of their own, and an empty line behind; `opened`: the prompt has the first."""
    if "channel" in form.opening:  # harmony, which has no lines
      return cls(form, "" if opened else form.opening, form.closing)
    return cls(form, "" if opened else f"{form.opening}\n", f"\n{form.closing}\n\n")


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
  """A chat template, bound to the tokenizer whose special tokens it uses.

  Attributes:
    tokenizer: renders it.
    source: the template, in Jinja.
    has_system_role: False if it refuses or loses a system text, which then goes before the
      question.
    tail: text after the model's reply, such as `<|im_end|>` and a newline.
    layout: texts around the thinking of its model; None if it shows none.
    reply_opening: text between a prompt that asks for no thinking and the reply.
  """

  tokenizer: PreTrainedTokenizerFast
  source: str
  has_system_role: bool = dataclasses.field(init=False)
  tail: str = dataclasses.field(init=False)
  layout: ThinkingLayout | None = dataclasses.field(init=False)
  reply_opening: str = dataclasses.field(init=False)

  def __post_init__(self):
    object.__setattr__(self, "has_system_role", self._keeps_system_text())
    object.__setattr__(self, "tail", self._find_tail())
    object.__setattr__(self, "layout", self._find_layout())

  @property
  def always_thinks(self) -> bool:
    """True if a reply without thinking cannot be asked for: the prompt ends with an open tag."""
    return bool(self.layout) and self._ends_open(self.prompt(_QUESTION)) is not None

  def layout_of(self, form_name: str | None) -> ThinkingLayout | None:
    """The texts around thinking: the template's own, else the usual ones of the form named."""
    form = find_form(form_name)
    return self.layout if self.layout or form is None else ThinkingLayout.usual(form)

  def prompt(
    self, question: str, system: str | None = None, *, thinking_form: str | None = None
  ) -> str:
    """The text up to where the model begins to write what is scored, or written.

    Args:
      thinking_form: name of a form if the reply begins with thinking: its opening tag is then the
        prompt's end. Else a model that may think is asked not to.
    """
    messages = [{"role": "user", "content": question}]
    if system and self.has_system_role:
      messages.insert(0, {"role": "system", "content": system})
    elif system:
      messages[0]["content"] = f"{system}\n\n{question}"
    layout = thinking_form and self.layout_of(thinking_form)
    text = self._render(messages, add_generation_prompt=True, thinking=bool(layout))
    return text + (layout.opening if layout else self.reply_opening)

  @property
  def stop_ids(self) -> list[int]:
    """Ids that end a reply: the end of a text, and the special token that the tail begins with."""
    stops = {cast(int | None, self.tokenizer.eos_token_id)}
    tail = cast(list[int], self.tokenizer(self.tail, add_special_tokens=False)["input_ids"])
    if tail and tail[0] in self.tokenizer.added_tokens_decoder:
      stops.add(tail[0])
    return sorted(stop for stop in stops if stop is not None)

  def _render(
    self, messages: list[dict[str, str]], *, add_generation_prompt: bool, thinking: bool = False
  ) -> str:
    """Renders a conversation; a UserError says how the template failed, whatever it did."""
    special = {name: str(token) for name, token in self.tokenizer.special_tokens_map.items()}
    thinks = {"enable_thinking": thinking, "thinking": thinking}
    request = {
      "template": FIXED_DATE + self.source,
      "messages": messages,
      "values": special | thinks | {"add_generation_prompt": add_generation_prompt},
    }
    made = _RENDERER.ask(request)
    if made is None:
      raise UserError(f"the chat template takes more than {_MOST_SECONDS:g} s of computing")
    if "error" in made:
      raise UserError(f"the chat template fails: {made['error']}")
    return made["text"]

  def _keeps_system_text(self) -> bool:
    messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _QUESTION}]
    try:
      return _SYSTEM in self._render(messages, add_generation_prompt=True)
    except UserError:  # how templates say that they want none
      return False

  def _find_tail(self) -> str:
    messages = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _REPLY}]
    text = self._render(messages, add_generation_prompt=False)
    before, found, tail = text.rpartition(_REPLY)
    if not found or _QUESTION not in before:
      raise UserError(f"it writes {text!r} for a question and a reply, and one of them is missing")
    prompt = self._render(messages[:1], add_generation_prompt=True)
    # Such as the channel that harmony names before a reply.
    opening = before.removeprefix(prompt) if before.startswith(prompt) else ""
    object.__setattr__(self, "reply_opening", opening)
    return tail

  def _find_layout(self) -> ThinkingLayout | None:
    messages = [{"role": "user", "content": _QUESTION}]
    prompt = self._render(messages, add_generation_prompt=True, thinking=True)
    reply = {"role": "assistant", "content": _REPLY} | dict.fromkeys(_THINKING_KEYS, _THOUGHT)
    try:
      text = self._render([*messages, reply], add_generation_prompt=False, thinking=True)
    except UserError:  # it takes no such reply
      text = ""
    before, found, after = text.partition(_THOUGHT)
    closing, answered, _ = after.partition(_REPLY)
    opening = before.removeprefix(prompt)
    for form in FORMS:
      opened = form.opening in opening or self._ends_open(prompt) == form
      if found and answered and before.startswith(prompt) and opened and form.closing in closing:
        return ThinkingLayout(form, opening, closing, stated=True)
    if (form := self._ends_open(prompt)) is not None:
      return ThinkingLayout.usual(form, opened=True)
    shown = (form for form in FORMS if form.opening in self.source or form.closing in self.source)
    form = next(shown, None)
    return form and ThinkingLayout.usual(form)

  def _ends_open(self, prompt: str) -> ThinkingForm | None:
    """The form whose opening tag a prompt ends with; None if it ends otherwise."""
    prompt = prompt.rstrip()
    return next((form for form in FORMS if prompt.endswith(form.opening.rstrip())), None)


def load_chat_template(name: str, tokenizer: PreTrainedTokenizerFast) -> ChatTemplate:
  """The chat template of that name, tried out.

  Args:
    name: `tokenizer` (the tokenizer's own), `plain` (a question-and-answer form for models that
      know no chat), or the path of a file with a Jinja template.

  Raises:
    UserError: there is none of that name, or it does not work.
  """
  if name == "plain":
    source = _plain(tokenizer)
  elif name == "tokenizer":
    source = _own_template(tokenizer)
  else:
    source = _read_template(user_path(name))
  try:
    return ChatTemplate(tokenizer, source)
  except UserError as error:
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
    source: object = tokenizer.get_chat_template()
  except ValueError:  # none, or several without a default one
    source = None
  if not isinstance(source, str):  # a file can hold anything under this name
    raise UserError(
      "chat_template=tokenizer, but this tokenizer has no chat template of its own (a base model's "
      "has none). Pass chat_template=plain for a question-and-answer form, or the path of a Jinja "
      "file"
    )
  return source


def _read_template(path: Path) -> str:
  try:
    return read_bytes(path, _MOST_BYTES).decode()
  except (UserError, UnicodeDecodeError) as error:
    raise UserError(
      f"chat_template={path} cannot be read: {error}. Expected tokenizer, plain, or the path of a "
      f"Jinja file"
    ) from error
