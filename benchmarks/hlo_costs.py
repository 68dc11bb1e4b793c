"""Costs of a compiled XLA program, read from its optimised HLO text: FLOPs, bytes, collectives.

XLA's own `cost_analysis` counts the body of a loop once, so a scan over 30 layers looks like one
layer. Here loops count as often as they run: by the trip count that XLA states or that the loop's
condition shows, else by what the caller knows (a search's `while_loop` has none).

Bytes are those of each kernel's operands and results in the device's main memory (HBM), with the
padding of a TPU's tiles; an operand that a kernel only slices counts by its slices. The roof is the
sum over kernels of the larger of FLOPs / peak and bytes / bandwidth: no kernel overlaps another,
and none does better than that.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

_ITEM_BITS = {"pred": 8, "s4": 4, "u4": 4, "s2": 2, "u2": 2, "c64": 64, "c128": 128, "token": 0}
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([^{}]*)\})?")
_COLLECTIVES = (
  *("all-reduce", "all-gather", "reduce-scatter", "collective-permute"),
  *("all-to-all", "ragged-all-to-all"),
)
# Instructions that move nothing.
_FREE = {
  *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota"),
  *("partition-id", "replica-id", "opt-barrier", "domain", "add-dependency"),
  "get-dimension-size",
}
_SLICES = ("dynamic-slice", "slice", "gather")
_UPDATES = ("dynamic-update-slice", "scatter")


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


@dataclasses.dataclass(frozen=True)
class Kernel:
  """The cost of one instruction that runs on the device.

  Attributes:
    times: runs of it in one run of the program.
    name: the instruction's name.
    op: opcode, without `-start`.
    dtype: dtype of its first result.
    flops: operations of its products in one run.
    num_bytes: bytes to and from HBM in one run.
    cycles: libtpu's estimate of one run; 0 where the compiler states none.
    source: see `Instruction.source`.
  """

  times: float
  name: str
  op: str
  dtype: str
  flops: float
  num_bytes: float
  cycles: float
  source: str

  def seconds(self, peak_flops: float, bandwidth: float) -> float:
    """Seconds of one run at the roof."""
    return max(self.flops / peak_flops, self.num_bytes / bandwidth)


@dataclasses.dataclass(frozen=True)
class Costs:
  """All kernels of a program.

  Attributes:
    kernels: each with how often it runs.
    unknown_loops: source of each loop whose trip count neither XLA nor the caller knew; such a loop
      counts once.
  """

  kernels: tuple[Kernel, ...]
  unknown_loops: tuple[str, ...]

  @property
  def flops(self) -> float:
    """FLOPs of all products."""
    return sum(k.times * k.flops for k in self.kernels)

  @property
  def num_bytes(self) -> float:
    """Bytes to and from HBM."""
    return sum(k.times * k.num_bytes for k in self.kernels)

  @property
  def cycles(self) -> float:
    """libtpu's estimated cycles."""
    return sum(k.times * k.cycles for k in self.kernels)

  def roof_seconds(self, peak_flops: float, bandwidth: float) -> float:
    """Seconds that the program takes at least, its kernels one after another."""
    return sum(k.times * k.seconds(peak_flops, bandwidth) for k in self.kernels)

  def best_share(self, peak_flops: float, bandwidth: float) -> float:
    """The largest share of the peak that the program can reach, 0 to 1."""
    seconds = self.roof_seconds(peak_flops, bandwidth)
    return self.flops / peak_flops / seconds if seconds else 0.0

  def collectives(self) -> dict[tuple[str, str], tuple[float, float]]:
    """Number and result bytes of the collectives, by kind and dtype."""
    found: dict[tuple[str, str], tuple[float, float]] = {}
    for kernel in self.kernels:
      if kernel.op in _COLLECTIVES:
        count, size = found.get((kernel.op, kernel.dtype), (0.0, 0.0))
        found[kernel.op, kernel.dtype] = (
          count + kernel.times,
          size + kernel.times * kernel.num_bytes / 2,  # read once, written once
        )
    return found

  def bytes_by_cause(self, causes: Sequence[tuple[str, str]]) -> dict[str, float]:
    """HBM bytes by cause.

    Args:
      causes: names, each with a regular expression that is searched in `OP SOURCE` of a kernel; the
        first that matches counts, and what none matches is `other`.
    """
    found: dict[str, float] = collections.defaultdict(float)
    for kernel in self.kernels:
      text = f"{kernel.op} {kernel.source}"
      cause = next((name for name, pattern in causes if re.search(pattern, text)), "other")
      found[cause] += kernel.times * kernel.num_bytes
    return dict(found)


