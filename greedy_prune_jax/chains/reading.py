"""Chains from files, datasets on the hub and question sets, in any of the forms that we know."""

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from absl import logging

from greedy_prune_jax.chains import question_sets as datasets
from greedy_prune_jax.chains.chain import RESULT_KEYS, Chain, PrunedChain
from greedy_prune_jax.chains.formats import OWN, ColumnSettings, chains_of_row, solved_question
from greedy_prune_jax.chains.formats_reply import of_row
from greedy_prune_jax.chains.question_sets import QUESTION_SETS
from greedy_prune_jax.chains.sources import HUB, Row, file_rows, open_rows
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.config import config_of
from greedy_prune_jax.runs.files import user_path
from greedy_prune_jax.runs.jsonl import parse_line, read_lines
from greedy_prune_jax.runs.names import split_name
from greedy_prune_jax.runs.records import Record
from greedy_prune_jax.runs.workdir import Workdir

# From a row and its default id to the name of its form and its chains.
Parse = Callable[[Record, str], tuple[str, list[Chain]]]

_SHOWN = 60  # characters of each end of a text that `describe_first` shows
_TOUCHING = 20  # the same of two texts that touch


@dataclasses.dataclass(frozen=True, kw_only=True)
class BadChain:
  """A chain that was left out, as `skipped.jsonl` records it.

  Attributes:
    place: file and line, such as `chains.jsonl, line 7`; empty where they are no longer known.
    id: the chain's id, or None where none can be read.
    reason: the fault.
  """

  place: str
  id: str | None
  reason: str


OnBad = Callable[[BadChain], None]


def skipper(on_bad_chain: str, workdir: Workdir | None = None) -> OnBad | None:
  """Makes the recorder of chains that cannot be used, in the log and in a workdir if there is one.

  None, which lets the error out, unless `on_bad_chain` is `skip`.
  """

  def skip(bad: BadChain) -> None:
    logging.warning("left out %s: %s", bad.place or bad.id, bad.reason)
    if workdir is not None and workdir.process_index == 0:  # all processes see all chains
      workdir.write_skipped(dataclasses.asdict(bad))

  return skip if on_bad_chain == "skip" else None


def read_chains(
  source: str,
  *,
  num_chains: int = 0,
  seed: int = 0,
  split: str = "train",
  columns: ColumnSettings | None = None,
  on_bad: OnBad | None = None,
) -> Iterator[Chain]:
  """Yields the chains that `source` means, one at a time.

  Args:
    source: a file of chains (JSONL, JSON or Parquet, also .gz or .zst) whose rows are of one of
      `FORMATS`; a folder of such files; a split on the hub, `hf:ORG/NAME[:CONFIG]:SPLIT`; the
      workdir of an earlier job, of which `chains` or `pruned` is read; or a question set with
      worked solutions, `NAME` or `NAME:PATH` (see `question_sets.load_rows`).
    num_chains: stop after so many good ones; 0: all, of a generated set `NUM_GENERATED`. Files
      are read in their order, question sets in the order that `seed` gives.
    seed: seed of a question set's order.
    split: split of a question set.
    columns: names that the rows have for a chain's parts; None: those of a form that we know.
    on_bad: called with every chain that cannot be used, which is then left out.

  Raises:
    UserError: nothing usable at `source` (at once), or, without `on_bad`, a bad chain (when it is
      reached); the message says where it is and what is wrong.
  """
  if num_chains < 0:
    raise UserError(f"num_chains={num_chains}; expected a number from 0 (all) on")
  num_chains = datasets.rows_to_read(source, num_chains)
  rows, parse = _rows_and_parser(source, num_chains, seed, split, columns)
  good = (chain for row in _good_rows(source, rows, parse, on_bad) for chain in row.chains)
  return itertools.islice(good, num_chains or None)


def describe_first(
  source: str, columns: ColumnSettings, *, seed: int = 0, on_bad: OnBad | None = None
) -> str:
  """The first row that `read_chains` reads: its form, and the parts of its first chain."""
  rows, parse = _rows_and_parser(source, 1, seed, "train", columns)
  first = next(_good_rows(source, rows, parse, on_bad), None)
  if first is None:
    raise UserError(f"{source} has no row that can be used")
  place, form, record, chains = first
  lines = [f"first row ({place}) as it is understood", f"{'form':>18}  {form}"]
  lines += describe_parts(chains[0])
  if left_out := [key for key in record if key in RESULT_KEYS]:
    lines.append(f"{'left out':>18}  {', '.join(left_out)} (names of keys that outputs have)")
  if len(chains) > 1:
    lines.append(f"{'further chains':>18}  {', '.join(chain.id for chain in chains[1:])}")
  return "\n".join(lines)


