"""Chains on their way through the stages."""

import dataclasses
from collections.abc import Mapping

from greedy_prune_jax.chains.answers import AnswerForm, split_response
from greedy_prune_jax.chains.chain import Chain
from greedy_prune_jax.chains.expected import expected_answer, without_marker
from greedy_prune_jax.chains.step_splitter import split_steps
from greedy_prune_jax.chains.steps import Edit, Step, edits_of, steps_of
from greedy_prune_jax.chains.thinking import Thinking, hide_thinking, split_thinking
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs import records as fields
from greedy_prune_jax.runs.records import Record


@dataclasses.dataclass(frozen=True)
class Item:
  """A chain with the results of the stages that it is through.

  Attributes:
    chain: the input.
    thinking: the part of its reasoning that is split, edited and written anew.
    form: form of the chain's answer.
    value: value of the answer, which the new chain must reach too.
    steps: steps that `decompose` gave.
    edits: edits that `edit` gave.
    made_by: teacher and prompt version of each stage that it is through.
  """

  chain: Chain
  thinking: Thinking
  form: AnswerForm
  value: str
  steps: tuple[Step, ...] = ()
  edits: tuple[Edit, ...] = ()
  made_by: Mapping[str, Record] = dataclasses.field(default_factory=dict, hash=False)

  @classmethod
  def of(cls, chain: Chain) -> "Item":
    """An item that no stage has seen.

    Raises:
      UserError: the chain has nothing to split, or its answer has no marker that we know, by which
        that of a new chain could be found.
    """
    thinking = split_thinking(chain.reasoning)
    if not thinking.text:
      raise UserError(f"chain {chain.id}: nothing stands between its <think> tags")
    form = expected_answer(chain).form
    split = split_response(chain.answer, form)
    if split is None:
      raise without_marker(chain)
    return cls(chain, thinking, form, split.value)

  def check_chain(self, record: Record) -> None:
    """A UserError where a stage's record is that of another chain with the same id."""
    self.chain.check_unchanged(Chain.from_record(fields.get(record, "chain", dict)))

  def with_results(self, record: Record) -> "Item":
    """The item with the steps and edits of a stage's record; a UserError if they do not fit."""
    steps = steps_of(record)
    if "".join(step.text for step in steps) != self.thinking.text:
      raise UserError(
        f"chain {self.chain.id}: the steps that are stored for it are not those of its reasoning; "
        "expected steps of the same chain"
      )
    return dataclasses.replace(
      self,
      steps=tuple(steps),
      edits=tuple(edits_of(record)) if "edits" in record else (),
      made_by=fields.get(record, "made_by", dict),
    )

  @property
  def answer(self) -> str:
    """Text of the answer that a new chain must end with: behind a thinking, its last answer."""
    answer = self.chain.answer
    if hide_thinking(answer) != answer:
      split = split_response(answer, self.form)
      assert split is not None  # `of` saw to it
      answer = split.answer
    return answer.strip()

  @property
  def source(self) -> str:
    """All that a new text is written from: the question and the thinking."""
    return f"{self.chain.question}\n{self.thinking.text}"

  @property
  def results(self) -> Record:
    """Steps and edits as a record holds them."""
    results: Record = {"steps": [step.to_record() for step in self.steps]} if self.steps else {}
    return results | ({"edits": [edit.to_record() for edit in self.edits]} if self.edits else {})


def rule_steps(item: Item) -> Record:
  """The steps of a chain's thinking by rules, as `decompose` stores them."""
  return {"steps": [Step(text, None).to_record() for text in split_steps(item.thinking.text)]}
