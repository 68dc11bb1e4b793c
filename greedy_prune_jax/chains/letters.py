"""Letters of options, as models name them: `(B)`, `option b`, `B. four`, `F = 20 N, option C`."""

import re
from typing import NamedTuple

from greedy_prune_jax.chains.normal_text import normal_answer, plain_signs
from greedy_prune_jax.chains.species import SPECIES

_OPTION = r"(?i:option|choice|letter|answer)"
_WRAPPED = r"\\(?:text\w{0,2}|math\w{2}|boxed)\s{0,4}\{"
_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff]")
# What may stand before a letter that is meant, and the letter.
_LETTER = re.compile(
  rf"""(?:[\s*_$\["'`:{{]|\\[({{]|(?<=\n)[>+-]\s){{0,40}}(?:{_WRAPPED})?"""
  rf"""(?P<named>(?i:the\s{{1,4}})?(?i:correct\s{{1,4}})?{_OPTION}\s{{0,4}}:?\}}?\s{{1,4}})?"""
  rf"""[*_$"'`]{{0,4}}(?:{_WRAPPED})?\s{{0,4}}(?P<open>\()?\s{{0,4}}(?P<letter>[A-Ja-j])(?![^\W_])"""
)
_CLOSED = r"""[)\]}*$"'`,;!?:\u2026]|_(?!\w)|__|\\[)}]"""
# What follows a letter that is meant: an end, a sign, the option's text behind a dash or a bracket.
_STRONG = re.compile(rf"\s{{0,4}}(?:{_CLOSED}|\.(?!\s+[a-z])|\\[\]]|$)|\s+[-(](?!\w)|\s+\(|\s*\n")
_REASON = r"because|since|as|which|that|due|given|based|is"
_FURTHER = (
  rf"(?:{_REASON}|for|and|but|so|or|where|when|if|in|with|not|by|from|we|it|here|this|the|rather"
  r"|instead|unless|whenever|only|over)"
)
# Words that go on after a letter, but after neither an article nor a pronoun.
_BECAUSE = re.compile(rf"\s+(?:{_REASON}|when|where|if|and not|rather|instead|unless)\b")
_FOR = re.compile(r"\s+(?:for|by|from)\s+(?:this|these|the|all|our)\b")
_GOES_ON = re.compile(rf"\s+(?:{_FURTHER}\b|[A-Z\d])")
_OPTION_TEXT = re.compile(r"\.\s+[a-z]")  # `C. four`; but `E. coli, (B)`
# A variable, B-cell, I'm, E.g., D. H. Lawrence
_NO_LETTER = re.compile(
  r"\s{0,4}(?:[=^+/<>]|_(?=[^\W_]|\{))|[-'.](?=\w)|\.\s{0,2}[A-Z](?!\.\s{0,4}[a-z])\."
)
_OTHERS = re.compile(
  r"\s{0,4}[)*]{0,3}(?:"
  r"(?:\s{0,4},)?\s{0,4}(?:\b(?:or|and)\b|[/&])\s{0,4}"
  rf"(?:(?i:both|{_OPTION})\s{{1,4}})?\(?(?!I\s+(?!is|are|both|because|since)[a-z])(?P<joined>[A-J])(?=[\s).,;*]|$)"
  r"|\s{0,4},\s{0,4}\(?(?P<listed>[A-J])(?=[)*]{0,3}\s{0,4}(?:[,;]|\.(?!\s+[a-z])|\n|$|\b(?:and|or)\b))"
  r"|\s{0,4},\s{0,4}(?P<roman>II|III|IV|VI{0,3})\b)"
)
# `B. Franklin, (H)`
_SURNAME = re.compile(
  r"\.\s(?!(?:Not|Unlike|Options?|Choices?|So|Thus|Hence|Therefore|Because|Since|Note)\b)"
  r"[A-Z][\w-]{1,30}(?:,|\s[A-Z][\w-]{1,30},?)\s(?:(?:which|that) is |i\.e\.,? |so )?"
  rf"(?:{_OPTION}\s{{1,4}})?\((?P<letter>[A-J])\)\s{{0,4}}(?:[.;!\n]|$)"
)
# `13, which is D.`, `13, so D`, `13, D.`
_CONCLUDED = re.compile(
  r"(?:\b(?:which is|that is|i\.e\.|namely|so)|->|=>|[\u2192\u21d2]|(?<=\d),"
  r"|\b(?:option|choice|one),)"
  r"[\s,:*]{1,6}(?P<letter>[A-J])\*{0,3}\.?\s*\Z"
)
_EXPLICIT = re.compile(rf"(?<!not )(?:{_OPTION}\s{{1,4}}\(?(?P<a>[A-J])\b|\((?P<b>[A-J])\))")
_SENTENCE = re.compile(r"\n|(?<!i\.e)(?<!e\.g)(?<!\b[A-Z])[.!?]\s+(?=[A-Z])")


