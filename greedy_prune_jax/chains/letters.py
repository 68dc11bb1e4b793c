"""Letters of options, as models name them: `(B)`, `option b`, `B. four`, `F = 20 N, option C`."""

import re
from typing import NamedTuple

from greedy_prune_jax.chains.normal_text import normal_answer, plain_signs

_OPTION = r"(?i:option|choice|letter|answer)"
_WRAPPED = r"\\(?:text|mathrm|textbf|mathbf|boxed|mathit)\s{0,4}\{"
# What may stand before a letter that is meant, and the letter.
_LETTER = re.compile(
  rf"""[\s*_$\["'`:{{]{{0,40}}(?P<named>(?i:the\s{{1,4}})?(?i:correct\s{{1,4}})?{_OPTION}\s{{0,4}}:?\s{{1,4}})?"""
  rf"""[*_$"'`]{{0,4}}(?:{_WRAPPED})?\s{{0,4}}(?P<open>\()?\s{{0,4}}(?P<letter>[A-Ja-j])(?!\w)"""
)
_CLOSED = r"""[)\]}*_$"'`,;!?:]"""
# What follows a letter that is meant: an end, a sign, the option's text behind a dash or a bracket.
_STRONG = re.compile(rf"\s{{0,4}}(?:{_CLOSED}|\.(?!\s+[a-z])|\\[)\]]|$)|\s+[-(](?!\w)|\s+\(|\s*\n")
_REASON = r"because|since|as|which|that|due|given|based|is"
_FURTHER = rf"(?:{_REASON}|for|and|but|so|or|where|when|if|in|with|not|by|from|we|it|here|this|the)"
_BECAUSE = re.compile(rf"\s+(?:{_REASON})\b")
_GOES_ON = re.compile(rf"\s+(?:{_FURTHER}\b|[A-Z\d])")
_OPTION_TEXT = re.compile(r"\.\s+[a-z]")  # `C. four`; but `E. coli, (B)`
_NO_LETTER = re.compile(r"\s{0,4}[=^_+/<>]|[-'.](?=\w)")  # a variable, B-cell, I'm, E.g.
_OTHERS = re.compile(
  r"\s{0,4}\)?(?:\s{0,4},)?\s{0,4}(?:\b(?:or|and)\b|[/&])\s{0,4}"
  rf"(?:(?i:both|{_OPTION})\s{{1,4}})?\(?([A-J])(?=[\s).,;*]|$)"
)
_EXPLICIT = re.compile(rf"(?<!not )(?:{_OPTION}\s{{1,4}}\(?(?P<a>[A-J])\b|\((?P<b>[A-J])\))")
_SENTENCE = re.compile(r"\n|[.!?]\s+(?=[A-Z])")


class Letter(NamedTuple):
  """A letter in upper case, or several as `B, C`, and where in the text it stands."""

  start: int
  text: str


def find_letter(text: str) -> Letter | None:
  """The letter that a text names, which stands behind `The answer is`; None if it names none.

  Never a word's first letter, a pronoun or an article: A and I count only where a sign or a reason
  follows.
  """
  text = plain_signs(text)
  match = _LETTER.match(text)
  letter = _meant_letter(match)
  if letter is not None:
    return letter
  # `F = 20 N, which is option C`
  lead = len(text) - len(text.lstrip("\n *_"))
  sentence = _SENTENCE.split(text[lead:], maxsplit=1)[0]
  if explicit := _EXPLICIT.search(sentence):
    group = "a" if explicit["a"] else "b"
    return Letter(lead + explicit.start(group), explicit[group])
  return _before_option_text(match)


def only_letter(text: str) -> str | None:
  """The letter that a text is, as in a box: `(b)`, `C. four`; None if it is something else."""
  match = _LETTER.match(plain_signs(normal_answer(text[:500])))
  letter = _meant_letter(match) or _before_option_text(match)
  return letter and letter.text


def _meant_letter(match: re.Match[str] | None) -> Letter | None:
  if match is None or not _is_meant(match, match.string[match.end() :]):
    return None
  letter, others = match["letter"].upper(), _OTHERS.match(match.string, match.end())
  return Letter(match.start("letter"), f"{letter}, {others[1]}" if others else letter)


def _before_option_text(match: re.Match[str] | None) -> Letter | None:
  if match is None or not match["letter"].isupper():
    return None
  if not _OPTION_TEXT.match(match.string, match.end()):
    return None
  return Letter(match.start("letter"), match["letter"])


def _is_meant(match: re.Match[str], behind: str) -> bool:
  """Tells whether a letter at the beginning of an answer names an option."""
  if match["open"]:
    return behind.lstrip().startswith(")")
  if _NO_LETTER.match(behind):
    return bool(_OTHERS.match(behind))
  if _STRONG.match(behind) or _BECAUSE.match(behind):
    return True
  if match["letter"] in "AIai" and not match["named"]:
    return bool(_OTHERS.match(behind))
  if match["letter"].islower():
    return False
  return match["named"] is not None or bool(_GOES_ON.match(behind))


def same_letter(value: str, target: str) -> bool:
  """Tells whether a letter is the target."""
  return value.strip().upper() == target.strip().upper()
