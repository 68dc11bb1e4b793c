"""Layers of several kinds: how they are grouped, and that no group pays for another's."""

import pytest

from greedy_prune_jax.models.layer_scan import LayerGroup, layer_groups


def _kinds(letters):
  return tuple((letter,) for letter in letters)


@pytest.mark.parametrize(
  ("kinds", "groups"),
  [
    ("aaaa", [(0, "a", 4)]),
    ("abababab", [(0, "ab", 4)]),
    ("abbb", [(0, "a", 1), (1, "b", 3)]),
    ("aabaabaa", [(0, "aab", 2), (6, "a", 2)]),
    ("abc", [(0, "a", 1), (1, "b", 1), (2, "c", 1)]),
  ],
)
def test_groups_are_the_longest_that_repeat(kinds, groups):
  expected = [LayerGroup(first, _kinds(period), repeats) for first, period, repeats in groups]
  assert layer_groups(_kinds(kinds)) == expected
  assert sum(group.num_layers for group in expected) == len(kinds)
