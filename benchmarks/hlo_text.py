"""Optimised HLO text, parsed: computations, their instructions, arrays, and FLOPs of products."""

import dataclasses
import math
import re
from collections.abc import Mapping

_ITEM_BITS = {"pred": 8, "s4": 4, "u4": 4, "s2": 2, "u2": 2, "c64": 64, "c128": 128, "token": 0}
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([^{}]*)\})?")


@dataclasses.dataclass(frozen=True)
class ArrayShape:
  """The type of one array in HLO.

  Attributes:
    dtype: such as bf16.
    dims: sizes of its axes.
    layout: HLO's text of the layout: order of axes, tiles, memory space.
  """

  dtype: str
  dims: tuple[int, ...]
  layout: str

  @property
  def bits(self) -> int:
    """Bits of one element."""
    if self.dtype in _ITEM_BITS:
      return _ITEM_BITS[self.dtype]
    digits = re.search(r"\d+", self.dtype)
    return int(digits[0]) if digits else 32

  @property
  def on_chip(self) -> bool:
    """True for an array in a TPU's vector memory (memory space 1), which costs no HBM traffic."""
    return "S(1)" in self.layout

  @property
  def num_bytes(self) -> float:
    """Bytes in HBM with the padding of tiles; 0 on chip."""
    if self.on_chip:
      return 0.0
    dims = list(self.dims)
    tile = re.search(r"T\((\d+),(\d+)\)", self.layout)
    order = [int(x) for x in self.layout.split(":")[0].split(",") if x.strip().isdigit()]
    if tile and len(dims) >= 2 and len(order) == len(dims):
      for axis, size in zip(order, (int(tile[2]), int(tile[1])), strict=False):
        dims[axis] = -(-dims[axis] // size) * size
    return math.prod(dims) * self.bits / 8


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation.

  Attributes:
    name: unique in its computation.
    op: the opcode, such as fusion or dot.
    results: arrays that it makes.
    operands: names of the instructions that it reads.
    arguments: text between its parentheses.
    attributes: text behind them.
    is_root: True for the computation's result.
  """

  name: str
  op: str
  results: tuple[ArrayShape, ...]
  operands: tuple[str, ...]
  arguments: str
  attributes: str
  is_root: bool

  @property
  def source(self) -> str:
    """The path of JAX functions and named scopes that it comes from; empty if unknown."""
    found = re.search(r'op_name="([^"]*)"', self.attributes)
    return found[1] if found else ""

  def computation(self, *keys: str) -> str | None:
    """The name of the computation that the first of these attributes names."""
    for key in keys:
      if found := re.search(rf"\b{key}=%?([\w.\-]+)", self.attributes):
        return found[1]
    return None


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Module:
  """A parsed program: its computations by name, and the name of the one that is run."""

  computations: Mapping[str, Computation]
  entry: str


def parse_module(text: str) -> Module:
  """Parses optimised HLO text."""
  computations: dict[str, Computation] = {}
  entry, current = "", None
  for line in text.splitlines():
    if header := re.match(r"(ENTRY )?%?([\w.\-]+) .*\{\s*$", line):
      if not line.startswith("HloModule"):
        current = computations[header[2]] = {}
        entry = header[2] if header[1] else entry
    elif line.startswith("}"):
      current = None
    elif current is not None and (instruction := _parse_instruction(line)):
      current[instruction.name] = instruction
  if not entry:
    raise ValueError("no ENTRY computation in the HLO text")
  return Module(computations, entry)


def _parse_instruction(line: str) -> Instruction | None:
  start = re.match(r"\s+(ROOT )?%?([\w.\-]+) = ", line)
  if not start:
    return None
  rest = re.sub(r"/\*.*?\*/", "", line[start.end() :])
  type_end = _closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
  result_type, rest = rest[:type_end], rest[type_end:].lstrip()
  opening = rest.index("(")
  closing = opening + _closing(rest[opening:])
  arguments = rest[opening + 1 : closing]
  return Instruction(
    name=start[2],
    op=rest[:opening].strip(),
    results=_arrays(result_type),
    operands=tuple(re.findall(r"%([\w.\-]+)", arguments)),
    arguments=arguments,
    attributes=rest[closing + 1 :],
    is_root=bool(start[1]),
  )


def _closing(text: str) -> int:
  """The index of the bracket that closes the first one."""
  depth = 0
  for index, character in enumerate(text):
    depth += (character in "({[") - (character in ")}]")
    if not depth:
      return index
  raise ValueError(f"a bracket is not closed in {text[:80]!r}")


def _arrays(text: str) -> tuple[ArrayShape, ...]:
  return tuple(
    ArrayShape(dtype, tuple(int(re.sub("[<=]", "", x)) for x in dims.split(",") if x), layout)
    for dtype, dims, layout in _ARRAY.findall(text)
  )


def product_flops(x: Instruction, around: Computation) -> float:
  """FLOPs of a dot or a convolution (as TPUs write many products)."""
  out = x.results[0]
  if x.op == "dot":
    left = around[x.operands[0]].results[0]
    axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", x.attributes)
    summed = math.prod(left.dims[int(i)] for i in axes[1].split(",") if i) if axes else 1
    return 2.0 * math.prod(out.dims) * summed
  left, right = (around[name].results[0] for name in x.operands[:2])
  labels = re.search(r"dim_labels=([\w?]+)_([\w?]+)->([\w?]+)", x.attributes)
  assert labels is not None, x.attributes
  of_left, of_right, of_out = labels.groups()
  window = re.search(r"window=\{([^}]*)\}", x.attributes)
  pairs = (part.split("=") for part in window[1].split()) if window else ()
  settings = {key: value.split("x") for key, value in pairs}
  products = 1
  for axis, label in enumerate(c for c in of_out if c.isdigit()):
    sizes = (
      left.dims[of_left.index(label)],
      right.dims[of_right.index(label)],
      out.dims[of_out.index(label)],
    )
    products *= _window_products(sizes, settings, axis)
  groups = re.search(r"batch_group_count=(\d+)", x.attributes)
  batch = left.dims[of_left.index("b")] // (int(groups[1]) if groups else 1)
  inner, features = right.dims[of_right.index("i")], out.dims[of_out.index("f")]
  return 2.0 * products * inner * features * batch


def _window_products(
  sizes: tuple[int, int, int], settings: Mapping[str, list[str]], axis: int
) -> int:
  """Pairs of a window's place and an output that meet an input and no padding, along one axis."""
  size, window, out = sizes

  def setting(key: str) -> int:
    return int(settings[key][axis]) if key in settings else 1

  stride, dilation, spread = setting("stride"), setting("lhs_dilate"), setting("rhs_dilate")
  before = int(settings["pad"][axis].split("_")[0]) if "pad" in settings else 0
  extent = (size - 1) * dilation + 1
  if dilation > 1:
    places = (o * stride + k * spread - before for k in range(window) for o in range(out))
    return sum(0 <= place < extent and place % dilation == 0 for place in places)
  total = 0
  for k in range(window):
    base = k * spread - before
    first, last = max(0, -(base // stride)), min(out - 1, (extent - 1 - base) // stride)
    total += max(0, last - first + 1)
  return total
