"""Answers that a model writes behind a given reasoning: asked for, and held against the gold."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

from absl import logging

from greedy_prune_jax.chains.answers import bare_value, first_value, split_response
from greedy_prune_jax.chains.chain import Chain
from greedy_prune_jax.chains.expected import Expected, expected_answer
from greedy_prune_jax.chains.thinking_chains import closing_of
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.teachers.teacher import ChatPrompt

_NAMED = 5  # chains that a warning names


class JudgedAnswer(NamedTuple):
  """An answer, with the words that were given to begin it; its value, or None; and its verdict."""

  text: str
  value: str | None
  correct: bool


@dataclasses.dataclass(frozen=True)
class AnswerRequest:
  """Requests for a chain's answer behind other reasonings than its own.

  Attributes:
    chain: the chain; one without a gold answer is to reach its own.
    expected: form, first words and right value of the answer.
    begins: True if the words before the value are given. Behind thinking they would tell too much,
      as a model sums up there what it has found: the closing tag is given alone.
  """

  chain: Chain
  expected: Expected
  begins: bool

  @classmethod
  def of(cls, chain: Chain, *, begin_answer: bool = True) -> "AnswerRequest":
    """Requests for a chain's answer, which is begun if that is asked for and can be.

    Raises:
      UserError: no answer of a form that we know is found in the chain's.
    """
    return cls(chain, expected_answer(chain), begin_answer and chain.thinking_form is None)

  def prompt(self, prompt_id: str, reasoning: str) -> ChatPrompt:
    """Asks for the answer that follows a reasoning."""
    form = self.chain.thinking_form
    start = (reasoning, self.expected.lead if self.begins else closing_of(self.chain))
    return ChatPrompt(
      id=prompt_id,
      question=self.chain.question,
      system=self.chain.system,
      reply_start=start if form else tuple(filter(None, start)),
      thinking_form=form,
    )

  def judge(self, written: str) -> JudgedAnswer:
    """Judges what was written in reply to one of the prompts.

    Of an answer that was begun, what a base model adds behind its first value does not count. Only
    what was written is searched: the reasoning may hold markers itself ("the answer = "). Where the
    chain's own answer has no marker, what was written needs none.
    """
    form, lead, target, _ = self.expected
    if self.begins:
      text = lead + written
      value = first_value(text, form)
    else:
      text, split = written, split_response(written, form)
      value = split and split.value
      if split is None and split_response(self.chain.answer, form) is None:
        value = bare_value(written, form)
    return JudgedAnswer(text, value, value is not None and form.is_right(value, target))


def requests_of(
  chains: Mapping[str, Chain], purpose: str, *, begin_answer: bool = True
) -> dict[str, AnswerRequest]:
  """Requests for the answers of the chains that have one of a form that we know, by the same keys.

  A warning, which begins with `purpose`, names the others.
  """
  requests: dict[str, AnswerRequest] = {}
  unknown = []
  for key, chain in chains.items():
    try:
      requests[key] = AnswerRequest.of(chain, begin_answer=begin_answer)
    except UserError:
      unknown.append(chain.id)
  if unknown:
    logging.warning(
      "%s: %d of %d chains have no answer that we can tell right from wrong, and are left out: %s. "
      "Begin their answers with a marker, such as #### or The answer is, or make them the target",
      purpose,
      len(unknown),
      len(chains),
      ", ".join(unknown[:_NAMED]) + (", ..." if len(unknown) > _NAMED else ""),
    )
  return requests
