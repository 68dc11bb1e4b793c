"""Rows of question sets as they come from the hub, from local files, or from a generator."""

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from greedy_prune_jax.chains.sources import Row, as_json, file_rows, is_json
from greedy_prune_jax.errors import UserError


class HubSplit(NamedTuple):
  """A part of a dataset on the hub."""

  id: str
  config: str | None
  split: str


def shuffled(rows: list[Row], num_rows: int, seed: int) -> list[Row]:
  """The first `num_rows` (0: all) of a random order."""
  return random.Random(seed).sample(rows, len(rows))[: num_rows or None]


def from_hub(hub: HubSplit, name: str, split: str) -> list[Row]:
  """Rows of a dataset on the hub, or of its copy in the local cache; a UserError without either."""
  import datasets  # imports pandas and pyarrow: a second that most runs need not spend

  try:
    dataset = datasets.load_dataset(hub.id, hub.config, split=hub.split)
  except Exception as error:  # of four libraries, and there is one thing to say
    raise UserError(
      f"cannot load {name} ({split}): looked for {hub.id} on the Hugging Face hub and in the local "
      f"cache, and got: {error}. Without a network, pass a copy: {name}:PATH, a JSONL or Parquet "
      f"file or a folder of the dataset."
    ) from error
  return _rows(dataset, f"{name}/{split}", hub.id)


def from_path(path: Path, hub: HubSplit | None, split: str) -> list[Row]:
  """Rows of a local copy: JSON lines, another file, or a folder that `datasets` can read.

  Args:
    hub: names the configuration and the split in a folder that is a clone of the hub's.
    split: the folder's split where `hub` is None.

  Raises:
    UserError: it cannot be read.
  """
  if not path.exists():
    raise UserError(
      f"{path} does not exist; expected a JSONL or Parquet file or a dataset's folder"
    )
  if is_json(path):  # by our own reader: that of `datasets` ends the process on some damaged JSON
    return list(file_rows(path))
  import datasets  # see from_hub

  hub = hub or HubSplit(str(path), None, split)
  try:
    if path.is_file():
      builder = "csv" if path.suffix.lower() == ".csv" else "parquet"
      dataset = datasets.load_dataset(builder, data_files=str(path), split="train")
    elif (path / "dataset_dict.json").exists():
      dataset = datasets.load_from_disk(str(path))[hub.split]
    elif (path / "dataset_info.json").exists():
      dataset = datasets.load_from_disk(str(path))
    else:
      config = hub.config if (path / "README.md").exists() else None  # where a clone names them
      dataset = datasets.load_dataset(str(path), config, split=hub.split)
  except Exception as error:  # of four libraries, and there is one thing to say
    raise UserError(f"cannot read {path} as a dataset: {error}") from error
  return _rows(dataset, path.stem, str(path))


def _rows(dataset: Iterable[Any], name: str, place: str) -> list[Row]:
  """Rows as our outputs can hold them, which carry their further keys along."""
  return [
    Row(f"{name}/{i}", f"{place}, row {i}", as_json(dict(row))) for i, row in enumerate(dataset)
  ]


def gsm_symbolic(num_rows: int, first: int, options: str) -> list[Row]:
  """Generated questions with worked solutions, in GSM8K's form.

  Source: reasoning-gym's `gsm_symbolic`, which varies names and numbers of 100 GSM8K problems. The
  same arguments give the same questions.

  Args:
    num_rows: number of rows, above 0.
    first: number of the first row.
    options: numbers of the problems that are varied, `3,14`; empty: all that reasoning-gym makes
      without fault. Questions are those of the whole set that are of these.

  Raises:
    UserError: reasoning-gym is not installed, or there is no such template.
  """
  try:
    from reasoning_gym.arithmetic.gsm_symbolic import gsm_symbolic as generator
  except ImportError as error:
    raise UserError(
      "gsm_symbolic needs the package reasoning-gym; install it with: pip install reasoning-gym"
    ) from error
  numbers = options.split(",") if options else []
  if not all(number.isdecimal() for number in numbers):
    raise UserError(
      f"gsm_symbolic@{options}: expected numbers of templates behind the @, such as 3,14"
    )
  templates = set(map(int, numbers))
  if unknown := sorted(templates - set(generator.tasks_ok)):
    known = ",".join(map(str, generator.tasks_ok))
    raise UserError(f"gsm_symbolic has no template {unknown[0]}; it has {known}")
  size = num_rows
  while True:  # which template a question is of is drawn without making it
    config = generator.GSMSymbolicDatasetConfig(seed=first, size=size)
    dataset = generator.GSMSymbolicDataset(config)
    chosen = [i for i, t in enumerate(dataset.task_indices) if not templates or t in templates]
    if len(chosen) >= num_rows:
      break
    size *= 2
  return [
    Row(
      f"gsm_symbolic/{first}/{i}",
      f"gsm_symbolic, question {i}",
      {
        # The form of the answer is asked for by the system text instead.
        "question": item["question"].removesuffix(
          " Give the result as your final answer. Do not include units."
        ),
        "answer": item["metadata"]["answer_cot"],
        "template": dataset.task_indices[i],
      },
    )
    for i, item in ((i, dataset[i]) for i in chosen[:num_rows])
  ]
