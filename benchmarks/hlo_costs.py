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
import re
from collections.abc import Callable, Iterator, Sequence

from benchmarks.hlo_text import (
  ArrayShape,
  Computation,
  Instruction,
  Module,
  parse_module,
  product_flops,
)

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

  def by_cause(
    self, causes: Sequence[tuple[str, str]], cost: Callable[[Kernel], float]
  ) -> dict[str, float]:
    """A cost by cause.

    Args:
      causes: names, each with a regular expression that is searched in `OP SOURCE` of a kernel; the
        first that matches counts, and what none matches is `other`.
      cost: the cost of one run of a kernel, such as its HBM bytes.
    """
    found: dict[str, float] = collections.defaultdict(float)
    for kernel in self.kernels:
      text = f"{kernel.op} {kernel.source}"
      cause = next((name for name, pattern in causes if re.search(pattern, text)), "other")
      found[cause] += kernel.times * cost(kernel)
    return dict(found)


TripCount = Callable[[str, int], float | None]


def read_costs(
  text: str,
  trip_count: TripCount = lambda source, depth: None,
  kernel_costs: Sequence[float] = (),
  outside_loops: float = 1.0,
) -> Costs:
  """Costs of a program.

  Args:
    text: optimised HLO, from `compiled.as_text()`.
    trip_count: runs of a loop whose count the program does not show, from its source and its depth
      (0 for a loop that is in no other); None where that is unknown.
    kernel_costs: FLOPs and bytes of one run of the program's Pallas kernel. XLA shows neither, and
      the whole of what it reads from would be counted.
    outside_loops: runs of what is in no loop; 0 where loops run for so long that it does not count.
  """
  return _Reader(parse_module(text), trip_count, kernel_costs, outside_loops).costs()


class _Reader:
  """Adds up a module's kernels, computation by computation."""

  def __init__(
    self,
    module: Module,
    trip_count: TripCount,
    kernel_costs: Sequence[float],
    outside_loops: float,
  ):
    self._outside_loops = outside_loops
    self._module = module
    self._trip_count = trip_count
    self._kernel_costs = kernel_costs
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
      times = 1.0 if depth else self._outside_loops
      yield dataclasses.replace(self._kernel(x, around), times=times)

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
    if op == "custom-call" and x.source.endswith("pallas_call") and self._kernel_costs:
      flops, num_bytes = self._kernel_costs
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
  results = x.results
  if x.op != op and op in _SLICES:  # the operand as a tuple, then the slice
    results = results[1:2]
  elif x.op != op and op in ("copy", *_COLLECTIVES) and op != "all-reduce":
    results = results[:1]
  operands = [array for name in x.operands if name in around for array in around[name].results]
  if op in _UPDATES and x.operands:
    update = around.get(x.operands[1 if op == "dynamic-update-slice" else -1])
    operands = list(update.results) if update else []
    results = tuple(operands)
  elif op in _SLICES and operands:
    operands = [dataclasses.replace(results[0], layout=operands[0].layout)]
  return sum(array.num_bytes for array in (*operands, *results))
