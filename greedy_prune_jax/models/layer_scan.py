"""Scans over layers of several kinds: a scan for each group, whose steps are periods of layers.

A layer's kind names the parts that it has and that others may lack. Parameters of a part are
stacked over the layers that have it, all others over all layers: no layer holds or runs what
another kind has. Layers of one kind are one group of periods of one layer, and their stacks are
scanned as they are.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from greedy_prune_jax.models.weights import bfloat16_as_uint16, uint16_as_bfloat16

Kind = tuple[str, ...]  # names of a layer's parts that other layers may lack

# (what layers hand on, one layer's parameters and inputs) -> (what it hands on, outputs by name)
LayerBody = Callable[[Any, Any], tuple[Any, dict[str, Any]]]

# (what layers hand on, layer, its inputs by part, its kind) -> as LayerBody
RunLayer = Callable[[Any, Any, dict[str, Any], Kind], tuple[Any, dict[str, Any]]]

_LONGEST_PERIOD = 8


@dataclasses.dataclass(frozen=True)
class LayerGroup:
  """Consecutive layers whose kinds repeat."""

  first: int  # number of the first layer
  kinds: tuple[Kind, ...]  # kinds of the P layers of one period
  repeats: int  # R, of the period

  @property
  def num_layers(self) -> int:
    """Layers of all periods."""
    return len(self.kinds) * self.repeats


def layer_groups(kinds: Sequence[Kind]) -> list[LayerGroup]:
  """The groups of layers of these kinds: each the longest from where the last one ends."""
  groups: list[LayerGroup] = []
  first = 0
  while first < len(kinds):
    candidates = [
      LayerGroup(first, tuple(kinds[first : first + period]), _repeats(kinds[first:], period))
      for period in range(1, _LONGEST_PERIOD + 1)
    ]
    repeated = [group for group in candidates if group.repeats > 1]
    groups.append(max(repeated or candidates[:1], key=lambda group: group.num_layers))
    first += groups[-1].num_layers
  return groups


def _repeats(kinds: Sequence[Kind], period: int) -> int:
  """Counts how often the first `period` kinds follow each other."""
  repeats = 1
  while kinds[repeats * period : (repeats + 1) * period] == kinds[:period]:
    repeats += 1
  return repeats


def scan_layers(
  carried: Any,
  layers: nnx.Module,
  inputs: Mapping[str, Any],
  kinds: Sequence[Kind],
  run: RunLayer,
  *,
  wrap_layer: Callable[[LayerBody], LayerBody],
  platform: str | None,
  unroll: bool = False,
) -> tuple[Any, dict[str, Any]]:
  """Runs layers one after the other.

  Args:
    carried: value that each layer hands on to the next: the residual stream, and more if need be.
    layers: module of stacked parameters.
    inputs: part -> inputs stacked over the layers that have it; under the empty name those of all.
    kinds: kinds of the L layers.
    run: runs one layer, given its inputs.
    wrap_layer: wraps the function that runs one layer.

  Returns:
    What the last layer handed on; and outputs by name, stacked over the layers that returned one.
  """
  graph, state = nnx.split(layers)
  parts = list(dict.fromkeys(part for kind in kinds for part in kind))
  stacks = _by_part(nnx.to_flat_state(state), parts)

  def body_of(kind: Kind) -> LayerBody:
    # The graph has parameters of all parts: any layer's will do for those that nothing reads.
    unused = [jax.tree.map(lambda v: v[0], stacks[part]) for part in parts if part not in kind]

    def body(carried: Any, layer: Any) -> tuple[Any, dict[str, Any]]:
      params, layer_inputs = uint16_as_bfloat16(layer)
      flat = itertools.chain.from_iterable(part.items() for part in [*params.values(), *unused])
      return run(carried, nnx.merge(graph, nnx.from_flat_state(dict(flat))), layer_inputs, kind)

    return wrap_layer(body)

  bodies = {kind: body_of(kind) for kind in dict.fromkeys(kinds)}
  with_inputs = {part: (stack, inputs.get(part)) for part, stack in stacks.items()}
  outputs: dict[str, list[Any]] = {}
  for group in layer_groups(kinds):
    xs = {
      part: _periods(group, kinds, part, stack)
      for part, stack in with_inputs.items()
      if _count(group.kinds, part)
    }
    carried, found = jax.lax.scan(
      _period(group, bodies),
      carried,
      bfloat16_as_uint16(xs, platform),
      unroll=group.repeats if unroll else 1,
    )
    for name, output in found.items():
      if len(group.kinds) > 1:  # [R, layers of a period, ...]
        output = jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:]), output)
      outputs.setdefault(name, []).append(output)
  return carried, {name: _joined(groups) for name, groups in outputs.items()}


def _joined(groups: list[Any]) -> Any:
  if len(groups) == 1:
    return groups[0]
  return jax.tree.map(lambda *of_groups: jnp.concatenate(of_groups), *groups)


def _by_part(state: Any, parts: Sequence[str]) -> dict[str, dict[tuple, Any]]:
  """Parameters by path, those of each part by themselves; under the empty name those of all."""
  stacks: dict[str, dict[tuple, Any]] = {part: {} for part in ("", *parts)}
  for path, variable in state:
    stacks[path[0] if path[0] in parts else ""][path] = variable
  return stacks


def _count(kinds: Sequence[Kind], part: str) -> int:
  """Number of layers that have a part, which all have if it has no name."""
  return sum(not part or part in kind for kind in kinds)


def _periods(group: LayerGroup, kinds: Sequence[Kind], part: str, tree: Any) -> Any:
  """Those of a part's stacks that are a group's, [layers, ...], as [R, ...] or [R, count, ...]."""
  first, count = _count(kinds[: group.first], part), _count(group.kinds, part)

  def take(x: Array) -> Array:
    if len(x) != count * group.repeats:
      x = jax.lax.slice_in_dim(x, first, first + count * group.repeats)
    return x if count == 1 else x.reshape(group.repeats, count, *x.shape[1:])

  return jax.tree.map(take, tree)


def _period(group: LayerGroup, bodies: Mapping[Kind, LayerBody]) -> LayerBody:
  """The function that runs the layers of one period."""

  def of_layer(xs: dict[str, Any], place: int) -> tuple[dict[str, Any], dict[str, Any]]:
    kinds = group.kinds

    def one(part: str) -> Any:
      at, count = _count(kinds[:place], part), _count(kinds, part)
      return xs[part] if count == 1 else jax.tree.map(lambda x: x[at], xs[part])

    taken = {part: one(part) for part in ("", *kinds[place])}
    return {p: params for p, (params, _) in taken.items()}, {p: x for p, (_, x) in taken.items()}

  def period(carried: Any, xs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    outputs: dict[str, list[Any]] = {}
    for place, kind in enumerate(group.kinds):
      carried, found = bodies[kind](carried, of_layer(xs, place))
      for name, output in found.items():
        outputs.setdefault(name, []).append(output)
    if len(group.kinds) == 1:
      return carried, {name: output for name, [output] in outputs.items()}
    return carried, {
      name: jax.tree.map(lambda *layers: jnp.stack(layers), *of_layers)
      for name, of_layers in outputs.items()
    }

  return period
