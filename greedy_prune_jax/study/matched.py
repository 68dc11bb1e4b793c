"""Arms at equal written length: accuracy as a function of the tokens that students write.

A keep ratio is what students are trained on, not what they write. So for each arm and seed the
accuracies of its students are interpolated, linearly in the tokens that they write on average, and
arms are compared at lengths that all of them reach. Students of whole chains end every arm's curve.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from greedy_prune_jax.reports.intervals import Difference, paired_difference
from greedy_prune_jax.reports.tables import Cell
from greedy_prune_jax.study.answers import Answers
from greedy_prune_jax.study.settings import ANSWER_ONLY, NO_PRUNING

NUM_LENGTHS = 4  # of the grid on which arms are compared
_AREA_STEPS = 101  # lengths over which the area under a curve is a mean

AREA = "area"


def matched_rows(
  answers: Sequence[Answers], reference: str
) -> list[tuple[tuple[Cell, ...], Difference, tuple[Cell, ...]]]:
  """The reference against every other arm, at each length of a grid, and over the whole of it.

  Args:
    answers: answers of one kind of student on one test.
    reference: an arm with several keep ratios, or none that curves are made of.

  Returns:
    For each comparison: the other arm and the length, or `AREA` and the range; the difference; the
    two accuracies, seeds, questions. Arms of one length have no curve and are left out.
  """
  arms: dict[str, list[Answers]] = {}
  for cell in answers:
    arms.setdefault(cell.condition.arm, []).append(cell)
  whole = arms.pop(NO_PRUNING, [])
  arms.pop(ANSWER_ONLY, None)
  curves = {arm: [*cells, *whole] for arm, cells in arms.items() if len(cells) > 1}
  if reference not in curves or len(curves) < 2:
    return []
  every = [set(cell.seeds) for cells in curves.values() for cell in cells]
  seeds = sorted(set.intersection(*every))
  if not seeds:
    return []
  curves = {arm: [cell.of_seeds(seeds) for cell in cells] for arm, cells in curves.items()}
  low, high = common_range(curves)
  if low >= high:
    return []
  grid = np.linspace(low, high, NUM_LENGTHS)
  mine = at_lengths(curves[reference], grid), area(curves[reference], low, high)
  rows = []
  for arm in curves:
    if arm == reference:
      continue
    theirs = at_lengths(curves[arm], grid), area(curves[arm], low, high)
    places: list[tuple[Cell, Float[np.ndarray, "S Q"], Float[np.ndarray, "S Q"]]] = [
      (f"{length:.1f}", one, other)
      for length, one, other in zip(grid, mine[0], theirs[0], strict=True)
    ]
    places.append((f"{AREA} {low:.1f} to {high:.1f}", mine[1], theirs[1]))
    for place, one, other in places:
      tail = float(one.mean()), float(other.mean()), len(seeds), one.shape[1]
      rows.append(((arm, place), paired_difference(one, other), tail))
  return rows


def common_range(curves: Mapping[str, Sequence[Answers]]) -> tuple[float, float]:
  """The written lengths that every arm reaches with every seed."""
  tokens = [np.array([cell.tokens.mean(axis=1) for cell in cells]) for cells in curves.values()]
  return (
    max(float(t.min(axis=0).max()) for t in tokens),
    min(float(t.max(axis=0).min()) for t in tokens),
  )


def at_lengths(
  cells: Sequence[Answers], lengths: Float[np.ndarray, "G"]
) -> Float[np.ndarray, "G S Q"]:
  """Right answers of an arm at written lengths, by seed and question.

  Interpolated between the two students of a seed whose mean lengths are nearest, question by
  question, so that the mean over questions is the interpolated accuracy.
  """
  found = []
  for seed in range(len(cells[0].seeds)):
    tokens = np.array([cell.tokens[seed].mean() for cell in cells])
    order = np.argsort(tokens, kind="stable")
    knots = tokens[order]
    # Weights of the students at each length: interpolation of the unit vectors.
    weights = np.array([np.interp(lengths, knots, row) for row in np.eye(len(cells))])  # [K, G]
    correct = np.array([cells[k].correct[seed] for k in order])  # [K, Q]
    found.append(weights.T @ correct)
  return np.stack(found, axis=1)


def area(cells: Sequence[Answers], low: float, high: float) -> Float[np.ndarray, "S Q"]:
  """Mean of an arm's curve between two lengths, by seed and question."""
  return at_lengths(cells, np.linspace(low, high, _AREA_STEPS)).mean(axis=0)
