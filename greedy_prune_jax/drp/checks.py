"""Checks of the texts in a teacher's replies, and the reasons for which a reply is refused.

Steps must be copies of parts of the chain; `align` finds these parts. A new text must not contain
control characters, because a JSON escape has then replaced one of TeX's backslashes.
"""

import itertools
import re
from collections.abc import Sequence

# Reasons to refuse a reply; the summary counts replies by them.
REASONS = (
  "cut_off",  # the reply is longer than max_new_tokens
  *("still_thinking", "refused", "tool_call", "empty", "broken_down"),  # see `unanswered`
  "not_json",
  "bad_form",  # the reply is JSON, but does not follow the schema
  "unknown_skill",
  "unknown_action",
  "text_left_out",  # the steps skip a part of the chain
  "text_changed",  # the steps differ from the chain's text
  "steps_not_covered",  # the edits skip, repeat or reorder steps
  "not_shorter",  # a new text is not shorter than the text that it replaces
  "nothing_left",
  "no_answer",
  "answer_changed",
)

_MOST_IN_A_PLACE = 3  # most wrong characters of one slip: a changed word or number is no slip
_MOST_SHARE = 0.02  # most wrong characters, as a share of all characters
_APART = 4  # right characters that separate two slips; fewer make them one
_MOST_COMPLAINT = 2000  # most characters of a complaint
_SHOWN = 60  # most characters of a text that a complaint quotes
# Quotes and dashes that teachers copy as plain ones; each stands for one character.
_SAME = str.maketrans(
  {
    **dict.fromkeys("\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}`", "'"),
    **dict.fromkeys("\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}", '"'),
    **dict.fromkeys("\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}\N{NON-BREAKING HYPHEN}", "-"),
  }
)

# Characters that JSON reads in TeX with a single backslash: in \frac, \beta and \rho; in \times.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]|\t(?=[a-z])")
_LINE_START = re.compile(r"\n([A-Za-z]+)")
_FORMULA_END = re.compile(r"[\d)}\]=<>+*/^$]\s*\Z")  # matches a formula before a line break
_FORMULA_START = re.compile(r"\s*[\d({\\\[-]")  # matches a formula behind a line's first word


class RefusedReplyError(Exception):
  """A reply fails a check.

  Attributes:
    reason: one of `REASONS`.
    complaint: description of the fault, for the teacher.
  """

  def __init__(self, reason: str, complaint: str):
    assert reason in REASONS
    if len(complaint) > _MOST_COMPLAINT:  # it quotes the teacher, who may have written anything
      half = _MOST_COMPLAINT // 2
      complaint = f"{complaint[:half]} ... {complaint[-half:]}"
    super().__init__(f"{reason}: {complaint}")
    self.reason = reason
    self.complaint = complaint


def align(text: str, copies: Sequence[str]) -> list[str]:
  """Cuts a text into the parts that a teacher has copied; joined, the parts are the text.

  Copies and text are compared by edit distance, without white space. A few wrong characters in one
  place, none of them a digit, are a slip of copying. A slip does no harm, because the returned
  parts come from the text itself. White space between two parts belongs to the first of them; blank
  copies are ignored.

  Raises:
    RefusedReplyError: the copies do not make up the text; the complaint says where.
    ImportError: the package rapidfuzz is not installed.
  """
  from rapidfuzz.distance import Levenshtein  # optional

  ours, places = _signs(text)
  theirs = [_signs(copy)[0] for copy in copies]
  opcodes = [tuple(op) for op in Levenshtein.opcodes(ours, "".join(theirs))]
  _check_slips(text, places, "".join(theirs), opcodes)
  starts, end = [0], 0
  for copy in theirs[:-1]:
    end += len(copy)
    starts.append(_ours_at(opcodes, end))
  offsets = [0, *(places[s] if s < len(places) else len(text) for s in starts[1:]), len(text)]
  parts = (text[a:b] for a, b in itertools.pairwise(offsets))
  return [part for part in parts if part.strip()]


def _signs(text: str) -> tuple[str, list[int]]:
  """A text without white space and with plain quotes and dashes, and each character's place."""
  places = [i for i, character in enumerate(text) if not character.isspace()]
  return "".join(text[i] for i in places).translate(_SAME), places


