"""Checks of a teacher's replies: the reasons for which one is refused, and the check of its texts.

Steps are copies of parts of the chain, which `align` finds in it again; a new text must hold no
characters that JSON's escapes have made of TeX's backslashes.
"""

import itertools
import re
from collections.abc import Sequence

# Names by which refused replies are counted.
REASONS = (
  "cut_off",  # longer than max_new_tokens
  "not_json",
  "bad_form",  # JSON, but not of the form asked for
  "unknown_skill",
  "unknown_action",
  "text_left_out",  # steps that skip a part of the chain
  "text_changed",  # steps that are not the chain's text
  "steps_not_covered",  # edits that skip, repeat or reorder steps
  "not_shorter",  # a new text that is no shorter than what it replaces
  "nothing_left",
  "no_answer",
  "answer_changed",
)

_MOST_IN_A_PLACE = 3  # characters that may be wrong together: a word or a number is no slip
_MOST_SHARE = 0.02  # of all characters
_APART = 4  # that many right characters between two wrong ones make them two places
_MOST_COMPLAINT = 2000  # characters that a teacher is told
_SHOWN = 60  # characters of a text that a complaint quotes
# Typography that copying changes and that says the same; each is one character for one.
_SAME = str.maketrans(
  {
    **dict.fromkeys("\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}`", "'"),
    **dict.fromkeys("\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}", '"'),
    **dict.fromkeys("\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}\N{NON-BREAKING HYPHEN}", "-"),
  }
)

# What JSON makes of TeX behind a single backslash: \frac, \beta and \rho; \times.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]|\t(?=[a-z])")
_LINE_START = re.compile(r"\n([A-Za-z]+)")
_FORMULA_END = re.compile(r"[\d)}\]=<>+*/^$]\s*\Z")  # of the text before a line break
_FORMULA_START = re.compile(r"\s*[\d({\\\[-]")  # of the text behind its first word


class RefusedReplyError(Exception):
  """A reply fails a check.

  Attributes:
    reason: one of `REASONS`.
    complaint: the fault, in words for the teacher.
  """

  def __init__(self, reason: str, complaint: str):
    assert reason in REASONS
    if len(complaint) > _MOST_COMPLAINT:  # it quotes what the teacher wrote, which may be anything
      half = _MOST_COMPLAINT // 2
      complaint = f"{complaint[:half]} ... {complaint[-half:]}"
    super().__init__(f"{reason}: {complaint}")
    self.reason = reason
    self.complaint = complaint


def align(text: str, copies: Sequence[str]) -> list[str]:
  """The parts of a text that a teacher's copies of them stand for; joined they are the text.

  Copies are compared with the text without regard to white space, and by edit distance: a few wrong
  characters in a place, none of them a digit, are slips of copying, and do no harm, as the parts
  come from the text itself. White space between two parts belongs to the first of them.

  Args:
    text: a text that is not blank.
    copies: copies of its parts, in order. Those that copy nothing are passed over.

  Raises:
    RefusedReplyError: they are not copies of parts that make up the text; it says where.
    ImportError: the package rapidfuzz is not installed.
  """
  from rapidfuzz.distance import Levenshtein  # an extra

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
  """The characters of a text that are no white space, in one spelling, and where they stand."""
  places = [i for i, character in enumerate(text) if not character.isspace()]
  return "".join(text[i] for i in places).translate(_SAME), places


def _check_slips(text: str, places: list[int], theirs: str, opcodes: Sequence[tuple]) -> None:
  """A RefusedReplyError where more is wrong than slips; it quotes the longest place."""
  ours = _signs(text)[0]
  wrong = _wrong_places(opcodes)
  sizes = [
    # Another number is never a slip.
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
  """Bounds, in both texts, of what differs; what few right characters divide is one place."""
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
  """Place in our text of a place in theirs; what theirs lacks there stands before it."""
  for tag, a0, a1, b0, b1 in opcodes:
    if b0 <= place < b1:
      return a0 + place - b0 if tag == "equal" else min(a0 + place - b0, a1)
  return opcodes[-1][2] if opcodes else 0


def _quoted(text: str, *, end: bool = False) -> str:
  """A text in quotes, cut to a length that a message can hold; nothing for a blank one."""
  text = " ".join(text.split())
  if not text:
    return ""
  if len(text) > _SHOWN:
    text = f"...{text[-_SHOWN:]}" if end else f"{text[:_SHOWN]}..."
  return f'"{text}"'


def check_written(text: str, name: str, source: str) -> None:
  """Refuses a new text that is blank, or in which JSON's escapes have eaten TeX's backslashes.

  Args:
    text: the new text.
    name: name of the text, for the complaint.
    source: question and chain that the text is written from.
  """
  if not text.strip():
    raise RefusedReplyError("bad_form", f"{name}: its new text is empty")
  eaten = _CONTROL.search(text) or _eaten_line_break(text, source)
  if eaten:
    raise RefusedReplyError(
      "bad_form",
      f"{name}: its text has the control character {eaten[0][0]!r} before "
      f"{_quoted(text[eaten.start() + 1 :][:20]) or 'its end'}; in JSON a backslash is written as "
      "two",
    )


def _eaten_line_break(text: str, source: str) -> re.Match[str] | None:
  """A line break that was TeX beginning with a backslash and n: `\\ne`, `\\not`, `\\nabla`.

  What follows it begins no line of the source, and either the source has that TeX, or it is no word
  of the source and stands in the middle of a formula.
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
