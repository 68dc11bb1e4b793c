"""Does a model still reach the answer from a pruned reasoning?

A model is given a question and what pruning left of its reasoning, as the beginning of its own
reply, and writes the answer: the published code's question-reason-answer check. A workdir of this
run holds

    answers/process-00000.jsonl   a pruned chain a line, with the answer written at each keep ratio
    accuracy.json, accuracy.csv   accuracy of each prune run at each keep ratio
    pairs.json, pairs.csv         each against the first run, and against the whole reasoning
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from greedy_prune_jax.chains.chain import PrunedChain, ratio_key
from greedy_prune_jax.chains.pruned_answers import OUTPUT
from greedy_prune_jax.chains.reading import read_pruned, warn_of_unfinished
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.evaluation.pruned.settings import EvaluatePrunedSettings
from greedy_prune_jax.evaluation.scores import comparison_table
from greedy_prune_jax.parallel import make_mesh, own_share
from greedy_prune_jax.reports.intervals import accuracy_interval
from greedy_prune_jax.reports.questions import COUNT_AS_ONE, means_by_question
from greedy_prune_jax.reports.tables import Table
from greedy_prune_jax.runs.jsonl import read_output
from greedy_prune_jax.runs.records import Record
from greedy_prune_jax.runs.workdir import Workdir
from greedy_prune_jax.teachers.answer_request import AnswerRequest, requests_of
from greedy_prune_jax.teachers.local import LocalTeacher
from greedy_prune_jax.teachers.replies import Asked, check_asked, collect_replies
from greedy_prune_jax.teachers.teacher import CUT_OFF, ChatPrompt, Reply

_WHOLE = ratio_key(1.0)


class _Item(NamedTuple):
  run: str
  pruned: PrunedChain
  request: AnswerRequest
  prompts: list[ChatPrompt]  # one a keep ratio, as in `texts_of`


def run_evaluate_pruned(settings: EvaluatePrunedSettings, workdir: Workdir) -> int:
  """Has the answer written from every pruned text that the workdir has none of yet.

  Args:
    workdir: opened with the output `pruned_answers.OUTPUT`; takes the records.

  Returns:
    How many texts there is no answer to; see `collect_replies`.

  Raises:
    UserError: something that the settings name cannot be used. What was answered is on disk.
  """
  items = dict(_items(settings))
  if not items:
    raise UserError(
      "no chain of these runs has an answer that we can tell right from wrong; expected answers "
      "with a marker, such as #### or The answer is, or chains whose answer is their target"
    )
  asked = {
    key: Asked(item.pruned.chain.question, item.request.expected.target, item.prompts)
    for key, item in items.items()
  }
  check_asked(asked, read_output(workdir.path, OUTPUT))
  workdir.warn_of_gone(items)
  own = own_share(list(items))
  groups = {
    item_id: items[item_id].prompts for item_id in own if item_id not in workdir.finished_ids
  }

  def finish(item_id: str, replies: Sequence[Reply]) -> None:
    record = _record(item_id, items[item_id], replies)
    workdir.write_finished(record | {"asked": asked[item_id].digest})

  workdir.hold_weights(settings.model)
  open_teacher = functools.partial(
    LocalTeacher.load,
    settings.model,
    settings.writing,
    chat_template=settings.chat_template,
    dtype=settings.dtype,
    batch_size=settings.batch_size,
    mesh=make_mesh(settings.mesh),
  )
  return collect_replies(groups, workdir, open_teacher, finish)


def _items(settings: EvaluatePrunedSettings) -> Iterator[tuple[str, _Item]]:
  """Texts to evaluate, by ids that are unique over all runs."""
  for run, folder in settings.runs.items():
    warn_of_unfinished(folder)
    chains = sorted(read_pruned(folder), key=lambda pruned: pruned.chain.id)
    chosen = {f"{run}/{one.chain.id}": one for one in chains[: settings.num_chains or None]}
    requests = requests_of(
      {item_id: one.chain for item_id, one in chosen.items()},
      f"run {run}",
      begin_answer=settings.begin_answer,
    )
    for item_id, request in requests.items():
      pruned = chosen[item_id]
      prompts = [
        request.prompt(f"{item_id}@{ratio}", text) for ratio, text in texts_of(pruned).items()
      ]
      yield item_id, _Item(run, pruned, request, prompts)


def texts_of(pruned: PrunedChain) -> dict[str, str]:
  """The reasoning at each keep ratio, the whole one at 1.0 first."""
  return {_WHOLE: pruned.chain.reasoning} | dict(pruned.pruned)


def _record(item_id: str, item: _Item, replies: Sequence[Reply]) -> Record:
  answers = {}
  for ratio, reply in zip(texts_of(item.pruned), replies, strict=True):
    judged = item.request.judge(reply.text)
    answers[ratio] = judged._asdict() | {"finish_reason": reply.finish_reason}
  return {
    "id": item_id,
    "run": item.run,
    "ranking": item.pruned.ranking,
    "objective": item.pruned.objective,
    "chain": item.pruned.chain.id,
    "question": item.pruned.chain.question,
    "target": item.request.expected.target,
    "answers": answers,
  }


def pruned_accuracy_table(records: Sequence[Record]) -> Table:
  """Accuracy of each run at each keep ratio, with 95% intervals over questions."""
  rows = []
  question_of = _questions(records)
  for run in dict.fromkeys(record["run"] for record in records):
    of_run = [record for record in records if record["run"] == run]
    ratios = {float(key) for record in of_run for key in record["answers"]}
    for ratio in sorted(ratios, reverse=True):
      there = [record for record in of_run if ratio_key(ratio) in record["answers"]]
      answers = [record["answers"][ratio_key(ratio)] for record in there]
      rows.append((run, ratio, *_shares(answers, list(map(question_of, there))), len(there)))
  return Table(
    name="accuracy",
    caption="Share of chains whose answer a model still writes from the pruned reasoning, mean "
    f"over questions, with 95% intervals over these; {COUNT_AS_ONE}.",
    columns=("run", "keep ratio", "accuracy", "low", "high", "no answer found", "chains"),
    rows=rows,
  )


def count_cut_off(records: Sequence[Record]) -> tuple[int, int]:
  """Numbers of the replies that were cut off before an answer, and of all."""
  answers = [answer for record in records for answer in record["answers"].values()]
  cut_off = [a for a in answers if a["value"] is None and a["finish_reason"] == CUT_OFF]
  return len(cut_off), len(answers)


def pruned_pairs_table(records: Sequence[Record]) -> Table:
  """Each run at each keep ratio against the first run there, and against the whole reasoning.

  In pairs, on the chains that both sides have: of the same id, question and gold answer, since runs
  of other data have other chains by the same ids.
  """
  question_of = _questions(records)
  # By run and ratio, then by chain: right or not.
  right: dict[tuple[str, float], dict[tuple[str, str, str], bool]] = {}
  for record in records:
    chain = question_of(record), record["chain"], record["target"]
    for key, answer in record["answers"].items():
      right.setdefault((record["run"], float(key)), {})[chain] = bool(answer["correct"])
  first = next(iter(right), ("", 0.0))[0]
  pairs = []
  for run, ratio in sorted(right, key=lambda place: -place[1]):
    for other in dict.fromkeys([(run, 1.0), (first, ratio)]):
      if other == (run, ratio) or other not in right or (ratio == 1 and run != first):
        continue
      chains = [chain for chain in right[run, ratio] if chain in right[other]]
      if chains:
        questions = [question for question, _, _ in chains]
        sides = (
          means_by_question(np.array([right[side][c] for c in chains], float), questions)
          for side in ((run, ratio), other)
        )
        pairs.append((f"{run}, keep {ratio:g}", f"{other[0]}, keep {other[1]:g}", *sides))
  return comparison_table(pairs, ("run", "against"), "questions")


def _questions(records: Sequence[Record]) -> Callable[[Record], str]:
  """The question of a record; its chain, where some were written before records had questions."""
  key = "question" if all("question" in record for record in records) else "chain"
  return lambda record: record[key]


def _shares(
  answers: Sequence[Mapping[str, object]], questions: Sequence[str]
) -> tuple[float, float, float, float]:
  """Accuracy with its bounds, and the share that says nothing."""
  told = [(bool(answer["correct"]), answer["value"] is None) for answer in answers]
  correct, unanswered = means_by_question(np.array(told, float), questions).T
  right = accuracy_interval(correct[None], most_trials=len(answers))
  return right.share, right.low, right.high, float(unanswered.mean())
