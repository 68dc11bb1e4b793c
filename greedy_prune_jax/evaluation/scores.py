"""Scores of models in an `evaluate` run: accuracy, generated tokens, and pairs of models."""

import collections
import dataclasses
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.reports.intervals import (
  Proportion,
  accuracy_interval,
  crossed_spread,
  holm,
  paired_difference,
)
from greedy_prune_jax.reports.tables import Cell, Table
from greedy_prune_jax.runs.records import Record
from greedy_prune_jax.teachers.questions import OUTCOMES, never_stopped, outcome


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
  """Figures of one model, over all its answers.

  Attributes:
    questions: number of questions.
    accuracy: share of samples that are right, with its 95% interval over questions, see
      `accuracy_interval`: Wilson's for one sample a question.
    stderr: standard error of the accuracy over questions; None for one question.
    mean_tokens: mean tokens of the generated reasoning.
    stderr_tokens: standard error of that, over questions; None for one question.
    median_tokens: median tokens of the generated reasoning, thinking or visible.
    mean_answer_tokens: mean tokens behind the thinking, of replies that have any; None without.
    never_stopped: share of replies that think whose thinking does not end by itself; None where
      none thinks.
    cut_off: share of samples that reached `max_new_tokens`.
    unparsed: share of samples in which no answer was found.
  """

  questions: int
  accuracy: Proportion
  stderr: float | None
  mean_tokens: float
  stderr_tokens: float | None
  median_tokens: float
  mean_answer_tokens: float | None
  never_stopped: float | None
  cut_off: float
  unparsed: float


def score(records: Sequence[Record]) -> Score:
  """The figures of one model.

  Args:
    records: a question each, with its samples; at least one.
  """
  samples = [sample for record in records for sample in record["samples"]]
  right = question_means(records, "correct")
  tokens = question_means(records, "reasoning_tokens")
  thinking = [s for s in samples if s.get("num_thinking_tokens") is not None]
  lengths = [s["num_tokens"] - s["num_thinking_tokens"] for s in thinking]
  answers = [length for length in lengths if length > 0]
  return Score(
    questions=len(records),
    accuracy=accuracy_interval(right[None], most_trials=len(samples)),
    stderr=_stderr(right),
    mean_tokens=float(tokens.mean()),
    stderr_tokens=_stderr(tokens),
    median_tokens=float(statistics.median(sample["reasoning_tokens"] for sample in samples)),
    mean_answer_tokens=statistics.fmean(answers) if answers else None,
    never_stopped=never_stopped(samples),
    cut_off=statistics.fmean(sample["finish_reason"] == "length" for sample in samples),
    unparsed=statistics.fmean(sample["value"] is None for sample in samples),
  )


def question_means(records: Sequence[Record], key: str) -> Float[np.ndarray, "Q"]:
  """The mean over a question's samples, of each question: samples of one are not independent."""
  return np.array([statistics.fmean(s[key] for s in record["samples"]) for record in records])


def _stderr(values: Float[np.ndarray, "Q"]) -> float | None:
  error = crossed_spread(values[None]).stderr
  return None if math.isnan(error) else error


def accuracy_table(runs: Mapping[str, Sequence[Record]]) -> Table:
  """A row a run: a model, at a checkpoint, given a keep ratio."""
  rows = []
  for run, records in runs.items():
    figures = score(records)
    rows.append(
      (
        run,
        *(
          figures.accuracy.share,
          figures.stderr,
          figures.accuracy.low,
          figures.accuracy.high,
        ),
        *(figures.mean_tokens, figures.stderr_tokens, figures.median_tokens),
        *(figures.mean_answer_tokens, figures.never_stopped),
        *(figures.cut_off, figures.unparsed, figures.questions),
      )
    )
  return Table(
    name="accuracy",
    caption="Share of right answers with its standard error and 95% interval over questions, and "
    "generated tokens of the reasoning, and of the answer behind a thinking.",
    columns=(
      *("model", "accuracy", "standard error", "low", "high"),
      *("reasoning tokens", "their standard error", "median"),
      *("answer tokens", "thinking never ends"),
      *("cut off", "no answer found", "questions"),
    ),
    rows=rows,
  )


def outcomes_table(runs: Mapping[str, Sequence[Record]]) -> Table:
  """Numbers of replies by their outcome, a row a run; each reply counts once."""
  counts = {
    run: collections.Counter(outcome(s) for record in records for s in record["samples"])
    for run, records in runs.items()
  }
  return Table(
    name="outcomes",
    caption="Number of replies that are right, wrong, or were not finished.",
    columns=("model", *OUTCOMES),
    rows=[(run, *(count[name] for name in OUTCOMES)) for run, count in counts.items()],
  )


def pairs_table(runs: Mapping[str, Sequence[Record]]) -> Table:
  """Every run against the first, on the questions that both answered.

  Raises:
    UserError: two runs have answered different questions under one id.
  """
  (first, others) = next(iter(runs.items())), itertools.islice(runs.items(), 1, None)
  rows = []
  for run, records in others:
    ours, theirs = _matched(run, records, *first)
    if not ours:
      continue
    one, other = question_means(ours, "correct"), question_means(theirs, "correct")
    rows.append((run, first[0], one, other))
  return comparison_table(rows, ("model", "against"), "questions")


def comparison_table(
  pairs: Sequence[tuple[Cell, Cell, Float[np.ndarray, "_"], Float[np.ndarray, "_"]]],
  columns: tuple[str, str],
  items: str,
) -> Table:
  """Differences of accuracy in pairs, with p-values for all of them at once.

  Args:
    pairs: names of two sides, and the shares of right answers of each on the same items.
    columns: heads of the two names.
    items: word for what both sides answered.
  """
  differences = [paired_difference(one[None], other[None]) for _, _, one, other in pairs]
  adjusted = holm([difference.p for difference in differences])
  return Table(
    name="pairs",
    caption=f"Differences of accuracy on the same {items}, with 95% intervals over {items} (Bonett "
    "and Price's adjusted Wald interval for pairs), and p-values for all of them at once (Holm).",
    columns=(*columns, "difference", "low", "high", "p (Holm)", "better on", "worse on", items),
    rows=[
      (*names, *difference[:3], p, int((one > other).sum()), int((one < other).sum()), len(one))
      for (*names, one, other), difference, p in zip(pairs, differences, adjusted, strict=True)
    ],
  )


def _matched(
  run: str, records: Sequence[Record], other: str, others: Sequence[Record]
) -> tuple[list[Record], list[Record]]:
  """The records of two runs on the questions that both answered, in one order."""
  known = {record["question_id"]: record for record in others}
  ours = [record for record in records if record["question_id"] in known]
  theirs = [known[record["question_id"]] for record in ours]
  for one, two in zip(ours, theirs, strict=True):
    if one["question"] != two["question"]:
      raise UserError(
        f"{run} and {other} cannot be compared: {one['question_id']} is another question in each"
      )
  return ours, theirs
