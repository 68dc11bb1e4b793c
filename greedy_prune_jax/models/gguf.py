"""Models from GGUF files, the format of llama.cpp.

llama.cpp's converter changes some weights on the way in; `_Weights` changes them back, so that what
comes out is what a Hugging Face checkpoint holds:

- `llama` files (Llama, Mistral) interleave the two halves of every query and key head, because
  llama.cpp rotates neighbouring pairs for this architecture and half-split pairs for the others;
- Gemma norms are stored with the 1 added that the model adds at run time.

Source: convert_hf_to_gguf.py and src/llama-model.cpp of https://github.com/ggml-org/llama.cpp
"""

from pathlib import Path
from typing import Any

import numpy as np

from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.models.gguf_config import ROPE_DIVISORS, gguf_config
from greedy_prune_jax.models.gguf_file import GgufFile
from greedy_prune_jax.models.parameters import ChooseShardings, Index, TensorSource, read_model

# Decoder parameter -> tensor. The same for every architecture.
TENSOR_NAMES = {
  "embedding": "token_embd.weight",
  "head": "output.weight",
  "final_norm.scale": "output_norm.weight",
  "layers.attention_norm.scale": "blk.{layer}.attn_norm.weight",
  "layers.post_attention_norm.scale": "blk.{layer}.post_attention_norm.weight",
  "layers.mlp_norm.scale": "blk.{layer}.ffn_norm.weight",
  "layers.post_mlp_norm.scale": "blk.{layer}.post_ffw_norm.weight",
  "layers.attention.q": "blk.{layer}.attn_q.weight",
  "layers.attention.k": "blk.{layer}.attn_k.weight",
  "layers.attention.v": "blk.{layer}.attn_v.weight",
  "layers.attention.out": "blk.{layer}.attn_output.weight",
  "layers.attention.q_bias": "blk.{layer}.attn_q.bias",
  "layers.attention.k_bias": "blk.{layer}.attn_k.bias",
  "layers.attention.v_bias": "blk.{layer}.attn_v.bias",
  "layers.attention.out_bias": "blk.{layer}.attn_output.bias",
  "layers.attention.q_norm.scale": "blk.{layer}.attn_q_norm.weight",
  "layers.attention.k_norm.scale": "blk.{layer}.attn_k_norm.weight",
  "layers.mlp.gate": "blk.{layer}.ffn_gate.weight",
  "layers.mlp.up": "blk.{layer}.ffn_up.weight",
  "layers.mlp.down": "blk.{layer}.ffn_down.weight",
  "layers.mlp.gate_bias": "blk.{layer}.ffn_gate.bias",
  "layers.mlp.up_bias": "blk.{layer}.ffn_up.bias",
  "layers.mlp.down_bias": "blk.{layer}.ffn_down.bias",
}


def load_gguf(path: str | Path, dtype: Any, *, shardings: ChooseShardings | None = None) -> Model:
  """Reads a model from a GGUF file.

  Args:
    path: the file.
    dtype: of the weights in memory; quantised ones are dequantised to it.
    shardings: see `read_model`.

  Raises:
    UserError: the file is damaged, or its architecture, quantisation or one of its settings is not
      supported.
  """
  file = GgufFile(path)
  config = gguf_config(file)
  return read_model(config, _Weights(file, config), TENSOR_NAMES, dtype, shardings)


class _Weights(TensorSource):
  """A file's tensors with llama.cpp's changes undone."""

  def __init__(self, file: GgufFile, config: ModelConfig):
    self._file = file
    self._interleaved = (".attn_q.", ".attn_k.") if config.family == "llama" else ()
    self._unit_offset_norms = config.unit_offset_norm
    self._head_dim = config.head_dim

  @property
  def names(self) -> set[str]:
    return self._file.names - {ROPE_DIVISORS}

  def shape(self, name: str) -> tuple[int, ...] | None:
    return self._file.shape(name)

  def where(self, name: str) -> str:
    return self._file.where(name)

  def read(self, name: str, index: Index) -> np.ndarray:
    block = self._file.read(name, index)
    if any(part in name for part in self._interleaved):  # rows come in whole heads
      pairs = block.reshape(-1, self._head_dim // 2, 2, *block.shape[1:])
      return pairs.swapaxes(1, 2).reshape(block.shape)
    if self._unit_offset_norms and name.endswith("norm.weight"):
      return block - 1
    return block
