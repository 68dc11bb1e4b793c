"""Chains whose reasoning is thinking: between the tags of a model, in the form of a chat template.

Such a chain has its form in `Chain.thinking_form`. Its prompt ends with the opening tag and the
white space that the template writes behind it; its reasoning is the thinking without white space at
its ends, and only it can be deleted; its answer begins with the white space and the closing tag,
and holds what the model says after it.
"""

import dataclasses

from greedy_prune_jax.chains.chain import Chain
from greedy_prune_jax.chains.chat_template import ChatTemplate, ThinkingLayout
from greedy_prune_jax.chains.thinking import FORMS, ThinkingForm, find_form
from greedy_prune_jax.errors import UserError

AUTO, ON, OFF = MODES = ("auto", "on", "off")  # of the setting `thinking`


def fit_chain(chain: Chain, template: ChatTemplate, mode: str = AUTO) -> Chain:
  """Puts a chain into the words of a chat template, with or without thinking.

  Args:
    chain: a chain as it was read: with tags in its reasoning or answer, with a form, or with
      neither.
    template: the template of the model that reads it.
    mode: `auto` (with thinking if the chain has it), `on` (all reasoning is thinking), `off` (none
      is: tags are left out).

  Returns:
    The chain that `segment` tokenises: with a form if its reasoning is thinking.

  Raises:
    UserError: its thinking never ends or is empty, or the template cannot do what is asked.
  """
  chain = find_thinking(chain)
  if mode == ON or (mode == AUTO and chain.thinking_form):
    return _with_thinking(chain, template, mode)
  if template.always_thinks:
    raise UserError(
      f"chain {chain.id} has no thinking, and this chat template opens every reply with "
      f"{template.layout.form.opening if template.layout else 'a tag'}; set thinking=on to take "
      f"its reasoning for thinking, or another chat_template"
    )
  if not chain.thinking_form:
    return chain
  visible = after_thinking(chain)
  return dataclasses.replace(chain, answer=f"\n\n{visible}", thinking_form=None)


def _with_thinking(chain: Chain, template: ChatTemplate, mode: str) -> Chain:
  layout = template.layout_of(chain.thinking_form)
  if layout is None:
    raise UserError(
      f"thinking={mode}: chain {chain.id} has no thinking tags, and this chat template shows no "
      f"form of thinking; set thinking=auto, or a chat_template of a model that thinks"
    )
  if chain.thinking_form is None:
    answer = layout.closing + chain.answer.lstrip()
  elif layout.stated or layout.form.name != chain.thinking_form:
    answer = layout.closing + after_thinking(chain)
  else:  # the white space is that of the model that wrote the chain
    answer = chain.answer
  reasoning = chain.reasoning if chain.thinking_form else chain.reasoning.strip()
  return dataclasses.replace(
    chain, reasoning=reasoning, answer=answer, thinking_form=layout.form.name
  )


def find_thinking(chain: Chain) -> Chain:
  """The chain with its thinking as its reasoning, if there are tags; else as it is.

  One tag alone is enough where it is the closing one: templates write the other for the model. An
  empty thinking before a visible reasoning (models that are asked not to think write it) is none.

  Raises:
    UserError: there is an opening tag and no closing one, or nothing between them nor behind.
  """
  if chain.thinking_form:
    return chain
  text = chain.reasoning + chain.answer
  for form in FORMS:
    start = len(text) - len(text.lstrip())
    opened = text.startswith(form.opening, start)
    start += len(form.opening) if opened else 0
    end = text.find(form.closing, start)
    if opened and end < 0:
      raise UserError(
        f"chain {chain.id}: its thinking begins with {form.opening} and never ends; expected "
        f"{form.closing} before the answer"
      )
    if end >= 0:
      return _cut(chain, form, text, start, end)
  return chain


def _cut(chain: Chain, form: ThinkingForm, text: str, start: int, end: int) -> Chain:
  thinking = text[start:end].strip()
  visible = chain.reasoning[end + len(form.closing) :].lstrip()
  if not thinking and visible:
    return dataclasses.replace(chain, reasoning=visible)
  if not thinking:
    raise UserError(f"chain {chain.id}: nothing stands between {form.opening} and {form.closing}")
  end -= len(text[start:end]) - len(text[start:end].rstrip())
  return dataclasses.replace(chain, reasoning=thinking, answer=text[end:], thinking_form=form.name)


def answer_after(form: ThinkingForm, text: str) -> str:
  """The answer of a thinking chain whose model says `text` behind its thinking."""
  return ThinkingLayout.usual(form).closing + text.strip()


def after_thinking(chain: Chain) -> str:
  """The part of a thinking chain's answer behind its closing tag, without white space before it."""
  return chain.answer[len(closing_of(chain)) :]


def closing_of(chain: Chain) -> str:
  """The beginning of a thinking chain's answer: the closing tag and the white space around it.

  Empty for a chain without thinking.
  """
  form = find_form(chain.thinking_form)
  if form is None:
    return ""
  visible = chain.answer.partition(form.closing)[2].lstrip()
  return chain.answer.removesuffix(visible)
