"""Rows of chains from files, compressed or not, from folders, and from splits on the hub.

Rows come one at a time: no more of a file is in memory than a line or a batch of rows, but for
`.json`, which has no lines.
"""

import contextlib
import dataclasses
import datetime
import io
import itertools
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from absl import logging

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.files import open_file, read_bytes, user_path
from greedy_prune_jax.runs.json_reader import MOST_BYTES, as_object, parse_json
from greedy_prune_jax.runs.jsonl import lines_of, parse_line
from greedy_prune_jax.runs.records import Record

HUB = "hf:"

_CODECS = {".gz": "gzip", ".zst": "zstd"}
_LINES = (".jsonl", ".ndjson")
_SUFFIXES = (*_LINES, ".json", ".parquet")
_BATCH_ROWS = 64  # of a Parquet file, at once in memory
_NAMED = 5  # files that a message names
# Files that lie beside rows in the folders of datasets and runs.
_NO_ROWS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
# Words in files' names by which `datasets` tells splits apart.
_SPLIT_OF = {
  **dict.fromkeys(("train", "training"), "train"),
  **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
  **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
# A problem's folder of thought-anchors, with the file that it may lack.
_ANCHORS = ("problem.json", "base_solution.json", "chunks_labeled.json")


@dataclasses.dataclass(frozen=True)
class Row:
  """One row, not yet looked at.

  Attributes:
    id: id of a question from this row if the row has none.
    place: file and line, for messages.
    content: an object, a line of JSON that should hold one, or what reads one.
  """

  id: str
  place: str
  content: Record | bytes | Callable[[], Record]

  def record(self) -> Record:
    """The row's object; a UserError where it cannot be read, or its line is not one."""
    if isinstance(self.content, bytes):
      return parse_line(self.content)
    return self.content() if callable(self.content) else self.content


def open_rows(source: str) -> Iterator[Row]:
  """Rows of `hf:ORG/NAME[:CONFIG]:SPLIT`, of a file, or of a folder of files.

  Raises:
    UserError: there is no such source (at once), or it cannot be read (when it is reached).
  """
  if source.startswith(HUB):
    return _hub_rows(*split_hub(source))
  path = user_path(source)
  if not path.is_dir():
    return file_rows(path)
  problems, files = _sort_folder(path)
  if problems:
    return (_anchor_row(problem, path) for problem in problems)
  _check_one_set(path, files)
  return (row for file in files for row in file_rows(file, str(_id_prefix(file, path))))


def split_hub(source: str) -> tuple[str, str | None, str]:
  """Id, configuration and split of `hf:ORG/NAME[:CONFIG]:SPLIT`; a folder's path may be the id.

  Raises:
    UserError: it is not of this form.
  """
  parts = source.removeprefix(HUB).split(":")
  name = os.path.expanduser(parts[0])
  no_id = name.count("/") > 1 and not os.path.isdir(name)
  if len(parts) not in (2, 3) or not all(parts) or no_id:
    raise UserError(
      f"{source} is no split on the hub; expected hf:ORG/NAME:SPLIT or hf:ORG/NAME:CONFIG:SPLIT"
    )
  return name, parts[1] if len(parts) == 3 else None, parts[-1]


def _sort_folder(folder: Path) -> tuple[list[Path], list[Path]]:
  """A folder's problems of thought-anchors, or its files of rows, by name.

  The files are those that it holds itself; where it holds none, those of the folders in it. A
  warning names files that are neither.

  Raises:
    UserError: there are neither, or both.
  """
  paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
  paths = [p for p in paths if p.name not in _NO_ROWS and not _is_aside(p.relative_to(folder))]
  problems = {path.parent for path in paths if path.name == _ANCHORS[1]}
  paths = [path for path in paths if problems.isdisjoint(path.parents)]
  files = [path for path in paths if _kind(path) in _SUFFIXES]
  if problems and files:
    raise UserError(
      f"{folder} holds problems of Thought Anchors ({min(problems)}) and other rows ({files[0]}); "
      "name the folder or the file of one of them"
    )
  files = [file for file in files if file.parent == folder] or files
  read = set(files)
  left_out = [str(path.relative_to(folder)) for path in paths if path not in read]
  named = ", ".join(left_out[:_NAMED]) + (", ..." if len(left_out) > _NAMED else "")
  if not problems and not files:
    raise UserError(
      f"{folder} holds no chains{f', but {named}' * bool(named)}; looked for "
      f"{', '.join(f'*{suffix}' for suffix in _SUFFIXES)}, each also with {' or '.join(_CODECS)} "
      f"behind, in it and in its folders"
    )
  if left_out:
    logging.warning("%s: %d files in it are not read: %s", folder, len(left_out), named)
  return sorted(problems), files


def _is_aside(path: Path) -> bool:
  """Tells whether a file is hidden or a text on the others, such as README.md."""
  return path.suffix.lower() == ".md" or any(part.startswith(".") for part in path.parts)


def _check_one_set(folder: Path, files: Sequence[Path]) -> None:
  """A UserError where a folder is a dataset of several splits or configurations."""
  card = folder / "README.md"
  configs: list[Any] = []
  if card.is_file():
    from huggingface_hub import RepoCard

    with contextlib.suppress(Exception):  # a text of the user's, which need not be a card
      configs = RepoCard.load(card, ignore_metadata_errors=True).data.get("configs") or []
  names = sorted({str(config["config_name"]) for config in configs if "config_name" in config})
  if len(names) > 1:
    raise UserError(
      f"{folder} is a dataset of several configurations: {', '.join(names)}. Name one, and its "
      f"split, as in {HUB}{folder}:{names[0]}:train"
    )
  words = [re.split(r"[^a-z]+", str(file.relative_to(folder)).lower()) for file in files]
  by_file = {frozenset(_SPLIT_OF[word] for word in some if word in _SPLIT_OF) for some in words}
  splits = sorted(frozenset().union(*by_file))
  if len(by_file) > 1 and len(splits) > 1:
    raise UserError(
      f"{folder} holds files of several splits, by their names: {', '.join(splits)}. Name one, as "
      f"in {HUB}{folder}:{splits[-1]}, or pass one file"
    )


def is_json(path: Path) -> bool:
  """Tells whether a file is of JSON, in lines or whole, compressed or not, by its name."""
  return _kind(path) in (*_LINES, ".json")


def file_rows(path: Path, name: str = "", *, drop_torn: bool = False) -> Iterator[Row]:
  """Rows of one file, whose suffix says what it is.

  Args:
    name: a row's id is this, a slash, and the row's number, or its line's, from 0 on; empty: the
      file's name without suffixes.

  Raises:
    UserError: the file cannot be read, or a line is longer than `MOST_BYTES`.
  """
  kind, name = _kind(path), name or _stem(path)
  if kind in (".csv", ".tsv"):
    jsonl = path.with_name(f"{_stem(path)}.jsonl")
    separator = ", sep='\\t'" if kind == ".tsv" else ""
    raise UserError(
      f"{path}: CSV is not read; write it as JSONL, by the command\n"
      f'  python -c "import pandas; pandas.read_csv({str(path)!r}{separator}).to_json('
      f"{str(jsonl)!r}, orient='records', lines=True)\""
    )
  if kind == ".parquet":
    return _parquet_rows(path, name)
  if kind == ".json":
    return _json_rows(path, name)
  return _line_rows(path, name, drop_torn)


def _codec(path: Path) -> str | None:
  return _CODECS.get(path.suffix.lower())


def _kind(path: Path) -> str:
  """The file's suffix in lower case, without that of a compression."""
  return (path.with_suffix("") if _codec(path) else path).suffix.lower()


def _stem(path: Path) -> str:
  return (path.with_suffix("") if _codec(path) else path).stem


def _id_prefix(file: Path, folder: Path) -> Path:
  return file.relative_to(folder).parent / _stem(file)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
  """The file's bytes, decompressed."""
  with open_file(path) as file:
    if (codec := _codec(path)) is None:
      yield file
      return
    import pyarrow  # half a second that most runs need not spend

    # Unlike Python's own readers, Arrow's goes on behind a frame and says when one is cut off.
    stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), codec)
    with io.BufferedReader(cast(Any, stream)) as inner:
      try:
        yield inner
      except OSError as error:
        raise UserError(f"cannot decompress {path}: {error}") from error


