"""Text of chains for people to read in a terminal."""

import textwrap

_WIDTH = 100


def indented(text: str) -> list[str]:
  """The text's lines behind four spaces, wrapped at 100 columns; empty ones between them stay."""
  return [
    "    " + part
    for line in text.strip("\n").split("\n")
    for part in textwrap.wrap(line, _WIDTH - 4) or [""]
  ]
