"""Arms at equal written length: accuracy as a function of the tokens that students write.

A keep ratio is what students are trained on, not what they write. So for each arm and seed the
accuracies of its students are interpolated, linearly in the tokens that they write on average, and
two arms are compared at lengths that both reach. Students of whole chains are on no arm's curve:
beyond an arm's longest students it would tend to them, which are the same for every arm.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from greedy_prune_jax.reports.intervals import LEAST_SEEDS, Difference, trained_difference
from greedy_prune_jax.reports.tables import Cell
from greedy_prune_jax.study.answers import Answers
from greedy_prune_jax.study.settings import ANSWER_ONLY, NO_PRUNING

NUM_LENGTHS = 4  # of the grid on which arms are compared
_AREA_STEPS = 101  # lengths over which the area under a curve is a mean

AREA = "area"


def matched_rows(
  answers: Sequence[Answers], reference: str
) -> tuple[list[tuple[tuple[Cell, ...], Difference, tuple[Cell, ...]]], dict[str, str]]:
  """The reference against every other arm, at each length of a grid, and over the whole of it.

  Args:
    answers: answers of one kind of student on one test.
    reference: an arm with several keep ratios, or none that curves are made of.

  Returns:
    For each comparison: the other arm and the length, or `AREA` and the range; the difference; the
    two accuracies, seeds, questions. And, by arm, why the others are left out.
  """
  arms: dict[str, list[Answers]] = {}
  for cell in answers:
    arms.setdefault(cell.condition.arm, []).append(cell)
  for end in (NO_PRUNING, ANSWER_ONLY):
    arms.pop(end, None)
  mine = arms.pop(reference, [])
  rows, left_out = [], {}
  for arm, cells in arms.items():
    pair = _of_common_seeds(mine, cells)
    if pair is None:
      left_out[arm] = f"it or {reference} has no two keep ratios with a seed in common"
      continue
    low, high = common_range(pair)
    if low >= high:
      left_out[arm] = (
        f"one of the two writes {high:.1f} tokens at most, the other {low:.1f} or more"
      )
      continue
    grid = np.linspace(low, high, NUM_LENGTHS)
    at_grid = (at_lengths(curve, grid) for curve in pair)
    places: list[tuple[Cell, Float[np.ndarray, "S Q"], Float[np.ndarray, "S Q"]]] = [
      (f"{length:.1f}", one, other) for length, one, other in zip(grid, *at_grid, strict=True)
    ]
    one, other = (area(curve, low, high) for curve in pair)
    places.append((f"{AREA} {low:.1f} to {high:.1f}", one, other))
    for place, one, other in places:
      tail = float(one.mean()), float(other.mean()), *one.shape
      rows.append(((arm, place), trained_difference(one, other), tail))
  return rows, left_out


def _of_common_seeds(
  ones: Sequence[Answers], others: Sequence[Answers]
) -> tuple[list[Answers], list[Answers]] | None:
  """Two arms' curves on the seeds that they have in common, without what lacks one of these.

  A keep ratio of which only some students are done would else leave no arm more seeds than it has.
  Of the seeds that a keep ratio of each has in common, those with most students are taken, two or
  more if there are as many.

  Args:
    ones: answers of one arm, a keep ratio each.
    others: answers of the other arm.

  Returns:
    None where one of them has no two keep ratios.
  """
  found, most = None, (False, 0)
  for shared in dict.fromkeys(
    tuple(seed for seed in one.seeds if seed in other.seeds) for one in ones for other in others
  ):
    one, other = (
      [cell.of_seeds(shared) for cell in cells if set(shared) <= set(cell.seeds)]
      for cells in (ones, others)
    )
    size = len(shared) >= LEAST_SEEDS, len(shared) * len([*one, *other])
    if len(one) > 1 and len(other) > 1 and size > most:
      found, most = (one, other), size
  return found


def common_range(curves: Sequence[Sequence[Answers]]) -> tuple[float, float]:
  """The written lengths that every curve reaches with every seed."""
  tokens = [np.array([cell.tokens.mean(axis=1) for cell in cells]) for cells in curves]
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
