"""Sizes of arrays, drawn from a few so that few programs are compiled."""

TPU_LANES = 128  # numbers in which a TPU keeps the last axis of an array


def bucket(value: int, multiple: int) -> int:
  """The least size that is not below `value` of `multiple`, 2 `multiple`, ... in growing steps.

  Steps are a multiple of `multiple` and at most a quarter of the size, where that is more.
  """
  units = max(-(-value // multiple), 1)
  step = 2 ** max(0, max(units - 1, 1).bit_length() - 3)
  return -(-units // step) * step * multiple


def power_of_two(value: int) -> int:
  """The least power of two that is not below `value`."""
  return 1 << max(value - 1, 0).bit_length()


def round_up(value: int, multiple: int) -> int:
  """The least multiple that is not below `value`."""
  return -(-value // multiple) * multiple
