"""Weights from files into a decoder's parameters, each read straight to its place.

A file format brings a `TensorSource` and the names that it gives to the parameters; what is common
is here: how stored matrices lie relative to ours, and filling one parameter at a time (one device's
share of it, where there are several), so that beside the finished parameters the host holds at most
one more, and reads no byte of a file that it does not need.
"""

import abc
import dataclasses
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.config import ModelConfig, base_part
from greedy_prune_jax.models.decoder import Decoder, Model
from greedy_prune_jax.models.families import FAMILIES

Index = tuple[slice, ...]
_ALIGNMENT = 64  # bytes
_ROWS = 4096  # of an embedding, read and converted at a time
# Maps the tree of parameter shapes (`jax.ShapeDtypeStruct` leaves) to a tree of shardings.
ChooseShardings = Callable[[nnx.State], Any]


class TensorSource(abc.ABC):
  """Named tensors on disk, in the layout of PyTorch's linear layers: [outputs, inputs]."""

  @property
  @abc.abstractmethod
  def names(self) -> Collection[str]:
    """Names of the tensors that belong to a decoder."""

  @abc.abstractmethod
  def shape(self, name: str) -> tuple[int, ...] | None:
    """Shape of the tensor, or None if there is none of this name."""

  @abc.abstractmethod
  def read(self, name: str, index: Index) -> np.ndarray:
    """Part of the tensor; `index` has a slice with start and stop for every axis."""

  @abc.abstractmethod
  def where(self, name: str) -> str:
    """The file that holds, or should hold, the tensor: for messages."""


@dataclasses.dataclass(frozen=True)
class Layout:
  """Axes of a parameter (one layer of it), and which of them each stored axis is made of.

  Letters are those of `greedy_prune_jax.models.decoder`, `delta_net` and `short_conv`; K stands for
  the key/value heads.

  Attributes:
    axes: letters of the parameter's axes.
    stored: letters of each axis of its tensor.
    turns: parameters that take turns along the last axis of one tensor; where it is 1, those of
      one tensor lie there one behind the other, along the axis `joined`.
    joined: number of that axis.
  """

  axes: str
  stored: tuple[str, ...]
  turns: int = 1
  joined: int = 0


