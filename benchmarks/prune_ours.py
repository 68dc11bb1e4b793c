"""Our side of `prune_speed`, in a process of its own that never imports PyTorch.

Reads a JSON object from standard input (model, dtype, objective, deletions, the CPU devices that
share positions, and the chains' token ids as prompt, reasoning, answer) and writes one to standard
output.
"""

import json
import resource
import sys
import time
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from greedy_prune_jax.chains.segments import Segments
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.parallel import SearchMeshSettings, make_mesh, weight_shardings
from greedy_prune_jax.scoring.objectives import Objective
from greedy_prune_jax.scoring.scorer import AttentionKind
from greedy_prune_jax.search.capacity import choose_batching
from greedy_prune_jax.search.host import SearchSettings, prune_paths
from greedy_prune_jax.search.path import PrunePath


def settings_for(
  model: Model,
  chains: Sequence[Segments],
  objective: Objective,
  attention: AttentionKind = "xla",
) -> SearchSettings:
  """An exact search on one batch of chains, in blocks that suit the device."""
  sizes = choose_batching(chains, model, len(chains), [0.0] * len(chains))
  return SearchSettings(objective, sizes.block_positions, sizes.kept_bytes, attention=attention)


def delete(
  model: Model, chains: Sequence[Segments], deletions: int, settings: SearchSettings
) -> dict[str, object]:
  """Deletes from whole texts; the first deletion, which knows nothing yet, is not timed."""
  at: list[tuple[float, list[PrunePath]]] = []
  whole = [PrunePath(chain, floor=len(chain.reasoning) - deletions - 1) for chain in chains]
  every = settings._replace(seconds_between_reports=0.0)
  prune_paths(model, whole, every, lambda paths: at.append((time.monotonic(), list(paths))))
  (started, first), (ended, last) = at[0], at[-1]
  return {
    "deleted": [path.deleted for path in last],
    "seconds": ended - started,
    "positions": sum(path.positions_scored for path in last)
    - sum(path.positions_scored for path in first),
  }


def main() -> None:
  """Deletes as often as asked, a second time once everything is compiled."""
  asked = json.load(sys.stdin)
  # Here, so that `on_device` needs neither ml_collections nor gguf.
  from greedy_prune_jax.jobs.entry import keep_compilations
  from greedy_prune_jax.models.pretrained import load_model

  keep_compilations()
  mesh = make_mesh(SearchMeshSettings(data=1, sequence=asked["sequence"], model=1))
  dtype, shardings = jnp.dtype(asked["dtype"]), weight_shardings(mesh)
  model = load_model(asked["model"], dtype, shardings=shardings)
  chains = [
    Segments(*(np.asarray(chain[x], np.int32) for x in ("prompt", "reasoning", "answer")))
    for chain in asked["chains"]
  ]
  settings = settings_for(model, chains, asked["objective"])
  delete(model, chains, 1, settings)  # compiles
  found = delete(model, chains, asked["deletions"], settings)
  found["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
  json.dump(found, sys.stdout)


if __name__ == "__main__":
  main()
