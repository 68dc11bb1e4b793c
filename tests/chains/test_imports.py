import subprocess
import sys

PROGRAM = """
import importlib, pkgutil, sys
from greedy_prune_jax import chains
for module in pkgutil.iter_modules(chains.__path__):
  importlib.import_module(f"greedy_prune_jax.chains.{module.name}")
print(sorted({"jax", "torch", "flax"} & set(sys.modules)))
"""


def test_chains_import_neither_jax_nor_torch():
  command = [sys.executable, "-c", PROGRAM]
  assert subprocess.run(command, capture_output=True, check=True).stdout == b"[]\n"
