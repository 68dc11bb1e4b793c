"""Questions of a set as prompts in the set's own form, and replies judged by it."""

import dataclasses
import hashlib

from greedy_prune_jax.chains.answers import AnswerForm, SplitResponse, split_response
from greedy_prune_jax.chains.question_sets import (
  QUESTION_SETS,
  Question,
  load_questions,
  split_source,
)
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.records import Record
from greedy_prune_jax.teachers.teacher import Prompt, Reply


@dataclasses.dataclass(frozen=True)
class Asked:
  """The questions of a run, and how they are asked.

  Attributes:
    questions: in the order that the seed gives.
    form: in which their answers are written.
    added: what stands behind each system text: a further instruction, worked solutions of other
      questions; or nothing.
    seed: of every sample's randomness.
  """

  questions: list[Question]
  form: AnswerForm
  added: str
  seed: int

  def prompt(self, question: Question, index: int) -> Prompt:
    """What the sample with this index of a question is asked with; named `QUESTION#INDEX`."""
    sample_id = f"{question.id}#{index}"
    # A hash, so that it depends on nothing but the sample: not on how many questions there are.
    digest = hashlib.sha256(f"{self.seed}/{sample_id}".encode()).digest()
    return Prompt(
      id=sample_id,
      question=question.question,
      system=question.system + self.added,
      seed=int.from_bytes(digest[:4], "big"),
    )


def load_asked(
  source: str, *, split: str, num_questions: int, num_shots: int, seed: int, instruction: str = ""
) -> Asked:
  """The questions that `source` means, the first `num_shots` of them as worked solutions.

  Args:
    source: `NAME` or `NAME:PATH`; see `datasets.load_rows`.
    split: `train` or `test`.
    num_questions: how many are asked; 0 for all.
    num_shots: how many others are shown, solved.
    seed: of the order, and of every sample's randomness.
    instruction: asked for beside what the set's own system text asks for; or nothing.

  Raises:
    UserError: the questions cannot be read, none is left to ask, or one to be shown has no worked
      solution.
  """
  questions = load_questions(
    source,
    split=split,
    num_questions=num_questions and num_shots + num_questions,  # 0 is all
    seed=seed,
  )
  if len(questions) <= num_shots:
    raise UserError(
      f"num_shots={num_shots}, and {source} has {len(questions)} questions; none is left to ask"
    )
  found = split_source(source)
  assert found is not None  # its questions were loaded
  form = QUESTION_SETS[found[0]].form
  added = f"\n\n{instruction}" if instruction else ""
  added += "".join(_example(shot, form) for shot in questions[:num_shots])
  return Asked(questions[num_shots:], form, added, seed)


def _example(question: Question, form: AnswerForm) -> str:
  """A worked solution, as `chat_template=plain` writes questions and what follows them."""
  if question.rationale is None:
    raise UserError(f"{question.id} has no worked solution to show; set num_shots=0")
  answer = form.write(question.target)
  return f"\n\nQuestion: {question.question}\nAnswer:\n{question.rationale.rstrip()}\n{answer}"


def judged_sample(reply: Reply, form: AnswerForm, target: str) -> Record:
  """A reply taken apart and checked, as `sample` and `evaluate` store it."""
  verdict = judge(reply.text, form, target)
  return {
    "text": reply.text,
    "reasoning": verdict.split and verdict.split.reasoning,
    "answer": verdict.split and verdict.split.answer,
    "value": verdict.split and verdict.split.value,
    "correct": verdict.is_correct,
    "finish_reason": reply.finish_reason,
    "num_tokens": reply.num_tokens,
  }


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What a reply's answer is, and whether it is right.

  Attributes:
    split: reasoning and answer; None if no answer is found in the reply, which then is wrong.
    is_correct: whether the answer equals the target.
  """

  split: SplitResponse | None
  is_correct: bool


def judge(response: str, form: AnswerForm, target: str) -> Verdict:
  """Checks a response, as a whole text, against the gold answer."""
  split = split_response(response, form)
  return Verdict(split, split is not None and form.is_right(split.value, target))
