r"""The forms in which answers are written: how each is asked for, written, found, and checked.

An answer is searched for outside the thinking alone. Every repeat in the patterns here is bounded
and every value has a most length, so that reading a reply takes time linear in its length.
"""

import collections
import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from greedy_prune_jax.chains.letters import find_letter, only_letter, same_letter
from greedy_prune_jax.chains.math_check import same_expression
from greedy_prune_jax.chains.normal_text import hide_tags, plain_signs
from greedy_prune_jax.chains.numbers import parse_number
from greedy_prune_jax.chains.thinking import hide_thinking


class Value(NamedTuple):
  """Value that an answer states, such as `72`, and its place in the text."""

  start: int
  text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerForm:
  """One way to write an answer.

  Attributes:
    instruction: system text that asks for step-by-step reasoning and an answer of this form.
    write: makes the answer's text (`{"answer": "72"}`) from a target (`72`).
    markers: each matches what an answer begins with, up to what it says. A later one counts only
      where no answer is found by those before it.
    read: takes the value from a match of a marker (but a box); None if it has none,
      and so was no marker.
    read_box: takes the value from a box's content; None if it has none.
    is_right: tells whether an answer's value equals a target.
    is_target: tells whether a text can be a target.
  """

  instruction: str
  write: Callable[[str], str]
  markers: tuple[re.Pattern[str], ...]
  read: Callable[[re.Match[str]], Value | None]
  read_box: Callable[[str], str | None] = lambda inside: inside
  is_right: Callable[[str, str], bool]
  is_target: Callable[[str], bool] = bool


class SplitResponse(NamedTuple):
  """A response in two parts, which joined are the response (but for space at its end).

  Attributes:
    reasoning: text before the answer.
    answer: the answer's text, from its marker to the end.
    value: value that the answer states, such as `72`.
  """

  reasoning: str
  answer: str
  value: str


class Answer(NamedTuple):
  """An answer in a text: where it begins and ends, and its value."""

  start: int
  stop: int
  value: Value


def split_response(response: str, form: AnswerForm) -> SplitResponse | None:
  """Splits a response at its last answer; None, for unparsed, if it has none.

  Boxes that are joined by a word such as "or" are one answer of several values.
  """
  answer = last_answer(response, form)
  if answer is None:
    return None
  start, _, value = answer
  return SplitResponse(response[:start], response[start:].rstrip(), value.text)


def last_answer(response: str, form: AnswerForm) -> Answer | None:
  """The answer at which `split_response` splits."""
  by_marker = (find_answers(response, form, marker) for marker in form.markers)
  return next((answers[-1] for answers in by_marker if answers), None)


def first_value(text: str, form: AnswerForm) -> str | None:
  """The value of an answer with which a text begins; None if it begins with none."""
  text = _without_thinking(text)
  for marker in form.markers:
    answers = _read_answers(text, form, itertools.islice(marker.finditer(text), 1))
    if answers and answers[0].start == 0:
      return answers[0].value.text
  return None


def bare_value(text: str, form: AnswerForm) -> str | None:
  """The value that a text is, without a marker, as in a box; None if it is none."""
  return form.read_box(_without_thinking(text).strip()) or None


def find_answers(response: str, form: AnswerForm, marker: re.Pattern[str]) -> list[Answer]:
  """All answers of a response that a marker finds, in their order.

  Of a reply that repeats a marker without end, only the last `_MOST_MARKERS` are read: each costs
  the reading of a sentence, a hundred times its own length.
  """
  text = _without_thinking(response)
  last = collections.deque(marker.finditer(text), maxlen=_MOST_MARKERS)
  return _read_answers(text, form, last)


def _without_thinking(response: str) -> str:
  """The response, of its own length, in plain signs and without tags and thinking."""
  return plain_signs(hide_tags(hide_thinking(response)))


