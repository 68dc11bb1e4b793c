"""Screened search beside exact search, on the same chains in one sitting.

    python -m benchmarks.screened_speed --chains=FILE[,FILE...] [--sizes=115,280,1000] \
      [--exact_keeps=False]

For each size N the chain whose reasoning is nearest to N tokens is taken. Screened search makes
`--deletions` deletions from the whole chain, the estimates of all units that it begins with
included. Exact search makes one deletion from the shortest chain and, from the others, as many as
`--seconds` allow at the speed that this told (from the second on they take less work than the
first, which knows nothing yet, unless it is told to keep nothing); where even one would take
longer, its time is that of its FLOPs at that speed, and the row says so. Compiling is not timed.
The ratio is of seconds a deletion; the last columns say how many deletions both made alike, how
many units screened search scored exactly at each, and how far estimates were from exact scores.

What a missed deletion costs is told by audits: `--config.audit=N` of the prune job.
"""

import resource
from typing import cast

import jax
import jax.numpy as jnp
from absl import app, flags

from benchmarks.chains import chains_of_sizes
from greedy_prune_jax.chains.segments import Segments
from greedy_prune_jax.jobs.entry import keep_compilations
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.models.pretrained import load_model, load_tokenizer
from greedy_prune_jax.pruning.cost import positions_flops
from greedy_prune_jax.scoring.objectives import OBJECTIVES, Objective
from greedy_prune_jax.search.audit import screen_report
from greedy_prune_jax.search.capacity import choose_batching
from greedy_prune_jax.search.host import SearchSettings, prune_paths
from greedy_prune_jax.search.path import PrunePath
from greedy_prune_jax.search.screen import ScreenSettings
from greedy_prune_jax.search.work import first_step_positions

_CHAINS = flags.DEFINE_list("chains", None, "Files of chains.", required=True)
_SIZES = flags.DEFINE_list("sizes", ["115", "280", "1000"], "Reasoning tokens.")
_OBJECTIVES = flags.DEFINE_list("objectives", list(OBJECTIVES), "What is kept likely.")
_MODEL = flags.DEFINE_string("model", "smollm2-135m-instruct", "The pruner.")
_DTYPE = flags.DEFINE_string("dtype", "float32", "Of the weights, on both sides.")
_DELETIONS = flags.DEFINE_integer("deletions", 8, "That screened search makes.")
_SECONDS = flags.DEFINE_float("seconds", 60.0, "How long exact search may take for each row.")
_EXACT_KEEPS = flags.DEFINE_bool(
  "exact_keeps", True, "False: exact search keeps nothing of a candidate from step to step."
)
_HEADER = """\
                       exact                screened                      same
    N    P   A  objective s/del positions     s/del positions   ratio  deletions  scored   error"""


def searched(
  model: Model, segments: Segments, deletions: int, settings: SearchSettings
) -> tuple[PrunePath, float]:
  """A path of so many deletions, and the seconds that they took once everything was compiled."""
  start = PrunePath(segments, floor=len(segments.reasoning) - deletions)
  prune_paths(model, [start], settings)  # compiles
  [path] = prune_paths(model, [start], settings)
  return path, path.seconds


def main(_) -> None:
  """Runs both searches and prints the table."""
  keep_compilations()
  tokenizer = load_tokenizer(_MODEL.value)
  chains = chains_of_sizes(tokenizer, _CHAINS.value, [int(size) for size in _SIZES.value])
  model = load_model(_MODEL.value, jnp.dtype(_DTYPE.value))
  print(f"{_MODEL.value}, {_DTYPE.value}; {jax.devices()[0].device_kind}; {ScreenSettings()}")
  print(_HEADER)
  for objective in _OBJECTIVES.value:
    speed = 0.0  # FLOPs a second of exact search; 0: not known yet
    for segments in sorted(chains, key=lambda s: len(s.reasoning)):
      n, p, a = len(segments.reasoning), len(segments.prompt), len(segments.answer)
      sizes = choose_batching([segments], model, 1, [0.0])
      # One call for all deletions: coming back to the host is no part of the search.
      settings = SearchSettings(
        cast(Objective, objective), sizes.block_positions, sizes.kept_bytes, 1e9
      )
      screen = settings._replace(screen=ScreenSettings())
      ours, seconds = searched(model, segments, _DELETIONS.value, screen)
      positions = first_step_positions(n, n, a, settings)
      work = positions_flops(model.config, positions, positions, p + n)
      if not _EXACT_KEEPS.value:
        settings = settings._replace(kept_bytes=0.0)
      affordable = 1
      if speed:
        affordable = min(_DELETIONS.value, int(_SECONDS.value * speed / work))
      if affordable:
        exact, exact_seconds = searched(model, segments, affordable, settings)
        exact_seconds /= affordable
        speed = work / exact_seconds
        pairs = zip(exact.deleted, ours.deleted, strict=False)
        note, same = "", f"{sum(x == y for x, y in pairs)} of {affordable}"
      else:
        exact_seconds, same = work / speed, "-"
        note = "  exact not run: its FLOPs at the speed above"
      seconds, report = seconds / _DELETIONS.value, screen_report(ours)
      print(
        f"{n:5}{p:5}{a:4}  {objective:9}{exact_seconds:7.2f}{positions:10.0f}{seconds:10.2f}"
        f"{ours.positions_scored / _DELETIONS.value:10.0f}{exact_seconds / seconds:8.1f}"
        f"{same:>11}{report['scored_per_step']:8.1f}{report['error']:8.4f}{note}",
        flush=True,
      )
  print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9:.2f} GB")


if __name__ == "__main__":
  app.run(main)
