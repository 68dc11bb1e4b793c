"""Weights of 4 and of 8 bits in Hugging Face folders, read as floats.

- MXFP4 (gpt-oss): `X_blocks` and `X_scales` stand for a tensor X of all experts. 32 neighbouring
  inputs share a power of two; two of their 4-bit floats are in one byte, the first in its low half.
- FP8 (DeepSeek, Qwen3): `X.weight` is of 8-bit floats, and `X.weight_scale_inv` has what those of
  each block of 128 outputs and 128 inputs are multiplied with.

Source: OCP Microscaling Formats v1.0; `integrations/mxfp4.py` and `integrations/finegrained_fp8.py`
of https://github.com/huggingface/transformers
"""

from collections.abc import Callable

import numpy as np

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.parameters import Index, TensorSource, WrappedTensors
from greedy_prune_jax.models.safetensors_file import FLOAT8

FP8_BLOCK = 128
_MXFP4_BLOCK = 32
_BLOCKS, _SCALES, _FP8_SCALES = "_blocks", "_scales", "_scale_inv"

_POSITIVE = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
_FLOAT4 = np.array([*_POSITIVE, *(-x for x in _POSITIVE)], np.float32)
_BYTE = np.arange(256)
_PAIRS = np.stack([_FLOAT4[_BYTE & 15], _FLOAT4[_BYTE >> 4]], axis=-1)  # [256, 2]

# (name, index, kind of safetensors) -> part of the tensor as it is stored
ReadStored = Callable[[str, Index, str], np.ndarray]


class DequantisedTensors(WrappedTensors):
  """Tensors of a folder, of which those in one of these forms are dequantised as they are read.

  Raises:
    UserError: scales do not have the shape that their numbers ask for.
  """

  def __init__(self, source: TensorSource, read_stored: ReadStored):
    super().__init__(source)
    self._read_stored, names = read_stored, source.names
    self._mxfp4 = {
      name.removesuffix(_BLOCKS)
      for name in names
      if name.endswith(_BLOCKS) and name.removesuffix(_BLOCKS) + _SCALES in names
    }
    self._fp8 = {name for name in names if name + _FP8_SCALES in names}
    parts = {name + end for name in self._mxfp4 for end in (_BLOCKS, _SCALES)}
    parts |= {name + _FP8_SCALES for name in self._fp8}
    self.names = names - parts | self._mxfp4
    for name in self._mxfp4:
      shape = source.shape(name + _BLOCKS) or ()
      self._check(name + _BLOCKS, (*shape[:-1], _MXFP4_BLOCK // 2))
      self._check(name + _SCALES, shape[:-1])
    for name in self._fp8:
      shape = source.shape(name) or ()
      self._check(name + _FP8_SCALES, tuple(-(-size // FP8_BLOCK) for size in shape))

  def _check(self, name: str, expected: tuple[int, ...]) -> None:
    shape = self._source.shape(name) or ()
    if shape != expected or len(shape) < 2:
      raise UserError(
        f"{self._source.where(name)}: tensor {name!r} has shape {list(shape)}; expected "
        f"{list(expected)}, by the shape of what it belongs to. Is the download complete?"
      )

  def shape(self, name: str) -> tuple[int, ...] | None:
    """See `TensorSource`."""
    if name not in self._mxfp4:
      return self._source.shape(name)
    shape = self._source.shape(name + _BLOCKS)
    assert shape is not None
    *outer, outputs, blocks, _ = shape
    return (*outer, blocks * _MXFP4_BLOCK, outputs)

  def where(self, name: str) -> str:
    """See `TensorSource`."""
    return self._source.where(name + _BLOCKS if name in self._mxfp4 else name)

  def read(self, name: str, index: Index) -> np.ndarray:
    """See `TensorSource`; float32 where it was quantised."""
    if name in self._mxfp4:
      return self._read_mxfp4(name, index)
    if name in self._fp8:
      return self._read_fp8(name, index)
    return self._source.read(name, index)

  def _read_mxfp4(self, name: str, index: Index) -> np.ndarray:
    *outer, inputs, outputs = index
    stored, trim = _whole_blocks(inputs, _MXFP4_BLOCK)
    blocks = self._read_stored(name + _BLOCKS, (*outer, outputs, stored, slice(0, 16)), "U8")
    scales = self._read_stored(name + _SCALES, (*outer, outputs, stored), "U8")
    return mxfp4_values(blocks, scales)[..., trim].swapaxes(-1, -2)

  def _read_fp8(self, name: str, index: Index) -> np.ndarray:
    scales_name = name + _FP8_SCALES
    (rows, trim_rows), (columns, trim_columns) = (_whole_blocks(s, FP8_BLOCK) for s in index)
    scales = self._source.read(scales_name, (rows, columns)).astype(np.float32)
    scales = scales.repeat(FP8_BLOCK, axis=0)[trim_rows].repeat(FP8_BLOCK, axis=1)[:, trim_columns]
    return self._read_stored(name, index, FLOAT8).astype(np.float32) * scales


def mxfp4_values(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
  """Numbers that bytes [..., blocks, 16] and exponents [..., blocks] stand for, in one axis."""
  pairs = _PAIRS[blocks].reshape(*scales.shape, _MXFP4_BLOCK)
  values = np.ldexp(pairs, scales[..., None].astype(np.int32) - 127)
  return values.reshape(*scales.shape[:-1], -1)


def _whole_blocks(wanted: slice, size: int) -> tuple[slice, slice]:
  """Blocks that hold a slice, and the slice within their numbers."""
  first, last = wanted.start // size, -(-wanted.stop // size)
  return slice(first, last), slice(wanted.start - first * size, wanted.stop - first * size)
