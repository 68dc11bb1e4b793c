"""Thinking: the forms in which models write it, and its place in a text."""

import dataclasses
import re
from typing import NamedTuple

from greedy_prune_jax.chains.normal_text import hide_tags


@dataclasses.dataclass(frozen=True)
class ThinkingForm:
  """The tags between which a model thinks, by the name of the form in settings."""

  name: str
  opening: str
  closing: str


FORMS = (
  ThinkingForm("think", "<think>", "</think>"),
  ThinkingForm("thinking", "<thinking>", "</thinking>"),
  ThinkingForm("thought", "<|begin_of_thought|>", "<|end_of_thought|>"),
  ThinkingForm("brackets", "[THINK]", "[/THINK]"),
  ThinkingForm(
    "harmony",
    "<|channel|>analysis<|message|>",
    "<|end|><|start|>assistant<|channel|>final<|message|>",
  ),
  ThinkingForm("start_thinking", "<|START_THINKING|>", "<|END_THINKING|>"),
  ThinkingForm("seed", "<seed:think>", "</seed:think>"),
  ThinkingForm("channel", "<|channel>thought\n", "<channel|>"),
)


def find_form(name: str | None) -> ThinkingForm | None:
  """The form of that name; None where there is none, or no name."""
  return next((form for form in FORMS if form.name == name), None)


# All that is hidden: tags that say thinking in any spelling (<Think>, <|/think|>, <reasoning>,
# <seed:think>, <|END_THINKING|>), which end each other, and the forms that are unlike tags.
_THINK = (
  r"(?:[a-z]{1,12}[_:]?)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|scratchpad|monologue"
  r"|analysis)"
)
_BEGIN, _END = r"(?:<|&lt;|\u25c1)\s?[|\uff5c]?\s?", r"\s?[|\uff5c]?(?:>|&gt;|\u25b7)"
_START = r"(?!end[_\u2581])(?:start_|begin[_\u2581]of[_\u2581])?"
_OPENING = rf"{_BEGIN}{_START}{_THINK}(?:\s[^<>|]{{0,80}})?{_END}"
_CLOSING = rf"{_BEGIN}(?:/\s?|end_|end[_\u2581]of[_\u2581]){_THINK}{_END}"
_HARMONY, _CHANNEL = FORMS[4], FORMS[-1]
_PATTERNS = {
  "tag": (_OPENING, _CLOSING),
  "brackets": (r"\[THINK\]", r"\[/THINK\]"),
  # The final channel may follow in other ways than the template's; and decoded without special
  # tokens, nothing is left of the tags but their words.
  "harmony": (
    r"<\|channel\|>\s?(?:analysis|commentary)\b",
    rf"{re.escape(_HARMONY.closing)}|<\|channel\|>\s?final\b(?:<\|message\|>)?",
  ),
  "harmony_words": (r"\A(?:assistant)?analysis(?=[^\W_])", r"assistantfinal"),
  "channel": (re.escape(_CHANNEL.opening.rstrip()), re.escape(_CHANNEL.closing)),
  "unused": (r"<unused94>", r"<unused95>"),
}
_TAG = re.compile(
  "|".join(
    f"(?P<{side}_{name}>{pattern})"
    for name, pair in _PATTERNS.items()
    for side, pattern in zip(("open", "close"), pair, strict=True)
  ),
  re.IGNORECASE,
)


def hide_thinking(text: str) -> str:
  """The text, of its own length, with line breaks in place of all thinking and its tags.

  Thinking that never ends reaches to the end of the text; before a closing tag alone, all is
  thinking, because templates write the opening tag for the model.
  """
  spans, opened = _thinking_spans(text)
  parts, end = [], 0
  for start, stop in spans if opened is None else [*spans, (opened, len(text))]:
    parts += [text[end:start], "\n" * (stop - start)]
    end = stop
  return "".join([*parts, text[end:]])


# What stands before an answer and says nothing: a code fence's opening line, the number of a list's
# line, an environment of TeX.
_FRAME = re.compile(
  r"^[^\S\n]*+(?:`{3,}|~{3,})[^\S\n]*+(?:[\w+-]++[^\S\n]*+)?$"
  r"|^[^\w\n]{0,8}\d{1,9}[.):](?![^\s*_])"
  r"|\\begin\s{0,4}\{\w{1,12}\*?\}",
  re.MULTILINE,
)


def has_reasoning(text: str) -> bool:
  """Tells whether a text says anything beside tags, markup and what frames an answer.

  Thinking counts: its tags are left out, not what stands between them.
  """
  text = _FRAME.sub("", hide_tags(_TAG.sub("", text)))
  return re.search(r"[^\W_]", text) is not None


def never_stops(text: str) -> bool:
  """True if a text begins with thinking that has no end."""
  _, opened = _thinking_spans(text)
  return opened is not None and not text[:opened].strip()


def stops_thinking(text: str) -> bool:
  """True if a text begins with thinking that has an end; empty thinking is none."""
  spans, _ = _thinking_spans(text)
  start, end = spans[0] if spans else (0, 0)
  return not text[:start].strip() and has_reasoning(text[start:end])


def _thinking_spans(text: str) -> tuple[list[tuple[int, int]], int | None]:
  """The places of all thinking that ends, and where thinking begins that does not."""
  spans: list[tuple[int, int]] = []
  inside, start = None, 0
  for match in _TAG.finditer(text):
    side, _, name = str(match.lastgroup).partition("_")
    if inside is None and side == "open":
      inside, start = name, match.start()
    elif side == "close" and inside in (None, name):
      if inside is None:
        spans, start = [], 0
      spans.append((start, match.end()))
      inside = None
  return spans, start if inside else None


def bare_thinking(text: str) -> str:
  """A thinking that came apart from its answer, without the tags that some writers leave on it."""
  text = text.strip()
  for form in FORMS:
    bare = text.removeprefix(form.opening).removesuffix(form.closing)
    if bare != text:
      return bare.strip()
  return text


class Thinking(NamedTuple):
  """A reasoning in three parts; joined they are it.

  Attributes:
    before: text before the thinking, the tag and white space included.
    text: the thinking, without white space around it.
    after: text behind the thinking: white space, the tag, and the model's words on its thinking.
  """

  before: str
  text: str
  after: str


def split_thinking(reasoning: str) -> Thinking:
  """The thinking in a reasoning: what stands between the tags, or all of it where there are none.

  One tag alone is enough: templates write the first for the model, and a reply that is cut off
  lacks the second.
  """
  start, end = 0, len(reasoning)
  for form in FORMS:
    opened, closed = reasoning.find(form.opening), reasoning.find(form.closing)
    if opened >= 0 or closed >= 0:
      start = opened + len(form.opening) if opened >= 0 else 0
      closed = reasoning.find(form.closing, start)
      end = closed if closed >= 0 else len(reasoning)
      break
  inner = reasoning[start:end]
  start += len(inner) - len(inner.lstrip())
  end = max(start, end - (len(inner) - len(inner.rstrip())))
  return Thinking(reasoning[:start], reasoning[start:end], reasoning[end:])