def _line_rows(path: Path, name: str, drop_torn: bool) -> Iterator[Row]:
  with _opened(path) as file:
    for number, line in lines_of(file, path, drop_torn=drop_torn):
      yield Row(f"{name}/{number - 1}", f"{path}, line {number}", line)


def _json_rows(path: Path, name: str) -> Iterator[Row]:
  """Rows of a JSON file: a list of objects, one object, or JSON lines under another name."""
  with _opened(path) as file:
    first = file.readline(MOST_BYTES + 1)
    has_lines = _is_object(first) and file.read(1) != b""
  if has_lines:
    yield from _line_rows(path, name, drop_torn=False)
    return
  with _opened(path) as file:
    content = file.read(MOST_BYTES + 1)
  if len(content) > MOST_BYTES:
    raise UserError(f"{path}: has more than {MOST_BYTES} bytes; write it as JSONL")
  try:
    value = parse_json(content) if content.strip() else []
  except UserError as error:
    raise UserError(f"{path}: {error}") from error
  if not isinstance(value, list):
    yield Row(name, str(path), as_object(value))
    return
  for number, item in enumerate(value):
    place = f"{path}, item {number + 1}"
    if not isinstance(item, dict):
      raise UserError(f"{place}: is a JSON {type(item).__name__}; expected an object, {{...}}")
    yield Row(f"{name}/{number}", place, item)


