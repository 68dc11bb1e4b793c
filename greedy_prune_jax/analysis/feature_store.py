"""Attention features on disk: one memory-mapped array of all tokens, and which chain is where.

A folder holds `index.json` (pruner, ids, first rows and a hash of the chains, shape and
type), `attention.npy` [T, L, H, S], `surprisal.npy` [T], and `done.jsonl`, one line a chain whose
rows are written. T counts the reasoning tokens of all chains; L, H and S are layers, heads and
statistics.
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from tqdm import tqdm

from greedy_prune_jax.chains.segments import Segments
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.parallel import DATA, axis_size
from greedy_prune_jax.runs.files import explain_os_errors, make_subfolder, open_file, replace_file
from greedy_prune_jax.runs.json_reader import read_json
from greedy_prune_jax.runs.jsonl import JsonlWriter, read_records
from greedy_prune_jax.runs.records import Record, check_form, get_text
from greedy_prune_jax.scoring.features import STATISTICS, extract_features

DTYPES = ("float16", "float32")
_INDEX_FORM = {
  "ids": [str],
  "starts": [int, ...],
  "num_layers": int,
  "num_heads": int,
  "dtype": str,
}


@dataclasses.dataclass(frozen=True)
class FeatureStore:
  """Features of the reasoning tokens of several chains.

  Attributes:
    ids: chain ids, in the order of their rows.
    starts: row of each chain's first token; one more entry ends the last chain.
    attention: the statistics named in `STATISTICS`; memory-mapped.
    surprisal: nats of each token; memory-mapped.
  """

  ids: tuple[str, ...]
  starts: tuple[int, ...]
  attention: Shaped[np.ndarray, "T L H S"]
  surprisal: Float[np.ndarray, " T"]

  def rows(self, chain: int) -> slice:
    """The rows of the chain with this number."""
    return slice(self.starts[chain], self.starts[chain + 1])

  def answer_attention(self, chain: int) -> Float[np.ndarray, " N"]:
    """Mean attention from the answer's tokens to each token, over all layers and heads."""
    statistic = STATISTICS.index("from answer, mean")
    return self.attention[self.rows(chain), :, :, statistic].mean(axis=(1, 2), dtype=np.float32)


def build_store(
  folder: Path,
  model: Model,
  ids: Sequence[str],
  chains: Sequence[Segments],
  *,
  pruner: str,
  dtype: str = "float16",
  batch_positions: int = 4096,
) -> FeatureStore:
  """Extracts the features of all chains, or of those that an earlier call did not come to.

  Args:
    model: reads the chains, on the devices that its parameters lie on.
    pruner: the model's name.
    dtype: the stored attention's, `float16` or `float32`.
    batch_positions: token positions that go through the model at once, about, over all devices.

  Raises:
    UserError: the folder cannot be written, or holds the features of other chains or by another
      pruner.
  """
  if dtype not in DTYPES:
    raise UserError(f"feature_dtype={dtype!r}; expected one of {', '.join(DTYPES)}")
  config = model.config
  starts = [0, *itertools.accumulate(len(chain.reasoning) for chain in chains)]
  index = {
    "pruner": pruner,
    "ids": list(ids),
    "starts": starts,
    "tokens": _hash(chains),
    "num_layers": config.num_layers,
    "num_heads": config.num_heads,
    "statistics": list(STATISTICS),
    "dtype": dtype,
  }
  make_subfolder(folder.parent)
  make_subfolder(folder)
  with explain_os_errors(folder):
    _start_or_check(folder, index)
  attention, surprisal = _open_arrays(folder, index, "r+")
  done_path = folder / "done.jsonl"
  with JsonlWriter(done_path) as done:
    finished = {
      record["id"]
      for record in read_records(done_path, check=lambda record: get_text(record, "id"))
    }
    waiting = [i for i, chain_id in enumerate(ids) if chain_id not in finished]
    batches = _batches(waiting, chains, batch_positions, axis_size(model.params, DATA))
    for batch_size, members in tqdm(batches, desc="attention features", disable=not batches):
      features = extract_features(model, [chains[i] for i in members], batch_size=batch_size)
      for i, (chain_attention, chain_surprisal) in zip(members, features, strict=True):
        attention[starts[i] : starts[i + 1]] = chain_attention
        surprisal[starts[i] : starts[i + 1]] = chain_surprisal
      attention.flush()
      surprisal.flush()
      for i in members:
        done.write({"id": ids[i]})
  return open_store(folder)