def _read_answers(text: str, form: AnswerForm, matches: Iterable[re.Match[str]]) -> list[Answer]:
  """The answers that begin with these matches of a marker."""
  closing = _closing_braces(text)
  answers: list[Answer] = []
  for match in matches:
    box = match.groupdict().get("box") is not None
    inside = _in_box(match, closing) if box else form.read(match)
    if box and inside is not None:
      read = form.read_box(inside.text)
      inside = Value(inside.start, read) if read else None
    if inside is None or not inside.text:
      continue
    answer = Answer(match.start(), inside.start + len(inside.text), inside)
    if box:
      joined = _joined(answers[-1], answer, text) if answers else None
      answer = joined or _with_bare(answer, match, form)
    answers.append(answer)
  return answers


def last_boxed(text: str) -> str | None:
  r"""The value of a text's last `\boxed{...}`, or of the last ones that are joined."""
  split = split_response(text, BOXES)
  return split and split.value


_MOST_MARKERS = 1000
_LONGEST = 2000  # characters of a boxed value
_SENTENCE = 500  # characters behind a marker in which a value is looked for

# "Thus, the final answer is:", "**Answer**:", "So the correct answer must be", "Ans. ", "<answer>"
_VERB = (
  r"(?:is|are|was|were|equals|becomes|(?:would|should|must|will|can only|has to|have to) be"
  r"|(?:comes|turns) out (?:to be|as))\b"
)
_SAYS = (
  rf"[*_]{{0,3}}\s{{0,8}}(?:{_VERB}|:|=|->|=>|[\u2192\u21d2]|-{{1,2}}(?=\s)):?"
  r"(?:\s{1,3}(?:therefore|thus|hence|then|indeed|clearly|simply|probably|(?:most )?likely"
  r"|definitely|obviously|actually|also|still|now|again)\b){0,2}:?"
  r"(?!\s{1,3}not\b(?!.{1,40}\bbut\b))"
)
_PHRASE = (
  r"(?i:(?:\b(?:thus|therefore|hence|so),? {1,3})?(?:\b(?:the|my|our) {1,3})?"
  r"(?:\b(?:final|correct|right|best) {1,3}){0,3}"
  rf"(?:\b(?:answers?|ans){_SAYS}|\bans\.(?:\s{{0,3}}[:=]|(?=\s)))|<answer>)"
)
_BOX = r"(?:\${1,2}|\\[\[(]\s{0,8})?\\(?:[bB]oxed|fbox|framebox)\s{0,8}(?P<box>(?=[{\w]))"
_KEY = r"(?:final|correct|my)?[ _]?answer(?:[ _]?(?:choice|option|letter|value))?"
_JSON_KEY = rf"""(?i:(?:\{{\s{{0,8}})?\\?["']{_KEY}\\?["']\s{{0,8}}:\s{{0,8}}(?P<json>))"""
_BEHIND_PHRASE = r"[\s*]{0,8}"
# "#### Final Answer", with the answer below
_HEADING = (
  r"^(?:(?:\#{1,6} {0,3}[*_]{0,4}|[*_]{2,4})(?i:(?:the )?(?:(?:final|correct) )?answer)"
  r"|(?i:(?:the )?(?:final|correct) answer))(?=[*_# ]{0,8}$)"
)
_OUTSIDE_BOX = rf"{_JSON_KEY}|(?P<phrase>{_PHRASE}\*{{0,2}}|{_HEADING})|\#{{4}}|^A:"

_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_TOKEN = re.compile(r"[^\s$]{1,100}")
_JOINED_WITHIN = 60  # characters between two boxes
_MARKUP = re.compile(r"\\(?:text|mbox|quad|qquad|[\[\]()])|[\s${}\\*]")
_REMARK = re.compile(r"\([^()]{1,40}\)")
# "y =", "Bob:", "f(x) =", "the minimum is", in front of the second box
_LABEL = re.compile(
  r"(?:\b(?i:the )?(?i:other|second|third|min\w*|max\w*|small\w*|larg\w*|least|greatest)"
  r"(?: \w{1,20})?"
  r"|\b[A-Z]\w*|\b[A-Za-z](?:_\w{1,3})?(?:\(\w{1,3}\))?) ?(?:=|:|\b(?:is|are|has|gets)\b) ?\Z"
)
_JOINERS = frozenset(["or", "and", "else", "plus", ",", ";", "&", "/"])
# A thing that is counted may follow the first box, but no word by which the second corrects it.
_CORRECTS = r"no|not|wait|wrong|incorrect|is|was|but|so|actually|hmm|sorry|rather|instead"
_COUNTED = re.compile(rf"(?!(?:{_CORRECTS})\b)[a-z]{{2,}}")


