"""Greedy pruning of chains of thought by likelihood.

    import greedy_prune_jax as gp

    model = gp.load("smollm2-135m-instruct")
    pruned = model.prune(question=..., reasoning=..., answer=..., keep=(0.9, 0.5))

The names below are imported when they are first used, so that importing the package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from greedy_prune_jax.api import (
    Pruned,
    Pruner,
    Scores,
    UnprunedError,
    load,
    read_chains,
    read_run,
  )
  from greedy_prune_jax.chains.chain import Chain
  from greedy_prune_jax.errors import UserError

__all__ = [
  "Chain",
  "Pruned",
  "Pruner",
  "Scores",
  "UnprunedError",
  "UserError",
  "load",
  "read_chains",
  "read_run",
]

_MODULES = {"Chain": "chains.chain", "UserError": "errors"}  # all others: api


def __getattr__(name: str) -> Any:
  if name not in __all__:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return getattr(importlib.import_module(f"{__name__}.{_MODULES.get(name, 'api')}"), name)


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
