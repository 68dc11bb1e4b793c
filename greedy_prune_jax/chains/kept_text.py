"""Reading a pruned text back: which tokens of the reasoning are left in it."""

import re
from collections.abc import Iterable, Sequence

import numpy as np

from greedy_prune_jax.errors import UserError

_SHOWN = 30  # characters of a text that a message quotes
_LEFTOVER = "\N{REPLACEMENT CHARACTER}"


def spell_kept(tokens: Sequence[str], kept: Iterable[int]) -> str:
  """The text of the tokens (see `token_texts`) at the positions that are kept, in their order.

  A character of several tokens appears only where all of them are kept. Each token of a broken
  character becomes one U+FFFD, so that no two join to a character that nobody wrote.
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
  """Positions of the reasoning tokens (see `token_texts`) that make up a kept text, ascending.

  Where several choices give the same text (one of two equal words was kept, say) the earliest
  tokens are taken. Tokens without a text, the first bytes of a character that the token behind them
  completes, are kept with that token. A kept text may lack the space that its first token begins
  with, as SentencePiece tokenizers write it.

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
  made of tokens, `kept_positions` finds them. Else as many words and signs as can be are matched in
  their order, and a token is kept if more than half of its characters are in matched ones, white
  space alone if the token before it is.
  """
  try:
    return kept_positions(tokens, text)
  except UserError:
    pass
  reasoning = "".join(tokens)
  ours, theirs = (list(re.finditer(r"\w+|[^\w\s]", whole)) for whole in (reasoning, text))
  common = _common_words([m[0] for m in ours], [m[0] for m in theirs])
  matched = {place for i in common for place in range(*ours[i].span())}
  kept, end, before = [], 0, False
  for position, token in enumerate(tokens):
    places = [end + i for i, character in enumerate(token) if not character.isspace()]
    if places:
      before = 2 * sum(place in matched for place in places) > len(places)
    if before:
      kept.append(position)
    end += len(token)
  return kept


def _common_words(ours: Sequence[str], theirs: Sequence[str]) -> list[int]:
  """Places in `ours` of a longest common subsequence, ascending, the earliest of several.

  Takes time in the product of both lengths, and as many bits: 12 MB for 10,000 words on each side.
  """
  numbers = {word: number for number, word in enumerate({*ours, *theirs})}
  first, second = (np.array([numbers[word] for word in words], int) for words in (ours, theirs))
  # lengths[j]: length of a longest one of the rest of ours and of theirs from j on.
  lengths = np.zeros(len(second) + 1, np.int32)
  drops = []  # bits of each rest of ours: True at j if without their word j it is shorter
  for word in first[::-1]:
    longer = np.where(second == word, lengths[1:] + 1, lengths[:-1])
    lengths[:-1] = np.maximum.accumulate(longer[::-1])[::-1]
    drops.append(np.packbits(lengths[:-1] > lengths[1:]))
  common, j = [], 0
  for i, word in enumerate(first):
    needed = np.flatnonzero(np.unpackbits(drops.pop(), count=len(second))[j:])
    if not needed.size:
      break
    same = np.flatnonzero(second[j : j + needed[0] + 1] == word)
    if same.size:
      common.append(i)
      j += int(same[0]) + 1
  return common


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