def describe_parts(chain: Chain) -> list[str]:
  """A chain's texts, a line each, and the names of what is carried along."""
  record = chain.to_record()
  shown = {key: value for key, value in record.items() if isinstance(value, str)}
  lines = [f"{key:>18}  {_ends(value)}" for key, value in shown.items()]
  if others := [key for key in record if key not in shown]:
    lines.append(f"{'carried along':>18}  {', '.join(others)}")
  return lines


def _ends(text: str) -> str:
  """The two ends of a text, on one line."""
  if len(text) <= 2 * _SHOWN:
    return repr(text)
  return f"{text[:_SHOWN]!r} ... {text[-_SHOWN:]!r} ({len(text):,} characters)"


def _rows_and_parser(
  source: str, num_chains: int, seed: int, split: str, columns: ColumnSettings | None
) -> tuple[Iterable[Row], Parse]:
  """The rows of a source, and what makes chains of each."""
  if (named := datasets.split_source(source)) is None:
    parse = functools.partial(chains_of_row, columns=columns)
    return _chain_rows(source), parse
  name, _ = named
  if not QUESTION_SETS[name].has_rationales:
    raise UserError(
      f"{name} has no worked solutions to prune; pass a file of chains that a model wrote on its "
      f"questions"
    )
  # A generator makes no bad rows, so it can be asked for exactly as many as are wanted.
  num_rows = num_chains if datasets.is_generated(source) else 0
  _, rows = datasets.load_rows(source, split=split, num_rows=num_rows, seed=seed)
  return rows, functools.partial(_solution, name)


def _solution(name: str, row: Record, default_id: str) -> tuple[str, list[Chain]]:
  """The worked solution in a row of a question set."""
  question = datasets.parse_question(name, row, default_id)
  chain = solved_question(question, QUESTION_SETS[name].form.write(question.target))
  return name, [of_row(chain, question.id)]


def read_pruned(source: str | Path) -> Iterator[PrunedChain]:
  """Yields the pruned chains of a workdir, or of one of its files.

  Raises:
    UserError: there are none (at once), or a line is not a pruned chain or has the id of another;
      the message names it.
  """
  path = user_path(source)
  files = [path] if path.is_file() else _workdir_files(path) or sorted(path.glob("*.jsonl"))
  if not files:
    raise UserError(f"{source} holds no pruned chains; expected the workdir of a prune run")
  return _pruned_of_files(files)


def unfinished_note(source: str | Path) -> str:
  """Says that a source is a run that is not complete, with numbers; empty where it is no such."""
  folder = run_of(source)
  if not (folder / "unfinished").is_dir() or not (folder / "config.json").is_file():
    return ""
  done = sum(1 for file in _workdir_files(folder) for _ in read_lines(file, drop_torn=True))
  wanted = config_of(folder).get("num_chains") or "all"
  return f"the run was not complete: it had {done} chains then, of num_chains={wanted}"


def warn_of_unfinished(source: str | Path) -> str:
  """Logs `unfinished_note`, and returns it."""
  if note := unfinished_note(source):
    logging.warning("%s: %s; the rest is missing here", source, note)
  return note


def run_of(source: str | Path) -> Path:
  """The workdir of which a path is the folder or a file of pruned chains; else the path itself.

  Raises:
    UserError: no file system can have such a path.
  """
  path = user_path(source)
  folder = path.parent if path.is_file() else path
  is_part = folder.name == "pruned" and (folder.parent / "config.json").is_file()
  return folder.parent if is_part else path


def named_run(entry: str) -> tuple[str, Path]:
  """Name and place of a run of prune, given as `[NAME=]DIR`; by itself it has its folder's name."""
  name, place = split_name(entry, is_place=lambda text: user_path(text).exists())
  path = user_path(place)
  return name or run_of(path.resolve()).name, path


