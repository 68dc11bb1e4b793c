"""The thinking of a model that runs here: its tags, its end, and the reply that comes of it."""

import dataclasses
from typing import Any

from transformers import PreTrainedTokenizerFast

from greedy_prune_jax.chains.chat_template import ChatTemplate, ThinkingLayout
from greedy_prune_jax.chains.learnt_template import thinks_by_itself
from greedy_prune_jax.chains.segments import encode
from greedy_prune_jax.chains.thinking_chains import AUTO, OFF, ON
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.sampler import Sample
from greedy_prune_jax.teachers.teacher import (
  CUT_OFF,
  FORCED,
  NEVER,
  OWN,
  STOPPED,
  ChatPrompt,
  Reply,
)


@dataclasses.dataclass(frozen=True)
class LocalThinking:
  """The thinking before each reply of a model.

  Attributes:
    layout: texts around it.
    end: the token, or the text, that ends it.
    num_closing: tokens of the closing tag.
  """

  layout: ThinkingLayout
  end: int | str
  num_closing: int

  @classmethod
  def of(
    cls,
    template: ChatTemplate,
    tokenizer: PreTrainedTokenizerFast,
    mode: str,
    form_name: str | None = None,
  ) -> "LocalThinking | None":
    """The thinking of a model; None if it is not to think.

    Args:
      form_name: form of its thinking, where the template shows none.

    Raises:
      UserError: the template cannot do what the mode asks.
    """
    layout = _layout(template, mode, form_name)
    if layout is None:
      return None
    ids = encode(tokenizer, layout.form.closing).ids
    # A tag that is one token, or begins with one, may be missing from decoded texts.
    is_token = int(ids[0]) in tokenizer.added_tokens_decoder
    return cls(layout, int(ids[0]) if is_token else layout.form.closing, len(ids))

  @property
  def form(self) -> str:
    """Name of its form."""
    return self.layout.form.name

  @property
  def stops(self) -> dict[str, Any]:
    """The ends of a request for thinking, as keywords of `Request`."""
    if isinstance(self.end, int):
      return {"stop_ids": (self.end,), "stop_strings": ()}
    return {"stop_strings": (self.end,)}

  def opened(self, prompt: ChatPrompt) -> ChatPrompt:
    """The prompt whose reply is the thinking."""
    return dataclasses.replace(prompt, thinking_form=self.form)

  def closed(self, prompt: ChatPrompt, thought: Sample) -> ChatPrompt:
    """The prompt whose reply goes on behind the thinking and its closing tag."""
    start = (_text(thought), self.layout.closing)
    return dataclasses.replace(prompt, thinking_form=self.form, reply_start=start)

  def has_ended(self, thought: Sample) -> bool:
    """True if the model wrote the closing tag."""
    return thought.ended_by == self.end

  def reply(self, prompt: ChatPrompt, thought: Sample, answer: Sample | None) -> Reply:
    """The reply of a thinking and what came behind it; `answer` is None where nothing did."""
    last = answer or thought
    reason: str = last.finish_reason
    if answer is None and reason == STOPPED:
      reason = CUT_OFF  # there was no room for more, or the text ended within the thinking
    return Reply(
      id=prompt.id,
      text=answer.text if answer else "",
      finish_reason=reason,
      num_tokens=len(thought.token_ids) + (len(answer.token_ids) if answer else 0),
      thinking=_text(thought),
      thinking_form=self.form,
      thinking_end=OWN if self.has_ended(thought) else FORCED if answer else NEVER,
      num_thinking_tokens=len(thought.token_ids),
    )


def _text(thought: Sample) -> str:
  """The thinking without white space at its ends, and without a character that was cut off."""
  return thought.text.rstrip("\ufffd").strip()


def _layout(template: ChatTemplate, mode: str, form_name: str | None) -> ThinkingLayout | None:
  layout = template.layout_of(form_name)
  if mode == ON and layout is None:
    raise UserError(
      "thinking=on, but this chat template shows no form of thinking; set thinking=auto, or a "
      "chat_template of a model that thinks"
    )
  if mode == OFF and template.always_thinks:
    raise UserError(
      "thinking=off, but this chat template opens every reply with a thinking tag; set "
      "thinking=auto, or another chat_template"
    )
  return layout if mode == ON or (mode == AUTO and thinks_by_itself(template)) else None
