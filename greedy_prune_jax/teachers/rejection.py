"""The `sample` run: questions in, judged samples and the chains kept of them out.

Every question is answered a number of times; the first sample that reaches the gold answer is kept
as the question's chain (rejection sampling). A workdir of this run holds:

    samples/process-00000.jsonl   a question a line, with all its samples and their verdicts
    chains/process-00000.jsonl    the chains kept: what `prune` takes; written when a run ends
    unfinished/...                replies to questions that have not had all of theirs yet
"""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import jax

from greedy_prune_jax.chains.answers import AnswerForm
from greedy_prune_jax.chains.datasets import QUESTION_SETS, Question, load_questions, split_source
from greedy_prune_jax.chains.errors import UserError
from greedy_prune_jax.chains.fields import Record
from greedy_prune_jax.chains.jsonl import JsonlWriter, read_records
from greedy_prune_jax.chains.workdir import Workdir
from greedy_prune_jax.teachers.by_name import load_teacher
from greedy_prune_jax.teachers.collecting import collect_replies
from greedy_prune_jax.teachers.keeping import first_correct
from greedy_prune_jax.teachers.settings import SampleSettings
from greedy_prune_jax.teachers.teacher import Prompt, Reply, Teacher
from greedy_prune_jax.teachers.verdict import judge

OUTPUT = "samples"


def run_sample(settings: SampleSettings, workdir: Workdir) -> int:
  """Has every question answered that the workdir has not finished yet.

  Args:
    settings: of the run.
    workdir: opened with `output=OUTPUT`; takes the records.

  Returns:
    How many samples there is no reply for; see `collect_replies`.

  Raises:
    UserError: something that the settings name cannot be used. What was answered is on disk.
  """
  shots, questions = _load(settings)
  mine = questions[jax.process_index() :: jax.process_count()]
  todo = {question.id: question for question in mine if question.id not in workdir.finished_ids}
  form = _form_of(settings.questions)
  examples = "".join(_example(shot, form) for shot in shots)

  def finish(question_id: str, replies: Sequence[Reply]) -> None:
    workdir.write_finished(_samples_record(todo[question_id], replies, settings, form))

  groups = {
    question.id: [
      _prompt(question, index, settings.seed, examples) for index in range(settings.num_samples)
    ]
    for question in todo.values()
  }
  open_teacher = functools.partial(_open_teacher, settings, workdir.path)
  try:
    return collect_replies(groups, workdir, open_teacher, finish)
  finally:  # whatever stopped it
    _write_chains(workdir.path)


def _open_teacher(settings: SampleSettings, folder: Path) -> Teacher:
  return load_teacher(
    settings.teacher,
    settings.writing,
    settings.endpoint_settings,
    chat_template=settings.chat_template,
    dtype=settings.dtype,
    batch_size=settings.batch_size,
    folder=folder,
  )


def _form_of(source: str) -> AnswerForm:
  """How answers are written in the question set that `source` means."""
  found = split_source(source)
  assert found is not None  # its questions were loaded
  return QUESTION_SETS[found[0]].form


def _load(settings: SampleSettings) -> tuple[list[Question], list[Question]]:
  """The questions whose solutions are shown, and others that are asked."""
  shots, wanted = settings.num_shots, settings.num_questions
  questions = load_questions(
    settings.questions,
    split=settings.split,
    num_questions=wanted and shots + wanted,  # 0 is all
    seed=settings.seed,
  )
  if len(questions) <= shots:
    raise UserError(
      f"num_shots={shots}, and {settings.questions} has {len(questions)} questions; none is left "
      "to ask"
    )
  return questions[:shots], questions[shots:]


def _example(question: Question, form: AnswerForm) -> str:
  """A worked solution, as `chat_template=plain` writes questions and what follows them."""
  if question.rationale is None:
    raise UserError(f"{question.id} has no worked solution to show; set num_shots=0")
  answer = form.write(question.target)
  return f"\n\nQuestion: {question.question}\nAnswer:\n{question.rationale.rstrip()}\n{answer}"


def _prompt(question: Question, index: int, seed: int, examples: str) -> Prompt:
  sample_id = f"{question.id}#{index}"
  # A hash, so that it depends on nothing but the sample: not on how many questions there are.
  digest = hashlib.sha256(f"{seed}/{sample_id}".encode()).digest()
  return Prompt(
    id=sample_id,
    question=question.question,
    system=question.system + examples,
    seed=int.from_bytes(digest[:4], "big"),
  )


def _samples_record(
  question: Question, replies: Sequence[Reply], settings: SampleSettings, form: AnswerForm
) -> Record:
  samples = []
  for reply in replies:
    verdict = judge(reply.text, form, question.target)
    samples.append(
      {
        "text": reply.text,
        "reasoning": verdict.split and verdict.split.reasoning,
        "answer": verdict.split and verdict.split.answer,
        "value": verdict.split and verdict.split.value,
        "correct": verdict.is_correct,
        "finish_reason": reply.finish_reason,
        "num_tokens": reply.num_tokens,
      }
    )
  return {
    "id": question.id,
    "question": question.question,
    "system": question.system,
    "target": question.target,
    "extra": dict(question.extra),
    "teacher": settings.teacher_name,
    "samples": samples,
  }


def _write_chains(workdir: Path) -> None:
  """Adds to `chains/` what `samples/` has and it lacks; each process does its share of files.

  What a run that was killed had not added so comes with the next.
  """
  sources = sorted((workdir / OUTPUT).glob("*.jsonl"))[jax.process_index() :: jax.process_count()]
  folder = workdir / "chains"
  with JsonlWriter(folder / f"process-{jax.process_index():05d}.jsonl") as writer:
    there = {
      record["id"]
      for path in folder.glob("*.jsonl")
      for record in read_records(path, drop_torn=True)
    }
    for record in (record for path in sources for record in read_records(path, drop_torn=True)):
      chain = first_correct(record)
      if chain is not None and chain.id not in there:
        writer.write(chain.to_record())
