"""Chains from files and question sets, in any of the forms that we know."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from greedy_prune_jax.chains import question_sets as datasets
from greedy_prune_jax.chains.chain import Chain, PrunedChain
from greedy_prune_jax.chains.question_sets import QUESTION_SETS, Question
from greedy_prune_jax.chains.rows import Row
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs import records as fields
from greedy_prune_jax.runs.jsonl import parse_line, read_lines
from greedy_prune_jax.runs.records import Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class BadChain:
  """A chain that was left out, as `skipped.jsonl` records it.

  Attributes:
    place: where it stands, such as `chains.jsonl, line 7`; empty where that is not known any more.
    id: its id, or None where it has none that can be read.
    reason: what is wrong with it.
  """

  place: str
  id: str | None
  reason: str


def read_chains(
  source: str,
  *,
  num_chains: int = 0,
  seed: int = 0,
  split: str = "train",
  on_bad: Callable[[BadChain], None] | None = None,
) -> Iterator[Chain]:
  """Yields the chains that `source` means, one at a time.

  Args:
    source: a JSONL file whose lines are chains (design section 4), records of the published pruner,
      or rows of GSM8K; a folder of such files; the workdir of an earlier job, of which `chains` or
      `pruned` is read; or a question set with worked solutions, `NAME` or `NAME:PATH` (see
      `datasets.load_rows`).
    num_chains: stop after so many good ones; 0 for all. Files are read in their order, question
      sets in the order that `seed` gives.
    seed: of a question set's order.
    split: of a question set.
    on_bad: called with every chain that cannot be used, which is then left out.

  Raises:
    UserError: nothing usable at `source` (at once), or, without `on_bad`, a bad chain (when it is
      reached); the message says where it is and what is wrong.
  """
  if num_chains < 0:
    raise UserError(f"num_chains={num_chains}; expected a number from 0 (all) on")
  if (named := datasets.split_source(source)) is not None:
    name, _ = named
    if not QUESTION_SETS[name].has_rationales:
      raise UserError(
        f"{name} has no worked solutions to prune; pass a file of chains that a model wrote on its "
        f"questions"
      )
    # A generator makes no bad rows, so it can be asked for exactly as many as are wanted.
    num_rows = num_chains if datasets.is_generated(source) else 0
    _, rows = datasets.load_rows(source, split=split, num_rows=num_rows, seed=seed)
    parse = functools.partial(_chain_of_row, name)
  else:
    rows, parse = _file_rows(*_chain_files(source)), chain_of_record
  chains = _good_chains(source, iter(rows), parse, on_bad)
  return itertools.islice(chains, num_chains or None)


def read_pruned(source: str | Path) -> Iterator[PrunedChain]:
  """Yields the pruned chains of a workdir, or of one of its files.

  Raises:
    UserError: there are none (at once), or a line is not a pruned chain; the message names it.
  """
  files, _ = _chain_files(str(source))
  return (
    _pruned_of_line(file, *line) for file in files for line in read_lines(file, drop_torn=True)
  )


def _pruned_of_line(file: Path, number: int, line: bytes) -> PrunedChain:
  try:
    return PrunedChain.from_record(parse_line(line))
  except UserError as error:
    raise UserError(f"{file}, line {number}: {error}") from error


def _good_chains(
  source: str,
  rows: Iterable[Row],
  parse: Callable[[Record, str], Chain],
  on_bad: Callable[[BadChain], None] | None,
) -> Iterator[Chain]:
  """Chains of the rows that have one, each id once."""
  places: dict[str, str] = {}  # of each id that was seen
  row = None
  for row in rows:
    chain_id = None
    try:
      record = row.record()
      chain_id = str(record.get("id", row.id))
      chain = parse(record, row.id)
      if chain.id in places:
        raise UserError(f'repeats the id "{chain.id}" of {places[chain.id]}')
    except UserError as error:
      if on_bad is None:
        raise UserError(f"{row.place}: {error}") from error
      on_bad(BadChain(place=row.place, id=chain_id, reason=str(error)))
      continue
    places[chain.id] = row.place
    yield chain
  if row is None:
    raise UserError(f"{source} is empty; expected chains")


def _chain_files(source: str) -> tuple[list[Path], bool]:
  """The JSONL files that `source` means, and whether a job of ours wrote them."""
  path = Path(source)
  if path.is_file():
    return [path], False
  if not path.is_dir():
    raise UserError(
      f"{source} does not exist; expected a JSONL file of chains, a folder of them, a workdir, or "
      f"one of {', '.join(name for name, s in QUESTION_SETS.items() if s.has_rationales)}"
    )
  is_workdir = (path / "config.json").is_file()
  folders = [path / "chains", path / "pruned"] if is_workdir else [path]
  for folder in folders:
    if files := sorted(folder.glob("*.jsonl")):
      return files, is_workdir
  raise UserError(
    f"{source} holds no chains; looked for {' and '.join(f'{f}/*.jsonl' for f in folders)}"
  )


def _file_rows(files: list[Path], drop_torn: bool) -> Iterator[Row]:
  for file in files:
    for number, line in read_lines(file, drop_torn=drop_torn):
      yield Row(f"{file.stem}/{number - 1}", f"{file}, line {number}", line)


def chain_of_record(record: Record, default_id: str) -> Chain:
  """The chain in a record of any form that we know; `default_id` is used where it has no id.

  Raises:
    UserError: a key is missing, not a string, or empty; the message names it.
  """
  record = record if "id" in record else {"id": default_id} | record
  if "response_reason" in record or "user_prompt" in record:
    return Chain.from_record(_from_published(record))
  if "reasoning" not in record and "####" in str(record.get("answer")):
    return _chain_of_row("gsm8k", record, default_id)
  return Chain.from_record(record)


# The published pruner's keys and ours.
_PUBLISHED_KEYS = {
  "system_prompt": "system",
  "user_prompt": "question",
  "response_reason": "reasoning",
  "response_answer": "answer",
}


def _from_published(record: Record) -> Record:
  """A record of the published pruner under our keys; an error still names the record's own."""
  for key in ("user_prompt", "response_reason", "response_answer"):
    fields.get_text(record, key)
  fields.get_optional_text(record, "system_prompt")
  record = record | {"id": str(record["id"])}  # numbered, where it has an id at all
  renamed = {key: value for key, value in record.items() if key not in _PUBLISHED_KEYS.values()}
  return {_PUBLISHED_KEYS.get(key, key): value for key, value in renamed.items()}


def _chain_of_row(name: str, row: Record, default_id: str) -> Chain:
  question = datasets.parse_question(name, row, default_id)
  return chain_of_question(question, QUESTION_SETS[name].form.write(question.target))


def chain_of_question(question: Question, answer: str) -> Chain:
  """The chain whose reasoning is the question's worked solution, ending in one newline.

  Raises:
    UserError: the question has no worked solution.
  """
  if question.rationale is None:
    raise UserError(f"{question.id} has no worked solution")
  return Chain(
    id=question.id,
    question=question.question,
    reasoning=question.rationale.rstrip() + "\n",
    answer=answer,
    system=question.system,
    target=question.target,
    extra=question.extra,
  )
