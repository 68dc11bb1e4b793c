"""Imports of libraries that would import PyTorch wherever it is installed, without it.

PyTorch takes seconds to import, and nothing of ours computes with it.
"""

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


def import_without_torch(load: Callable[[], T], forget: str | None = None) -> T:
  """Imports a library as if PyTorch were not installed; with PyTorch where that fails.

  Args:
    load: imports, and returns what is wanted of the library.
    forget: package whose modules, as far as they were imported here, are left to the result alone:
      whoever imports them later gets new ones, which find PyTorch.
  """
  if "torch" in sys.modules or importlib.util.find_spec("torch") is None:
    return load()
  before = set(sys.modules)
  try:
    with _torch_hidden():
      return load()
  except Exception:  # a release that does not expect it
    pass
  finally:
    for name in set(sys.modules) - before:
      if name.partition(".")[0] == forget:
        del sys.modules[name]
  return load()


@contextlib.contextmanager
def _torch_hidden() -> Iterator[None]:
  sys.modules["torch"] = None  # pyright: ignore - Python's sign that it cannot be imported
  try:
    yield
  finally:
    del sys.modules["torch"]
