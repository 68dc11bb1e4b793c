"""Exact pruning, beside the published procedure, on the same real chains in one sitting.

    python -m benchmarks.prune_speed --chains=FILE[,FILE...] [--sizes=40,90,115,280]

(a) published: for every candidate a full forward pass over prompt, reasoning and answer, in
batches, with transformers and PyTorch, in the faster of float32 and bfloat16 here. It is spared
what a careful user would spare it: logits are made only where a target is scored.
(b) ours: `pruning.search` on the same weights in the same dtype, in a process of its own
(`prune_ours`), so that its peak memory can be told; loading and compiling are not timed.

For each size N the chains whose reasonings are nearest to N tokens are taken: one, or `--together`
of them, which ours searches in one batch, as jobs do with short chains, and the published side one
after the other. Ours makes one deletion, which is not timed since nothing is known before it, and
some more; the published side makes the same ones, from the text that the first has left. Where that
dtype is bfloat16, both sides also make `--checked` deletions in float32; the last column tells
whether they deleted the same tokens, which in float32 they must.
The peak is that of a large product in XLA in the dtype that was timed,
measured before and after. Times are of this machine on this day; the ratios are what to quote.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from absl import app, flags

from benchmarks.chains import batches_of_sizes
from benchmarks.peak import matmul_peak
from benchmarks.published import Published
from greedy_prune_jax.chains.segments import Segments
from greedy_prune_jax.jobs.entry import keep_compilations
from greedy_prune_jax.models.hf_export import save_huggingface
from greedy_prune_jax.models.pretrained import load_model, load_tokenizer
from greedy_prune_jax.pruning.cost import positions_flops
from greedy_prune_jax.scoring.objectives import OBJECTIVES, Objective

_CHAINS = flags.DEFINE_list("chains", None, "Files of chains.", required=True)
_SIZES = flags.DEFINE_list("sizes", ["40", "90", "115", "280"], "Reasoning tokens.")
_MODEL = flags.DEFINE_string("model", "smollm2-135m-instruct", "The pruner.")
_SECONDS = flags.DEFINE_float("seconds", 40.0, "How long a side should take for each row, about.")
_TOGETHER = flags.DEFINE_integer("together", 1, "Chains of each size, searched in one batch.")
_CANDIDATES = flags.DEFINE_integer(
  "candidates", 0, "Candidates of a step that the published side is timed on; 0: all of them."
)
_SEQUENCE = flags.DEFINE_integer(
  "sequence", 1, "CPU devices that share the positions of our side's chains: `mesh.sequence`."
)
_CHECKED = flags.DEFINE_integer("checked", 1, "Deletions that both sides also make in float32.")
_HEADER = """\
                     published          ours                        of GFLOP/s memory  same
    N    P   A  objective s/step positions   s/step positions  ratio   peak   peak     GB  tokens"""


@dataclasses.dataclass(frozen=True)
class Ours:
  """Measures of our search, from a process of its own."""

  deleted: list[list[int]]  # positions of each chain
  seconds: float
  positions: int  # that went through the model for these deletions
  memory: float  # GB that the process took at most, weights and compilation included


def ours(
  name: str, dtype: str, chains: Sequence[Segments], objective: Objective, deletions: int
) -> Ours:
  """Runs our search in a fresh process; see `prune_ours`."""
  parts = [
    {part: getattr(chain, part).tolist() for part in ("prompt", "reasoning", "answer")}
    for chain in chains
  ]
  asked = {"model": name, "dtype": dtype, "objective": objective, "deletions": deletions}
  asked["sequence"] = _SEQUENCE.value
  command = [sys.executable, "-m", "benchmarks.prune_ours"]
  done = subprocess.run(
    command,
    input=json.dumps(asked | {"chains": parts}),
    text=True,
    capture_output=True,
    env=os.environ | {"JAX_NUM_CPU_DEVICES": str(_SEQUENCE.value)},
  )
  if done.returncode:
    raise SystemExit(f"our side failed:\n{done.stderr}")
  return Ours(**json.loads(done.stdout))


def theirs(
  published: Published,
  chains: Sequence[Segments],
  objective: Objective,
  found: Ours,
  candidates: int = 0,
) -> tuple[bool, float]:
  """Compares the published side's deletions behind the first with ours; gives its seconds too."""
  same, seconds = True, 0.0
  for chain, (first, *others) in zip(chains, found.deleted, strict=True):
    deleted, took = published.delete(chain, objective, len(others), candidates, [first])
    same, seconds = same and deleted == others, seconds + took
  return same, seconds