LAYOUTS: dict[str, Layout] = {
  "embedding": Layout("VD", ("V", "D")),
  "head": Layout("VD", ("V", "D")),
  "final_norm.scale": Layout("D", ("D",)),
  "layers.attention_norm.scale": Layout("D", ("D",)),
  "layers.post_attention_norm.scale": Layout("D", ("D",)),
  "layers.mlp_norm.scale": Layout("D", ("D",)),
  "layers.post_mlp_norm.scale": Layout("D", ("D",)),
  "layers.attention.q": Layout("DNH", ("NH", "D")),
  "layers.attention.k": Layout("DKH", ("KH", "D")),
  "layers.attention.v": Layout("DKH", ("KH", "D")),
  "layers.attention.out": Layout("NHD", ("D", "NH")),
  "layers.attention.q_bias": Layout("NH", ("NH",)),
  "layers.attention.k_bias": Layout("KH", ("KH",)),
  "layers.attention.v_bias": Layout("KH", ("KH",)),
  "layers.attention.out_bias": Layout("D", ("D",)),
  "layers.attention.sinks": Layout("N", ("N",)),
  "layers.attention.gate": Layout("DNH", ("NH", "D")),
  "layers.delta.q": Layout("DJP", ("JP", "D")),
  "layers.delta.k": Layout("DJP", ("JP", "D")),
  "layers.delta.v": Layout("DMO", ("MO", "D")),
  "layers.delta.gate": Layout("DMO", ("MO", "D")),
  "layers.delta.rate": Layout("DM", ("M", "D")),
  "layers.delta.decay": Layout("DM", ("M", "D")),
  "layers.delta.q_filter": Layout("JP1W", ("JP", "1", "W")),
  "layers.delta.k_filter": Layout("JP1W", ("JP", "1", "W")),
  "layers.delta.v_filter": Layout("MO1W", ("MO", "1", "W")),
  "layers.delta.decay_bias": Layout("M", ("M",)),
  "layers.delta.log_speed": Layout("M", ("M",)),
  "layers.delta.norm_scale": Layout("O", ("O",)),
  "layers.delta.out": Layout("MOD", ("D", "MO")),
  "layers.conv.in_gate": Layout("DZ", ("Z", "D")),
  "layers.conv.out_gate": Layout("DZ", ("Z", "D")),
  "layers.conv.value": Layout("DZ", ("Z", "D")),
  "layers.conv.filter": Layout("Z1W", ("Z", "1", "W")),
  "layers.conv.out": Layout("ZD", ("D", "Z")),
  "layers.conv.in_gate_bias": Layout("Z", ("Z",)),
  "layers.conv.out_gate_bias": Layout("Z", ("Z",)),
  "layers.conv.value_bias": Layout("Z", ("Z",)),
  "layers.conv.filter_bias": Layout("Z", ("Z",)),
  "layers.conv.out_bias": Layout("D", ("D",)),
  "layers.attention.q_norm.scale": Layout("H", ("H",)),
  "layers.attention.k_norm.scale": Layout("H", ("H",)),
  "layers.attention.wide_q_norm.scale": Layout("NH", ("NH",)),
  "layers.attention.wide_k_norm.scale": Layout("KH", ("KH",)),
  "layers.mlp.gate": Layout("DF", ("F", "D")),
  "layers.mlp.up": Layout("DF", ("F", "D")),
  "layers.mlp.down": Layout("FD", ("D", "F")),
  "layers.mlp.gate_bias": Layout("F", ("F",)),
  "layers.mlp.up_bias": Layout("F", ("F",)),
  "layers.mlp.down_bias": Layout("D", ("D",)),
  "layers.experts.router": Layout("DR", ("R", "D")),
  "layers.experts.gate": Layout("EDI", ("E", "I", "D")),
  "layers.experts.up": Layout("EDI", ("E", "I", "D")),
  "layers.experts.down": Layout("EID", ("E", "D", "I")),
  "layers.experts.shared.gate": Layout("DS", ("S", "D")),
  "layers.experts.shared.up": Layout("DS", ("S", "D")),
  "layers.experts.shared.down": Layout("SD", ("D", "S")),
  "layers.experts.shared_gate": Layout("D1", ("1", "D")),
  "layers.experts.router_norm.scale": Layout("D", ("D",)),
  "layers.experts.scale": Layout("R", ("R",)),
  "layers.experts.norm.scale": Layout("D", ("D",)),
  "layers.experts.post_norm.scale": Layout("D", ("D",)),
  "layers.mlp_alone_norm.scale": Layout("D", ("D",)),
  "layers.experts.router_bias": Layout("R", ("R",)),
  "layers.experts.gate_bias": Layout("EI", ("E", "I")),
  "layers.experts.up_bias": Layout("EI", ("E", "I")),
  "layers.experts.down_bias": Layout("ED", ("E", "D")),
  "layers.mlp.alpha_p": Layout("1", ("1",)),
  "layers.mlp.alpha_n": Layout("1", ("1",)),
  "layers.scale": Layout("1", ("1",)),
  "layers.per_layer.gate": Layout("DU", ("U", "D")),
  "layers.per_layer.out": Layout("UD", ("D", "U")),
  "layers.per_layer.norm.scale": Layout("D", ("D",)),
  "per_layer.table": Layout("VLU", ("V", "LU")),
  "per_layer.projection": Layout("DLU", ("LU", "D")),
  "per_layer.norm.scale": Layout("U", ("U",)),
}

# Ends of the names of tensors that lie otherwise: gpt-oss has experts as [inputs, outputs], Gemma 4
# each expert's gates before its ups. The first that fits counts.
_OTHER_LAYOUTS: dict[str, Layout] = {
  ".mlp.experts.gate_up_proj": Layout("EDI", ("E", "D", "I"), turns=2),
  ".mlp.experts.gate_up_proj_bias": Layout("EI", ("E", "I"), turns=2),
  ".mlp.experts.down_proj": Layout("EID", ("E", "I", "D")),
  ".experts.gate_up_proj": Layout("EDI", ("E", "I", "D"), joined=1),
  ".ffn_gate_up_exps.weight": Layout("EDI", ("E", "I", "D"), joined=1),
}

# Ends of the names of tensors in which each head has the rows of all its parameters side by side ->
# letter of the heads.
_ROWS_BY_HEAD = {
  ".in_proj_qkvz.weight": "J",
  ".in_proj_ba.weight": "J",
  ".ssm_in.weight": "J",
  ".ssm_ba.weight": "J",
}

# Parameters whose axis H is that of queries and keys, and is ordered as `head_order` says.
_ROTATED = re.compile(r"layers\.attention\.(wide_)?[qk](_bias|_norm\.scale)?")


def part_of(path: str) -> str:
  """The part of a layer that a parameter belongs to; empty where it is no layer's."""
  return path.split(".")[1] if path.startswith("layers.") else ""


def base_path(path: str) -> str:
  """A parameter's path in the part that its own is a form of: a key of `LAYOUTS`."""
  part = part_of(path)
  return path.replace(part, base_part(part), 1) if part else path


