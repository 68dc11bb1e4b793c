"""The `publish` run: pruned chains in, a dataset's folder out, and on to the hub.

The folder, which `datasets.load_dataset` reads, holds

    README.md               the card: how the chains were made, of what, under which licence
    data/messages.parquet   a chain at a keep ratio a row, as conversations; for SFT tools
    data/chains.parquet     a chain a row, with its deletion order and NLLs
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet
from absl import logging

from greedy_prune_jax.chains.chain import Chain, PrunedChain
from greedy_prune_jax.chains.question_sets import QUESTION_SETS, split_source
from greedy_prune_jax.chains.reading import read_pruned, run_of, warn_of_unfinished
from greedy_prune_jax.chains.sources import HUB, split_hub
from greedy_prune_jax.chains.thinking import find_form
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.publish.card import Counts, write_card
from greedy_prune_jax.publish.settings import PublishSettings
from greedy_prune_jax.runs.config import config_of
from greedy_prune_jax.runs.files import make_folder, new_file
from greedy_prune_jax.runs.records import Record

UNKNOWN = "unknown"  # the hub's name for a licence that nobody told

_BATCH = 64  # chains that are in memory at once
_TEXT, _INTS, _NLLS = (
  pyarrow.string(),
  pyarrow.list_(pyarrow.int32()),
  pyarrow.list_(pyarrow.float64()),
)
MESSAGES = pyarrow.schema(
  {
    "id": _TEXT,
    "keep_ratio": pyarrow.float64(),
    "messages": pyarrow.list_(pyarrow.struct({"role": _TEXT, "content": _TEXT})),
  }
)
CHAINS = pyarrow.schema(
  {
    **dict.fromkeys(("id", "question", "system", "target", "reasoning", "answer"), _TEXT),
    "thinking_form": _TEXT,
    **dict.fromkeys(("pruner", "objective", "ranking", "search", "unit"), _TEXT),
    "pruned": pyarrow.list_(
      pyarrow.struct({"keep_ratio": pyarrow.float64(), "tokens": pyarrow.int32(), "text": _TEXT})
    ),
    "reasoning_ids": _INTS,
    "reasoning_tokens": pyarrow.list_(_TEXT),
    "deletion_order": _INTS,
    "unit_sizes": _INTS,
    "nll": pyarrow.struct(dict.fromkeys(("joint", "answer", "reasoning"), _NLLS)),
    "extra": _TEXT,
  }
)


def run_publish(settings: PublishSettings, folder: Path) -> str:
  """Writes the dataset's folder, pushes it where that is asked for, and says what was done.

  Raises:
    UserError: there are no pruned chains, one was not pruned so far, the folder holds other things
      or cannot be written, or the hub refuses it.
  """
  config = config_of(run_of(settings.pruned))
  is_anew = (folder / "README.md").exists()
  _check_folder(folder)
  note = warn_of_unfinished(settings.pruned)
  make_folder(folder / "data")
  counts = Counts()
  _write(folder / "data" / "chains.parquet", CHAINS, _chain_rows(settings, counts))
  _write(folder / "data" / "messages.parquet", MESSAGES, _message_rows(settings, counts))
  source = settings.source or str(config.get("chains", "")) or settings.pruned
  license_name = settings.license or find_license(source)
  title = settings.title or settings.push.rpartition("/")[2] or folder.name
  write_card(folder, title, source, license_name, config, counts, note)
  told = f"{counts.chains} chains, {counts.rows} rows of messages in {folder}"
  if counts.torn:
    told += f", without {counts.torn} texts that hold a part of a character"
  told += f"; licence {license_name}"
  if is_anew:
    told += (
      "\n`datasets` keeps what it loaded of this folder before, and its size; load it with "
      'download_mode="force_redownload", verification_mode="no_checks"'
    )
  return f"{told}\n{push(folder, settings.push, settings.private)}" if settings.push else told


def _check_folder(folder: Path) -> None:
  """A UserError if a folder holds what a dataset's folder of ours does not."""
  if folder.exists():
    own = {"README.md", "README.md.new", "data"}  # the second is what a killed run left
    others = sorted({path.name for path in folder.iterdir()} - own)
    if others:
      raise UserError(f"{folder} holds {others[0]}; expected a new folder, or an earlier dataset's")


