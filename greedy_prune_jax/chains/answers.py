r"""The forms in which answers are written: how each is asked for, written, found, and checked."""

import dataclasses
import json
import operator
import re
from collections.abc import Callable
from typing import NamedTuple

from greedy_prune_jax.chains.math_check import MATH_CHECKER
from greedy_prune_jax.chains.numbers import parse_number


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerForm:
  """One way to write an answer.

  Attributes:
    instruction: system text that asks for step-by-step reasoning and an answer of this form.
    write: from a target (`72`) to the answer's text (`{"answer": "72"}`).
    marker: matches what an answer begins with, up to what it says.
    read: from a match of `marker` to what the answer says there (`72`); None or empty if it says
      nothing, and so was no marker.
    is_right: whether what an answer says equals a target.
  """

  instruction: str
  write: Callable[[str], str]
  marker: re.Pattern[str]
  read: Callable[[re.Match[str]], str | None]
  is_right: Callable[[str, str], bool]


class SplitResponse(NamedTuple):
  """A response in two parts, which joined are the response (but for space at its end).

  Attributes:
    reasoning: what stands before the answer.
    answer: the answer's text, from its marker to the end.
    value: what it says, such as `72`.
  """

  reasoning: str
  answer: str
  value: str


def split_response(response: str, form: AnswerForm) -> SplitResponse | None:
  """Splits a response at its last answer marker; None, for unparsed, if it has none."""
  for match in reversed(list(form.marker.finditer(response))):
    value = form.read(match)
    if value:
      answer = response[match.start() :].rstrip()
      return SplitResponse(response[: match.start()], answer, value)
  return None


def last_boxed(text: str) -> str | None:
  r"""What the last `\boxed{...}` of a text holds; None where there is none."""
  values = (_in_box(match) for match in reversed(list(re.finditer(_BOX, text))))
  return next(filter(None, values), None)


# "Thus, the final answer is:", "Answer:", "So the correct answer is"
_PHRASE = (
  r"(?i:(?:\b(?:thus|therefore|hence|so),? +)?(?:\b(?:the|my|our) +)?"
  r"(?:\b(?:final|correct|right|best) +)*\banswer\s*(?:is|:|=):?)"
)
_BOX = r"(?:\$+|\\[\[(]\s*)?\\(?:boxed|fbox)\s*(?P<box>(?=[{\w]))"
_JSON_KEY = r"""(?:\{\s*)?["']answer["']\s*:\s*(?P<json>)"""


def _in_box(match: re.Match[str]) -> str | None:
  r"""What stands in the braces (matched) that begin where a match ends; `\boxed 5` needs none."""
  text, start = match.string, match.end()
  if text[start] != "{":
    return re.split(r"[\s$]", text[start:], maxsplit=1)[0]
  depth = 0
  for position in range(start, len(text)):
    depth += {"{": 1, "}": -1}.get(text[position], 0)
    if depth == 0:
      return text[start + 1 : position].strip()
  return None  # cut off before its end


# "#### Final Answer", with the answer below
_HEADING = r"\#{2,} *\**(?i:(?:the )?(?:(?:final|correct) )?answer)(?=[*_ ]*\n)"
# GSM8K's mark is a heading's too: "#### Step 3", "#### 3. Add up".
_SECTION = re.compile(r"\W*(?:(?i:step|part|case|method)\s*\d|\d+[.):]\s+[^\W\d])")
_NUMBER_BELOW = re.compile(r"[*_ ]*\n\s*(?:\*\*)?[-+]?[$£€]?\d")
_JSON_END = re.compile(r"[}\n]|,(?!\d{3}(?!\d))")  # of a bare value, which may have thousands


def _read_number(match: re.Match[str]) -> str | None:
  if match["box"] is not None:
    return _in_box(match)
  rest = match.string[match.end() :]
  if match["json"] is not None:
    quote = rest[:1] if rest[:1] in ("'", '"') else None
    return (rest[1:].partition(quote)[0] if quote else _JSON_END.split(rest)[0]).strip()
  if match["phrase"] is not None and _NUMBER_BELOW.match(rest):
    rest = rest.lstrip("*_ \n")  # a heading
  line = rest.partition("\n")[0].strip()
  if match["phrase"] is None:
    return line if re.search(r"\d", line) and not _SECTION.match(line) else None
  sentence = re.split(r"[.!?](?:\s|$)", line)[0]  # what a sentence says, ends with it
  return sentence if re.search(r"\d", sentence) else None


def _read_letter(match: re.Match[str]) -> str | None:
  if match["box"] is not None:
    found = _BOXED_LETTER.fullmatch(_in_box(match) or "")
    return found and found[1]
  found = _LETTER.match(match.string, match.end())
  return found and (found[1] or found[2])


# A and I are words too, so more than a space must follow them; of a dash or a bracket a space is.
_LETTER = re.compile(
  r"""[\s*$(\["']*(?:(?i:option|choice)\s+|\\(?:text|mathrm|textbf)\{)*\(?"""
  r"""(?:([A-J])(?=\s*(?:[)\].,:;}*$"'\u2013\u2014]|$)|\s+[-(])|([B-HJ])\b)""",
  re.MULTILINE,
)
# "C", "(C)", "\text{C}", and with the option's text: "C. four", "\text{C) four}"
_BOXED_LETTER = re.compile(
  r"(?:\\\w+\{)?\s*\(?([A-J])(?:\)?\}?|(?:[.:)]|\s+[-(]|\s*[\u2013\u2014])\s*\S.*)", re.DOTALL
)


def _same_number(value: str, target: str) -> bool:
  number = parse_number(value)
  return number is not None and number == parse_number(target)


def _same_expression(value: str, target: str) -> bool:
  if re.sub(r"\s", "", value) == re.sub(r"\s", "", target):
    return True
  if all(re.fullmatch(r"-?\d{1,18}", text) for text in (value, target)):
    return int(value) == int(target)  # AIME writes 033
  return MATH_CHECKER.equal(value, target)


NUMBER = AnswerForm(
  instruction=(
    "Solve the problem step by step. On the last line write only the final answer, a number "
    'without units, as a JSON object of this form: {"answer": "NUMBER"}'
  ),
  write=lambda target: json.dumps({"answer": target}),
  # Beside the form that is asked for: GSM8K's, that of the solutions published with it (A:), and
  # what models write that do not follow.
  marker=re.compile(
    rf"(?:{_PHRASE}[\s*]*)?(?:{_JSON_KEY}|{_BOX})|(?P<phrase>{_PHRASE}\**|^{_HEADING})|####|^A:",
    re.MULTILINE,
  ),
  read=_read_number,
  is_right=_same_number,
)
BOXED = AnswerForm(
  instruction=(
    "Solve the problem step by step. End with a line of this form, with the final answer in the "
    "box: Thus, the final answer is: \\boxed{ANSWER}"
  ),
  write=lambda target: f"Thus, the final answer is: \\boxed{{{target}}}",
  marker=re.compile(rf"(?:{_PHRASE}[\s*]*)?{_BOX}"),
  read=_in_box,
  is_right=_same_expression,
)
LETTER = AnswerForm(
  instruction=(
    "Answer the multiple-choice question. Think step by step, then end with a line of this form, "
    "with the letter of the right option: Thus, the final answer is: LETTER"
  ),
  write=lambda target: f"Thus, the final answer is: {target}",
  marker=re.compile(rf"(?:{_PHRASE}[\s*]*)?{_BOX}|{_PHRASE}"),
  read=_read_letter,
  is_right=operator.eq,
)
