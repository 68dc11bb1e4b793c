"""Scans over layers of several kinds: a scan for each group, whose steps are periods of layers.

Parameters that all layers have are stacked over all of them, those of one kind over the layers of
that kind: no layer holds or runs what another kind has. Layers of one kind are one group of periods
of one layer, and their stacks are scanned as they are.
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

# (residual stream, layer, its inputs, its kind) -> (residual stream, layer_output)
RunLayer = Callable[[Array, Any, Any, str], tuple[Array, Any]]

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
  kinds: tuple[str, ...]
  repeats: int

  @property
  def num_layers(self) -> int:
    """Layers of all periods."""
    return len(self.kinds) * self.repeats


def layer_groups(kinds: Sequence[str]) -> list[LayerGroup]:
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


def _repeats(kinds: Sequence[str], period: int) -> int:
  """Counts how often the first `period` kinds follow each other."""
  repeats = 1
  while kinds[repeats * period : (repeats + 1) * period] == kinds[:period]:
    repeats += 1
  return repeats


def scan_layers(
  x: Array,
  layers: nnx.Module,
  inputs: Any,
  kinds: Sequence[str],
  run: RunLayer,
  *,
  wrap_layer: Callable[[LayerBody], LayerBody],
  platform: str | None,
  unroll: bool = False,
) -> tuple[Array, Any]:
  """Runs layers one after the other.

  Args:
    x: the residual stream.
    layers: module of stacked parameters; those under the name of a kind are of its layers alone.
    inputs: pytree with leading axis L.
    kinds: kinds of the L layers.
    run: runs one layer, given its inputs.
    wrap_layer: wraps the function that runs one layer.
    platform: see `Decoder`.
    unroll: see `Decoder.run_layers`.

  Returns:
    The residual stream, and what the layers returned beside it, stacked over L.
  """
  graph, state = nnx.split(layers)
  stacks = _by_kind(nnx.to_flat_state(state), set(kinds))

  def body_of(kind: str) -> LayerBody:
    # The graph has parameters of all kinds: any layer's will do for those that nothing reads.
    unused = [jax.tree.map(lambda v: v[0], stacks[other]) for other in set(kinds) - {kind}]

    def body(x: Array, part: Any) -> tuple[Array, Any]:
      shared, own, layer_inputs = uint16_as_bfloat16(part)
      flat = itertools.chain(shared.items(), own.items(), *(other.items() for other in unused))
      return run(x, nnx.merge(graph, nnx.from_flat_state(dict(flat))), layer_inputs, kind)

    return wrap_layer(body)

  bodies = {kind: body_of(kind) for kind in set(kinds)}
  outputs = []
  for group in layer_groups(kinds):
    parts = _parts(group, kinds, stacks, inputs)
    x, output = jax.lax.scan(
      _period(group, bodies),
      x,
      bfloat16_as_uint16(parts, platform),
      unroll=group.repeats if unroll else 1,
    )
    if len(group.kinds) > 1:  # [R, P, ...]
      output = jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:]), output)
    outputs.append(output)
  if len(outputs) == 1:
    return x, outputs[0]
  return x, jax.tree.map(lambda *groups: jnp.concatenate(groups), *outputs)


def _by_kind(state: Any, kinds: Collection[str]) -> dict[str, dict[tuple, Any]]:
  """Parameters by path, those of each kind by themselves; under the empty name those of all."""
  stacks: dict[str, dict[tuple, Any]] = {kind: {} for kind in ("", *kinds)}
  for path, variable in state:
    stacks[path[0] if path[0] in kinds else ""][path] = variable
  return stacks


def _parts(group: LayerGroup, kinds: Sequence[str], stacks: Any, inputs: Any) -> dict[str, Any]:
  """Parameters of all layers and of each kind, and inputs, for the scan over a group's periods."""

  def periods(tree: Any, first: int, count: int) -> Any:  # [L, ...] -> [R, count, ...] or [R, ...]
    def take(x: Array) -> Array:
      if len(x) != count * group.repeats:
        x = jax.lax.slice_in_dim(x, first, first + count * group.repeats)
      return x if count == 1 else x.reshape(group.repeats, count, *x.shape[1:])

    return jax.tree.map(take, tree)

  before = kinds[: group.first]
  of_kinds = {
    kind: periods(stacks[kind], before.count(kind), group.kinds.count(kind))
    for kind in set(group.kinds)
  }
  return of_kinds | {"": periods((stacks[""], inputs), group.first, len(group.kinds))}


def _period(group: LayerGroup, bodies: Mapping[str, LayerBody]) -> LayerBody:
  """The function that runs the layers of one period."""

  def one(tree: Any, at: int, count: int) -> Any:
    return tree if count == 1 else jax.tree.map(lambda x: x[at], tree)

  def period(x: Array, parts: Any) -> tuple[Array, Any]:
    outputs = []
    for place, kind in enumerate(group.kinds):
      shared, inputs = one(parts[""], place, len(group.kinds))
      own = one(parts[kind], group.kinds[:place].count(kind), group.kinds.count(kind))
      x, output = bodies[kind](x, (shared, own, inputs))
      outputs.append(output)
    if len(outputs) == 1:
      return x, outputs[0]
    return x, jax.tree.map(lambda *layers: jnp.stack(layers), *outputs)

  return period
