"""Experts of a layer in one tensor, as transformers 5 holds them and Qwen3.5's folders store them.

`experts.gate_up_proj` is [E, 2 I, D], gates before ups, and `experts.down_proj` is [E, D, I].
"""

from collections.abc import Collection, Iterator, Mapping

import numpy as np

from greedy_prune_jax.models.parameters import Index, TensorSource, WrappedTensors

_GATE_UP, _DOWN = "gate_up_proj", "down_proj"


def split_experts(source: TensorSource, names: Mapping[str, str]) -> TensorSource:
  """The tensors with those of all experts split, if the family has a tensor for each expert.

  Args:
    names: names of the family's tensors by parameter; see `Family.hf_tensors`.
  """
  before, _, after = names["layers.experts.gate"].partition(".{expert}.")
  if after != "gate_proj.weight":
    return source
  layers = before.rpartition("{layer}")[2]  # the part of the names behind a layer's number
  fused = [
    name for name in source.names if name.endswith((f"{layers}.{_GATE_UP}", f"{layers}.{_DOWN}"))
  ]
  return _SplitExperts(source, fused) if fused else source


class _SplitExperts(WrappedTensors):
  """Each expert's tensors, read out of those that hold all experts of a layer."""

  def __init__(self, source: TensorSource, fused: Collection[str]):
    super().__init__(source)
    # Name of an expert's tensor -> the tensor that holds it, expert's number, first row, and shape.
    self._places: dict[str, tuple[str, int, int, tuple[int, int]]] = {}
    for name in fused:
      self._places.update(_places(name, source.shape(name) or ()))
    self.names = source.names - {place[0] for place in self._places.values()} | self._places.keys()

  def shape(self, name: str) -> tuple[int, ...] | None:
    """See `TensorSource`."""
    return self._places[name][3] if name in self._places else self._source.shape(name)

  def where(self, name: str) -> str:
    """See `TensorSource`."""
    return self._source.where(self._places[name][0] if name in self._places else name)

  def read(self, name: str, index: Index) -> np.ndarray:
    """See `TensorSource`."""
    if name not in self._places:
      return self._source.read(name, index)
    (tensor, expert, first, _), (rows, columns) = self._places[name], index
    rows = slice(first + rows.start, first + rows.stop)
    [block] = self._source.read(tensor, (slice(expert, expert + 1), rows, columns))
    return block


def _places(
  name: str, shape: tuple[int, ...]
) -> Iterator[tuple[str, tuple[str, int, int, tuple[int, int]]]]:
  """Names of experts' tensors, and their places in one of all experts; none for other shapes."""
  module, _, kind = name.rpartition(".")
  parts = ("gate_proj", "up_proj") if kind == _GATE_UP else ("down_proj",)
  if len(shape) != 3 or shape[1] % len(parts):
    return
  size = shape[1] // len(parts)
  for expert in range(shape[0]):
    for place, part in enumerate(parts):
      yield f"{module}.{expert}.{part}.weight", (name, expert, place * size, (size, shape[2]))
