from greedy_prune_jax.drp.summary import compare_borders


def test_borders_within_and_white_space_aside():
  pairs = [
    (["a b ", "c ", "d"], ["a b", " c d"]),  # one of two
    (["e ", "f"], ["e f"]),  # none of one
    (["g h", " i"], ["g ", "h ", "i"]),
    (["\n", "j"], ["\n", "j", " "]),  # none at the ends
  ]
  assert compare_borders(pairs) == (4, 3, 2)
