"""Models and tokenizers to Hugging Face folders, for transformers and other tools to load."""

import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save_file
from transformers import PreTrainedTokenizerFast

from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.models.families import FAMILIES
from greedy_prune_jax.models.hf_config_writer import config_to_hf
from greedy_prune_jax.models.layouts import (
  Layout,
  head_order,
  layout_of,
  part_of,
  row_groups,
  tensor_names,
)
from greedy_prune_jax.models.parameters import parameter_name
from greedy_prune_jax.runs.files import write_json


def save_huggingface(
  model: Model,
  tokenizer: PreTrainedTokenizerFast,
  folder: str | Path,
  *,
  stop_ids: Sequence[int] = (),
  dtype: Any = None,
  shard_bytes: int = 4 * 2**30,
) -> None:
  """Writes configs, safetensors and the tokenizer's files to a folder, made if need be.

  Args:
    model: the model; its parameters may be spread over the devices of this process.
    tokenizer: the model's tokenizer, chat template included.
    folder: target folder. Files of the same names are replaced, each in one step.
    stop_ids: tokens that end a text; none: the tokenizer's end of a text.
    dtype: dtype of the stored weights; None: the dtype of the model's embedding.
    shard_bytes: files of weights are closed before they grow beyond this.

  Raises:
    ValueError: config.json has no words for this model (a Llama with an attention window, say).
  """
  folder = Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  dtype = jnp.dtype(dtype or model.decoder.embedding.dtype)
  ends = list(stop_ids) or [tokenizer.eos_token_id]
  special_ids = {
    "bos_token_id": tokenizer.bos_token_id,
    "eos_token_id": ends if len(ends) > 1 else ends[0],
    "pad_token_id": tokenizer.pad_token_id,
  }
  config = config_to_hf(model.config) | {
    "dtype": dtype.name,
    "torch_dtype": dtype.name,  # what transformers 4 looks for
    **special_ids,
  }
  _write_weights(model, folder, dtype, shard_bytes)
  write_json(folder / "config.json", config)
  write_json(folder / "generation_config.json", special_ids)
  write_tokenizer(tokenizer, folder)


def _write_weights(model: Model, folder: Path, dtype: jnp.dtype, shard_bytes: int) -> None:
  """Writes all tensors, a shard at a time, so that no second copy of the model is held."""
  shards: list[list[str]] = []
  shard: dict[str, np.ndarray] = {}
  total = 0

  def close() -> None:
    save_file(shard, folder / f"shard-{len(shards)}.tmp", metadata={"format": "pt"})
    shards.append(list(shard))
    shard.clear()

  for name, tensor in _stored_tensors(model, dtype):
    if shard and sum(t.nbytes for t in shard.values()) + tensor.nbytes > shard_bytes:
      close()
    shard[name] = tensor
    total += tensor.nbytes
  close()
  _name_shards(folder, shards, total)


def _name_shards(folder: Path, shards: list[list[str]], total: int) -> None:
  """Gives finished shards their final names, writes the index if there are several; others go."""
  count = len(shards)
  files = [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
  if count == 1:
    files = ["model.safetensors"]
  for i, file in enumerate(files):
    os.replace(folder / f"shard-{i}.tmp", folder / file)
  if count > 1:
    weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    files.append("model.safetensors.index.json")
    write_json(folder / files[-1], index)
  for stale in folder.glob("model*.safetensors*"):
    if stale.name not in files:
      stale.unlink()


def _stored_tensors(model: Model, dtype: jnp.dtype) -> Iterator[tuple[str, np.ndarray]]:
  """Name and value of every tensor, as PyTorch's linear layers lay it out."""
  family = FAMILIES[model.config.family]
  values = {parameter_name(p): v.get_value() for p, v in nnx.to_flat_state(model.params)}
  parts: dict[tuple[str, str], list[str]] = {}  # a tensor -> parameters whose rows it has
  for path, name in family.hf_tensors().items():
    if path in values:
      parts.setdefault((part_of(path), name), []).append(path)
  for (_, name), paths in parts.items():
    numbered = sum(axis in name for axis in ("{layer}", "{expert}"))
    places = np.ndindex(*values[paths[0]].shape[:numbered])
    for one, place in zip(tensor_names(model.config, paths[0], name), places, strict=True):
      blocks = [_stored(model.config, path, name, values[path][place]) for path in paths]
      layout = layout_of(model.config, paths[0], name)
      groups = row_groups(model.config, paths[0], name)
      tensor = blocks[0] if len(blocks) == 1 else _fused(blocks, layout, groups)
      yield one, np.ascontiguousarray(tensor.astype(dtype))
  for name, value in family.constants.items():
    for layer in range(model.config.num_layers):
      yield f"model.layers.{layer}.{name}", np.array(value, dtype)


def _fused(blocks: list[np.ndarray], layout: Layout, groups: int) -> np.ndarray:
  """Parts of one tensor: in turns along its last axis, or side by side in each group of rows."""
  if layout.joined:
    return np.concatenate(blocks, axis=layout.joined)
  if layout.turns == 1:
    rows = [block.reshape(groups, -1, *block.shape[1:]) for block in blocks]
    return np.concatenate(rows, axis=1).reshape(-1, *blocks[0].shape[1:])
  return np.stack(blocks, axis=-1).reshape(*blocks[0].shape[:-1], -1)


def _stored(config: ModelConfig, path: str, name: str, value: jax.Array) -> np.ndarray:
  """A part of a parameter in the axes of its tensor."""
  layout, block = layout_of(config, path, name), np.asarray(jax.device_get(value))
  order = head_order(config, path)
  if order is not None:
    block = block.take(np.argsort(order), layout.axes.index("H"))
  sizes = dict(zip(layout.axes, block.shape, strict=True))
  shape = [math.prod(sizes[a] for a in group) for group in layout.stored]
  return block.transpose([layout.axes.index(a) for a in "".join(layout.stored)]).reshape(shape)


def write_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
  """Writes the tokenizer's files, in words that transformers 4 knows as well as 5."""
  tokenizer.save_pretrained(folder)
  path = folder / "tokenizer_config.json"
  values = json.loads(path.read_text(encoding="utf-8"))
  values["tokenizer_class"] = "PreTrainedTokenizerFast"
  if "extra_special_tokens" in values:
    values["additional_special_tokens"] = values.pop("extra_special_tokens")
  write_json(path, values)