def _write(path: Path, schema: pyarrow.Schema, rows: Iterator[Record]) -> None:
  """Writes rows to a Parquet file that is there whole or not at all."""
  with new_file(path) as new, pyarrow.parquet.ParquetWriter(new, schema) as writer:
    while batch := list(itertools.islice(rows, _BATCH)):
      writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))


def _chain_rows(settings: PublishSettings, counts: Counts) -> Iterator[Record]:
  for pruned in read_pruned(settings.pruned):
    texts = list(_texts(pruned, settings.keep_ratios))
    counts.add(pruned, [(ratio, tokens) for ratio, tokens, _ in texts])
    record = {key: value for key, value in pruned.to_record().items() if key in CHAINS.names}
    keys = ("keep_ratio", "tokens", "text")
    yield record | {
      "pruned": [dict(zip(keys, text, strict=True)) for text in texts],
      "extra": json.dumps(dict(pruned.chain.extra), ensure_ascii=False),
    }
  if not counts.chains:
    raise UserError(f"{settings.pruned} holds no pruned chains")


def _message_rows(settings: PublishSettings, counts: Counts) -> Iterator[Record]:
  for pruned in read_pruned(settings.pruned):
    chain = pruned.chain
    asked = [("system", chain.system)] if chain.system else []
    for ratio, _, text in _texts(pruned, settings.keep_ratios):
      if ratio != 1 and pruned.is_torn(pruned.positions_at(ratio)):
        counts.torn += 1
        continue
      counts.rows += 1
      reply = _opening(chain) + text + chain.answer
      turns = [*asked, ("user", chain.question), ("assistant", reply)]
      messages = [{"role": role, "content": content} for role, content in turns]
      yield {"id": chain.id, "keep_ratio": ratio, "messages": messages}


def _opening(chain: Chain) -> str:
  """The opening tag of a chain's thinking, with the white space that stands at its end as well."""
  form = find_form(chain.thinking_form)
  space = chain.answer[: len(chain.answer) - len(chain.answer.lstrip())]
  return "" if form is None else form.opening + space


def _texts(pruned: PrunedChain, keep_ratios: Sequence[float]) -> Iterator[tuple[float, int, str]]:
  """Keep ratio, number of tokens, and text of the reasonings that are published of a chain."""
  for ratio in sorted(keep_ratios or map(float, pruned.pruned), reverse=True):
    yield float(ratio), len(pruned.positions_at(ratio)), pruned.text_at(ratio)


def find_license(source: str) -> str:
  """The licence of the dataset on the hub that chains are from; `unknown` where it is not told."""
  dataset = _hub_id(source)
  if dataset is None:
    return UNKNOWN
  from huggingface_hub import HfApi

  try:
    card = HfApi().dataset_info(dataset).card_data
  except Exception as error:  # no network, no such dataset: the card then says that it is unknown
    logging.warning("cannot look up the licence of %s: %s; pass it as license", dataset, error)
    return UNKNOWN
  licenses = card.get("license") if card is not None else None
  return str(licenses[0] if isinstance(licenses, list) and licenses else licenses or UNKNOWN)


def _hub_id(source: str) -> str | None:
  """The dataset on the hub that a source of chains is; None where it is another."""
  if source.startswith(HUB):
    return split_hub(source)[0]
  if (named := split_source(source)) is None:
    return None
  splits = QUESTION_SETS[named[0]].splits
  return splits["train"].id if "train" in splits else None


def push(folder: Path, repo: str, private: bool) -> str:
  """Pushes the folder to a dataset on the hub, and says so; without a token, says what it would.

  Raises:
    UserError: the hub refuses it.
  """
  from huggingface_hub import HfApi, get_token

  files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
  if (token := get_token()) is None:
    sizes = ", ".join(f"{f.relative_to(folder)} ({f.stat().st_size:,} bytes)" for f in files)
    return f"not pushed: there is no token (see `hf auth login`); {repo} would get {sizes}"
  api = HfApi(token=token)
  try:
    api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
    done = api.upload_folder(
      repo_id=repo,
      folder_path=folder,
      repo_type="dataset",
      allow_patterns=["README.md", "data/*.parquet"],
    )
  except Exception as error:  # of the network, of the hub; there is one thing to say
    raise UserError(
      f"cannot push {folder} to {repo}: {error}. The folder is whole; try again"
    ) from error
  return f"pushed {len(files)} files to {repo}: {done}"
