"""The progress bar of a search: work done and left in token positions, which is what takes time."""

import sys
from collections.abc import Callable, Mapping

from tqdm import tqdm

from greedy_prune_jax.search.path import PrunePath

_SECONDS_BETWEEN_LINES = 30.0  # where the bar cannot be redrawn in place, as in a log file


class Progress:
  """Shows chains done, deletions and positions per second, and the time left.

  What an earlier run had done counts as done, and not in the rates.
  """

  def __init__(
    self,
    paths: Mapping[str, PrunePath],
    num_finished: int,
    expected_positions: Callable[[PrunePath], int],
  ):
    """Starts the bar.

    Args:
      paths: all that are to be finished, by chain id.
      num_finished: chains that were finished before.
      expected_positions: token positions that a path takes, from the whole chain to its floor.
    """
    self._paths = dict(paths)
    self._num_finished = num_finished
    self._deletions_before = sum(path.num_deletions for path in paths.values())
    positions_before = sum(path.positions_scored for path in paths.values())
    self._expected = {name: expected_positions(path) for name, path in paths.items()}
    self._bar = tqdm(
      initial=positions_before,
      total=max(sum(self._expected.values()), positions_before),
      unit="pos",
      unit_scale=True,
      miniters=1,
      mininterval=0.1 if sys.stderr.isatty() else _SECONDS_BETWEEN_LINES,
    )
    self.update({})

  def __enter__(self) -> "Progress":
    return self

  def __exit__(self, *_) -> None:
    self._bar.close()

  def update(self, longer: Mapping[str, PrunePath]) -> None:
    """Counts the gain of paths that have grown; those of other ids (audits) do not count."""
    self._paths |= {name: path for name, path in longer.items() if name in self._paths}
    paths = self._paths.values()
    deletions = sum(path.num_deletions for path in paths) - self._deletions_before
    rate = deletions / max(self._bar.format_dict["elapsed"], 1e-3)
    finished = self._num_finished + sum(path.finished for path in paths)
    num_chains = self._num_finished + len(paths)
    self._bar.set_description(f"{finished}/{num_chains} chains", refresh=False)
    self._bar.set_postfix_str(f"{rate:.2f} deletions/s", refresh=False)
    # A chain that stopped early, where a likelihood was not finite, has no work left.
    self._bar.total = sum(
      path.positions_scored if path.finished else self._expected[name]
      for name, path in self._paths.items()
    )
    self._bar.update(sum(path.positions_scored for path in paths) - self._bar.n)