def _is_object(line: bytes) -> bool:
  try:
    return isinstance(parse_json(line), dict)
  except UserError:
    return False


def _parquet_rows(path: Path, name: str) -> Iterator[Row]:
  import pyarrow
  import pyarrow.parquet

  numbers = itertools.count()
  try:
    with _opened(path) as file:
      # Behind a compression the file cannot be jumped about in, as Parquet's readers do.
      source = io.BytesIO(file.read()) if _codec(path) else file
      for batch in pyarrow.parquet.ParquetFile(source).iter_batches(batch_size=_BATCH_ROWS):
        for row in batch.to_pylist():
          number = next(numbers)
          yield Row(f"{name}/{number}", f"{path}, row {number + 1}", as_json(row))
  except (pyarrow.ArrowException, OSError, ValueError) as error:  # ValueError: texts in no UTF-8
    raise UserError(f"cannot read {path} as Parquet: {error}") from error


def _hub_rows(dataset: str, config: str | None, split: str) -> Iterator[Row]:
  import datasets  # imports pandas and pyarrow: a second that most runs need not spend

  name = dataset.rpartition("/")[2]
  rows = iter(())
  for number in itertools.count():
    try:
      if number == 0:
        rows = iter(datasets.load_dataset(dataset, config, split=split, streaming=True))
      row = next(rows)
    except StopIteration:
      return
    except Exception as error:  # of four libraries, and there is one thing to say
      raise UserError(
        f"cannot read {dataset} ({f'{config}, ' if config else ''}{split}): looked for it on the "
        f"Hugging Face hub and got: {error}. Without a network, pass a copy: a JSONL, JSON or "
        f"Parquet file, or a folder of them"
      ) from error
    yield Row(f"{name}/{split}/{number}", f"{dataset}, {split}, row {number}", as_json(row))


def _anchor_row(problem: Path, folder: Path) -> Row:
  """A problem's folder of thought-anchors as one row, its files under their names."""
  row_id = problem.name if problem == folder else str(problem.relative_to(folder))

  def read() -> Record:
    record = {}
    for name in _ANCHORS:
      if (problem / name).exists() or name != _ANCHORS[-1]:
        record[name] = _whole_json(problem / name)
    return record

  return Row(row_id, str(problem), read)


def _whole_json(path: Path) -> Any:
  content = read_bytes(path, MOST_BYTES)
  try:
    return parse_json(content)
  except UserError as error:
    raise UserError(f"{path.name} {error}") from error


def as_json(value: Any) -> Any:
  """A value of a dataset as JSON can hold it: dates as texts, NaN as null, bytes left out."""
  if isinstance(value, dict):
    kept = {key: item for key, item in value.items() if not isinstance(item, bytes)}
    return {str(key): as_json(item) for key, item in kept.items()}
  if isinstance(value, list | tuple):
    return [as_json(item) for item in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  if value is None or isinstance(value, str | bool | int | float):
    return value
  if isinstance(value, datetime.date | datetime.time):
    return value.isoformat()
  return str(value)