TripCount = Callable[[str, int], float | None]


def read_costs(text: str, trip_count: TripCount = lambda source, depth: None) -> Costs:
  """Costs of a program.

  Args:
    text: optimised HLO, from `compiled.as_text()`.
    trip_count: runs of a loop whose count the program does not show, from its source and its depth
      (0 for a loop that is in no other); None where that is unknown.
  """
  return _Reader(parse_module(text), trip_count).costs()


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


class _Reader:
  """Adds up a module's kernels, computation by computation."""

  def __init__(self, module: Module, trip_count: TripCount):
    self._module = module
    self._trip_count = trip_count
    self._unknown: list[str] = []
    self._kernels = functools.cache(self._walk)

  def costs(self) -> Costs:
    return Costs(self._kernels(self._module.entry, 0), tuple(self._unknown))

  def _walk(self, name: str, depth: int) -> tuple[Kernel, ...]:
    computation = self._module.computations[name]
    found: list[Kernel] = []
    for instruction in computation.values():
      found += self._kernels_of(instruction, computation, depth)
    return tuple(found)

  def _kernels_of(self, x: Instruction, around: Computation, depth: int) -> Iterator[Kernel]:
    if x.op in _FREE or x.op.endswith(("-done", "-update")):
      return
    if x.op == "while":
      times = self._times(x, depth)
      for kernel in self._kernels(str(x.computation("body")), depth + 1):
        yield dataclasses.replace(kernel, times=kernel.times * times)
    elif x.op == "conditional":
      branches = [self._kernels(name, depth) for name in _branches(x)]
      yield from max(branches, key=lambda ks: sum(k.times * k.num_bytes for k in ks), default=())
    elif x.op == "call" or (x.op.endswith("-start") and x.computation("calls")):
      yield from self._kernels(str(x.computation("to_apply", "calls")), depth)
    else:
      yield self._kernel(x, around)

  def _times(self, loop: Instruction, depth: int) -> float:
    stated = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes)
    times = float(stated[1]) if stated else self._condition_bound(loop)
    if times is None:
      times = self._trip_count(loop.source, depth)
    if times is None:
      self._unknown.append(loop.source or loop.name)
    return 1.0 if times is None else times

  def _condition_bound(self, loop: Instruction) -> float | None:
    """The constant below which a counter from 0 must stay, where the condition shows one."""
    condition = self._module.computations.get(str(loop.computation("condition")), {})
    for x in condition.values():
      inside = self._module.computations.get(str(x.computation("calls")), {})
      for place in (condition, inside):
        for y in place.values():
          if y.op == "compare" and "direction=LT" in y.attributes and len(y.operands) == 2:
            bound = place.get(y.operands[1])
            if bound and bound.op == "constant" and bound.arguments.strip().isdigit():
              return float(bound.arguments)
    return None

  def _kernel(self, x: Instruction, around: Computation) -> Kernel:
    op = x.op.removesuffix("-start")
    if op == "fusion":
      flops, num_bytes = self._inner_flops(x), self._fusion_bytes(x, around)
    else:
      flops = product_flops(x, around) if op in ("dot", "convolution") else 0.0
      num_bytes = _plain_bytes(x, op, around)
    cycles = re.search(r'"estimated_cycles":"(\d+)"', x.attributes)
    return Kernel(
      times=1.0,
      name=x.name,
      op=op,
      dtype=x.results[0].dtype if x.results else "",
      flops=flops,
      num_bytes=num_bytes,
      cycles=float(cycles[1]) if cycles else 0.0,
      source=x.source,
    )

  def _inner_flops(self, x: Instruction) -> float:
    name = x.computation("calls", "to_apply")
    inside = self._module.computations.get(str(name), {})
    flops = 0.0
    for y in inside.values():
      if y.op in ("dot", "convolution"):
        flops += product_flops(y, inside)
      elif y.op in ("fusion", "call"):
        flops += self._inner_flops(y)
    return flops

  def _fusion_bytes(self, x: Instruction, around: Computation) -> float:
    inside = self._module.computations.get(str(x.computation("calls")), {})
    parameters = {int(y.arguments): y for y in inside.values() if y.op == "parameter"}
    total = 0.0
    for index, operand in enumerate(x.operands):
      source = around.get(operand)
      if source is not None and len(source.results) == 1:
        total += self._read_bytes(source.results[0], parameters.get(index), inside)
    root = next((y for y in inside.values() if y.is_root), None)
    roots = [root]
    if root is not None and root.op == "tuple":
      roots = [inside.get(name) for name in root.operands]
    for index, result in enumerate(x.results):
      made = _behind_bitcasts(roots[index] if index < len(roots) else None, inside)
      total += _written_bytes(result, made, inside)
    return total

  def _read_bytes(
    self, array: ArrayShape, parameter: Instruction | None, inside: Computation
  ) -> float:
    """Bytes that a fusion reads of an operand: its slices, where it uses nothing else of it."""
    uses = [] if parameter is None else list(_uses(parameter.name, inside))
    total = 0.0
    for y, name in uses:
      if y.op == "fusion":  # a TPU's fusions hold others
        within = self._module.computations.get(str(y.computation("calls")), {})
        at = y.operands.index(name)
        inner = (z for z in within.values() if z.op == "parameter" and int(z.arguments) == at)
        total += self._read_bytes(array, next(inner, None), within)
      elif y.op in _SLICES and y.operands[0] == name:
        total += y.results[0].num_bytes
      elif y.op not in _UPDATES or y.operands[0] != name:
        return array.num_bytes
    return min(total, array.num_bytes) if uses else array.num_bytes


