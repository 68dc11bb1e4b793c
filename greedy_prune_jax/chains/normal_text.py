r"""One normalisation of answers, applied before any answer form parses them.

`plain_signs` keeps a text's length, so that places found in it are places in the original;
`normal_answer` is for a value cut out of it.
"""

import re
import unicodedata


def _of_category(*categories: str) -> list[str]:
  """The characters beyond ASCII that Unicode puts into any of these categories."""
  codes = (*range(0x80, 0x3100), *range(0xFE00, 0xFFF0))
  return [chr(code) for code in codes if unicodedata.category(chr(code)) in categories]


_MINUS_SIGNS = "\u2212\u2043\u02d7\u2796"
_SINGLE_QUOTES = "\u2018\u2019\u201a\u201b\u2032\u2039\u203a\u02bc\u02b9\u00b4\uff07"
_FILLERS = "\u115f\u1160\u3164\uffa0\u2800\u0085\x1c\x1d\x1e\x1f\t\v\f\r"
# Letters that differ from Latin ones in style alone: bold, italic, in circles, in brackets.
_STYLED = (*range(0x1D400, 0x1D800), *range(0x249C, 0x24EA))
_SIGNS = {
  **dict.fromkeys([*_of_category("Pd"), *_MINUS_SIGNS], "-"),
  **dict.fromkeys([*_of_category("Pi", "Pf"), *"\u201e\u2033\uff02\u300c\u300d\u300e\u300f"], '"'),
  **dict.fromkeys(_SINGLE_QUOTES, "'"),
  **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F) if code != 0xFF0D},
  **{chr(code): unicodedata.normalize("NFKC", chr(code)).strip("()") for code in _STYLED},
  "\u3002": ".",
  "\u3001": ",",
}
# White space but line breaks.
_SPACES = [*_of_category("Zs", "Zl", "Zp"), *_FILLERS]
_TO_PLAIN = str.maketrans(_SIGNS | dict.fromkeys(_SPACES, " "))

