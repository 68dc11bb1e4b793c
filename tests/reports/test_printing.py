"""Text as it is printed for people to read."""

from greedy_prune_jax.reports.printing import indented


def test_lines_stay_and_long_ones_are_wrapped_between_words():
  words = " ".join(["notebook", *["pencils"] * 19])  # 12 words fill the first line
  first, second, empty, third = indented(f"{words}\n\n  two  spaces")
  assert len(first) == 100
  assert first.split() + second.split() == words.split()
  assert first.startswith("    n")
  assert second.startswith("    p")
  assert empty == "    "
  assert third == "      two  spaces"


def test_empty_text_is_an_empty_line():
  assert indented("") == ["    "]
