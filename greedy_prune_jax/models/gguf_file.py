"""GGUF files: their metadata, and their tensors read and dequantised a few rows at a time.

The header is parsed here rather than by `gguf.GGUFReader`, which makes a numpy array of every
string: 25 s for Gemma's vocabulary of 262,144 against 0.5 s. Type tables and dequantisation are
those of the `gguf` package.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import contextlib
import dataclasses
import functools
import math
import mmap
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.parameters import Index, TensorSource
from greedy_prune_jax.runs.files import open_file

_SCALARS = {
  gguf.GGUFValueType.UINT8: "B",
  gguf.GGUFValueType.INT8: "b",
  gguf.GGUFValueType.UINT16: "H",
  gguf.GGUFValueType.INT16: "h",
  gguf.GGUFValueType.UINT32: "I",
  gguf.GGUFValueType.INT32: "i",
  gguf.GGUFValueType.FLOAT32: "f",
  gguf.GGUFValueType.BOOL: "?",
  gguf.GGUFValueType.UINT64: "Q",
  gguf.GGUFValueType.INT64: "q",
  gguf.GGUFValueType.FLOAT64: "d",
}

_MAX_ALIGNMENT = 2**20  # bytes
_MAX_NAME = 256  # characters of a tensor's
_MAX_AXES = 4  # of a tensor, in llama.cpp


@dataclasses.dataclass(frozen=True)
class _Tensor:
  shape: tuple[int, ...]  # as numpy counts: the last axis is contiguous
  kind: gguf.GGMLQuantizationType | int  # a number where the package gguf has no name for it
  offset: int  # of its first byte in the file

  @property
  def kind_name(self) -> str:
    if isinstance(self.kind, gguf.GGMLQuantizationType):
      return self.kind.name
    return f"type {self.kind}"

  @property
  def problem(self) -> str | None:
    """The reason why the header cannot be right about it."""
    if not 1 <= len(self.shape) <= _MAX_AXES or not all(self.shape):
      return f"has shape {list(self.shape)}; expected 1 to {_MAX_AXES} axes, none empty"
    block, _ = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(self.kind)]
    if self.shape[-1] % block:
      return f"has rows of {self.shape[-1]}; {self.kind_name} stores multiples of {block}"
    return None

  @property
  def row_bytes(self) -> int:
    block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(self.kind)]
    return self.shape[-1] // block * block_bytes

  @property
  def num_bytes(self) -> int:
    return math.prod(self.shape[:-1]) * self.row_bytes


class GgufFile(TensorSource):
  """A GGUF file: `metadata` by key, and its tensors as float arrays.

  Raises:
    UserError: the file is missing, not GGUF, cut short, or one part of several.
  """

  def __init__(self, path: str | Path):
    self.path = Path(path)
    try:
      with open_file(self.path) as file:
        self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: an empty file
      raise UserError(f"{self.path}: cannot be read as a GGUF file: {error}") from error
    try:
      self.metadata, self._tensors = _Header(self._bytes).read()
    except (struct.error, ValueError, RecursionError) as error:
      raise UserError(
        f"{self.path}: not a readable GGUF file ({error}). It may be cut short (it has "
        f"{len(self._bytes)} bytes) or not GGUF at all: compare its size with its source's."
      ) from error
    self.names = set(self._tensors)
    if self.metadata.get("split.count", 1) not in (0, 1):
      raise UserError(
        f"{self.path}: one of {self.metadata['split.count']} parts of a model; "
        "join them first with llama.cpp's `llama-gguf-split --merge`."
      )
    for name, tensor in self._tensors.items():
      if tensor.kind_name not in supported_types():
        raise UserError(
          f"{self.path}: tensor {name!r} is stored as {tensor.kind_name}, which cannot be read; "
          f"supported are {', '.join(supported_types())}. Take another quantisation of this model."
        )
      if problem := tensor.problem:
        raise UserError(f"{self.path}: tensor {name!r} {problem}. Is the download complete?")
      if tensor.offset + tensor.num_bytes > len(self._bytes):
        raise UserError(
          f"{self.path}: cut short: tensor {name!r} ends at byte "
          f"{tensor.offset + tensor.num_bytes}, the file at {len(self._bytes)}. Download it again."
        )

  def shape(self, name: str) -> tuple[int, ...] | None:
    """See `TensorSource`."""
    return self._tensors[name].shape if name in self._tensors else None

  def where(self, name: str) -> str:
    """The file, whatever the tensor."""
    return str(self.path)

  def read(self, name: str, index: Index) -> np.ndarray:
    """Part of a vector, a matrix or a stack of matrices, dequantised to float32."""
    tensor = self._tensors[name]
    if len(tensor.shape) == 1:
      return self._read_rows(tensor, 0, 1)[0][index]
    *planes, rows, columns = index
    if not planes:
      return self._read_rows(tensor, rows.start, rows.stop)[:, columns]
    starts = [plane * tensor.shape[1] for plane in range(planes[0].start, planes[0].stop)]
    blocks = [self._read_rows(tensor, at + rows.start, at + rows.stop) for at in starts]
    return np.stack([block[:, columns] for block in blocks])

  def _read_rows(self, tensor: _Tensor, start: int, stop: int) -> np.ndarray:
    raw = np.frombuffer(
      self._bytes,
      np.uint8,
      count=(stop - start) * tensor.row_bytes,
      offset=tensor.offset + start * tensor.row_bytes,
    ).reshape(stop - start, tensor.row_bytes)
    return gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(tensor.kind))


@functools.cache
def supported_types() -> tuple[str, ...]:
  """Names of the tensor types that the installed `gguf` package dequantises."""
  supported = []
  for kind, (_, block_bytes) in gguf.GGML_QUANT_SIZES.items():
    with contextlib.suppress(NotImplementedError):
      gguf.quants.dequantize(np.zeros((1, block_bytes), np.uint8), kind)
      supported.append(kind.name)
  return tuple(supported)


class _Header:
  """Cursor over the bytes before the tensors' data."""

  def __init__(self, data: mmap.mmap):
    self._data = data
    self._at = 0

  def read(self) -> tuple[dict[str, Any], dict[str, _Tensor]]:
    if self._data[:4] != b"GGUF":
      raise ValueError("it does not start with the letters GGUF")
    self._at = 4
    version = self._unpack("I")
    if version not in (2, 3):
      raise ValueError(f"its version is {version}; little-endian versions 2 and 3 can be read")
    num_tensors, num_keys = self._count("tensors", 24), self._count("keys", 12)
    metadata = {}
    for _ in range(num_keys):
      key = self._string()
      metadata[key] = self._value(gguf.GGUFValueType(self._unpack("I")))
    entries = [self._tensor_entry() for _ in range(num_tensors)]
    alignment = metadata.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 1 <= alignment <= _MAX_ALIGNMENT:
      raise ValueError(
        f"general.alignment={alignment!r}; expected a whole number from 1 to {_MAX_ALIGNMENT}"
      )
    start = -(-self._at // alignment) * alignment
    return metadata, {
      name: dataclasses.replace(tensor, offset=start + tensor.offset) for name, tensor in entries
    }

  def _unpack(self, code: str) -> Any:
    (value,) = struct.unpack_from("<" + code, self._data, self._at)
    self._at += struct.calcsize(code)
    return value

  def _count(self, what: str, least_bytes: int) -> int:
    """A number of things of at least so many bytes each, for which the file must have room."""
    count = self._unpack("Q")
    if count * least_bytes > len(self._data) - self._at:
      raise ValueError(f"{count} {what} are said to follow byte {self._at}")
    return count

  def _string(self) -> str:
    length = self._count("bytes of a text", 1)
    self._at += length
    return self._data[self._at - length : self._at].decode("utf-8", "replace")

  def _value(self, kind: gguf.GGUFValueType) -> Any:
    if kind == gguf.GGUFValueType.STRING:
      return self._string()
    if kind != gguf.GGUFValueType.ARRAY:
      return self._unpack(_SCALARS[kind])
    kind = gguf.GGUFValueType(self._unpack("I"))
    if kind not in _SCALARS:
      return [self._value(kind) for _ in range(self._count("values", 8))]
    count = self._count("values", struct.calcsize(_SCALARS[kind]))
    code = f"<{count}{_SCALARS[kind]}"
    values = list(struct.unpack_from(code, self._data, self._at))
    self._at += struct.calcsize(code)
    return values

  def _tensor_entry(self) -> tuple[str, _Tensor]:
    name = self._string()
    if len(name) > _MAX_NAME:
      raise ValueError(f"a tensor's name has {len(name)} characters; expected {_MAX_NAME} at most")
    num_axes = self._unpack("I")
    if num_axes > _MAX_AXES:
      raise ValueError(f"tensor {name!r} has {num_axes} axes; expected {_MAX_AXES} at most")
    shape = tuple(self._unpack("Q") for _ in range(num_axes))[::-1]
    kind = self._unpack("I")
    with contextlib.suppress(ValueError):
      kind = gguf.GGMLQuantizationType(kind)
    return name, _Tensor(shape, kind, self._unpack("Q"))