def open_store(folder: Path) -> FeatureStore:
  """Opens a finished store for reading.

  Raises:
    UserError: there is none.
  """
  path = folder / "index.json"
  index = read_json(path)
  try:
    check_form(index, _INDEX_FORM)
    if index["dtype"] not in DTYPES or len(index["starts"]) != len(index["ids"]) + 1:
      raise UserError(f'its "dtype" must be one of {DTYPES}, and "starts" one more than "ids"')
  except UserError as error:
    raise UserError(f"{path}: {error}") from error
  arrays = _open_arrays(folder, index, "r")
  return FeatureStore(tuple(index["ids"]), tuple(index["starts"]), *arrays)


def _open_arrays(folder: Path, index: Record, mode: str) -> tuple[np.memmap, np.memmap]:
  """Attention and surprisal, mapped into memory, of the shapes that the index says."""
  arrays = []
  for name, (dtype, shape) in _arrays(index).items():
    path = folder / f"{name}.npy"
    try:
      with open_file(path):  # a pipe's reading would never end
        pass
      array = np.lib.format.open_memmap(path, mode=mode)
    except Exception as error:  # numpy's reader of headers raises of many kinds
      raise UserError(f"cannot read the attention features in {path}: {error}") from error
    if (array.dtype, array.shape) != (np.dtype(dtype), shape):
      raise UserError(
        f"{path} holds {array.dtype} of shape {array.shape}; {folder / 'index.json'} says {dtype} "
        f"of shape {shape}. Remove {folder}, and the features are made again"
      )
    arrays.append(array)
  return arrays[0], arrays[1]


def _arrays(index: Record) -> dict[str, tuple[str, tuple[int, ...]]]:
  """Type and shape of each array that an index describes."""
  tokens = index["starts"][-1]
  shape = (tokens, index["num_layers"], index["num_heads"], len(STATISTICS))
  return {"attention": (index["dtype"], shape), "surprisal": ("float32", (tokens,))}


def _hash(chains: Sequence[Segments]) -> str:
  """Of all tokens, those of the prompts included, which depend on the chat template."""
  digest = hashlib.sha256()
  for chain in chains:
    for ids in chain.parts:
      digest.update(ids.astype(np.int32).tobytes())
  return digest.hexdigest()[:16]


def _start_or_check(folder: Path, index: dict[str, Any]) -> None:
  path = folder / "index.json"
  if path.exists():
    if read_json(path) != index:
      raise UserError(
        f"{folder} holds attention features of other chains, by another pruner or of another form; "
        "remove it, or choose another workdir"
      )
    return
  for name, (dtype, sizes) in _arrays(index).items():
    np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=sizes).flush()
  replace_file(path, json.dumps(index) + "\n")  # last: with it the store exists


def _batches(
  waiting: Sequence[int], chains: Sequence[Segments], batch_positions: int, multiple: int
) -> list[tuple[int, list[int]]]:
  """Chains of like length together: the batch's size, a power of two times `multiple`, and who."""
  ordered = sorted(waiting, key=lambda i: len(chains[i]))
  batches: list[tuple[int, list[int]]] = []
  while ordered:
    # The longest left decides how many fit; sizes are powers of two so that few are compiled.
    fitting = min(len(ordered), batch_positions // len(chains[ordered[-1]]))
    size = multiple * 2 ** (max(1, fitting // multiple).bit_length() - 1)
    batches.append((size, ordered[-size:]))
    ordered = ordered[:-size]
  return batches
