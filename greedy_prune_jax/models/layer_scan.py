"""Scans over layers of several kinds: a scan for each group, whose steps are periods of layers.

A layer's kind is the names of its parts, but for those that all layers have. Parameters, inputs and
outputs of a part are stacked over the layers that have it, those of all layers under the empty
name: no layer holds or runs what it does not have. Layers of one kind are one group of periods of
one layer, and their stacks are scanned as they are.
"""

import dataclasses
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from greedy_prune_jax.models.weights import bfloat16_as_uint16, uint16_as_bfloat16

# (residual stream, one layer's parameters and inputs) -> (residual stream, layer_output)
LayerBody = Callable[[Array, Any], tuple[Array, Any]]

Kind = tuple[str, ...]

# (residual stream, layer, inputs by part, its kind) -> (residual stream, outputs by part)
RunLayer = Callable[[Array, Any, dict[str, Any], Kind], tuple[Array, dict[str, Any]]]

_LONGEST_PERIOD = 8


@dataclasses.dataclass(frozen=True)
class LayerGroup:
  """Consecutive layers whose kinds repeat.

  Attributes:
    first: number of the first layer.
    kinds: kinds of the P layers of one period.
    repeats: R, of the period.
  """

  first: int
  kinds: tuple[Kind, ...]
  repeats: int

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
  x: Array,
  layers: nnx.Module,
  inputs: dict[str, Any],
  kinds: Sequence[Kind],
  run: RunLayer,
  *,
  wrap_layer: Callable[[LayerBody], LayerBody],
  platform: str | None,
  unroll: bool = False,
) -> tuple[Array, dict[str, Any]]:
  """Runs layers one after the other.

  Args:
    x: the residual stream.
    layers: module of stacked parameters; those under the name of a part are of its layers alone.
    inputs: pytrees by part, each with a leading axis of the layers that have it.
    kinds: kinds of the L layers.
    run: runs one layer, given its inputs.
    wrap_layer: wraps the function that runs one layer.
    platform: see `Decoder`.
    unroll: see `Decoder.run_layers`.

  Returns:
    The residual stream, and by part what its layers returned beside it, stacked.
  """
  graph, state = nnx.split(layers)
  parts = sorted({part for kind in kinds for part in kind})
  stacks = _by_part(nnx.to_flat_state(state), parts)

  def body_of(kind: Kind) -> LayerBody:
    # The graph has parameters of all parts: any layer's will do for those that nothing reads.
    unused = [jax.tree.map(lambda v: v[0], stacks[other]) for other in parts if other not in kind]

    def body(x: Array, given: Any) -> tuple[Array, Any]:
      weights, inputs = uint16_as_bfloat16(given)
      flat = itertools.chain(*(of_part.items() for of_part in (*weights, *unused)))
      return run(x, nnx.merge(graph, nnx.from_flat_state(dict(flat))), inputs, kind)

    return wrap_layer(body)

  bodies = {kind: body_of(kind) for kind in set(kinds)}
  outputs: dict[str, list[Any]] = {}
  for group in layer_groups(kinds):
    x, output = jax.lax.scan(
      _period(group, bodies),
      x,
      bfloat16_as_uint16(_periods(group, kinds, stacks, inputs), platform),
      unroll=group.repeats if unroll else 1,
    )
    for part, of_part in output.items():
      if _count(group.kinds, part) > 1:  # [R, P, ...]
        of_part = jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:]), of_part)
      outputs.setdefault(part, []).append(of_part)
  return x, {part: _concatenated(groups) for part, groups in outputs.items()}


def _concatenated(groups: list[Any]) -> Any:
  if len(groups) == 1:
    return groups[0]
  return jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *groups)


def _by_part(state: Any, parts: Collection[str]) -> dict[str, dict[tuple, Any]]:
  """Parameters by path, those of each part by themselves; under the empty name the others."""
  stacks: dict[str, dict[tuple, Any]] = {part: {} for part in ("", *parts)}
  for path, variable in state:
    stacks[path[0] if path[0] in parts else ""][path] = variable
  return stacks


def _count(kinds: Sequence[Kind], part: str) -> int:
  """Number of layers that have a part; all have the one without a name."""
  return len(kinds) if not part else sum(part in kind for kind in kinds)


def _periods(
  group: LayerGroup, kinds: Sequence[Kind], stacks: Any, inputs: dict[str, Any]
) -> dict[str, tuple[Any, Any]]:
  """Parameters and inputs of each part, for the scan over a group's periods."""

  def periods(tree: Any, first: int, count: int) -> Any:  # [L, ...] -> [R, count, ...] or [R, ...]
    def take(x: Array) -> Array:
      if len(x) != count * group.repeats:
        x = jax.lax.slice_in_dim(x, first, first + count * group.repeats)
      return x if count == 1 else x.reshape(group.repeats, count, *x.shape[1:])

    return jax.tree.map(take, tree)

  return {
    part: periods(
      (stacks[part], inputs.get(part)),
      _count(kinds[: group.first], part),
      _count(group.kinds, part),
    )
    for part in sorted({"", *itertools.chain(*group.kinds)})
  }


def _period(group: LayerGroup, bodies: Mapping[Kind, LayerBody]) -> LayerBody:
  """The function that runs the layers of one period."""

  def one(tree: Any, at: int, count: int) -> Any:
    return tree if count == 1 else jax.tree.map(lambda x: x[at], tree)

  def period(x: Array, parts: Any) -> tuple[Array, Any]:
    outputs: dict[str, list[Any]] = {}
    for place, kind in enumerate(group.kinds):
      given = {
        part: one(parts[part], _count(group.kinds[:place], part), _count(group.kinds, part))
        for part in ("", *kind)
      }
      weights = [of_part for of_part, _ in given.values()]
      inputs = {part: of_part for part, (_, of_part) in given.items()}
      x, output = bodies[kind](x, (weights, inputs))
      for part, of_part in output.items():
        outputs.setdefault(part, []).append(of_part)
    return x, {part: _stacked(layers) for part, layers in outputs.items()}

  return period


def _stacked(layers: list[Any]) -> Any:
  if len(layers) == 1:
    return layers[0]
  return jax.tree.map(lambda *arrays: jnp.stack(arrays), *layers)
