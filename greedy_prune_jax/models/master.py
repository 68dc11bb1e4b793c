"""A float32 weight that large products see rounded: what is trained in mixed precision."""

import dataclasses
from typing import Any

import jax
from jaxtyping import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Master:
  """A weight of which products see a rounded copy, made where they need it.

  Rounded layer by layer, stacked weights are sliced in float32, and so are their gradients, which
  are never rounded at all; a rounded copy of the whole model is never there.

  Attributes:
    weight: float32, of any shape.
    dtype: of the products.
  """

  weight: Any  # an array; but trees of other leaves (shapes, shardings) are made of it too
  dtype: Any = dataclasses.field(metadata={"static": True})

  def __getitem__(self, index: Any) -> "Master":
    """The whole: modules read a parameter as `parameter[...]`."""
    if index is not Ellipsis:
      raise TypeError(f"a Master is read as a whole, with [...], not [{index}]")
    return self

  def rounded(self) -> Array:
    """What products see."""
    return self.weight.astype(self.dtype)
