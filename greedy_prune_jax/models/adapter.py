"""LoRA adapters in PEFT's form, added to the weights of their base while these are read.

Source: the `adapter_config.json` and `adapter_model.safetensors` of
https://github.com/huggingface/peft
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.parameters import Index, TensorSource, WrappedTensors
from greedy_prune_jax.models.safetensors_file import read_safetensors
from greedy_prune_jax.runs import records as fields
from greedy_prune_jax.runs.json_reader import read_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

_MOST_RANK = 2**16

# How PEFT names the decoder's modules: alone, or as part of a multimodal model.
_DECODER = re.compile(r"base_model\.model\.(model\.language_model|language_model\.model|model)\.")

# Keys that change what an adapter does -> supported values, beside null and empty ones.
_SUPPORTED: dict[str, tuple[Any, ...]] = {
  "peft_type": ("LORA",),
  "task_type": ("CAUSAL_LM",),
  "bias": ("none",),
  "fan_in_fan_out": (False,),
  "use_dora": (False,),
  "lora_bias": (False,),
  "modules_to_save": (),
  "rank_pattern": (),
  "alpha_pattern": (),
  "layer_replication": (),
  "trainable_token_indices": (),
  "target_parameters": (),
  "alora_invocation_tokens": (),  # which change the weights behind certain tokens alone
  "use_qalora": (False,),
  "use_bdlora": (),
  "kasa_config": (),
  "monteclora_config": (),
  "arrow_config": (),
  "revision": ("main",),
  # Others (pissa, olora, loftq, corda) change the base's own weights too.
  "init_lora_weights": (True, "gaussian", "orthogonal", "eva"),
}
_NO_WEIGHTS = ("adapter_", "training_args", "optimizer", "scheduler", "rng_state", "scaler")
_WEIGHTS_OF_MODELS = ("model*.safetensors", "consolidated*.safetensors", "*.bin", "*.pth", "*.gguf")


def is_adapter(folder: Path) -> bool:
  """Tells whether a folder holds an adapter.

  Raises:
    UserError: it holds weights of a model too, so that one cannot tell which is meant, or only a
      part of an adapter.
  """
  if not (folder / CONFIG).exists():
    if parts := sorted(folder.glob("adapter_model*")):
      raise UserError(
        f"{folder}: {parts[0].name} is part of a LoRA adapter, but there is no {CONFIG}. Add it,"
        " or take the adapter out of the folder to use the weights without it."
      )
    return False
  files = (path for pattern in _WEIGHTS_OF_MODELS for path in folder.glob(pattern))
  # Trainers leave their arguments and optimizer beside an adapter.
  if weights := sorted(path for path in files if not path.name.startswith(_NO_WEIGHTS)):
    raise UserError(
      f"{folder / CONFIG}: a LoRA adapter beside the weights of a model, {weights[0].name}. Move "
      "one of them to a folder of its own and pass the folder that you mean."
    )
  return True


class Adapter:
  """An adapter's matrices.

  Raises:
    UserError: a file is missing or damaged, or the adapter is of a kind that is not supported.
  """

  def __init__(self, folder: Path):
    self._path = folder / CONFIG
    config = read_json(self._path)
    for key, supported in _SUPPORTED.items():
      if config.get(key) not in supported and config.get(key):
        raise UserError(f"{self._path}: {key}={config[key]!r} is not supported.")
    try:
      self.base = fields.get_text(config, "base_model_name_or_path")
      rank, alpha = fields.get(config, "r", int), fields.get(config, "lora_alpha", int, float)
    except UserError as error:
      raise UserError(f"{self._path}: not a usable config of a LoRA adapter: {error}") from error
    if not 1 <= rank <= _MOST_RANK:
      raise UserError(f"{self._path}: r={rank}; expected a whole number from 1 to {_MOST_RANK}")
    self._scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    self.weights = folder / WEIGHTS
    self._tensors = read_safetensors(self.weights)

  def matrices(self, names: Mapping[str, str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Tensors of the base -> factors of their change, [outputs, rank] scaled, and [rank, inputs].

    Args:
      names: tensors as the folder of a text model calls them -> as the base does.

    Raises:
      UserError: the adapter changes what the base does not have.
    """
    factors: dict[str, dict[str, np.ndarray]] = {}
    for key, tensor in self._tensors.items():
      module, _, part = key.removesuffix(".weight").rpartition(".")
      name = _DECODER.sub("model.", module) + ".weight"
      if part not in ("lora_A", "lora_B") or name not in names or tensor.ndim != 2:
        raise UserError(f"{self.weights}: tensor {key!r} has no place in its base, {self.base}.")
      factors.setdefault(names[name], {})[part] = tensor.astype(np.float32)
    try:
      return {name: (self._scale * of["lora_B"], of["lora_A"]) for name, of in factors.items()}
    except KeyError as error:
      raise UserError(f"{self.weights}: a module lacks {error}.") from error


class AdaptedTensors(WrappedTensors):
  """Tensors of a base with an adapter's changes added, in float32."""

  def __init__(
    self, base: TensorSource, adapter: Adapter, names: Mapping[str, str], num_layers: int
  ):
    """Checks that they belong together.

    Args:
      names: tensors as the folder of a text model calls them -> as the base does, `{layer}` for
        the layer's number.
      num_layers: layers of the base model.
    """
    numbered = {
      theirs.format(layer=layer): ours.format(layer=layer)
      for theirs, ours in names.items()
      for layer in range(num_layers)
      if "{expert}" not in theirs  # adapters of single experts are refused
    }
    super().__init__(base)
    self._matrices = adapter.matrices(numbered)
    for name, (b, a) in self._matrices.items():
      if (b.shape[0], a.shape[1]) != base.shape(name) or b.shape[1] != a.shape[0]:
        raise UserError(
          f"{adapter.weights}: matrices of shapes {list(b.shape)} and {list(a.shape)} do not fit "
          f"tensor {name!r} of the base, of shape {list(base.shape(name) or ())}."
        )

  def read(self, name: str, index: Index) -> np.ndarray:
    """See `TensorSource`."""
    block = super().read(name, index)
    if name not in self._matrices:
      return block
    (rows, columns), (b, a) = index, self._matrices[name]
    return block.astype(np.float32) + b[rows] @ a[:, columns]
