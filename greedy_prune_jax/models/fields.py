"""Checks of a config's fields, whatever file they were read from."""

import math
import reprlib
from typing import Any

# Sizes of a model and their largest values. Larger ones are mistakes or damage, and memory would
# run out before anything else could tell.
SIZES: dict[str, int] = {
  "vocab_size": 2**24,
  "model_dim": 2**20,
  "num_layers": 2**12,
  "num_heads": 2**14,
  "num_kv_heads": 2**14,
  "head_dim": 2**14,
  "mlp_dim": 2**22,
  "max_positions": 2**31,
}


class FieldError(ValueError):
  """A field of a config has an impossible value; readers say it in the words of their file."""

  def __init__(self, field: str, value: Any, expected: str):
    super().__init__(f"{field}={reprlib.repr(value)}; expected {expected}")
    self.field, self.shown, self.expected = field, reprlib.repr(value), expected


def check_whole(field: str, value: Any, least: int, most: int) -> None:
  """Raises FieldError unless a value is a whole number within bounds."""
  if type(value) is not int or not least <= value <= most:
    raise FieldError(field, value, f"a whole number from {least} to {most}")


def check_size(field: str, value: Any) -> None:
  """Raises FieldError unless a value is a possible one for a key of `SIZES`."""
  check_whole(field, value, 1, SIZES[field])


def check_positive(config: Any, *fields: str) -> None:
  """Raises FieldError unless fields of a config are finite numbers above 0, or tuples of these.

  None is left out: it stands for what is not set.
  """
  for field in fields:
    value = getattr(config, field)
    for number in value if isinstance(value, tuple) else (value,):
      if number is None:
        continue
      is_number = isinstance(number, int | float) and not isinstance(number, bool)
      if not is_number or not 0 < number < math.inf:
        raise FieldError(field, number, "a number above 0")