def _closing_braces(text: str) -> dict[int, int]:
  r"""The place of the closing brace of each opening one that has one; `\{` is none."""
  opened, closing = [], {}
  for match in _BRACE.finditer(text):
    if match[0] == "{":
      opened.append(match.start())
    elif match[0] == "}" and opened:
      closing[opened.pop()] = match.start()
  return closing


def _in_box(match: re.Match[str], closing: Mapping[int, int]) -> Value | None:
  r"""Value in the braces that begin where a match ends; `\boxed 5` needs none."""
  text, start = match.string, match.end()
  if text[start] != "{":
    token = _TOKEN.match(text, start)
    assert token is not None  # the marker saw a word's first character
    return Value(start, re.split(r"\\[\])]|[.,;:)\]]+\Z", token[0], maxsplit=1)[0])
  stop = closing.get(start)
  if stop is None or stop - start > _LONGEST:
    return None  # cut off before its end, or no answer
  inside = text[start + 1 : stop]
  return Value(start + 1 + len(inside) - len(inside.lstrip()), inside.strip())


def _joined(before: Answer, box: Answer, text: str) -> Answer | None:
  """Two boxes as one answer of two values; None where the second corrects the first."""
  between = text[before.stop : box.start]
  if len(between) > _JOINED_WITHIN:
    return None
  if not re.search(rf"(?i)\b(?:{_CORRECTS})\b", between):
    between = _REMARK.sub(" ", between)
  between = re.sub(r"\bas well as\b", "and", _MARKUP.sub(" ", between).strip())
  words = re.sub(r"[,;&/]", r" \g<0> ", _LABEL.sub("", between)).split()
  if len(words) > 1 and _COUNTED.fullmatch(words[0]) and words[1] in ("or", "and"):
    words = words[1:]
  if not words or not _JOINERS.issuperset(words):
    return None
  values = dict.fromkeys([before.value.text, box.value.text])
  return Answer(before.start, box.stop, Value(before.value.start, ", ".join(values)))


_BARE = r"(?P<bare>-?\d[\d,]*(?:\.\d+)?(?:/\d+)?)\$?"
_VARIABLE = r"\$?\s?(?:[a-z]\s?=\s?)?"
# `\boxed{7} or $-7$.`, `3 or \boxed{5}`; but not `the sum of 3 and \boxed{5}`
_BARE_BEHIND = re.compile(
  rf"[}}\s$]{{0,4}}(?:\\[\])])?\s?\b(?:or|and)\s{{1,3}}{_VARIABLE}{_BARE}(?=\s{{0,4}}(?:[.;](?!\d)|\n|\Z))"
)
_BARE_BEFORE = re.compile(rf"(?:\A|(?<=[\s$(=])){_BARE}\s{{1,3}}or\s{{1,3}}{_VARIABLE}\Z")


def _with_bare(box: Answer, match: re.Match[str], form: AnswerForm) -> Answer:
  """A box and another value beside it, which is in none, as one answer; else the box."""
  text, start = match.string, match.start()
  found = _BARE_BEHIND.match(text, box.stop)
  found = found or _BARE_BEFORE.search(text[max(start - _JOINED_WITHIN, 0) : start])
  value = box.value.text
  if found is None or not re.search(r"\d", value) or form.is_right(found["bare"], value):
    return box  # alone, or the same value once more
  return box._replace(value=box.value._replace(text=f"{value}, {found['bare']}"))


_ESCAPED = re.compile(r"(?<!\\)\\u(?![dD][89a-fA-F])([0-9a-fA-F]{4})")
_JSON = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)
# Of a bare value, which may be several: a comma counts only in front of another key, or last.
_JSON_END = re.compile(r"""[}\n]|,(?=\s*(?:["'}]|\w+["']?\s*:|\Z))""")


