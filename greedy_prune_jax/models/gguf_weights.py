"""Weights of GGUF files as a Hugging Face checkpoint holds them.

llama.cpp's converter changes some on the way in, and `GgufWeights` changes them back:

- files of `llama` (Llama, Mistral) and its kin interleave the two halves of every query and key
  head, because llama.cpp rotates neighbouring pairs for these architectures and half-split pairs
  for the others;
- norms of Gemma 2 and 3 and of Qwen3-Next and 3.5 are stored with the 1 added that the model adds
  at run time, but for the one within Gated DeltaNet;
- Gated DeltaNet has the negative of its speed, not the logarithm;
- filters of Gated DeltaNet and of short convolutions lack an axis of size 1; so does the gate of a
  shared expert after llama.cpp's own quantisation;
- in Qwen3.5 the value heads of Gated DeltaNet take turns: first those of every key head that are
  the first of it.

Source: convert_hf_to_gguf.py and conversion/ of https://github.com/ggml-org/llama.cpp
"""

import re
from collections.abc import Mapping

import numpy as np

from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.families import FAMILIES
from greedy_prune_jax.models.gguf_file import GgufFile
from greedy_prune_jax.models.layouts import shared_tensors
from greedy_prune_jax.models.parameters import Index, WrappedTensors

ROPE_DIVISORS = "rope_freqs.weight"  # what each pair's frequency is divided by

# Tensors that some files have in place of others -> the parameters that lie in them.
_INSTEAD = {
  "ffn_gate_up_exps.weight": ("layers.experts.gate", "layers.experts.up"),
  "ssm_in.weight": tuple(f"layers.delta.{name}" for name in ("q", "k", "v", "gate")),
}

# Tensors of Gated DeltaNet -> axis of its value heads, width of one there (their own or 1), and
# whether queries and keys lie before them.
_VALUE_HEADS = {
  "attn_qkv.weight": (0, "own", True),
  "attn_gate.weight": (0, "own", False),
  "ssm_conv1d.weight": (0, "own", True),
  "ssm_out.weight": (1, "own", False),
  **{f"ssm_{name}": (0, "1", False) for name in ("beta.weight", "alpha.weight", "dt.bias", "a")},
}


def gguf_names(file: GgufFile, family: str) -> dict[str, str]:
  """Decoder parameters -> the file's tensors, `{layer}` for the layer's number."""
  names = FAMILIES[family].gguf_tensors
  kinds = {name.partition(".")[2].partition(".")[2] for name in file.names}
  for tensor in _INSTEAD.keys() & kinds:
    names |= dict.fromkeys(_INSTEAD[tensor], "blk.{layer}." + tensor)
  return names


class GgufWeights(WrappedTensors):
  """A file's tensors with llama.cpp's changes undone."""

  def __init__(self, file: GgufFile, config: ModelConfig, names: Mapping[str, str]):
    gguf = FAMILIES[config.family].gguf
    assert gguf is not None
    super().__init__(file)
    self._config = config
    self._interleaved = (".attn_q.", ".attn_k.") if gguf.interleaved else ()
    groups = config.delta_key_heads
    self._takes_turns = gguf.values_in_turns and config.delta_value_heads != groups
    guesses = re.compile(r"blk\.(\d+)\..*")  # blocks behind the last guess further tokens
    unread = {ROPE_DIVISORS, *shared_tensors(config, names)}
    if file.metadata.get(f"{gguf.architecture}.nextn_predict_layers"):
      blocks = [match for name in file.names if (match := guesses.fullmatch(name))]
      unread |= {block[0] for block in blocks if int(block[1]) >= config.num_layers}
    self.names = file.names - unread

  def shape(self, name: str) -> tuple[int, ...] | None:
    """See `TensorSource`."""
    shape, axis = self._source.shape(name), self._left_out(name)
    return shape if shape is None or axis is None else (*shape[:axis], 1, *shape[axis:])

  def read(self, name: str, index: Index) -> np.ndarray:
    """See `TensorSource`."""
    axis = self._left_out(name)
    if axis is not None:
      block = self._read(name, (*index[:axis], *index[axis + 1 :]))
      return np.expand_dims(block, axis)
    block = self._read(name, index)
    if name.endswith(".ssm_a"):
      return np.log(-block)
    if any(part in name for part in self._interleaved):  # rows come in whole heads
      pairs = block.reshape(-1, self._config.head_dim // 2, 2, *block.shape[1:])
      return pairs.swapaxes(1, 2).reshape(block.shape)
    if self._config.unit_offset_norm and re.search(r"(?<!ssm_)norm\.weight$", name):
      return block - 1
    return block

  def _left_out(self, name: str) -> int | None:
    """Axis of size 1 that the file leaves out."""
    if name.endswith((".ssm_conv1d.weight", ".shortconv.conv.weight")):
      return 1
    if name.endswith(".ffn_gate_inp_shexp.weight") and len(self._source.shape(name) or ()) == 1:
      return 0
    return None

  def _read(self, name: str, index: Index) -> np.ndarray:
    """Part of a tensor as the file has it, its value heads in our order."""
    kind = name.partition(".")[2].partition(".")[2]
    if not self._takes_turns or kind not in _VALUE_HEADS:
      return self._source.read(name, index)
    axis, width, behind_keys = _VALUE_HEADS[kind]
    config, groups = self._config, self._config.delta_key_heads
    before = 2 * groups * config.delta_key_dim if behind_keys else 0
    size = config.delta_value_dim if width == "own" else 1
    places = np.arange(config.delta_value_heads * size).reshape(-1, groups, size)
    places = np.append(np.arange(before), before + places.swapaxes(0, 1).reshape(-1))[index[axis]]
    bounds = slice(int(places.min()), int(places.max()) + 1)
    block = self._source.read(name, (*index[:axis], bounds, *index[axis + 1 :]))
    return block.take(places - bounds.start, axis)
