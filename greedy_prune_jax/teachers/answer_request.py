"""Answers that a model writes behind a given reasoning: asked for, and held against the gold."""

import dataclasses
from typing import NamedTuple

from greedy_prune_jax.chains.answers import first_value, split_response
from greedy_prune_jax.chains.chain import Chain
from greedy_prune_jax.chains.expected import Expected, expected_answer
from greedy_prune_jax.chains.thinking_chains import closing_of
from greedy_prune_jax.teachers.teacher import ChatPrompt


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
    what was written is searched: the reasoning may hold markers itself ("the answer = ").
    """
    form, lead, target, _ = self.expected
    if self.begins:
      text = lead + written
      value = first_value(text, form)
    else:
      text, split = written, split_response(written, form)
      value = split and split.value
    return JudgedAnswer(text, value, value is not None and form.is_right(value, target))