def _in_json(match: re.Match[str]) -> Value:
  """The value of an `answer` key; the items of a list are several values."""
  rest = _behind(match).removeprefix("\\")
  try:
    parsed, _ = _JSON.raw_decode(rest)
  except (ValueError, RecursionError):
    parsed = None
  if isinstance(parsed, list | dict):
    items = parsed.values() if isinstance(parsed, dict) else parsed
    return Value(match.end(), ", ".join(map(str, items)))
  quote = rest[:1] if rest[:1] in ("'", '"') else None
  # Not decoded: what JSON makes of \frac in single backslashes is a form feed.
  value = rest[1:].partition(quote)[0].rstrip("\\") if quote else _JSON_END.split(rest)[0]
  value = _ESCAPED.sub(lambda m: chr(int(m[1], 16)), value).replace("\\\\", "\\")
  return Value(match.end() + len(quote or ""), value.strip())


def _behind(match: re.Match[str]) -> str:
  return match.string[match.end() : match.end() + _SENTENCE]


# GSM8K's mark is a heading's too: "#### Step 3", "#### 3. Add up".
_SECTION = re.compile(r"\W{0,8}(?:(?i:step|part|case|method)\s{0,8}\d|\d{1,9}[.):]\s{1,8}[^\W\d])")
_DIGIT = r"[\d\u00bc-\u00be\u2150-\u215e\u2189]"
_ENVIRONMENT = r"\\begin\{(?:equation|align|gather)\*?\}"
# A number on a line of its own below, or in display math, a quotation or a block of code there.
_NUMBER_BELOW = re.compile(
  rf"[*_# ]{{0,8}}(?:(?:\$\$|\\\[|{_ENVIRONMENT})\s{{0,8}}"
  rf"|\n\s{{0,8}}(?:> {{0,3}})?"
  rf"(?:\*\*|(?:\$\$|\\\[|\\\(|`{{3}}\w{{0,8}}|{_ENVIRONMENT})\s{{0,8}})?)"
  rf"(?=[-+]?\\?[$£€]?[-+]?\.?{_DIGIT}|\\frac)"
)
_CUT_OFF = re.compile(r"\\(?:[bB]oxed|fbox|framebox)")  # a box that has no end
_SENTENCE_END = re.compile(r"(?<!\bapprox)(?<!\bca)[.!?](?=\s|$)|[.](?=\*)")


def _read_number(match: re.Match[str]) -> Value | None:
  if match["json"] is not None:
    return _in_json(match)
  rest, start = _behind(match), match.end()
  if below := _NUMBER_BELOW.match(rest):
    rest, start = rest[below.end() :], start + below.end()
  line = rest.partition("\n")[0]
  start += len(line) - len(line.lstrip())
  line = line.strip()
  if match["phrase"] is None or below:
    if _SECTION.match(line):
      return None
  else:
    line = _SENTENCE_END.split(line, maxsplit=1)[0]  # what a sentence says, ends with it
  says = re.search(rf"{_DIGIT}|\\frac", line) and not _CUT_OFF.search(line)
  return Value(start, line) if says else None


_MATH = re.compile(
  r"[\s*_]{0,8}(?:\$\$(?P<display>[^$]{1,500})\$\$|\$(?P<inline>[^$]{1,500})\$|"
  r"\\\[(?P<bracket>.{1,500}?)\\\]|\\\((?P<round>.{1,500}?)\\\)"
  rf"|{_ENVIRONMENT}(?P<environment>.{{1,500}}?)\\end\{{\w{{1,12}}\*?\}}"
  r"|`{3}\w{0,8}\n(?P<code>.{1,500}?)`{3})",
  re.DOTALL,
)
_SAYS_MATH = re.compile(r"[\d\\^=+]|^\W*\w+\W*$")