def _check_slips(text: str, places: list[int], theirs: str, opcodes: Sequence[tuple]) -> None:
  """Raises a RefusedReplyError where more than slips is wrong; it quotes the longest such place."""
  ours = _signs(text)[0]
  wrong = _wrong_places(opcodes)
  sizes = [
    # A changed number is never a slip.
    max(a1 - a0, b1 - b0) + (_digits(ours[a0:a1]) != _digits(theirs[b0:b1])) * _MOST_IN_A_PLACE
    for a0, a1, b0, b1 in wrong
  ]
  most = max(_MOST_IN_A_PLACE, int(_MOST_SHARE * len(places)))
  if max(sizes, default=0) <= _MOST_IN_A_PLACE and sum(sizes) <= most:
    return
  a0, a1, b0, b1 = wrong[sizes.index(max(sizes))]
  before = _quoted(text[: places[a0]] if a0 < len(places) else text, end=True)
  where = f", behind {before}" if before else ", at its beginning"
  original = text[places[a0] : places[a1 - 1] + 1] if a1 > a0 else ""
  if b0 == b1:
    raise RefusedReplyError(
      "text_left_out", f"the steps leave out {_quoted(original)} of the solution{where}"
    )
  said = f"has {_quoted(original)}" if original else "has nothing"
  raise RefusedReplyError(
    "text_changed",
    f"the steps must be the solution's own text; it {said}{where}, and the steps have "
    f"{_quoted(theirs[b0:b1])} (shown without spaces)",
  )


def _digits(text: str) -> str:
  return "".join(filter(str.isdigit, text))


def _wrong_places(opcodes: Sequence[tuple]) -> list[tuple[int, int, int, int]]:
  """Bounds, in both texts, of places that differ; those less than `_APART` apart are joined."""
  places: list[tuple[int, int, int, int]] = []
  for tag, a0, a1, b0, b1 in opcodes:
    if tag == "equal":
      continue
    if places and a0 - places[-1][1] < _APART:
      places[-1] = (places[-1][0], a1, places[-1][2], b1)
    else:
      places.append((a0, a1, b0, b1))
  return places


def _ours_at(opcodes: Sequence[tuple], place: int) -> int:
  """Translates a place in their text to ours; text that theirs lacks there comes before it."""
  for tag, a0, a1, b0, b1 in opcodes:
    if b0 <= place < b1:
      return a0 + place - b0 if tag == "equal" else min(a0 + place - b0, a1)
  return opcodes[-1][2] if opcodes else 0


def _quoted(text: str, *, end: bool = False) -> str:
  """A text in quotes, cut to `_SHOWN` characters; empty for a blank text."""
  text = " ".join(text.split())
  if not text:
    return ""
  if len(text) > _SHOWN:
    text = f"...{text[-_SHOWN:]}" if end else f"{text[:_SHOWN]}..."
  return f'"{text}"'


def check_written(text: str, name: str, source: str) -> None:
  """Refuses a new text that is blank, or in which a JSON escape has replaced a TeX backslash.

  Args:
    source: question and chain that the teacher has rewritten.
  """
  if not text.strip():
    raise RefusedReplyError("bad_form", f"{name}: its new text is empty")
  # Lines may end in a carriage return, or begin with a tab, as those of the source do.
  strange = (x for x in _CONTROL.finditer(text) if text[x.start() : x.end() + 1] not in source)
  eaten = next(strange, None) or _eaten_line_break(text, source)
  if eaten:
    raise RefusedReplyError(
      "bad_form",
      f"{name}: its text has the control character {eaten[0][0]!r} before "
      f"{_quoted(text[eaten.start() + 1 :][:20]) or 'its end'}; in JSON a backslash is written as "
      "two",
    )


def _eaten_line_break(text: str, source: str) -> re.Match[str] | None:
  """Finds a line break that was a TeX command such as `\\ne`, `\\not` or `\\nabla`.

  The word behind such a line break begins no line of the source. It must also be a TeX command in
  the source; or it must stand within a formula and not be a word of the source.
  """
  lines = {match[1] for match in _LINE_START.finditer("\n" + source)}
  for match in _LINE_START.finditer(text):
    rest = match[1]
    if rest in lines:
      continue
    if re.search(rf"\\n{rest}(?![A-Za-z])", source):
      return match
    unknown = rest.islower() and not re.search(rf"\b{rest}\b", source)
    before, behind = text[: match.start()], text[match.end() :]
    if unknown and _FORMULA_END.search(before[-20:]) and _FORMULA_START.match(behind[:20]):
      return match
  return None
