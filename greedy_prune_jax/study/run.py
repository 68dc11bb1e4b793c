"""A study from chains to its table and plot, resumable and shared by several processes.

A study's folder holds the chains and students of `plan`, and

    parts/                                       locks and results of the parts; see `parts`
    answers.parquet                              every answer of every student; see `answers`
    study.csv, study.json, study.png, study.svg  accuracy against generated reasoning tokens
    differences.csv, differences.json            the arm `reference` against the others, in pairs
    matched.csv, matched.json                    the same at equal written length
    study.md                                     all tables
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from greedy_prune_jax.errors import check_plots
from greedy_prune_jax.reports.tables import Table, markdown_table, write_table
from greedy_prune_jax.runs.files import held_folder, make_folder, replace_file
from greedy_prune_jax.runs.jsonl import read_lines
from greedy_prune_jax.runs.lock import LockedError, hold_locks
from greedy_prune_jax.study.answers import (
  FILE,
  Answers,
  collect_answers,
  read_answers,
  write_answers,
)
from greedy_prune_jax.study.parts import Part, PartsResult, is_done, run_parts, seconds_spent
from greedy_prune_jax.study.plan import conditions, plan
from greedy_prune_jax.study.results import all_tables
from greedy_prune_jax.study.settings import ANSWER_ONLY, NO_PRUNING, StudySettings, check_reference

_MOST_NAMED = 8  # kinds of students, in a caption
# Of a study's time, the most that goes into tables of what is not done yet.
_TABLES_SHARE = 0.05


@dataclasses.dataclass(frozen=True)
class StudyResult:
  """Progress of a study.

  Attributes:
    tables: tables of all students that are done; empty if none is.
    done: number of parts done, by any process.
    parts: number of parts.
    hours: process time that those took.
    share: end of this process's share.
  """

  tables: tuple[Table, ...]
  done: int
  parts: int
  hours: float
  share: PartsResult


def run_study(settings: StudySettings, folder: Path) -> StudyResult:
  """Works on a study until nothing is left to do, and writes its tables and plot.

  Any number of processes, on any machines that see the folder under the same path, may do so at
  once. Tables of the students so far are written as parts are done, in a small share of the time.

  Raises:
    UserError: something that the settings name cannot be used, what is there was made with other
      settings, or the folder was deleted or moved.
    StoppedError: see `parts.Part`.
  """
  check_plots()
  folder = folder.resolve()
  parts = plan(settings, folder)
  make_folder(folder)
  with held_folder(folder) as check_there:
    result = run_parts(
      parts,
      folder,
      poll_seconds=settings.poll_seconds,
      after_each=at_most_a_share(lambda: _write_if_free(settings, folder, parts), _TABLES_SHARE),
    )
    while (tables := _write_if_free(settings, folder, parts)) is None:
      time.sleep(min(1.0, settings.poll_seconds))
    check_there()  # before anybody is told that nothing is done
  return StudyResult(
    tables,
    sum(is_done(part, folder) for part in parts),
    len(parts),
    seconds_spent(parts, folder) / 3600,
    result,
  )


def at_most_a_share(work: Callable[[], object], share: float) -> Callable[[], None]:
  """Work that is left out where it would take more than a share of the time since the last."""
  due = -math.inf

  def maybe() -> None:
    nonlocal due
    began = time.monotonic()
    if began >= due:
      work()
      ended = time.monotonic()
      due = ended + (ended - began) * (1 / share - 1)

  return maybe


def _write_if_free(
  settings: StudySettings, folder: Path, parts: Sequence[Part]
) -> tuple[Table, ...] | None:
  """Writes the answers so far, by test and condition, and their tables; none without any answer.

  None where another process is writing them.
  """
  with contextlib.ExitStack() as held:
    try:
      hold_locks(folder / "results" / "locks", 0, 1, held)
    except LockedError:
      return None
    done = {part.name for part in parts if is_done(part, folder)}
    rows = [
      row
      for test in settings.tests
      for condition in conditions(settings)
      for row in collect_answers(
        folder, condition, [s for s in settings.seeds if condition.folder(s) in done], test
      )
    ]
    if not rows:
      return ()
    write_answers(folder / FILE, rows)
    return write_results([folder / FILE], settings.reference, folder)


def left_out_note(answers: Sequence[Answers], folders: Sequence[Path]) -> str:
  """Names the students that lack examples of others, for the table's caption; empty if none do.

  Args:
    folders: folders of the studies that these are of; a student that is in none is named, too.
  """
  lacking, unknown = [], []
  for condition, seeds in {cell.condition: cell.seeds for cell in answers}.items():
    name = f"{condition.student} on {condition.arm} at {condition.keep_ratio:g}"
    places = [folder / condition.folder(seed) for folder in folders for seed in seeds]
    skipped = (place / "skipped.jsonl" for place in places)
    counts = [sum(1 for _ in read_lines(path)) for path in skipped if path.exists()]
    lacking += [f"{name} (up to {max(counts)})"] if counts else []
    unknown += [] if any(place.exists() for place in places) else [name]
  notes = []
  if lacking:
    notes.append(
      "Examples that were too long, or that no text can spell, were left out (see the students' "
      f"skipped.jsonl) of {', '.join(lacking)}; so students may differ in the chains, too."
    )
  if unknown:
    whose = (
      ", ".join(unknown) if len(unknown) <= _MOST_NAMED else f"{len(unknown)} kinds of students"
    )
    notes.append(
      "Examples that were left out are not known of students that are not beside their answers: "
      f"{whose}."
    )
  return " ".join(notes)


def write_results(
  answers_files: Sequence[Path], reference: str, folder: Path, *, is_whole: bool = False
) -> tuple[Table, ...]:
  """Writes the tables and the plot of a study from its answers.

  Args:
    answers_files: a study's `answers.parquet`, or several with other seeds or arms each.
    reference: the arm that the others are compared with; or empty.
    is_whole: True where an arm without answers is a mistake, and not only to be waited for.

  Raises:
    UserError: see `read_answers`; nobody answered for the reference; or the folder cannot be
      written.
  """
  from greedy_prune_jax.reports.plots import write_plot
  from greedy_prune_jax.study.plot import plot_study

  answers = read_answers(*answers_files)
  if is_whole:
    arms = dict.fromkeys(cell.condition.arm for cell in answers)
    check_reference(reference, [arm for arm in arms if arm not in (NO_PRUNING, ANSWER_ONLY)])
  tables = all_tables(answers, reference)
  if note := left_out_note(answers, [path.parent for path in answers_files]):
    tables = dataclasses.replace(tables[0], caption=f"{tables[0].caption} {note}"), *tables[1:]
  for table in tables:
    write_table(folder, table)
  replace_file(folder / "study.md", "\n\n".join(map(markdown_table, tables)) + "\n")
  write_plot(folder, plot_study(answers))
  return tables