def load_published(folder: str, segments: Segments) -> dict[str, Published]:
  """The published side in both dtypes, the one that is faster on this machine first."""
  timed = []
  for name in ("float32", "bfloat16"):
    model: Any = transformers.AutoModelForCausalLM
    side = Published(model.from_pretrained(folder, dtype=getattr(torch, name)).eval())
    part = np.tile(segments.reasoning, (side.batch, 1))
    seconds = []
    for _ in range(3):
      started = time.perf_counter()
      side.nlls(segments, part, "joint")
      seconds.append(time.perf_counter() - started)
    timed.append((min(seconds), name, side))
    print(f"published in {name}: {part.size / min(seconds):.0f} reasoning positions/s")
  return {name: side for _, name, side in sorted(timed, key=lambda x: x[0])}


def main(_) -> None:
  """Runs both sides and prints the table."""
  keep_compilations()
  sizes = [int(size) for size in _SIZES.value]
  tokenizer = load_tokenizer(_MODEL.value)
  batches = batches_of_sizes(tokenizer, _CHAINS.value, sizes, _TOGETHER.value)
  model = load_model(_MODEL.value, jnp.float32)
  config = model.config
  with tempfile.TemporaryDirectory() as folder:
    save_huggingface(model, tokenizer, folder)
    sides = load_published(folder, batches[0][0])
  del model
  dtype, published = next(iter(sides.items()))
  print(f"{_MODEL.value}; {jax.devices()[0].device_kind}; both sides in {dtype}")
  print(_HEADER)
  for chains in batches:
    n, p, a = (
      round(float(np.mean([len(getattr(chain, name)) for chain in chains])))
      for name in ("reasoning", "prompt", "answer")
    )
    for objective in OBJECTIVES:
      one = n * (p + n - 1 + a) * len(chains)
      deletions = int(np.clip(_SECONDS.value * 1000 / one, 2, 20))
      peak = matmul_peak(jnp.dtype(dtype))
      found = ours(_MODEL.value, dtype, chains, objective, deletions)
      candidates = _CANDIDATES.value
      same, seconds = theirs(published, chains, objective, found, candidates)
      peak = max(peak, matmul_peak(jnp.dtype(dtype)))
      checked = dtype == "float32" and not 0 < candidates < n
      if not checked and _CHECKED.value:
        again = ours(_MODEL.value, "float32", chains, objective, _CHECKED.value)
        same, _ = theirs(sides["float32"], chains, objective, again)
        checked = True
      steps = deletions * len(chains)
      passes = sum(
        (len(chain.reasoning) - i) * (len(chain) - i - 1)
        for chain in chains
        for i in range(1, deletions + 1)
      )
      scored = found.positions * (1 if objective == "joint" else min(1, 2 * a / (n + 2 * a)))
      flops = positions_flops(config, found.positions, scored, p + n)
      print(
        f"{n:5}{p:5}{a:4}  {objective:9}{seconds / steps:9.2f}{passes / steps:10.0f}"
        f"{found.seconds / steps:9.2f}{found.positions / steps:10.0f}"
        f"{seconds / found.seconds:7.2f}{flops / found.seconds / peak:8.0%}{peak / 1e9:7.0f}"
        f"{found.memory:7.2f}  {('NO', 'yes')[same] if checked else '-'}",
        flush=True,
      )


if __name__ == "__main__":
  app.run(main)
