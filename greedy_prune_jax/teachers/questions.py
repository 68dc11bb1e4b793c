"""Questions as prompts in the form of their set, and replies judged against the gold answers."""

import contextlib
import dataclasses
from collections.abc import Sequence

from greedy_prune_jax.chains.answers import AnswerForm, SplitResponse, split_response
from greedy_prune_jax.chains.chain import Chain
from greedy_prune_jax.chains.question_sets import (
  QUESTION_SETS,
  Question,
  load_questions,
  rows_to_read,
  split_source,
)
from greedy_prune_jax.chains.thinking import (
  FORMS,
  bare_thinking,
  find_form,
  never_stops,
  stops_thinking,
)
from greedy_prune_jax.chains.thinking_chains import answer_after, find_thinking
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.records import Record
from greedy_prune_jax.teachers.teacher import (
  NEVER,
  OWN,
  REFUSED,
  ChatPrompt,
  Reply,
  prompt_seed,
  served_key,
  unanswered,
)


@dataclasses.dataclass(frozen=True)
class PromptSet:
  """The questions of a run with all that their prompts have in common.

  Attributes:
    questions: questions in the seed's order.
    form: form of their answers.
    system_suffix: text behind each question's system text: a further instruction, worked solutions
      of other questions; or empty.
    seed: seed of every sample's randomness.
  """

  questions: list[Question]
  form: AnswerForm
  system_suffix: str
  seed: int

  def prompt(self, question: Question, index: int) -> ChatPrompt:
    """The prompt of a question's sample number `index`; its id is `QUESTION#INDEX`."""
    sample_id = f"{question.id}#{index}"
    return ChatPrompt(
      id=sample_id,
      question=question.question,
      system=question.system + self.system_suffix,
      seed=prompt_seed(self.seed, sample_id),
    )


def load_prompt_set(
  source: str, *, split: str, num_questions: int, num_shots: int, seed: int, instruction: str = ""
) -> PromptSet:
  """Loads a question set; its first `num_shots` questions become worked solutions.

  Args:
    source: source of questions, as for split and number; see `question_sets.load_questions`.
    num_shots: number of other questions that every prompt shows with their solutions.
    seed: seed of the order, and of every sample's randomness.
    instruction: text behind the set's own system text; or empty.

  Raises:
    UserError: the questions cannot be read, none is left to ask, or one to be shown has no worked
      solution.
  """
  questions = load_questions(
    source,
    split=split,
    num_questions=rows_to_read(source, num_questions, num_shots),
    seed=seed,
  )
  if len(questions) <= num_shots:
    raise UserError(
      f"num_shots={num_shots}, and {source} has {len(questions)} questions; none is left to ask"
    )
  name_and_path = split_source(source)
  assert name_and_path is not None  # its questions were loaded
  form = QUESTION_SETS[name_and_path[0]].form
  suffix = f"\n\n{instruction}" if instruction else ""
  suffix += "".join(_example(shot, form) for shot in questions[:num_shots])
  return PromptSet(questions[num_shots:], form, suffix, seed)


def _example(question: Question, form: AnswerForm) -> str:
  """A worked solution in the form of `chat_template=plain`."""
  if question.rationale is None:
    raise UserError(f"{question.id} has no worked solution to show; set num_shots=0")
  answer = form.write(question.target)
  return f"\n\nQuestion: {question.question}\nAnswer:\n{question.rationale.rstrip()}\n{answer}"


# What `judged_sample` makes; the last keys are not in records of versions that knew no thinking.
SAMPLE_FORM = {
  "text": str,
  **dict.fromkeys(("reasoning", "answer", "value"), (str, type(None))),
  "correct": bool,
  "finish_reason": str,
  "num_tokens": (int, type(None)),
  **dict.fromkeys(("thinking?", "thinking_form?", "thinking_end?"), (str, type(None))),
  "num_thinking_tokens?": (int, type(None)),
  "served?": str,
}


def judged_sample(reply: Reply, form: AnswerForm, target: str) -> Record:
  """A reply taken apart and checked against the gold answer, as `sample` and `evaluate` store it.

  A reply in which no answer is found is wrong; its `reasoning`, `answer` and `value` are None. The
  same holds for one that refuses to answer. The reasoning of a model that thought is its thinking,
  and the answer begins with the closing tag; `thinking_form` then names the tags.
  """
  split = None if reply.finish_reason == REFUSED else split_response(reply.text, form)
  reasoning, answer, thinking_form = _parts(reply, split)
  judged = {
    "text": reply.text,
    "reasoning": reasoning,
    "answer": answer,
    "value": split and split.value,
    "correct": split is not None and form.is_right(split.value, target),
    "finish_reason": reply.finish_reason,
    "num_tokens": reply.num_tokens,
    "thinking": reply.thinking,
    "thinking_form": thinking_form,
    "thinking_end": _thinking_end(reply.text, reply.thinking_end),
    "num_thinking_tokens": reply.num_thinking_tokens,
  }
  return judged | served_key(reply)


def _thinking_end(text: str, apart: str | None) -> str | None:
  """The end of a reply's thinking, which stands in its text or came apart from it."""
  if never_stops(text):
    return NEVER
  return apart or (OWN if stops_thinking(text) else None)


def _parts(reply: Reply, split: SplitResponse | None) -> tuple[str | None, str | None, str | None]:
  """Reasoning, answer and form of thinking of a reply that answers; else nothing."""
  if split is None:
    return None, None, None
  if thinking := bare_thinking(reply.thinking or ""):
    form = find_form(reply.thinking_form) or FORMS[0]
    return thinking, answer_after(form, reply.text), form.name
  chain = Chain(id="-", question="-", reasoning=split.reasoning, answer=split.answer)
  with contextlib.suppress(UserError):  # tags with nothing between them and nothing behind
    chain = find_thinking(chain)
  return chain.reasoning, chain.answer, chain.thinking_form


OUTCOMES = ("right", "wrong", "no answer", "still thinking", "cut off", "empty", "refused")
OUTCOMES += ("broken down", "tool call")


def outcome(sample: Record) -> str:
  """The one class that a judged sample counts in; a reply that was not finished is not wrong."""
  if sample["correct"]:
    return "right"
  fault = unanswered(sample["text"], sample["finish_reason"], sample.get("thinking_end"))
  return fault or ("no answer" if sample["value"] is None else "wrong")


def never_stopped(samples: Sequence[Record]) -> float | None:
  """Share of the replies that think whose thinking never ends; None where none thinks.

  Thinking for which the closing tag was written counts: it did not end by itself.
  """
  # Versions before did not store the end of thinking in the text.
  ends = [_thinking_end(sample["text"], sample.get("thinking_end")) for sample in samples]
  thinking = [end for end in ends if end is not None]
  return sum(end != OWN for end in thinking) / len(thinking) if thinking else None
