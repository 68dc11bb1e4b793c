"""Reading a pruned text back: which tokens of the reasoning are left in it."""

import difflib
import re
from collections.abc import Iterable, Sequence

from greedy_prune_jax.errors import UserError

_SHOWN = 30  # characters of a text that a message quotes
_LEFTOVER = "\N{REPLACEMENT CHARACTER}"


def spell_kept(tokens: Sequence[str], kept: Iterable[int]) -> str:
  """The text of the tokens that are kept, in their order.

  A character of several tokens appears only where all of them are kept. Each token of a broken
  character becomes one U+FFFD, so that no two join to a character that nobody wrote.

  Args:
    tokens: texts of the reasoning tokens, as `token_texts` gives them.
    kept: positions, ascending.
  """
  there, parts = set(kept), []
  for group in _characters(tokens):
    left = [position for position in group if position in there]
    whole = len(left) == len(group)
    parts.append(tokens[group[-1]] if whole else _LEFTOVER * len(left))
  return "".join(parts)


def is_torn(tokens: Sequence[str], kept: Iterable[int]) -> bool:
  """Tells whether only some tokens of a character are kept, which no text can spell."""
  there = set(kept)
  return any(len({position in there for position in group}) > 1 for group in _characters(tokens))


def kept_positions(tokens: Sequence[str], kept_text: str) -> list[int]:
  """Positions of the reasoning tokens that make up a kept text, ascending.

  Where several choices give the same text (one of two equal words was kept, say) the earliest
  tokens are taken. Tokens without a text, the first bytes of a character that the token behind them
  completes, are kept with that token. A kept text may lack the space that its first token begins
  with, as SentencePiece tokenizers write it.

  Args:
    tokens: texts of the reasoning tokens, as `token_texts` gives them.
    kept_text: some of them, in their order.

  Raises:
    UserError: it is not made of such tokens; the message says from where on.
  """
  groups = _characters(tokens)
  for text in (kept_text, " " + kept_text):
    chosen = _choose(["".join(tokens[i] for i in group) for group in groups], text)
    if chosen is not None:
      return [position for group in chosen for position in groups[group]]
  reached = _longest_prefix(["".join(tokens[i] for i in group) for group in groups], kept_text)
  raise UserError(
    f"the kept text is not what deleting tokens leaves of this reasoning: no tokens give "
    f"{kept_text[reached : reached + _SHOWN]!r}, from its character {reached} on; expected the "
    f"text of the same chain, pruned with the same tokenizer"
  )


def nearest_positions(tokens: Sequence[str], text: str) -> list[int]:
  """Positions of the reasoning tokens that a text has kept, as far as it has, ascending.

  Accepts texts of a writer who was asked to delete and may have changed more. Where the text is
  made of tokens, `kept_positions` finds them. Else words and signs are matched in their order,
  and a token is kept if more than half of its characters are in matched ones, white space alone if
  the token before it is.
  """
  try:
    return kept_positions(tokens, text)
  except UserError:
    pass
  reasoning = "".join(tokens)
  ours, theirs = (list(re.finditer(r"\w+|[^\w\s]", whole)) for whole in (reasoning, text))
  matcher = difflib.SequenceMatcher(None, [m[0] for m in ours], [m[0] for m in theirs], False)
  matched = {
    place
    for block in matcher.get_matching_blocks()
    for word in ours[block.a : block.a + block.size]
    for place in range(*word.span())
  }
  kept, end, before = [], 0, False
  for position, token in enumerate(tokens):
    places = [end + i for i, character in enumerate(token) if not character.isspace()]
    if places:
      before = 2 * sum(place in matched for place in places) > len(places)
    if before:
      kept.append(position)
    end += len(token)
  return kept


def _characters(tokens: Sequence[str]) -> list[list[int]]:
  """Positions of tokens that belong together: those without a text, and the next that has one."""
  groups, group = [], []
  for position, token in enumerate(tokens):
    group.append(position)
    if token:
      groups.append(group)
      group = []
  return [*groups, group] if group else groups


def _choose(parts: Sequence[str], text: str) -> list[int] | None:
  """The earliest parts that make up the text; None if none do."""
  # starts[i]: places from which parts i and later can make up the rest of the text.
  starts = [{len(text)}]
  for part in reversed(parts):
    behind = starts[-1]
    starts.append(behind | {end - len(part) for end in behind if text.endswith(part, 0, end)})
  starts.reverse()
  if 0 not in starts[0]:
    return None
  chosen, place = [], 0
  for i, part in enumerate(parts):
    if text.startswith(part, place) and place + len(part) in starts[i + 1]:
      chosen.append(i)
      place += len(part)
  return chosen


def _longest_prefix(parts: Sequence[str], text: str) -> int:
  """Characters of the text, from its beginning, that some of the parts make up."""
  ends = {0}
  for part in parts:
    ends |= {end + len(part) for end in ends if text.startswith(part, end)}
  return max(ends)
