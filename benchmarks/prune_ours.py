"""Our side of `prune_speed`, in a process of its own that never imports PyTorch.

Reads a JSON object from standard input (model, dtype, objective, deletions, and the chain's token
ids as prompt, reasoning, answer) and writes one to standard output.
"""

import json
import resource
import sys

import jax.numpy as jnp
import numpy as np

from greedy_prune_jax.chains.segments import Segments
from greedy_prune_jax.jobs.entry import keep_compilations
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.models.pretrained import load_model
from greedy_prune_jax.search.capacity import choose_batching
from greedy_prune_jax.search.host import PrunePath, Settings, prune_paths


def delete(
  model: Model, segments: Segments, deletions: int, settings: Settings
) -> dict[str, object]:
  """Deletes from the whole text, whose own pass is neither timed nor counted."""
  path = PrunePath(segments, floor=len(segments.reasoning))
  prune_paths(model, [path], settings)
  positions, path.seconds = path.positions_scored, 0.0
  path.floor -= deletions
  prune_paths(model, [path], settings)
  scored = path.positions_scored - positions
  return {"deleted": path.deleted, "seconds": path.seconds, "positions": scored}


def main() -> None:
  """Deletes as often as asked, a second time once everything is compiled."""
  asked = json.load(sys.stdin)
  keep_compilations()
  model = load_model(asked["model"], jnp.dtype(asked["dtype"]))
  segments = Segments(*(np.asarray(asked[x], np.int32) for x in ("prompt", "reasoning", "answer")))
  _, block_positions = choose_batching([segments], model, 1)
  settings = Settings(objective=asked["objective"], block_positions=block_positions)
  delete(model, segments, asked["deletions"], settings)  # compiles, in every bucket
  found = delete(model, segments, asked["deletions"], settings)
  found["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
  json.dump(found, sys.stdout)


if __name__ == "__main__":
  main()