_INVISIBLE = re.compile(
  "[\u200b-\u200f\u2060-\u2064\ufeff\u00ad\u061c\u180e\u202a-\u202e\u2066-\u2069\ufe00-\ufe0f]"
)
_VULGAR = {
  chr(code): r" \frac{{{}}}{{{}}} ".format(
    *unicodedata.normalize("NFKC", chr(code)).split("\u2044")
  )
  for code in (*range(0xBC, 0xBF), *range(0x2150, 0x215F), 0x2189)
}
_SUPERSCRIPT = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u207b]+")
_SUBSCRIPT = re.compile("[\u2080-\u208b]+")
# Unicode signs as the TeX that says the same.
_TEX = {
  "\u00d7": r"\times ",
  "\u00f7": r"\div ",
  "\u00b7": r"\cdot ",
  "\u22c5": r"\cdot ",
  "\u2260": r"\ne ",
  "\u2264": r"\le ",
  "\u2265": r"\ge ",
  "\u2248": r"\approx ",
  "\u2a7d": r"\le ",
  "\u2a7e": r"\ge ",
  "\u00b1": r"\pm ",
  "\u2213": r"\mp ",
  "\u221e": r"\infty ",
  "\u2205": r"\emptyset ",
  "\u222a": r"\cup ",
  "\u2229": r"\cap ",
  "\u2208": r"\in ",
  "\u03c0": r"\pi ",
  "\u03b8": r"\theta ",
  "\u03b1": r"\alpha ",
  "\u03b2": r"\beta ",
  "\u2220": r"\angle ",
  "\u2103": r"^\circ C",
  "\u2109": r"^\circ F",
  "\u2044": "/",
  "\u2215": "/",
  "\u066b": ".",  # Arabic decimal point
  "\u066c": "{,}",  # and thousands separator
}
_CHARACTERS = str.maketrans(_VULGAR | _TEX)
_ROOT = re.compile("([\u221a-\u221c])\\s*(?:\\(([^()]*)\\)|(\\w+|\\\\[a-z]+))")
_ROOTS = {"\u221a": "", "\u221b": "[3]", "\u221c": "[4]"}
_DEGREE = re.compile(
  r"(?:(?<!\s)\s++)?(?:\^\s*\{?\s*\\circ\s*\}?|\\(?:text)?degrees?\b"
  r"|[\u00b0\u00ba\u02da](?=\s*[CFK]?\b|\W|$)"
  r"|(?<=\d)(?:\s*+(?:\^\s*+)?\u2218|\\deg\b"
  r"|\s*+\^\s*+\{?\s*+(?:\u2218|o\b|\\(?:text|mathrm)\s*\{o\})\s*\}?))"
)
_TEX_SPACE = re.compile(
  r"(?<!\\)\\[,;:!>\s]|(?<!\\)~|\\(?:quad|qquad|thinspace|enspace|nobreakspace)\b"
)
# Names in TeX of one and the same sign, set or function, as that of the right side.
_SAME_IN_TEX = [
  (re.compile(pattern), name)
  for pattern, name in (
    (r"\\lbrace(?![A-Za-z])", r"\\{"),
    (r"\\rbrace(?![A-Za-z])", r"\\}"),
    (r"\\varnothing(?![A-Za-z])|\\\{\s*\\\}", r"\\emptyset"),
    (r"\\([RZNQC])(?![A-Za-z])", r"\\mathbb{\1}"),
    (r"\\operatorname\*?\s*\{((?:arc)?(?:sin|cos|tan)|ln|log|exp|max|min|gcd)\}", r"\\\1 "),
  )
]
_LAYOUT = re.compile(
  r"\\(?:left|right|bigg?|Bigg?|displaystyle|textstyle|limits|boldsymbol|mathbf|underline|bf|rm|it|sf)"
  r"(?![A-Za-z])"
  r"|\\(?:text)?color\s*\{[^{}]*\}|\\phantom\s*\{[^{}]*\}|\\(?:qed|blacksquare)\b"
)
_SPACE_COMMAND = re.compile(r"\\[hv](?:space|skip)\*?\s*\{[^{}]*\}")
_SIDE_BY_SIDE = re.compile(r"(?<=\d)\s*\\q?quad\b\s*(?=\d)")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\{(?:equation|align|gather|displaymath|math)\*?\}")
_FRACTION_NAME = re.compile(r"\\(?:[dtcs]|nice)frac(?![A-Za-z])")
_OVER = re.compile(
  r"\{([^{}]{1,100})\\over(?![A-Za-z])([^{}]{1,100})\}"
  r"|\A([^{}]{1,100})\\over(?![A-Za-z])([^{}]{1,100})\Z"
)
_HTML_POWER = re.compile(r"<(sup|sub)>([^<>]{1,100})</\1>", re.IGNORECASE)
_STOPPED_TEXT = re.compile(r"(\\(?:text\w*|mbox)\s*\{[^{}]*[^{}\s.,;:])[\s.,;:]+\}\Z")
# Where the user speaks again: a reply that went on past its end.
_NEXT_TURN = re.compile(
  r"(?:<\|im_start\|>|<\|start_header_id\|>|<start_of_turn>|<\|start\|>|<\|turn>)\s{0,4}user\b"
  r"|<[|\uff5c]user[|\uff5c]>|\[INST\]",
  re.IGNORECASE,
)
# Tags of HTML and ends of replies, which a sampler that shows special tokens leaves in a text.
_INLINE_TAG = re.compile(
  r"<([biu])>(?=[^<>]{0,500}</\1>)|</[biu]>"
  r"|</?(?:em|strong|code|mark|span|font|center)(?:\s[^<>]{0,100})?>",
  re.IGNORECASE,
)
_BLOCK_TAG = re.compile(
  r"</?(?:p|div|br|pre)(?:\s[^<>]{0,100})?/?>|</answer>|</s>|<(?:eo[sd]|end_of_\w{1,12})>"
  r"|<[|\uff5c][\w\u2581 ]{1,40}[|\uff5c]>|<\|[a-z_]{1,20}>|<[a-z_]{1,20}\|>"
  r"|\[(?:EOS|/?INST|end of text)\]",
  re.IGNORECASE,
)
# What templates write behind a reply, and samplers to fill up a batch.
_TURN_END = re.compile(
  r"(?:</s>|<(?:eo[sd]|pad|end_of_(?:turn|utterance))>|<turn\|>|<seed:eos>"
  r"|\[(?:EOS|end of text|\|endofturn\|)\]"
  r"|<[|\uff5c](?:im_end|end|return|eom_id|eot_id|eo[dst]|endoftext|end_of_(?:text|turn|turn_token)"
  r"|user|end\u2581of\u2581sentence)[|\uff5c]>)\Z",
  re.IGNORECASE,
)
_LONGEST_TURN_END = len("<|end_of_turn_token|>")
# Groups of three digits between separators that no list has: `12\,500`, `12{,}500`, `12'500`.
_GROUPS = re.compile(
  r"(?<![\d.,])(\d{1,3})(?:(?:\s|\\[,;:!>\s]|~|\{,\}|,\\!\s*|\\!,|\{\\,\}|['_])\d{3}){1,99}"
  r"(?![\d,]|\.\d{3}[.,]|\s?-[A-Za-z])"
)
# A sign at the end that is no part of a value, and the most characters that one has.
_END = re.compile(
  r"(?:[\s.,;:?\u2026*_`\u2713\u2714\u2705\u220e\u25a0]|={2}|\\checkmark|(?<!\\)\$|\\\]|\\\)|\\{2}"
  r"|(?<!\\)\\[,;:!\s]?)\Z"
)
_LONGEST_END = len(r"\checkmark")
_START = re.compile(r"\A(?:[\s:;*_`]|={2}|\$\$?(?![\d.])|\$\$?(?=[^$]*\$)|\\\[|\\\()+")


