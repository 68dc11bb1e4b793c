"""The span of a text in which a model thinks: `<think>...</think>`."""

from typing import NamedTuple

_OPEN, _CLOSE = "<think>", "</think>"


class Thinking(NamedTuple):
  """A reasoning in three parts; joined they are it.

  Attributes:
    before: what stands before the thinking, the tag and white space included.
    text: the thinking, without white space around it.
    after: what stands behind it, likewise: the tag, and what a model tells of its thinking.
  """

  before: str
  text: str
  after: str


def split_thinking(reasoning: str) -> Thinking:
  """The thinking in a reasoning: what stands between the tags, or all of it where there are none.

  One tag alone is enough: templates write the first for the model, and a reply that is cut off
  lacks the second.
  """
  start = reasoning.find(_OPEN)
  start = 0 if start < 0 else start + len(_OPEN)
  end = reasoning.find(_CLOSE, start)
  end = len(reasoning) if end < 0 else end
  inner = reasoning[start:end]
  start += len(inner) - len(inner.lstrip())
  end = max(start, end - (len(inner) - len(inner.rstrip())))
  return Thinking(reasoning[:start], reasoning[start:end], reasoning[end:])