def _read_expression(match: re.Match[str]) -> Value | None:
  """A formula, or the rest of a sentence that has one or is a single word."""
  if match["json"] is not None:
    return _in_json(match)
  rest = _behind(match)
  if math := _MATH.match(rest):
    kind = str(math.lastgroup)
    behind = _SENTENCE_END.split(rest[math.end() :].partition("\n")[0], maxsplit=1)[0]
    if not behind.strip(" *_."):
      return Value(match.end() + math.start(kind), math[kind].strip())
  space = re.match(r"[\s*_]{0,8}", rest)
  assert space is not None  # it may be empty
  line = _SENTENCE_END.split(rest[space.end() :].partition("\n")[0], maxsplit=1)[0].strip()
  says = _SAYS_MATH.search(line) and not _CUT_OFF.search(line)
  return Value(match.end() + space.end(), line) if says else None


def _read_letter(match: re.Match[str]) -> Value | None:
  if match.re.pattern == _SAID:
    group = "said" if match["said"] else "named"
    return Value(match.start(group), match[group].upper())
  if match["json"] is not None:
    value = _in_json(match)
    letter = only_letter(value.text)
    return Value(value.start, letter) if letter else None
  letter = find_letter(_behind(match))
  return Value(match.end() + letter.start, letter.text) if letter else None


def _same_number(value: str, target: str) -> bool:
  number = parse_number(value)
  return number is not None and number == parse_number(target)


NUMBER = AnswerForm(
  instruction=(
    "Solve the problem step by step. On the last line write only the final answer, a number "
    'without units, as a JSON object of this form: {"answer": "NUMBER"}'
  ),
  write=lambda target: json.dumps({"answer": target}),
  # Beside the form that is asked for: GSM8K's, that of the solutions published with it (A:), and
  # what models write that do not follow.
  markers=(
    re.compile(
      rf"(?:{_PHRASE}{_BEHIND_PHRASE})?(?:{_JSON_KEY}|{_BOX})"
      rf"|(?P<phrase>{_PHRASE}\*{{0,2}}|{_HEADING})|\#{{4}}|^A:",
      re.MULTILINE,
    ),
  ),
  read=_read_number,
  is_right=_same_number,
  is_target=lambda target: parse_number(target) is not None,
)
BOXED = AnswerForm(
  instruction=(
    "Solve the problem step by step. End with a line of this form, with the final answer in the "
    "box: Thus, the final answer is: \\boxed{ANSWER}"
  ),
  write=lambda target: f"Thus, the final answer is: \\boxed{{{target}}}",
  markers=(
    re.compile(rf"(?:{_PHRASE}{_BEHIND_PHRASE})?{_BOX}"),
    re.compile(_OUTSIDE_BOX, re.MULTILINE),
  ),
  read=_read_expression,
  is_right=same_expression,
)
BOXES = dataclasses.replace(BOXED, markers=BOXED.markers[:1])
_CHOICE = (
  r"(?i:\b(?:final|correct|right|best|proper|chosen|my|most {1,3}\w{4,12}) {1,3}(?:answer {1,3})?"
  rf"(?:option|choice|letter|one){_SAYS})"
)
_SAID = (
  r"(?:(?:(?i:\b(?:option|choice)\s{1,3}\(?(?P<said>[A-J])\b\)?)|(?<![\w'])\(?(?P<named>[A-J])\b\)?)"
  r"\*{0,2} is (?:the )?(?:correct|right|best|(?:final )?answer)\b)"
)
_JSON_LETTER = _JSON_KEY.replace(_KEY, rf"(?:{_KEY}|choice|option|letter)")
LETTER = AnswerForm(
  instruction=(
    "Answer the multiple-choice question. Think step by step, then end with a line of this form, "
    "with the letter of the right option: Thus, the final answer is: LETTER"
  ),
  write=lambda target: f"Thus, the final answer is: {target}",
  markers=(
    re.compile(
      rf"(?:{_PHRASE}{_BEHIND_PHRASE})?(?:{_JSON_LETTER}|{_BOX})|{_PHRASE}|{_CHOICE}"
      rf"|{_HEADING}|\#{{4}}",
      re.MULTILINE,
    ),
    re.compile(_SAID),
  ),
  read=_read_letter,
  read_box=only_letter,
  is_right=same_letter,
)
