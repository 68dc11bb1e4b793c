"""Answers of a study's students: from their evaluations to one file, and from it to arrays.

`answers.parquet` has a row a sample, so that tables can be made anew without the students:

    python -m greedy_prune_jax.jobs.study_tables --answers=FILE --reference=ARM --workdir=DIR

Seeds of one study that ran on machines which do not see one folder are put together by that job.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.evaluation.run import read_evaluation
from greedy_prune_jax.reports.intervals import AMOUNT, Proportion, accuracy_interval, crossed_spread
from greedy_prune_jax.runs.files import new_file
from greedy_prune_jax.runs.records import Record
from greedy_prune_jax.study.plan import Condition

FILE = "answers.parquet"

_Samples = dict[int, dict[str, list[Record]]]  # rows of `SCHEMA` by seed and question

# A row of the file.
SCHEMA = pa.schema(
  {
    "test": pa.string(),
    "student": pa.string(),
    "arm": pa.string(),
    "keep_ratio": pa.float64(),
    "seed": pa.int32(),
    "question": pa.string(),
    "correct": pa.bool_(),
    "reasoning_tokens": pa.int32(),
    "cut_off": pa.bool_(),
    "unparsed": pa.bool_(),
  }
)


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
  """Answers of one condition's students, a seed each, in one test.

  Attributes:
    seeds: seeds of the students that are done.
    correct: share of right samples, by seed and question.
    tokens: generated reasoning tokens, by seed and question.
    cut_off: share of samples that were cut off.
    unparsed: share of samples in which no answer was found.
    median_tokens: over all samples.
    num_samples: samples of each seed and question.
  """

  condition: Condition
  test: str
  seeds: tuple[int, ...]
  correct: Float[np.ndarray, "S Q"]
  tokens: Float[np.ndarray, "S Q"]
  cut_off: float
  unparsed: float
  median_tokens: float
  num_samples: int = 1

  @property
  def accuracy(self) -> Proportion:
    """With its interval over questions and seeds."""
    return accuracy_interval(self.correct, most_trials=self.correct.size * self.num_samples)

  @property
  def mean_tokens(self) -> tuple[float, float, float]:
    """Generated reasoning tokens with their interval over questions and seeds."""
    spread = crossed_spread(self.tokens)
    return (spread.mean, *spread.interval(scale=AMOUNT))

  def of_seeds(self, seeds: Sequence[int]) -> "Answers":
    """Those of some of the seeds, in that order."""
    rows = [self.seeds.index(seed) for seed in seeds]
    return dataclasses.replace(
      self, seeds=tuple(seeds), correct=self.correct[rows], tokens=self.tokens[rows]
    )


def collect_answers(
  folder: Path, condition: Condition, seeds: Sequence[int], test: str
) -> list[Record]:
  """Rows of `SCHEMA` of a condition's students in a test, of seeds that are done."""
  return [
    {
      "test": test,
      **dataclasses.asdict(condition),
      "seed": seed,
      "question": record["question_id"],
      "correct": sample["correct"],
      "reasoning_tokens": sample["reasoning_tokens"],
      "cut_off": sample["finish_reason"] == "length",
      "unparsed": sample["value"] is None,
    }
    for seed in seeds
    for record in sorted(
      read_evaluation(folder / condition.folder(seed) / "evaluate" / test),
      key=lambda record: record["question_id"],
    )
    for sample in record["samples"]
  ]


def write_answers(path: Path, rows: Sequence[Record]) -> None:
  """Writes rows of `SCHEMA`, compressed."""
  table = pa.Table.from_pylist(list(rows), SCHEMA)
  with new_file(path) as new:
    pq.write_table(table, new, compression="zstd", compression_level=19)


def read_answers(*paths: Path) -> list[Answers]:
  """The answers in files of one study, a condition and test each, in the order of the files.

  Raises:
    UserError: a file cannot be read or is no such file, two have a student in common, or students
      of a test were asked different questions.
  """
  by_condition: dict[tuple[str, Condition], _Samples] = {}
  place: dict[tuple[str, Condition, int], Path] = {}
  for path in paths:
    for row in _rows(path):
      key = row["test"], Condition(row["student"], row["arm"], row["keep_ratio"])
      if place.setdefault((*key, row["seed"]), path) != path:
        both = f"{path} and {place[*key, row['seed']]} both"
        raise UserError(
          f"{both} have {key[1].folder(row['seed'])} in {key[0]}; expected other seeds or arms"
        )
      of_seed = by_condition.setdefault(key, {}).setdefault(row["seed"], {})
      of_seed.setdefault(row["question"], []).append(row)
  _check_questions(by_condition)
  return [_answers(*key, samples) for key, samples in by_condition.items()]


def _rows(path: Path) -> list[Record]:
  """Rows of `SCHEMA` in a file, by question: another program may have sorted them otherwise."""
  try:
    table = pq.read_table(path)
  except (OSError, pa.ArrowInvalid) as error:
    raise UserError(f"{path} cannot be read as Parquet: {error}") from error
  if missing := [name for name in SCHEMA.names if name not in table.column_names]:
    raise UserError(f"{path} has no column {missing[0]}; expected a study's {FILE}")
  rows = table.select(SCHEMA.names).cast(SCHEMA).to_pylist()
  return sorted(rows, key=lambda row: row["question"])


def _check_questions(by_condition: Mapping[tuple[str, Condition], _Samples]) -> None:
  """Checks that comparisons by question are of the same questions."""
  asked: dict[str, list[str]] = {}
  for (test, condition), by_seed in by_condition.items():
    for seed, of_seed in by_seed.items():
      questions = list(of_seed)
      if asked.setdefault(test, questions) != questions:
        raise UserError(
          f"{condition.folder(seed)} was asked other questions in {test} than the students before; "
          "expected files of one study, made with the same tests"
        )


def _answers(test: str, condition: Condition, by_seed: _Samples) -> Answers:
  seeds = tuple(sorted(by_seed))
  rows = [row for seed in seeds for samples in by_seed[seed].values() for row in samples]

  def means(key: str) -> Float[np.ndarray, "S Q"]:
    """Means over the samples of each seed and question: those of one are not independent."""
    return np.array(
      [[_mean(row[key] for row in samples) for samples in by_seed[seed].values()] for seed in seeds]
    )

  correct = means("correct")
  return Answers(
    condition=condition,
    test=test,
    seeds=seeds,
    correct=correct,
    tokens=means("reasoning_tokens"),
    cut_off=_mean(row["cut_off"] for row in rows),
    unparsed=_mean(row["unparsed"] for row in rows),
    median_tokens=float(np.median([row["reasoning_tokens"] for row in rows])),
    num_samples=len(rows) // correct.size,
  )


def _mean(values: Iterable[float]) -> float:
  return float(np.mean(list(values)))