def _pruned_of_files(files: Iterable[Path]) -> Iterator[PrunedChain]:
  """The pruned chains of files, each id once."""
  places: dict[str, str] = {}  # of each id
  for file in files:
    for number, line in read_lines(file, drop_torn=True):
      pruned, place = _pruned_of_line(file, number, line), f"{file}, line {number}"
      if (known := places.setdefault(pruned.chain.id, place)) != place:
        raise UserError(f'{place}: repeats the id "{pruned.chain.id}" of {known}; remove one')
      yield pruned


def _pruned_of_line(file: Path, number: int, line: bytes) -> PrunedChain:
  record: Record = {}
  try:
    record = parse_line(line)
    return PrunedChain.from_record(record)
  except UserError as error:
    advice = ""
    if record and "deletion_order" not in record:
      advice = (
        ". It is a chain that was not pruned; expected the workdir of a prune run, which distill "
        "needs for keep_ratios other than 1 and 0"
      )
    raise UserError(f"{file}, line {number}: {error}{advice}") from error


class _GoodRow(NamedTuple):
  place: str
  form: str
  record: Record
  chains: list[Chain]


def _good_rows(
  source: str,
  rows: Iterable[Row],
  parse: Parse,
  on_bad: OnBad | None,
) -> Iterator[_GoodRow]:
  """The rows that have chains, with these; each id once."""
  places: dict[str, str] = {}  # of each id that was seen
  row, touching = None, False
  for row in rows:
    row_id = None
    try:
      record = row.record()
      row_id = str(record.get("id", row.id))
      form, chains = parse(record, row.id)
      chains = _with_own_ids(form, chains, places)
    except UserError as error:
      if on_bad is None:
        raise UserError(f"{row.place}: {error}") from error
      on_bad(BadChain(place=row.place, id=row_id, reason=str(error)))
      continue
    places.update(dict.fromkeys((chain.id for chain in chains), row.place))
    if form == OWN and not touching and (touching := any(map(_touch, chains))):
      logging.warning(
        "%s: reasoning and answer are read as one text, and nothing stands between them (%r, %r); "
        "end the reasoning in what separates them, such as a line break",
        *(row.place, chains[0].reasoning[-_TOUCHING:], chains[0].answer[:_TOUCHING]),
      )
    yield _GoodRow(row.place, form, record, chains)
  if row is None:
    raise UserError(f"{source} is empty; expected chains")


def _touch(chain: Chain) -> bool:
  """Tells whether a chain's answer begins with a word right behind a word or a stop."""
  return bool(re.match(r"[\w.!?]\w", chain.reasoning[-1:] + chain.answer[:1]))


def _with_own_ids(form: str, chains: list[Chain], places: dict[str, str]) -> list[Chain]:
  """The chains of a row under ids that no earlier chain has.

  Published sets give one id to several chains of a question: the second is called `ID/2`. A chain
  of our own form is known by its id in every output, so there a repeated one is an error.
  """
  own = []
  for chain in chains:
    ids = itertools.chain([chain.id], (f"{chain.id}/{number}" for number in itertools.count(2)))
    free = next(one for one in ids if one not in places)
    if form == OWN and free != chain.id:
      raise UserError(
        f'repeats the id "{chain.id}" of {places[chain.id]}; remove one, or give it another id, '
        f'such as "{free}", or none'
      )
    own.append(dataclasses.replace(chain, id=free))
  return own


def _chain_rows(source: str) -> Iterator[Row]:
  """Rows of chains that `source`, which is no question set, means."""
  path = user_path(source)
  if source.startswith(HUB) or path.is_file():
    return open_rows(source)
  if not path.is_dir():
    raise UserError(
      f"{source} does not exist; expected a file of chains, a folder of them, a workdir, a split "
      f"on the hub as {HUB}ORG/NAME:SPLIT, or one of "
      f"{', '.join(name for name, s in QUESTION_SETS.items() if s.has_rationales)}"
    )
  if files := _workdir_files(path):
    return (row for file in files for row in file_rows(file, drop_torn=True))
  return open_rows(source)


def _workdir_files(path: Path) -> list[Path]:
  """The files of chains in a workdir, a UserError if it has none; empty if it is no workdir."""
  if not (path / "config.json").is_file():
    return []
  folders = [path / "chains", path / "pruned"]
  for folder in folders:
    if files := sorted(folder.glob("*.jsonl")):
      return files
  raise UserError(
    f"{path} holds no chains; looked for {' and '.join(f'{f}/*.jsonl' for f in folders)}"
  )
