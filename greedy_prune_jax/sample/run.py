"""The `sample` run: questions in, judged samples and the chains kept of them out.

Every question is answered a number of times; the first sample that reaches the gold answer is kept
as the question's chain (rejection sampling). A workdir of this run holds:

    samples/process-00000.jsonl   a question a line, with all its samples and their verdicts
    chains/process-00000.jsonl    the chains kept: what `prune` takes; written when a run ends
    unfinished/...                replies to questions that have not had all of theirs yet
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import jax

from greedy_prune_jax.chains.chain import RECORD_KEYS, Chain
from greedy_prune_jax.chains.thinking import has_reasoning
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.parallel import own_share
from greedy_prune_jax.runs.jsonl import (
  process_files,
  process_writer,
  read_output,
  read_records,
)
from greedy_prune_jax.runs.records import Record, check_form
from greedy_prune_jax.runs.workdir import Workdir
from greedy_prune_jax.sample.settings import SampleSettings
from greedy_prune_jax.teachers.load import load_job_teacher
from greedy_prune_jax.teachers.questions import SAMPLE_FORM, judged_sample, load_prompt_set
from greedy_prune_jax.teachers.replies import Asked, check_asked, collect_replies
from greedy_prune_jax.teachers.teacher import BROKEN, CUT_OFF, FORCED, Reply

OUTPUT = "samples"
_FORM = {
  **dict.fromkeys(("question", "target", "teacher"), str),
  "system": (str, type(None)),
  "extra": dict,
  "samples": [SAMPLE_FORM, ...],
  "asked?": str,
}


def run_sample(settings: SampleSettings, workdir: Workdir) -> int:
  """Has every question answered that the workdir has not finished yet.

  Args:
    workdir: opened with `output=OUTPUT`; takes the records.

  Returns:
    How many samples there is no reply for; see `collect_replies`.

  Raises:
    UserError: something that the settings name cannot be used. What was answered is on disk.
  """
  prompt_set = load_prompt_set(
    settings.questions,
    split=settings.split,
    num_questions=settings.num_questions,
    num_shots=settings.num_shots,
    seed=settings.seed,
    instruction=settings.instruction,
  )
  workdir.warn_of_gone({question.id for question in prompt_set.questions})
  own = {question.id: question for question in own_share(prompt_set.questions)}
  groups = {
    question.id: [prompt_set.prompt(question, index) for index in range(settings.num_samples)]
    for question in own.values()
  }
  asked = {
    key: Asked(own[key].question, own[key].target, prompts) for key, prompts in groups.items()
  }
  served = set[str]()
  for record in read_output(workdir.path, OUTPUT):
    check_asked(asked, [record])
    served.update(sample["served"] for sample in record["samples"] if "served" in sample)

  def finish(question_id: str, replies: Sequence[Reply]) -> None:
    question = own[question_id]
    record = {
      "id": question_id,
      "question": question.question,
      "system": question.system,
      "target": question.target,
      "extra": dict(question.extra),
      "teacher": settings.teacher_name,
      "samples": [judged_sample(reply, prompt_set.form, question.target) for reply in replies],
      "asked": asked[question_id].digest,
    }
    workdir.write_finished(record)

  groups = {key: prompts for key, prompts in groups.items() if key not in workdir.finished_ids}
  open_teacher = functools.partial(load_job_teacher, settings, workdir)
  try:
    return collect_replies(groups, workdir, open_teacher, finish, served=served)
  finally:  # whatever stopped it
    _write_chains(workdir.path)


def _write_chains(workdir: Path) -> None:
  """Adds to `chains/` what `samples/` has and it lacks; each process does its share of files.

  What a run that was killed had not added so comes with the next.
  """
  sources = own_share(process_files(workdir / OUTPUT))
  with process_writer(workdir / "chains", jax.process_index()) as writer:
    there = {record["id"] for record in read_output(workdir, "chains")}
    for path in sources:
      for record in read_records(path, drop_torn=True, check=check_samples):
        chain = first_correct(record)
        if chain is not None and chain.id not in there:
          writer.write(chain.to_record())


def check_samples(record: Record) -> None:
  """A UserError unless a record is of the form in which this run writes it."""
  check_form(record, _FORM)
  if taken := RECORD_KEYS.intersection(record["extra"]):
    raise UserError(f'"extra" has {", ".join(sorted(taken))}, which a chain itself has')
  right = [sample for sample in record["samples"] if sample["correct"]]
  for sample in right:
    check_form(sample, dict.fromkeys(("reasoning", "answer", "value"), str))


def first_correct(record: Record) -> Chain | None:
  """The chain that is kept of a question's samples.

  That is the first that reached the answer in the ordinary way: with reasoning before it, and with
  an end of its own, also where an endpoint calls that end by a word that we do not know.
  """
  for index, sample in enumerate(record["samples"]):
    if not sample["correct"] or why_not_kept(sample):
      continue
    return Chain(
      id=record["id"],
      question=record["question"],
      reasoning=sample["reasoning"],
      answer=sample["answer"],
      system=record["system"],
      target=record["target"],
      thinking_form=sample.get("thinking_form"),
      extra=record["extra"] | {"teacher": record["teacher"], "sample": index},
    )
  return None


def why_not_kept(sample: Record) -> str | None:
  """The reason for which a right sample makes no chain; None where it makes one."""
  if sample["finish_reason"] == CUT_OFF:
    return "cut off"
  if sample["finish_reason"] == BROKEN:
    return "the model broke down"
  if sample.get("thinking_end") == FORCED:
    return "its thinking was cut off"
  return None if has_reasoning(sample["reasoning"]) else "no reasoning before the answer"