def _branches(x: Instruction) -> list[str]:
  listed = re.search(r"branch_computations=\{([^}]*)\}", x.attributes)
  if listed:
    return re.findall(r"%([\w.\-]+)", listed[1])
  names = (x.computation("true_computation"), x.computation("false_computation"))
  return [name for name in names if name]


def _behind_bitcasts(x: Instruction | None, inside: Computation) -> Instruction | None:
  while x is not None and x.op == "bitcast" and x.operands:
    x = inside.get(x.operands[0])
  return x


def _uses(name: str, inside: Computation) -> Iterator[tuple[Instruction, str]]:
  """Instructions that read `name`, or a bitcast of it, each with the name that it reads."""
  for y in inside.values():
    if name in y.operands:
      if y.op == "bitcast":
        yield from _uses(y.name, inside)
      else:
        yield y, name


def _written_bytes(result: ArrayShape, made: Instruction | None, inside: Computation) -> float:
  """Bytes that a fusion writes of a result: those of the update, where it updates in place."""
  if made is not None and made.op in _UPDATES and not result.on_chip:
    update = inside.get(made.operands[1 if made.op == "dynamic-update-slice" else -1])
    if update is not None:
      return update.results[0].num_bytes * (1 if made.op == "dynamic-update-slice" else 2)
  return result.num_bytes


def _plain_bytes(x: Instruction, op: str, around: Computation) -> float:
  """Bytes of an instruction that is no fusion."""
  results = x.results[:1] if op in ("copy", *_COLLECTIVES) and x.op != op else x.results
  if op == "all-reduce":
    results = x.results
  operands = [array for name in x.operands if name in around for array in around[name].results]
  if op in _UPDATES and x.operands:
    update = around.get(x.operands[1 if op == "dynamic-update-slice" else -1])
    operands = list(update.results) if update else []
    results = tuple(operands)
  elif op in _SLICES and operands:
    operands = [dataclasses.replace(results[0], layout=operands[0].layout)]
  return sum(array.num_bytes for array in (*operands, *results))


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
