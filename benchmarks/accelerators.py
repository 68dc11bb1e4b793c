"""Compiles our programs for TPUs and an H100 on a machine that has neither, and reads what came.

    make accelerators [PROGRAMS=decode]
    python -m benchmarks.accelerators --results=DIR [--targets=v5e] [--programs=decode]

Nothing runs and nothing is measured: every figure is *compiled*, read from what XLA made for the
device. Needs the extras `tpu-aot` and `gpu-aot`, in an environment of their own (two processes
cannot both hold libtpu). For each program: compile time on this machine; memory of a device, and
our estimate beside its peak; FLOPs beside our count; HBM bytes beside what must be read, and by
cause; collectives by kind and dtype; the roof (see `hlo_costs`), by cause too, and from it the best
share of the peak; on a TPU also the share by libtpu's own cycles. What a kernel of ours (Pallas)
reads and multiplies is reckoned.

Each target and mesh is compiled in a process of its own; rows go to OUT/rows.jsonl as they are
made, those that fail with their error, and the table to OUT/table.txt.
"""

import functools
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks.accelerator_targets import TARGETS, Target, compile_environment

_OUT = flags.DEFINE_string("results", None, "Folder of the results.")
_TARGETS = flags.DEFINE_list("targets", list(TARGETS), "Devices to compile for.")
_MESHES = flags.DEFINE_list(
  "meshes",
  ["1x1", "1x4", "8x1", "1x4x1"],
  "Sizes of `data` x `model`, or of `data` x `sequence` x `model` for searches.",
)
_SHAPES = flags.DEFINE_list("shapes", ["135m", "1.5b", "8b", "30b-a3b"], "Of `shapes.SHAPES`.")
_PROGRAMS = flags.DEFINE_string("programs", "", "Only programs whose name has this expression.")
_CHILD = flags.DEFINE_string("child", None, "Compile for this target and mesh in this process.")

# Causes of HBM bytes and of the roof's time: the first whose expression is in `OP SOURCE` of a
# kernel counts.
CAUSES = (
  ("collectives", r"^(all-|reduce-scatter|collective-|ragged-)"),
  ("copies", r"^(copy|transpose|slice|dynamic-slice|pad|concatenate)\b"),
  ("head", r"/head/"),
  ("kernel", r"/pallas_call$"),
  ("attention", r"/attend/"),
  ("products", r"dot_general|^dot|^convolution|gemm"),
  ("conversions", r"convert_element_type$"),
)


LARGE = ("8b", "30b-a3b")  # shapes that nobody runs in float32
SEARCHES: dict[str, dict[str, Any]] = {
  "joint": {},
  "answer": {"objective": "answer"},
  "joint, kernel": {"attention": "pallas"},
  "joint, race": {"screened": True},
}


def programs(
  target: Target, sizes: Sequence[int], shapes: Sequence[str]
) -> dict[str, Callable[[], Any]]:
  """Programs to compile for a mesh, by name; made when called, so that one's failure is its own."""
  from benchmarks import accelerator_programs as make
  from benchmarks.accelerator_search import prune_step
  from benchmarks.shapes import SHAPES
  from greedy_prune_jax.parallel import device_bytes

  (data, *sequence, model), devices = sizes, math.prod(sizes)
  place = make.Place(target, data, model, *sequence)
  found: dict[str, Callable[[], Any]] = {}
  for shape in shapes:
    config = SHAPES[shape]
    if config.num_kv_heads % model:
      continue  # its heads cannot be divided so
    if devices == 8 and model == 1 and not sequence:
      for mu in ("", "bfloat16"):
        name = f"train {shape} fully sharded 8x512 remat=full" + (mu and f" mu_dtype={mu}")
        found[name] = lambda c=config, mu=mu: make.train_step(
          place, c, rows=8, width=512, remat="full", fully_sharded=True, mu_dtype=mu
        )
    if device_bytes(place.weights(config, "bfloat16").params) > target.accelerator.memory:
      continue
    for dtype in ("bfloat16",) if shape in LARGE else ("bfloat16", "float32"):
      some = (place, config, dtype)
      for name, settings in SEARCHES.items():
        found[f"prune {shape} {dtype} N=150 {name}"] = lambda s=some, more=settings: prune_step(
          *s, num_reasoning=150, **more
        )
      if sequence:
        continue
      found[f"decode {shape} {dtype} rows=32"] = lambda s=some: make.decode_step(*s, 32, 512)
      found[f"prefill {shape} {dtype} 16x256"] = lambda s=some: make.prefill(*s, 16, 256)
    for dtype in () if sequence else ("bfloat16",) if shape in LARGE else ("bfloat16", "float32"):
      name = f"train {shape}" + (dtype == "float32") * " float32"
      some = {"place": place, "config": config, "width": 512, "dtype": dtype}
      if shape == "135m":
        found[f"{name} full 16x512"] = lambda s=some: make.train_step(**s, rows=16)
      found[f"{name} LoRA 8x512 remat=full"] = lambda s=some: make.train_step(
        **s, rows=8, rank=16, remat="full"
      )
  return found


