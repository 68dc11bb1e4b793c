"""Models and students answer questions: the `evaluate` run, resumable at any reply.

A workdir of this run holds

    answers/process-00000.jsonl    a model's samples of a question a line, with their verdicts
    accuracy.json, accuracy.csv    a row a model, checkpoint and stated keep ratio; see `scores`
    pairs.json, pairs.csv          each against the first, question by question
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from absl import logging
from transformers import PreTrainedTokenizerFast

from greedy_prune_jax.chains.answers import AnswerForm
from greedy_prune_jax.chains.question_sets import Question
from greedy_prune_jax.chains.ratio_form import told_question
from greedy_prune_jax.distill.checkpoints import saved_steps
from greedy_prune_jax.distill.workdir import has_ended
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.evaluation.candidates import (
  Candidate,
  Entry,
  check_keep_ratios,
  list_candidates,
  load_candidate,
  parse_entries,
)
from greedy_prune_jax.evaluation.settings import EvaluateSettings
from greedy_prune_jax.models.pretrained import load_tokenizer
from greedy_prune_jax.parallel import own_share, refuse_processes
from greedy_prune_jax.runs.jsonl import read_output
from greedy_prune_jax.runs.records import Record, check_form
from greedy_prune_jax.runs.workdir import Workdir
from greedy_prune_jax.teachers.questions import (
  SAMPLE_FORM,
  PromptSet,
  judged_sample,
  load_prompt_set,
)
from greedy_prune_jax.teachers.replies import Asked, check_asked, collect_replies
from greedy_prune_jax.teachers.teacher import ChatPrompt, Reply

OUTPUT = "answers"
_FORM = {
  **dict.fromkeys(("run", "model", "place", "question_id", "question", "target"), str),
  "step": (int, type(None)),
  "keep_ratio": (float, type(None)),
  "samples": [SAMPLE_FORM | {"reasoning_tokens": int}, ...],
  "weights?": (str, type(None)),
  "asked?": str,
}

_MOST_SECONDS = 10.0  # between two looks for a new checkpoint


def run_evaluate(
  settings: EvaluateSettings, workdir: Workdir, after_each: Callable[[], None] = lambda: None
) -> int:
  """Has every question answered by every model, but for what the workdir has answers to.

  With `follow` it goes on with each new checkpoint until all trainings that are followed are over,
  or none had a new one for `idle_minutes`.

  Args:
    workdir: opened with `output=OUTPUT`; takes the records.
    after_each: called when a model is through.

  Returns:
    How many samples there is no reply for; see `collect_replies`.

  Raises:
    UserError: something that the settings name cannot be used. What was answered is on disk.
  """
  entries = parse_entries(settings.models)
  _check_follow(settings, entries)
  check_keep_ratios(entries, settings)
  answered = read_evaluation(workdir.path)
  _check_places(entries, answered, workdir.path)
  answered_by = {(x["model"], x["step"]): x.get("weights") for x in answered}
  asked = load_prompt_set(
    settings.questions,
    split=settings.split,
    num_questions=settings.num_questions,
    num_shots=settings.num_shots,
    seed=settings.seed,
  )
  there = {question.id for question in asked.questions}
  workdir.warn_of_gone({record["id"] for record in answered if record["question_id"] in there})
  asked = dataclasses.replace(asked, questions=own_share(asked.questions))
  seen: set[Candidate] = set()
  failed, last_new = 0, time.monotonic()
  while True:
    # Before the look: else the last might escape.
    over = not settings.follow or all(has_ended(e.path) for e in entries if e.is_student)
    there_now = [one for entry in entries for one in list_candidates(entry, settings)]
    _check_runs(there_now, answered)
    for candidate in there_now:
      if candidate in seen:
        continue
      seen.add(candidate)
      weights = candidate.weights()
      _check_weights(candidate, weights, answered_by.get((candidate.entry.name, candidate.step)))
      failed += _evaluate(candidate, weights, asked, answered, settings, workdir)
      after_each()
      last_new = time.monotonic()
    idle = 60 * settings.idle_minutes
    if over or time.monotonic() - last_new > idle:
      if not over:
        logging.warning("no new checkpoint for %g minutes: following ends", settings.idle_minutes)
      return failed
    time.sleep(min(_MOST_SECONDS, idle / 10))


def _check_follow(settings: EvaluateSettings, entries: Sequence[Entry]) -> None:
  if not settings.follow:
    return
  if not any(entry.is_student for entry in entries):
    raise UserError(f"follow=True, but none of models={settings.models} is a distill run's workdir")
  # Several would not see the same checkpoints.
  refuse_processes("follow=True runs as one process; leave --distributed out")


def _check_places(entries: Sequence[Entry], answered: Sequence[Record], workdir: Path) -> None:
  """Refuses a name under which the workdir has another model's answers."""
  places = {record["model"]: record["place"] for record in answered}
  for entry in entries:
    known = places.get(entry.name, entry.place)
    if known != entry.place:
      raise UserError(
        f"models: {workdir} has answers of {known} under the name {entry.name}, which now is "
        f"{entry.place}; name it apart, as NAME=PLACE"
      )


