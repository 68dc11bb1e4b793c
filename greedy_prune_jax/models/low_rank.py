"""A frozen weight and its low-rank change (LoRA), as one value that stands where a weight does."""

import dataclasses
from typing import Any

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LowRank:
  """The weight `weight + scale * a b`, of which the product is never made.

  Attributes:
    weight: as it was; axes in and out.
    a: [..., in, rank].
    b: [..., rank, out].
    scale: of the change.
  """

  weight: Any  # arrays; but trees of other leaves (shapes, shardings) are made of it too
  a: Any
  b: Any
  scale: float = dataclasses.field(metadata={"static": True})

  def __getitem__(self, index: Any) -> "LowRank":
    """The whole: modules read a parameter as `parameter[...]`."""
    if index is not Ellipsis:
      raise TypeError(f"a LowRank weight is read as a whole, with [...], not [{index}]")
    return self

  @property
  def dtype(self):
    """Of the weight."""
    return self.weight.dtype


def factor_subscripts(subscripts: str, rank: str = "r") -> tuple[str, str]:
  """The two products that stand for one with a low-rank weight.

  `...td,dnh->...tnh` is `...td,dr->...tr` and then `...tr,rnh->...tnh`.

  Args:
    subscripts: of an einsum of an input and a weight whose axes begin with those summed over.
    rank: a letter that it does not have.
  """
  inputs, result = subscripts.split("->")
  x, weight = inputs.split(",")
  axes_in = "".join(axis for axis in weight if axis not in result)
  axes_out = "".join(axis for axis in weight if axis in result)
  assert rank not in subscripts, subscripts
  inner = "".join(axis for axis in x if axis not in axes_in) + rank
  return f"{x},{axes_in}{rank}->{inner}", f"{inner},{rank}{axes_out}->{result}"
