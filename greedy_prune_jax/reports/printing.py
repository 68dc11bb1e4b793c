"""Text of chains, replies and errors for people to read in a terminal."""

import re
import textwrap

_WIDTH = 100

# A terminal acts on control characters; marks of direction show a text in another order; some
# characters show nothing, so that two ids look alike; two break lines beside the newline. Tabs and
# newlines stay, and what joins letters and emojis.
_UNSAFE = re.compile(
  "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
  "\ud800-\udfff\U000e0001]"
)


def printable(text: str, *, one_line: bool = False, most: int = 0) -> str:
  """The text with what a terminal would act on as escapes (`\\x1b`), and shortened.

  Args:
    text: text from any source.
    one_line: escape newlines too, so that no text begins a line of its own.
    most: characters that are shown; 0 for all.
  """
  if most and len(text) > most:
    text = f"{text[:most]}... ({len(text)} characters)"
  text = _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
  return text.replace("\n", "\\n") if one_line else text


def indented(text: str) -> list[str]:
  """The text's lines behind four spaces, wrapped at 100 columns; empty ones between them stay."""
  return [
    "    " + part
    for line in text.strip("\n").split("\n")
    for part in textwrap.wrap(line, _WIDTH - 4) or [""]
  ]