# `I choose D`, `I'd go with (D)`, `it must be D`
_CHOOSES = (
  r"(?:choose|chose|choosing|pick(?:ed|ing)?|select(?:ed|ing)?|(?:go(?:ing)?|went) (?:with|for)"
  r"|opt(?:ed|ing)? for|settled? on|say|said|think|thought|believe|guess|conclude)"
)
_IS = (
  r"(?:(?:it|that|this|the (?:correct |right |best )?(?:answer|option|choice|one))(?:'s| is| {})?)"
)
_IS = _IS.format("(?:must|should|would|has to) be")
_CHOSEN = re.compile(
  r"(?:\A[\W_]{0,8}|[,;:] |(?=\bbut ))(?:(?:but|so|thus|therefore|hence|well|then),? )?"
  rf"(?i:(?:(?:(?:i|we)(?:'d|'m|'ll|'ve)?|let's|let us) (?:(?!not|never)[a-z]{{2,12}} ){{0,2}})?"
  rf"{_CHOOSES},?(?: that)?(?: {_IS})?|{_IS}|must be) +"
)

_LAST = re.compile(r"\A[^()]{1,200}\((?P<letter>[A-J])\)\Z")  # `13 (D)`


class Letter(NamedTuple):
  """A letter in upper case, or several as `B, C`, and where in the text it stands."""

  start: int
  text: str


def find_letter(text: str) -> Letter | None:
  """The letter that a text names, which stands behind `The answer is`; None if it names none.

  Never a word's first letter, a pronoun or an article: A and I count only where a sign or a reason
  follows.
  """
  text = _INVISIBLE.sub(" ", plain_signs(text))
  match = _LETTER.match(text)
  if match and (name := _SURNAME.match(text, match.end())):
    return Letter(name.start("letter"), name["letter"])
  letter = _meant_letter(match)
  # `F = 20 N, which is option C`; `I, II and III, which is (B)`
  lead = len(text) - len(text.lstrip("\n *_"))
  sentence = _SENTENCE.split(text[lead:], maxsplit=1)[0]
  if letter is None or "II" in letter.text:
    for pattern in (_EXPLICIT, _CONCLUDED):
      if explicit := pattern.search(sentence):
        group = str(explicit.lastgroup)
        return Letter(lead + explicit.start(group), explicit[group])
  return letter or _before_option_text(match) or _chosen_letter(sentence, lead)


def _chosen_letter(sentence: str, start: int) -> Letter | None:
  """The letter behind `I choose`, in a sentence that begins at `start`."""
  chosen = _CHOSEN.search(sentence)
  match = _LETTER.match(sentence, chosen.end()) if chosen else None
  letter = _meant_letter(match) or _before_option_text(match)
  return letter and Letter(start + letter.start, letter.text)


def only_letter(text: str) -> str | None:
  """The letter that a text is, as in a box: `(b)`, `C. four`; None if it is something else."""
  text = _plain(text)
  match = _LETTER.match(text)
  letter = _meant_letter(match) or _before_option_text(match)
  if letter is None and (last := _LAST.search(text)):
    return last["letter"]
  return letter and letter.text


def _plain(text: str) -> str:
  return plain_signs(normal_answer(text[:500]))


def _meant_letter(match: re.Match[str] | None) -> Letter | None:
  if match is None or not _is_meant(match, match.string[match.end() :]):
    return None
  letter, others = match["letter"].upper(), _OTHERS.match(match.string, match.end())
  other = others and others[str(others.lastgroup)]
  return Letter(match.start("letter"), f"{letter}, {other}" if other else letter)


def _before_option_text(match: re.Match[str] | None) -> Letter | None:
  if match is None or not match["letter"].isupper():
    return None
  behind = (match.string, match.end())
  if not _OPTION_TEXT.match(*behind) or SPECIES.match(*behind):
    return None
  return Letter(match.start("letter"), match["letter"])


def _is_meant(match: re.Match[str], behind: str) -> bool:
  """Tells whether a letter at the beginning of an answer names an option."""
  if match["open"]:
    return behind.lstrip().startswith(")")
  if SPECIES.match(behind):
    return False
  if _NO_LETTER.match(behind):
    return bool(_OTHERS.match(behind))
  if _STRONG.match(behind) or _BECAUSE.match(behind):
    return True
  if match["letter"] in "Aa" and _FOR.match(behind):
    return True
  if match["letter"] in "AIai" and not match["named"]:
    return bool(_OTHERS.match(behind))
  if match["letter"].islower():
    return False
  return match["named"] is not None or bool(_GOES_ON.match(behind))


def same_letter(value: str, target: str) -> bool:
  """Tells whether a letter is the target, which may be written as models write one: `(B)`."""
  return value.strip().upper() == (_gold_letter(target) or target).strip().upper()


def _gold_letter(target: str) -> str | None:
  """The letter that a gold answer is; None if it is something else: `20 (C)`, `C 14`, `A cat`.

  Stricter than `only_letter`: the letter begins the text, and an end, a sign or the option's text
  follows it, no word that goes on.
  """
  match = _LETTER.match(_plain(target))
  if match is None:
    return None
  behind = (match.string, match.end())
  ends = match["open"] or _STRONG.match(*behind) or _OTHERS.match(*behind)
  letter = _meant_letter(match) if ends else _before_option_text(match)
  return letter and letter.text
