"""Arms at equal written length: against curves that are known."""

import numpy as np
import pytest

from greedy_prune_jax.study.answers import Answers
from greedy_prune_jax.study.matched import area, at_lengths, common_range, matched_rows
from greedy_prune_jax.study.plan import Condition


def cell(arm, ratio, tokens, correct, seeds=None):
  """Students that write so many tokens and are so often right, a seed each, of 400 questions."""
  right = np.array([[float(q < round(400 * share)) for q in range(400)] for share in correct])
  written = np.repeat(np.array(tokens, float)[:, None], 400, axis=1)
  seeds = tuple(range(len(tokens))) if seeds is None else seeds
  return Answers(Condition("tiny", arm, ratio), "sums", seeds, right, written, 0.0, 0.0, 0.0)


WHOLE = cell("no_pruning", 1.0, [40, 44], [0.9, 0.8])


def line(arm, slope, lengths=(10, 20, 30)):
  """An arm whose accuracy is the slope times the written length; the seeds write unequally much."""
  return [cell(arm, n / 40, [n, n + 2], [slope * n, slope * (n + 2)]) for n in lengths]


def test_accuracy_is_interpolated_seed_by_seed():
  cells = line("a", 0.025)
  found = at_lengths(cells, np.array([12.0, 15, 22, 28]))
  assert found.shape == (4, 2, 400)
  expected = 0.025 * np.array([12, 15, 22, 28])
  np.testing.assert_allclose(found[:, 0].mean(axis=-1), expected)
  np.testing.assert_allclose(found[:, 1].mean(axis=-1), expected)


def test_the_order_of_the_ratios_does_not_matter():
  cells = line("a", 0.025)
  lengths = np.array([13.0, 27])
  np.testing.assert_array_equal(at_lengths(cells, lengths), at_lengths(cells[::-1], lengths))


def test_the_area_is_the_mean_of_the_curve():
  np.testing.assert_allclose(area(line("a", 0.025), 12, 30).mean(axis=1), 0.025 * 21)


def test_only_lengths_that_both_arms_reach_with_all_seeds_are_compared():
  curves = [line("a", 0.02), line("b", 0.02, (15, 28))]
  assert common_range(curves) == (17, 28)


def test_an_arm_that_is_right_more_often_at_equal_length_but_not_at_equal_ratio():
  """The second arm's students write twice as much at each ratio, and no more is gained by it."""
  lean, wordy = line("lean", 0.02, (10, 30)), line("wordy", 0.015, (20, 40))
  assert wordy[0].correct.mean() > lean[0].correct.mean()
  rows, _ = matched_rows([*lean, *wordy, WHOLE], "lean")
  assert [head[0] for head, _, _ in rows] == ["wordy"] * 5
  lengths = [float(head[1]) for head, _, _ in rows[:-1]]
  assert (lengths[0], lengths[-1]) == (22, 30)
  _, difference, (mine, theirs, seeds, questions) = rows[0]
  assert difference.difference == pytest.approx(mine - theirs)
  assert mine > theirs == pytest.approx(0.015 * 22)
  assert (seeds, questions) == (2, 400)
  assert rows[-1][0][1] == "area 22.0 to 30.0"
  assert rows[-1][1].difference > 0


def test_students_of_whole_chains_lengthen_no_curve():
  """Between an arm's longest students and whole chains a curve would be theirs, not the arm's."""
  arms = [*line("a", 0.02), *line("b", 0.01, (10, 24))]
  rows, _ = matched_rows([*arms, WHOLE], "a")
  assert [head[1] for head, _, _ in rows] == ["12.0", "16.0", "20.0", "24.0", "area 12.0 to 24.0"]
  assert rows == matched_rows(arms, "a")[0]


def test_seeds_that_one_arm_lacks_are_left_out():
  one = [cell("a", 0.5, [10, 10, 10], [0, 0, 1]), cell("a", 0.7, [20, 20, 20], [0, 0, 1])]
  other = [cell("b", r, [n, n], [1, 0], (2, 0)) for r, n in ((0.5, 10), (0.7, 20))]
  rows, _ = matched_rows([*one, *other], "a")
  assert all(tail == (0.5, 0.5, 2, 400) for _, _, tail in rows)


def test_a_half_done_condition_leaves_all_arms_their_seeds():
  half = cell("b", 0.9, [35], [0.9])  # of its two seeds one is done
  whole = cell("no_pruning", 1.0, [40], [0.9])
  done = [*line("a", 0.02), *line("b", 0.01), *line("c", 0.01)]
  expected = matched_rows(done, "a")
  assert {tail[2] for *_, tail in expected[0]} == {2}
  assert matched_rows([*done, half, whole], "a") == expected


def test_two_seeds_come_before_more_students_of_one():
  few = {arm: line(arm, slope, (10, 28)) for arm, slope in (("a", 0.02), ("b", 0.015))}
  alone = [
    cell(arm, n / 40, [n], [0.01 * n], seeds=(0,)) for arm in ("a", "b") for n in (14, 18, 22)
  ]
  rows, _ = matched_rows([*few["a"], *few["b"], *alone, WHOLE], "a")
  assert {seeds for _, _, (_, _, seeds, _) in rows} == {2}


def test_seeds_of_one_pair_are_not_taken_from_another():
  few = [cell("b", r, [n], [0.5], (1,)) for r, n in ((0.3, 12), (0.7, 32))]
  rows, _ = matched_rows([*line("a", 0.02), *few, *line("c", 0.01)], "a")
  assert {(arm, tail[2]) for (arm, _), _, tail in rows} == {("b", 1), ("c", 2)}
  for (arm, _), difference, _ in rows:
    assert np.isnan(difference[1:]).all() == (arm == "b"), "nothing tells how much seeds matter"
  assert not any(np.isnan(difference.difference) for _, difference, _ in rows)


def test_arms_that_cannot_be_compared_are_named_and_leave_the_others_their_rows():
  """Students of one arm never stop: they write ten times as much as all others."""
  done = [*line("a", 0.02), *line("b", 0.01), *line("c", 0.01, (20, 24))]
  rows, left_out = matched_rows(done, "a")
  assert {head for head, _, _ in rows} >= {("b", "area 12.0 to 30.0"), ("c", "area 22.0 to 24.0")}
  assert left_out == {}
  lone, endless = cell("d", 0.5, [9, 9], [0, 0]), line("e", 0.001, (300, 310))
  found = matched_rows([*done, lone, *endless], "a")
  assert found == (
    rows,
    {
      "d": "it or a has no two keep ratios with a seed in common",
      "e": "one of the two writes 30.0 tokens at most, the other 302.0 or more",
    },
  )


def test_without_a_curve_there_is_nothing_to_compare():
  assert matched_rows([*line("a", 0.02), cell("b", 0.5, [9, 9], [0, 0])], "a")[0] == []
  assert matched_rows(line("a", 0.02), "a") == ([], {})
  assert matched_rows([*line("a", 0.02), *line("b", 0.02)], "c")[0] == []
