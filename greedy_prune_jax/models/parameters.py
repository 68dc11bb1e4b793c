"""Weights from files into a decoder's parameters, each read straight to its place.

A file format brings a `TensorSource` and the names that it gives to the parameters. What is common
is here: filling one parameter at a time (one device's share of it, where there are several), so
that beside the finished parameters the host holds at most one more, and reads no byte of a file
that it does not need. `layouts` says how stored matrices lie relative to ours.
"""

import abc
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.decoder import Decoder, Model
from greedy_prune_jax.models.layouts import (
  LAYOUTS,
  Layout,
  axis_sizes,
  base_path,
  fused_places,
  head_order,
  layers_of,
  layout_of,
  part_of,
  row_groups,
  tensor_names,
)

Index = tuple[slice, ...]
_ALIGNMENT = 64  # bytes
_ROWS = 4096  # of an embedding, read and converted at a time
# Maps the tree of parameter shapes (`jax.ShapeDtypeStruct` leaves) to a tree of shardings.
ChooseShardings = Callable[[nnx.State], Any]


class TensorSource(abc.ABC):
  """Named tensors on disk, in the layout of PyTorch's linear layers: [outputs, inputs].

  Attributes:
    names: names of the tensors that belong to a decoder.
  """

  names: set[str]

  @abc.abstractmethod
  def shape(self, name: str) -> tuple[int, ...] | None:
    """Shape of the tensor, or None if there is none of this name."""

  @abc.abstractmethod
  def read(self, name: str, index: Index) -> np.ndarray:
    """Part of the tensor; `index` has a slice with start and stop for every axis."""

  @abc.abstractmethod
  def where(self, name: str) -> str:
    """The file that holds, or should hold, the tensor: for messages."""


class WrappedTensors(TensorSource):
  """Another source's tensors, some of which a subclass changes."""

  def __init__(self, source: TensorSource):
    self._source, self.names = source, source.names

  def shape(self, name: str) -> tuple[int, ...] | None:
    """See `TensorSource`."""
    return self._source.shape(name)

  def where(self, name: str) -> str:
    """See `TensorSource`."""
    return self._source.where(name)

  def read(self, name: str, index: Index) -> np.ndarray:
    """See `TensorSource`."""
    return self._source.read(name, index)


def abstract_model(config: ModelConfig, dtype: Any, platform: str | None = None) -> Model:
  """A model whose parameters are shapes and dtypes only.

  Args:
    dtype: dtype of the weights; norms are float32.
    platform: see `Decoder`; None: of the default device.
  """
  platform = platform or jax.default_backend()
  return Model.from_decoder(nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0), dtype, platform)))


def parameter_name(path: tuple[Any, ...]) -> str:
  """A path of an `nnx.State` as `LAYOUTS` writes it."""
  return ".".join(map(str, path))


def read_model(
  config: ModelConfig,
  source: TensorSource,
  names: Mapping[str, str],
  dtype: Any,
  shardings: ChooseShardings | None = None,
) -> Model:
  """Reads every parameter of a decoder.

  Args:
    config: the model; must fit the source.
    names: parameter path -> name of the tensor, in which `{layer}` stands for the layer's number.
    dtype: dtype of the weights; norms are float32.
    shardings: makes parameters' shardings from their shapes; None: the default device.

  Raises:
    UserError: a tensor is missing, has another shape than the config says, or has no place in it.
  """
  abstract = abstract_model(config, dtype)
  paths = [parameter_name(path) for path in nnx.to_flat_state(abstract.params).paths]
  names = {path: name for path, name in names.items() if path in paths}  # in the order of fusing
  fused = fused_places(config, names)
  _check_tensors(config, source, names)
  shapes, tree = jax.tree.flatten(abstract.params)
  places = (
    [None] * len(shapes) if shardings is None else jax.tree.leaves(shardings(abstract.params))
  )
  arrays = [
    _ParameterReader(config, source, path, names[path], fused[path], shape.dtype).place(
      shape.shape, to
    )
    for path, shape, to in zip(paths, shapes, places, strict=True)
  ]
  return Model(config, abstract.graph, jax.tree.unflatten(tree, arrays))


def _check_tensors(config: ModelConfig, source: TensorSource, names: Mapping[str, str]) -> None:
  """Compares the tensors of a source with those that a model of this config is made of."""
  unexpected = set(source.names)
  shapes: dict[tuple[str, str], tuple[int, ...]] = {}
  for path, template in names.items():
    layout, part = layout_of(config, path, template), part_of(path)
    sizes = axis_sizes(config, path)
    shape = [math.prod(sizes[a] for a in group) for group in layout.stored]
    shape[-1] *= layout.turns
    if layout.turns == 1:
      shape[layout.joined] += shapes.get((part, template), (0,) * len(shape))[layout.joined]
    shapes[part, template] = tuple(shape)
  for path, template in names.items():
    expected = shapes[part_of(path), template]
    for name in tensor_names(config, path, template):
      unexpected.discard(name)
      shape = source.shape(name)
      if shape != expected:
        problem = "is missing" if shape is None else f"has shape {list(shape)}"
        raise UserError(
          f"{source.where(name)}: tensor {name!r} {problem}; the config of this {config.family} "
          f"model asks for shape {list(expected)}. Do weights and config belong together, and is "
          "the download complete?"
        )
  if unexpected:
    name = min(unexpected)
    raise UserError(
      f"{source.where(name)}: tensor {name!r} has no place in the {config.family} model of the "
      f"config (one of {len(unexpected)} such). Do weights and config belong together?"
    )