def _check_runs(candidates: Sequence[Candidate], answered: Sequence[Record]) -> None:
  """Refuses models whose answers would go by one name: `x@2`, and `x` at its step 2."""
  models = {record["run"]: record["model"] for record in answered}
  for candidate in candidates:
    for run in map(candidate.run, candidate.keep_ratios):
      if models.setdefault(run, candidate.entry.name) != candidate.entry.name:
        raise UserError(
          f"models: answers of {models[run]} and of {candidate.entry.name} would both go by the "
          f"name {run}; name one of the two apart, as NAME=PLACE"
        )


def _check_weights(candidate: Candidate, now: str | None, then: str | None) -> None:
  """Refuses a model that is no longer the one which the workdir has answers of."""
  if now is not None and then is not None and now != then:
    raise UserError(
      f"models: {candidate.run(None)} at {candidate.entry.place} has other weights than those that "
      f"answered in this workdir; choose another workdir, or another name, as NAME=PLACE"
    )


def _evaluate(
  candidate: Candidate,
  weights: str | None,
  asked: PromptSet,
  answered: Sequence[Record],
  settings: EvaluateSettings,
  workdir: Workdir,
) -> int:
  """Has one model answer what it has not answered yet; how many samples have no reply."""
  items = {
    f"{candidate.run(keep_ratio)}/{question.id}": (question, keep_ratio)
    for keep_ratio in candidate.keep_ratios
    for question in asked.questions
  }
  groups = {
    item_id: _prompts(item_id, *item, candidate, asked, settings.num_samples)
    for item_id, item in items.items()
  }
  asked_now = {
    key: Asked(items[key][0].question, items[key][0].target, prompts)
    for key, prompts in groups.items()
  }
  check_asked(asked_now, answered)
  groups = {key: prompts for key, prompts in groups.items() if key not in workdir.finished_ids}
  if not groups:
    return 0
  if candidate.step is not None and not _is_there(candidate):
    return 0
  if candidate.adds_to_base:
    workdir.hold_weights(candidate.base)
  tokenizer = load_tokenizer(candidate.base)

  def finish(item_id: str, replies: Sequence[Reply]) -> None:
    question, keep_ratio = items[item_id]
    record = {
      "id": item_id,
      "run": candidate.run(keep_ratio),
      "model": candidate.entry.name,
      "place": candidate.entry.place,
      "step": candidate.step,
      "keep_ratio": keep_ratio,
      "question_id": question.id,
      "question": question.question,
      "target": question.target,
      "samples": [_sample(reply, asked.form, question, tokenizer) for reply in replies],
      "weights": weights,
      "asked": asked_now[item_id].digest,
    }
    workdir.write_finished(record)

  load = partial(load_candidate, candidate, settings)
  try:
    return collect_replies(groups, workdir, load, finish)
  except (OSError, ValueError):  # as Orbax says that a checkpoint is gone, or half gone
    if candidate.step is None or _is_there(candidate):
      raise
    return 0


def _is_there(candidate: Candidate) -> bool:
  """Tells whether a checkpoint is still there: a training that goes on keeps only some."""
  if candidate.step in saved_steps(candidate.entry.path):
    return True
  logging.warning(
    "%s is gone before it was evaluated; a larger keep_checkpoints of distill would keep it",
    candidate.run(None),
  )
  return False


def _prompts(
  item_id: str,
  question: Question,
  keep_ratio: float | None,
  candidate: Candidate,
  asked: PromptSet,
  num_samples: int,
) -> list[ChatPrompt]:
  """Prompts of a question's samples; all models draw by the same seeds."""
  prompts = [asked.prompt(question, index) for index in range(num_samples)]
  text = question.question
  if keep_ratio is not None:
    text = told_question(text, keep_ratio, candidate.ratio_form)
  return [
    dataclasses.replace(prompt, id=f"{item_id}#{index}", question=text)
    for index, prompt in enumerate(prompts)
  ]


def _sample(
  reply: Reply, form: AnswerForm, question: Question, tokenizer: PreTrainedTokenizerFast
) -> Record:
  """A judged reply with the length of its reasoning, as the model's tokenizer counts it.

  The reasoning of a model that thinks is its thinking; else a reply without an answer is all
  reasoning.
  """
  sample = judged_sample(reply, form, question.target)
  reasoning = sample["reasoning"]
  if reply.num_thinking_tokens is not None:
    num_reasoning = reply.num_thinking_tokens
  elif reasoning is None:
    num_reasoning = reply.num_tokens
  else:
    num_reasoning = len(tokenizer(reasoning, add_special_tokens=False, verbose=False)["input_ids"])
  return sample | {"reasoning_tokens": num_reasoning}


def read_evaluation(workdir: Path) -> list[Record]:
  """The records of an `evaluate` run's workdir.

  Raises:
    UserError: a line is not of the form in which such a run writes it.
  """
  return list(read_output(workdir, OUTPUT, partial(check_form, form=_FORM)))


def by_run(records: Sequence[Record], first: Sequence[str] = ()) -> Mapping[str, list[Record]]:
  """Records of each run by question: models as they were asked, earlier checkpoints first.

  Args:
    records: those of an `evaluate` run.
    first: names of models that come before all others, in this order.
  """
  models = list(dict.fromkeys([*first, *(record["model"] for record in records)]))

  def place(record: Record) -> tuple[int, int, float, str]:
    ratio = record["keep_ratio"]
    return (
      models.index(record["model"]),
      record["step"] or 0,
      0.0 if ratio is None else -ratio,
      record["question_id"],
    )

  runs: dict[str, list[Record]] = {}
  for record in sorted(records, key=place):
    runs.setdefault(record["run"], []).append(record)
  return runs
