"""Whole paths of screened search beside exact search, on the same chains.

    python -m benchmarks.screened_paths --chains=FILE[,FILE...] --sizes=41,115 --margins=1,2

For each size N the chain whose reasoning is nearest to N tokens, or `--chains_of_each` of them, is
pruned down to a keep ratio, once exactly and once by a race for each margin. *Less* is the
positions that exact search would run if it kept nothing from step to step, over those of the race,
both with their first step. Regret and ranks are those of `audit`. With `--paths=DIR` paths are kept
there as they grow: the same command goes on where it was stopped.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import cast

import jax
import jax.numpy as jnp
from absl import app, flags

from benchmarks.chains import batches_of_sizes
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.models.pretrained import load_model, load_tokenizer
from greedy_prune_jax.runs.files import make_folder, write_json
from greedy_prune_jax.scoring.objectives import OBJECTIVES, Objective
from greedy_prune_jax.search.audit import audit_report, screen_report
from greedy_prune_jax.search.capacity import choose_batching
from greedy_prune_jax.search.host import SearchSettings, prune_paths
from greedy_prune_jax.search.path import PrunePath
from greedy_prune_jax.search.screen import ScreenSettings

_CHAINS = flags.DEFINE_list("chains", None, "Files of chains.", required=True)
_SIZES = flags.DEFINE_list("sizes", ["41", "115"], "Reasoning tokens.")
_OF_EACH = flags.DEFINE_integer("chains_of_each", 1, "Chains of each size.")
_MARGINS = flags.DEFINE_list("margins", ["1", "2"], "Margins of the races, in nats.")
_KEEP = flags.DEFINE_float("keep", 0.5, "Keep ratio at which paths end.")
_OBJECTIVE = flags.DEFINE_enum("objective", "joint", OBJECTIVES, "Objective.")
_MODEL = flags.DEFINE_string("model", "smollm2-135m-instruct", "The pruner.")
_DTYPE = flags.DEFINE_string("dtype", "bfloat16", "Dtype of the weights.")
_PATHS = flags.DEFINE_string("paths", None, "Directory in which paths are kept as they grow.")
_HEADER = """\
    N margin s/deletion positions   less  regret spearman  scored  upsets"""


def positions_without_keeping(path: PrunePath) -> int:
  """Positions of exact search along a path of tokens if every step ran all suffixes anew."""
  left, num_answer = list(range(len(path.segments.reasoning))), len(path.segments.answer)
  total = 0
  for position in path.deleted:
    n, gap = len(left), left.index(position)
    total += n * (n - 1) // 2 + n * (num_answer - 1) + n - gap + num_answer
    left.remove(position)
  return total


def _walk(model: Model, path: PrunePath, settings: SearchSettings, name: str) -> PrunePath:
  """The finished path of one search, gone on with if `--paths` has its beginning."""
  if _PATHS.value is None:
    return prune_paths(model, [path], settings)[0]
  make_folder(pathlib.Path(_PATHS.value))
  kept = pathlib.Path(_PATHS.value, f"{path.digest}_{path.floor}_{name}.json")
  if kept.exists():
    path = dataclasses.replace(path, **json.loads(kept.read_text()))

  def keep(paths: Sequence[PrunePath]) -> None:
    write_json(kept, paths[0].state)

  [finished] = prune_paths(model, [path], settings, keep)
  keep([finished])
  return finished


def main(_) -> None:
  """Runs all paths and prints the table."""
  tokenizer = load_tokenizer(_MODEL.value)
  sizes = [int(size) for size in _SIZES.value]
  batches = batches_of_sizes(tokenizer, _CHAINS.value, sizes, _OF_EACH.value)
  model = load_model(_MODEL.value, jnp.dtype(_DTYPE.value))
  objective = cast(Objective, _OBJECTIVE.value)
  print(f"{_MODEL.value}, {_DTYPE.value}, {objective}; {jax.devices()[0].device_kind}")
  print(_HEADER)
  for segments in (chain for chains in batches for chain in chains):
    path = PrunePath(segments, floor=int(len(segments.reasoning) * _KEEP.value))
    sizes = choose_batching([segments], model, 1, [0.0])
    settings = SearchSettings(objective, sizes.block_positions, sizes.kept_bytes)
    exact = _walk(model, path, settings, "exact")
    work = positions_without_keeping(exact)
    for margin in map(float, _MARGINS.value):
      screened = settings._replace(screen=ScreenSettings(margin=margin))
      raced = _walk(model, path, screened, f"margin_{margin:g}")
      audit = audit_report(raced, exact, objective)
      report = screen_report(raced)
      print(
        f"{len(segments.reasoning):5}{margin:7g}{raced.seconds / raced.num_deletions:11.2f}"
        f"{raced.positions_scored / raced.num_deletions:10.0f}{work / raced.positions_scored:7.1f}"
        f"{audit['regret']:8.2%}{audit['spearman']:9.3f}{report['scored_per_step']:8.1f}"
        f"{report['upsets']:8.2f}",
        flush=True,
      )


if __name__ == "__main__":
  app.run(main)
