"""Models from Hugging Face folders: config.json and safetensors, one file or several."""

import math
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.families import FAMILIES
from greedy_prune_jax.models.hf_config import read_hf_config
from greedy_prune_jax.models.layouts import shared_tensors
from greedy_prune_jax.models.parameters import Index, TensorSource
from greedy_prune_jax.models.quantised import DequantisedTensors
from greedy_prune_jax.models.safetensors_file import FLOAT8, map_float8, open_safetensors
from greedy_prune_jax.runs import records as fields
from greedy_prune_jax.runs.json_reader import read_json

_FLOATS = ("F64", "F32", "F16", "BF16")

# In what a checkpoint may wrap the decoder (itself alone, or within a multimodal model as
# transformers 5 and 4 name its parts) -> in what it wraps the head.
_PREFIXES = {
  "model.": "",
  "model.language_model.": "",
  "language_model.model.": "language_model.",
}

_ROWS = 4096  # of the embedding and of a head that is to be tied to it, compared at a time

# Tensors that checkpoints hold and a decoder does not need: tables that old ones stored, the head
# of a tied model, the other parts of multimodal models, and those that guess further tokens.
_UNUSED = re.compile(
  r".*rotary_emb\.inv_freq|(model\.|language_model\.)*lm_head\.weight|(model\.)?vision_tower\..*"
  r"|(model\.)?multi_modal_projector\..*|(model\.)?visual\..*|mtp\..*"
  r"|(model\.)?(embed_vision|embed_audio|audio_tower)\..*"
)


def open_huggingface(folder: str | Path) -> tuple[ModelConfig, TensorSource, dict[str, str]]:
  """A folder's config, its tensors, and their names by decoder parameter.

  Args:
    folder: folder with config.json and safetensors.

  Raises:
    UserError: a file is missing or damaged, the model is not supported, or weights and config do
      not belong together.
  """
  config = read_hf_config(Path(folder) / "config.json")
  checkpoint = _Checkpoint(Path(folder))
  prefix = checkpoint.prefix
  names = FAMILIES[config.family].hf_tensors(prefix, _PREFIXES[prefix])
  _check_constants(checkpoint, config, prefix)
  checkpoint.names -= set(shared_tensors(config, names))  # that no layer asks for
  if config.tied_head:
    _check_tied_head(checkpoint, names["embedding"], names["head"])
  tensors = DequantisedTensors(checkpoint, checkpoint.read_stored)
  return config, tensors, _with_fused_experts(names, tensors.names)


def _with_fused_experts(names: dict[str, str], stored: Collection[str]) -> dict[str, str]:
  """The names, those of tensors of all experts where such are stored in place of one an expert.

  So transformers 5 holds them, and Qwen3.5's folders store them.
  """
  module, of_each, _ = names["layers.experts.gate"].partition(".{expert}.gate_proj.weight")
  fused = {"gate": "gate_up_proj", "up": "gate_up_proj", "down": "down_proj"} if of_each else {}
  there = {name.rpartition(".")[2] for name in stored}
  return names | {
    f"layers.experts.{part}": f"{module}.{name}" for part, name in fused.items() if name in there
  }


class _Checkpoint(TensorSource):
  """The safetensors files of a folder, mapped into memory: only what is read is loaded."""

  def __init__(self, folder: Path):
    self._folder = folder
    self._places = _index(folder)
    self._slices: dict[str, Any] = {}
    for path in sorted(set(self._places.values())) or [folder / "model.safetensors"]:
      file = _open(path)
      for name in file.keys():  # noqa: SIM118  a safe_open is no mapping
        self._slices[name] = file.get_slice(name)
        self._places[name] = path
    self.prefix = next(
      (prefix for prefix in _PREFIXES if prefix + "embed_tokens.weight" in self._slices),
      "model.",
    )
    self.names = {name for name in self._slices if not _UNUSED.fullmatch(name)}

  def shape(self, name: str) -> tuple[int, ...] | None:
    return tuple(self._slices[name].get_shape()) if name in self._slices else None

  def where(self, name: str) -> str:
    return str(self._places.get(name, self._folder))

  def read(self, name: str, index: Index) -> np.ndarray:
    tensor = self._slices[name]
    if tensor.get_dtype() not in _FLOATS:
      raise UserError(
        f"{self.where(name)}: tensor {name!r} is stored as {tensor.get_dtype()}; "
        f"supported are {', '.join(_FLOATS)}."
      )
    return tensor[index]

  def read_stored(self, name: str, index: Index, kind: str) -> np.ndarray:
    """Part of a tensor of numbers that stand for others.

    Raises:
      UserError: it is not stored as `kind`.
    """
    tensor = self._slices[name]
    if tensor.get_dtype() != kind:
      raise UserError(
        f"{self.where(name)}: tensor {name!r} is stored as {tensor.get_dtype()}; expected {kind}."
      )
    return map_float8(self._places[name], name)[index] if kind == FLOAT8 else tensor[index]


def _check_constants(checkpoint: _Checkpoint, config: ModelConfig, prefix: str) -> None:
  """Refuses constants with other values than the family computes with; old files lack them."""
  for constant, value in FAMILIES[config.family].constants.items():
    for layer in range(config.num_layers):
      name = f"{prefix}layers.{layer}.{constant}"
      if checkpoint.shape(name) is None:
        continue
      checkpoint.names.discard(name)  # says nothing new
      stored = float(checkpoint.read(name, ()))
      if not math.isclose(stored, value, rel_tol=0.01):  # bfloat16 has 8 bits
        raise UserError(f"{checkpoint.where(name)}: tensor {name!r} is {stored}; expected {value}.")


def _check_tied_head(checkpoint: _Checkpoint, embedding: str, head: str) -> None:
  """Refuses a stored head with other values than the embedding that the config ties it to.

  transformers does not tie the two then, whatever the config says.
  """
  shape = checkpoint.shape(head)
  if shape is None or checkpoint.shape(embedding) != shape:
    return
  for start in range(0, shape[0], _ROWS):
    rows = (slice(start, min(start + _ROWS, shape[0])), slice(0, shape[1]))
    if not np.array_equal(checkpoint.read(embedding, rows), checkpoint.read(head, rows)):
      raise UserError(
        f"{checkpoint.where(head)}: the config ties the head to the embedding, but tensor {head!r} "
        f"has other values than {embedding!r}. Set tie_word_embeddings=false in config.json if "
        "the head is to be used, or remove the tensor."
      )


def _index(folder: Path) -> dict[str, Path]:
  """Maps each tensor to its file, if the folder has several files and says so.

  One file by the name of a whole model goes before an index, as in transformers.
  """
  path = folder / "model.safetensors.index.json"
  if (folder / "model.safetensors").exists() or not path.exists():
    return {}
  try:
    weight_map = fields.get(read_json(path), "weight_map", dict)
    return {name: folder / fields.get(weight_map, name, str) for name in weight_map}
  except UserError as error:
    raise UserError(f"{path}: not a readable index of safetensors files: {error}") from error


def _open(path: Path) -> Any:
  if not os.path.exists(path) and list(path.parent.glob("*.bin")):
    raise UserError(
      f"{path}: there is no such file; weights are read from safetensors. The folder has PyTorch's "
      ".bin files: have transformers save the model again."
    )
  return open_safetensors(path)