def plain_signs(text: str) -> str:
  """The text with one plain character for each exotic space, dash, quote and full-width letter."""
  return text if text.isascii() and "\t" not in text else text.translate(_TO_PLAIN)


def find_turn(text: str) -> str | None:
  """The beginning of a user's turn in a text in a chat template; None in other texts."""
  turn = _NEXT_TURN.search(text)
  return turn and turn[0]


def hide_tags(text: str) -> str:
  """The text, of its own length, with white space in place of HTML tags and special tokens.

  Nor does it show what follows where a reply went on with the user's next turn.
  """
  if "<" not in text and "[" not in text:
    return text
  if turn := _NEXT_TURN.search(text, 1):
    text = text[: turn.start()] + "\n" * (len(text) - turn.start())
  text = _INLINE_TAG.sub(lambda m: " " * len(m[0]), text)
  return _BLOCK_TAG.sub(lambda m: "\n" * len(m[0]), text)


def without_turn_end(text: str) -> str:
  """A reply without the special tokens at its end, which chat templates write behind it."""
  stripped = text.rstrip()
  while match := _TURN_END.search(stripped, max(0, len(stripped) - _LONGEST_TURN_END)):
    text = stripped = stripped[: match.start()].rstrip()
  return text


def normal_answer(text: str) -> str:
  r"""An answer's value in plain signs and TeX, without layout and without what encloses it.

  `13\,535` and `13 535` become `13535`, `2½` becomes `2 \frac{1}{2}`, `90°` becomes `90^\circ`,
  `**\(x² + 1\).**` becomes `x^{2} + 1`.
  """
  text = hide_tags(_HTML_POWER.sub(_as_power, _INVISIBLE.sub("", text).translate(_CHARACTERS)))
  text = _ROOT.sub(lambda m: rf"\sqrt{_ROOTS[m[1]]}{{{m[2] or m[3]}}}", text)
  text = _DEGREE.sub(r"^\\circ ", text)
  text = _SUPERSCRIPT.sub(lambda m: "^{" + _nfkc(m[0]) + "}" if m.start() else _nfkc(m[0]), text)
  text = _SUBSCRIPT.sub(lambda m: "_{" + _nfkc(m[0]) + "}", text)
  text = plain_signs(_nfkc(text))
  text = _SIDE_BY_SIDE.sub(", ", _SPACE_COMMAND.sub(r"\\,", _ENVIRONMENT.sub(" ", text)))
  text = _stripped(_LAYOUT.sub("", _FRACTION_NAME.sub(r"\\frac", text)))
  text = _STOPPED_TEXT.sub(r"\1}", _OVER.sub(_as_fraction, text))
  text = _GROUPS.sub(lambda m: re.sub(r"\D", "", m[0]), text)
  text = _stripped(_TEX_SPACE.sub(" ", text).replace("{,}", ","))
  for pattern, name in _SAME_IN_TEX:
    text = pattern.sub(name, text)
  return re.sub(r" {2,}", " ", text.replace("\n", " ")).strip()


# `0xAB`, as programs write numbers of base 16, 2 and 8; `0 x 12` is a product.
PREFIXED = re.compile(
  r"(?<![\w.])0(?P<prefix>[xX](?=[0-9A-Fa-f])|[bB](?=[01]{1,99}\b)|[oO](?=[0-7]{1,99}\b))"
  r"(?P<digits>[0-9A-Fa-f]{1,99})(?![\w.])"
)


def in_decimals(text: str) -> str:
  """The text with numbers such as `0xAB` in decimals."""
  return PREFIXED.sub(lambda match: str(int(match[0], 0)), text)


def _as_power(match: re.Match[str]) -> str:
  return f"{'^' if match[1].lower() == 'sup' else '_'}{{{match[2]}}}"


def _as_fraction(match: re.Match[str]) -> str:
  above, below = (part for part in match.groups() if part is not None)
  return rf"\frac{{{above.strip()}}}{{{below.strip()}}}"


def _nfkc(text: str) -> str:
  return text if text.isascii() else unicodedata.normalize("NFKC", text).replace("\u2212", "-")


def _stripped(text: str) -> str:
  """The text without enclosing white space, emphasis, math delimiters and closing punctuation."""
  text = _START.sub("", text)
  end = len(text)
  # Sign by sign from the end: a search for all of them begins anew at each, in quadratic time.
  while sign := _END.search(text, max(0, end - _LONGEST_END), end):
    end = sign.start()
  return text[:end]