def axis_sizes(config: ModelConfig, path: str) -> dict[str, int]:
  """Size of each axis letter of `LAYOUTS` for a parameter."""
  part = part_of(path)
  kv_heads, head_dim = config.heads(part)
  return {
    "V": config.vocab_size,
    "D": config.model_dim,
    "N": config.num_heads,
    "K": kv_heads,
    "H": head_dim,
    "F": config.mlp_dim * (2 if part == "wide_mlp" else 1),
    "L": config.num_layers,
    "U": config.per_layer_dim,
    "E": config.num_experts,
    "R": config.num_experts,  # the router's outputs, which stay on every device
    "I": config.expert_dim,
    "S": config.shared_expert_dim,
    "J": config.delta_key_heads,
    "M": config.delta_value_heads,
    "P": config.delta_key_dim,
    "O": config.delta_value_dim,
    "W": config.conv_width,
    "Z": config.conv_channels,
    "1": 1,
  }


def head_order(config: ModelConfig, name: str) -> np.ndarray | None:
  """Index in a checkpoint of each of a head's dimensions; None where it has them in our order.

  We rotate dimension i with i + H / 2. Checkpoints have those that are rotated first, in halves or
  pair by pair, and behind them those that are not: a head of ours is made of halves of both.

  Args:
    config: config of the model.
    name: a parameter's name.
  """
  interleaved = FAMILIES[config.family].interleaved
  head_dim = config.heads(part_of(name)).head_dim
  width = min(rope.rotated_width(head_dim) for rope in config.ropes)
  if not _ROTATED.fullmatch(base_path(name)) or (width == head_dim and not interleaved):
    return None
  rotated, others = np.arange(width), np.arange(width, head_dim)
  pairs = rotated.reshape(-1, 2).T if interleaved else rotated.reshape(2, -1)
  return np.concatenate([pairs, others.reshape(2, -1)], axis=1).reshape(-1)


def layout_of(path: str, name: str) -> Layout:
  """The layout of a parameter whose tensors have this name: one for each expert, or one for all."""
  layout = next(
    (x for end, x in _OTHER_LAYOUTS.items() if name.endswith(end)), LAYOUTS[base_path(path)]
  )
  return Layout(layout.axes[1:], layout.stored[1:]) if "{expert}" in name else layout


def tensor_names(config: ModelConfig, path: str, name: str) -> list[str]:
  """Names of all tensors of a parameter, for each layer that has it and each expert."""
  layers = layers_of(config, path) if "{layer}" in name else [None]
  experts = range(config.num_experts) if "{expert}" in name else [None]
  return [name.format(layer=layer, expert=expert) for layer in layers for expert in experts]


def layers_of(config: ModelConfig, path: str) -> tuple[int, ...]:
  """Numbers of the layers that a parameter of layers is stacked over."""
  return config.layers_with(part_of(path))


def shared_tensors(config: ModelConfig, names: Mapping[str, str]) -> Iterator[str]:
  """Tensors for keys and values that checkpoints hold of layers that attend to an earlier one's."""
  for part in ("shared_attention", "shared_global_attention"):
    for layer in config.layers_with(part):
      for weight in ("k", "v", "k_bias", "v_bias", "k_norm.scale"):
        yield names[f"layers.attention.{weight}"].format(layer=layer)


def row_groups(config: ModelConfig, path: str, name: str) -> int:
  """Groups of rows in which the parameters of one tensor take turns; 1: each is one block of it."""
  if config.gated_attention and path in ("layers.attention.q", "layers.attention.gate"):
    return config.num_heads
  heads = next((letter for end, letter in _ROWS_BY_HEAD.items() if name.endswith(end)), "1")
  return axis_sizes(config, path)[heads]


def fused_places(config: ModelConfig, names: Mapping[str, str]) -> dict[str, int]:
  """Place along its tensor's axis `joined` at which each parameter begins; or its number, where
  they take turns.
  """
  ends: dict[tuple[str, str], int] = {}
  starts: dict[str, int] = {}
  for path, name in names.items():
    sizes, layout, tensor = axis_sizes(config, path), layout_of(path, name), (part_of(path), name)
    starts[path] = ends.get(tensor, 0)
    joined = layout.stored[layout.joined]
    size = math.prod(sizes[a] for a in joined) if layout.turns == 1 else 1
    ends[tensor] = starts[path] + size
  return starts


def abstract_model(config: ModelConfig, dtype: Any, platform: str | None = None) -> Model:
  """A model whose parameters are shapes and dtypes only.

  Args:
    config: the model.
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
    source: source of the tensors.
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
    layout, sizes, part = layout_of(path, template), axis_sizes(config, path), part_of(path)
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
    sizes, layout = axis_sizes(self.config, self.path), layout_of(self.path, self.name)
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