@dataclasses.dataclass(frozen=True)
class _ParameterReader:
  """Reads blocks of one parameter, all its layers included."""

  config: ModelConfig
  source: TensorSource
  path: str  # of the parameter
  name: str  # of its tensor; with {layer} where the parameter is stacked over layers
  fused: int  # see `fused_places`
  dtype: Any

  def place(self, shape: tuple[int, ...], sharding: jax.sharding.Sharding | None) -> jax.Array:
    if sharding is None:
      return jax.device_put(self.read(tuple(slice(0, size) for size in shape)))
    blocks: dict[tuple, np.ndarray] = {}  # devices that hold the same block share one reading

    def block(index: Index | None) -> np.ndarray:
      assert index is not None  # None stands for what another process holds
      bounds = tuple(s.indices(size)[:2] for s, size in zip(index, shape, strict=True))
      if bounds not in blocks:
        blocks[bounds] = self.read(tuple(slice(*b) for b in bounds))
      return blocks[bounds]

    return jax.make_array_from_callback(shape, sharding, block)

  def read(self, index: Index) -> np.ndarray:
    """A block of the parameter, in one array that is filled by layers, or else by rows."""
    block = _aligned([s.stop - s.start for s in index], self.dtype)
    first, *rest = index
    if "{layer}" in self.name:
      for place, layer in enumerate(layers_of(self.config, self.path)[first]):
        name = self.name.format(layer=layer, expert="{expert}")
        self._read_layer(name, tuple(rest), block[place])
      return block
    for start in range(first.start, first.stop, _ROWS):
      rows = slice(start, min(start + _ROWS, first.stop))
      part = self._read_tensor(self.name, (rows, *rest))
      block[rows.start - first.start : rows.stop - first.start] = part
    return block

  def _read_layer(self, name: str, index: Index, block: np.ndarray) -> None:
    """Fills a block with its part of one layer, expert by expert where it has experts."""
    if LAYOUTS[base_path(self.path)].axes[0] != "E":
      block[...] = self._read_tensor(name, index)
      return
    experts, *rest = index
    for place, expert in enumerate(range(experts.start, experts.stop)):
      if "{expert}" in name:
        block[place] = self._read_tensor(name.format(expert=expert), tuple(rest))
      else:
        [block[place]] = self._read_tensor(name, (slice(expert, expert + 1), *rest))

  def _read_tensor(self, name: str, index: Index) -> np.ndarray:
    """Part of one tensor, its axes in our order."""
    sizes = axis_sizes(self.config, self.path)
    layout = layout_of(self.config, self.path, self.name)
    wanted = dict(zip(layout.axes, index, strict=True))
    order = head_order(self.config, self.path)
    if order is not None:
      order, wanted["H"] = order[wanted["H"]], slice(0, sizes["H"])
    stored_index, shape, trim = [], [], []
    for group in layout.stored:
      # A stored axis is cut along its outermost part, and along the others after reading.
      outer, inner = wanted[group[0]], [sizes[a] for a in group[1:]]
      stride = math.prod(inner)
      is_joined = len(stored_index) == layout.joined and layout.turns == 1
      first = self.fused if is_joined else 0
      stored_index.append(slice(first + outer.start * stride, first + outer.stop * stride))
      shape += [outer.stop - outer.start, *inner]
      trim += [slice(None), *(wanted[a] for a in group[1:])]
    if layout.turns > 1:
      last = stored_index[-1]
      stored_index[-1] = slice(layout.turns * last.start, layout.turns * last.stop)
    groups = row_groups(self.config, self.path, self.name)
    if groups > 1:
      block = self._read_groups(name, groups, stored_index, layout)
    else:
      block = self.source.read(name, tuple(stored_index))
    if layout.turns > 1:
      block = block[..., self.fused :: layout.turns]
    block = block.reshape(shape)[tuple(trim)]
    stored_axes = "".join(layout.stored)
    block = block.transpose([stored_axes.index(a) for a in layout.axes])
    return block if order is None else block.take(order, layout.axes.index("H"))

  def _read_groups(self, name: str, groups: int, index: list[slice], layout: Layout) -> np.ndarray:
    """Rows of this parameter, of which every group of the tensor's rows has its share."""
    shape = self.source.shape(name)
    assert shape is not None  # `_check_tensors`
    tensor = self.source.read(name, (slice(0, shape[0]), *index[1:]))
    sizes = axis_sizes(self.config, self.path)
    first, own = self.fused // groups, math.prod(sizes[a] for a in layout.stored[0]) // groups
    rows = tensor.reshape(groups, -1, *tensor.shape[1:])[:, first : first + own]
    wanted = slice(index[0].start - self.fused, index[0].stop - self.fused)
    return rows.reshape(-1, *tensor.shape[1:])[wanted]


def _aligned(shape: list[int], dtype: Any) -> np.ndarray:
  """An empty array that XLA's CPU backend takes as it is; others it copies."""
  size = math.prod(shape) * np.dtype(dtype).itemsize
  raw = np.empty(size + _ALIGNMENT, np.uint8)
  start = -raw.ctypes.data % _ALIGNMENT
  return raw[start : start + size].view(dtype).reshape(shape)
