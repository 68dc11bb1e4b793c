"""Programs compiled for devices that are not here; for real where the extras are installed."""

import dataclasses
import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import accelerator_search
from benchmarks.accelerator_programs import Program
from benchmarks.accelerator_targets import TARGETS
from benchmarks.accelerators import compile_row, table
from benchmarks.shapes import SHAPES
from greedy_prune_jax.chains.segments import Segments
from greedy_prune_jax.scoring import scorer

ROOT = Path(__file__).parents[2]
NEEDED = {"v5e": "libtpu", "h100": "jax_plugins.xla_cuda13"}


def installed(name: str) -> bool:
  try:
    return importlib.util.find_spec(name) is not None
  except ModuleNotFoundError:
    return False


def test_a_row_holds_what_is_compiled_against_what_is_counted():
  size = 256
  x = jax.ShapeDtypeStruct((size, size), jnp.float32)
  program = Program(
    lambda: jax.jit(jnp.dot).trace(x, x), flops=size**3, needed_bytes=0.0, memory=6.0 * size**2
  )
  row = compile_row(TARGETS["h100"], program)
  assert row["TFLOP"] == 2 * size**3 / 1e12  # compiled
  assert row["counted_TFLOP"] == size**3 / 1e12  # as counted, here by half
  assert row["memory_GB"] == 3 * 4 * size**2 / 1e9  # two operands and the product
  assert row["estimate_ratio"] == pytest.approx(0.5)
  assert row["fits"]
  assert row["roof_ms"] > 0


def test_what_does_not_fit_or_compile_stands_in_the_table():
  row = {"target": "v5e", "mesh": "1x1", "program": "p"}
  too_large, failed = table(
    [
      row | {"compiles": True, "memory_GB": 20.0, "fits": False},
      row | {"compiles": False, "error": "XlaRuntimeError: out of memory\nmore"},
    ]
  )
  assert "DOES NOT FIT" in too_large
  assert failed.endswith("does not compile: XlaRuntimeError: out of memory")


@pytest.mark.slow
def test_a_block_of_a_search_sees_what_its_candidates_see():
  segments = Segments(*(np.zeros(size, np.int32) for size in (20, 30, 5)))
  program = scorer.Program(
    places=128, units=64, kept=0, block=256, rest=128, tile=128, tile_by_tile=False
  )
  block = accelerator_search._first_block(program, segments, 1)
  slots = [(i, column) for i in range(30) for column in range(30 + 5 - 2 - i)][:256]
  assert block.counted == 256  # all of them predict reasoning or answer
  assert block.seen * 256 == sum(20 + i + column + 1 for i, column in slots)
  # Of four kinds of keys, all in blocks of 128: the text before the gap, and the block's own.
  # Of these the last tile sees two: its first candidate began in the tile before.
  assert block.key_blocks == (1 + 2) / 4
  assert block.tile_keys == 128 * 5  # two of the first tile, three of the last


def test_the_kernel_reads_the_keys_of_each_tile_once_a_head():
  program = scorer.Program(
    places=128, units=64, kept=0, block=256, rest=128, tile=128, tile_by_tile=False
  )
  block = accelerator_search._Block(key_blocks=1.5, tile_keys=640.0, seen=9.0, counted=600.0)
  config = dataclasses.replace(SHAPES["tiny"], num_heads=8, num_kv_heads=2, head_dim=16)
  flops, num_bytes = accelerator_search._kernel_costs(config, program, block, itemsize=2)
  assert flops == 2 * (2 * 128 * 640 * 8 * 16)  # scores and mixed values, of all heads
  queries, keys, values, out = (
    2 * 256 * 8 * 16,
    2 * 640 * 2 * 16,
    2 * 640 * 2 * 16,
    4 * 256 * 8 * 16,
  )
  assert num_bytes == queries + keys + values + out


def test_loops_of_a_search_are_counted_once_a_block():
  program = scorer.Program(
    places=128, units=64, kept=0, block=256, rest=128, tile=128, tile_by_tile=False
  )
  block = accelerator_search._Block(key_blocks=1.5, tile_keys=384.0, seen=9.0, counted=600.0)
  at = functools.partial(accelerator_search._trips, program, block)
  assert at("jit(prune_steps)/while") == 1  # steps
  assert at("jit(prune_steps)/while/body/blocks_256/while") == 1
  assert at("jit(prune_steps)/while/body/blocks_128/while") == 0
  assert at("a/blocks_256/while/body/while/body/attend/while/body/while") == 1.5
  assert at("a/blocks_256/while/body/while") == 3  # chunks of what meets the head


@pytest.mark.slow
@pytest.mark.parametrize("target", NEEDED)
def test_a_tiny_model_compiles_for_devices_that_are_not_here(target, tmp_path):
  if not installed(NEEDED[target]):
    pytest.skip(f"{NEEDED[target]} is not installed: extra tpu-aot or gpu-aot")
  command = [sys.executable, "-m", "benchmarks.accelerators", f"--results={tmp_path}"]
  command += [f"--targets={target}", "--meshes=1x1,8x1", "--shapes=tiny"]
  done = subprocess.run(
    command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
  assert [row for row in rows if not row["compiles"]] == []
  one, sharded = (
    [row for row in rows if row["mesh"] == mesh and "fully" not in row["program"]]
    for mesh in ("1x1", "8x1")
  )
  assert len(one) == len(sharded) > 0
  assert not any(row["collectives"] for row in one)
  [fully] = [row for row in rows if "fully" in row["program"]]
  assert any("all-gather" in kind for kind in fully["collectives"])
  if target == "v5e":  # 3.4 times where XLA turned caches to write them
    assert all(r["HBM_GB"] < 2 * r["needed_GB"] for r in one if r["program"].startswith("decode"))