def compile_row(target: Target, program: Any) -> dict[str, Any]:
  """Compiles a program and reads what it costs on one device; see the module."""
  from benchmarks.hlo_costs import read_costs

  traced = program.trace()
  started = time.monotonic()
  compiled = traced.lower().compile()
  seconds = time.monotonic() - started
  text = compiled.as_text()
  costs = read_costs(text, program.trips, program.kernel_costs, program.outside_loops)
  by_cause = functools.partial(costs.by_cause, CAUSES)
  memory = compiled.memory_analysis()
  taken = memory.argument_size_in_bytes + memory.temp_size_in_bytes
  taken += memory.output_size_in_bytes - memory.alias_size_in_bytes
  dtype = "float32" if not re.search(r"= (bf16|\(bf16)", text) else "bfloat16"
  peak = target.peak(dtype)
  flops = program.flops or costs.flops
  roof = costs.roof_seconds(peak, target.bandwidth)
  found = {
    "compile_s": round(seconds, 1),
    "memory_GB": taken / 1e9,
    "peak_GB": memory.peak_memory_in_bytes / 1e9,
    "temporaries_GB": memory.temp_size_in_bytes / 1e9,
    # For a TPU XLA compiles nothing that does not fit.
    "fits": target.platform == "tpu" or taken <= target.accelerator.memory,
    "estimate_GB": program.memory and program.memory / 1e9,
    # `memory_GB`, a sum, can be more than a TPU has although the program fits.
    "estimate_ratio": program.memory and program.memory / memory.peak_memory_in_bytes,
    "TFLOP": costs.flops / 1e12,
    "counted_TFLOP": program.flops and program.flops / 1e12,
    "HBM_GB": costs.num_bytes / 1e9,
    "needed_GB": program.needed_bytes and program.needed_bytes / 1e9,
    "causes_GB": {k: v / 1e9 for k, v in by_cause(lambda kernel: kernel.num_bytes).items()},
    "collectives": {
      f"{kind} {of}": [count, size / 1e9]
      for (kind, of), (count, size) in costs.collectives().items()
    },
    "roof_ms": 1000 * roof,
    "causes_ms": {
      f"{k}_ms": 1000 * v
      for k, v in by_cause(lambda kernel: kernel.seconds(peak, target.bandwidth)).items()
    },
    "best_share": flops / peak / roof if roof else 0.0,
  }
  if target.clock and costs.cycles:
    found["share_by_cycles"] = flops / peak / (costs.cycles / target.clock)
  return found


def compile_mesh(name: str, out: Path) -> None:
  """Compiles all programs of one target and mesh, each on disk before the next."""
  target, _, sizes = name.partition(":")
  of_axes = [int(size) for size in sizes.split("x")]
  for program, build in programs(TARGETS[target], of_axes, _SHAPES.value).items():
    if not re.search(_PROGRAMS.value, program):
      continue
    row: dict[str, Any] = {"target": target, "mesh": sizes, "program": program}
    try:
      row |= {"compiles": True} | compile_row(TARGETS[target], build())
    except Exception as error:  # whatever it is, the next one is tried
      row |= {"compiles": False, "error": f"{type(error).__name__}: {str(error)[:3000]}"}
    append(out, row)


def append(out: Path, row: dict[str, Any]) -> None:
  """Adds a row to the file."""
  with open(out / "rows.jsonl", "a") as file:
    file.write(json.dumps(row) + "\n")
  print(next(table([row])), flush=True)


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
  """A line for each program."""
  for row in rows:
    head = f"{row['target']:5}{row['mesh']:4} {row['program']:44}"
    if not row["compiles"]:
      yield f"{head} does not compile: {row['error'].splitlines()[0][:150]}"
      continue
    parts = []
    for name, value in row.items():
      if isinstance(value, float):
        parts.append(f"{name}={value:.3g}")
      elif isinstance(value, dict):
        parts += [f"{key}={_numbers(x)}" for key, x in value.items()]
      elif name == "fits":
        parts += [] if value else ["DOES NOT FIT"]
    yield f"{head} {' '.join(parts)}"


def _numbers(value: Any) -> str:
  return "/".join(f"{x:.3g}" for x in (value if isinstance(value, list) else [value]))


def main(_) -> None:
  """Compiles for each target and mesh in a process of its own, and prints the table."""
  out = Path(str(_OUT.value))
  out.mkdir(parents=True, exist_ok=True)
  if _CHILD.value:
    compile_mesh(_CHILD.value, out)
    return
  for target in _TARGETS.value:
    for mesh in _MESHES.value:
      command = [sys.executable, "-m", "benchmarks.accelerators", f"--results={out}"]
      command += [f"--child={target}:{mesh}", f"--programs={_PROGRAMS.value}"]
      command += [f"--shapes={','.join(_SHAPES.value)}"]
      done = subprocess.run(command, env=os.environ | compile_environment())
      if done.returncode:
        row = {"target": target, "mesh": mesh, "program": "(all that is missing)"}
        append(out, row | {"compiles": False, "error": f"exit status {done.returncode}"})
  lines = (out / "rows.jsonl").read_text().splitlines()
  text = "compiled, not measured\n" + "\n".join(table([json.loads(line) for line in lines]))
  (out / "table.txt").write_text(text + "\n")


if __name__ == "__main__":
  flags.mark_flag_as_required("results")
  app.run(main)
