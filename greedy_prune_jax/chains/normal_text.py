r"""One normalisation of answers, applied before any answer form parses them.

`plain_signs` keeps a text's length, so that places found in it are places in the original;
`normal_answer` is for a value cut out of it.
"""

import re
import unicodedata

_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u207b\u208b\ufe58\ufe63\uff0d"
_SIGNS = {
  **dict.fromkeys(_DASHES, "-"),
  **dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033\uff02", '"'),
  **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\uff07", "'"),
  **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F) if code != 0xFF0D},
  "\u3002": ".",
  "\u3001": ",",
}
# White space but line breaks: NBSP, thin, narrow, figure and ideographic spaces, tabs.
_SPACES = "\t\v\f\r\u00a0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
  map(chr, range(0x2000, 0x200B))
)
_TO_PLAIN = str.maketrans(_SIGNS | dict.fromkeys(_SPACES, " "))

_INVISIBLE = re.compile("[\u200b-\u200f\u2060-\u2064\ufeff\u00ad\u180e\u202a-\u202e\u2066-\u2069]")
_VULGAR = {
  chr(code): " " + unicodedata.normalize("NFKC", chr(code)).replace("\u2044", "/")
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
  "\u222a": r"\cup ",
  "\u2229": r"\cap ",
  "\u2208": r"\in ",
  "\u03c0": r"\pi ",
  "\u03b8": r"\theta ",
  "\u03b1": r"\alpha ",
  "\u03b2": r"\beta ",
  "\u2220": r"\angle ",
  "\u2044": "/",
  "\u2215": "/",
  "\u066b": ".",  # Arabic decimal point
  "\u066c": "{,}",  # and thousands separator
}
_CHARACTERS = str.maketrans(_VULGAR | _TEX)
_ROOT = re.compile("\u221a\\s*(?:\\(([^()]*)\\)|(\\w+|\\\\[a-z]+))")
_DEGREE = re.compile(
  r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree\b|[\u00b0\u00ba](?=\s*[CFK]?\b|\W|$))"
)
_TEX_SPACE = re.compile(
  r"(?<!\\)\\[,;:!>\s]|(?<!\\)~|\\(?:quad|qquad|thinspace|enspace|nobreakspace)\b"
)
_LAYOUT = re.compile(
  r"\\(?:left|right|bigg?|Bigg?|displaystyle|textstyle|limits|boldsymbol|mathbf|bf)(?![A-Za-z])"
)
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\{(?:equation|align|gather|displaymath|math)\*?\}")
_HTML = re.compile(r"<(b|i|u|em|strong|code|mark)>([^<>]{0,500})</\1>", re.IGNORECASE)
_FRACTION_NAME = re.compile(r"\\[dtc]frac(?![A-Za-z])")
# Groups of three digits between separators that no list has: `12\,500`, `12{,}500`, `12'500`.
_GROUPS = re.compile(
  r"(?<![\d.,])(\d{1,3})(?:(?:\s|\\[,;:!>\s]|~|\{,\}|,\\!\s*|\\!,|\{\\,\}|['_])\d{3}){1,99}"
  r"(?![\d,]|\.\d{3}[.,]|\s?-[A-Za-z])"
)
_END = re.compile(
  r"(?:[\s.,;:?\u2026*_`\u2713\u2714\u2705]|\\checkmark\b|(?<!\\)\$|\\\]|\\\)|(?<!\\)\\[,;:!\s])+\Z"
)
_START = re.compile(r"\A(?:[\s:;*_`]|\$\$?(?![\d.])|\$\$?(?=[^$]*\$)|\\\[|\\\()+")


def plain_signs(text: str) -> str:
  """The text with one plain character for each exotic space, dash, quote and full-width letter."""
  return text if text.isascii() and "\t" not in text else text.translate(_TO_PLAIN)


def normal_answer(text: str) -> str:
  r"""An answer's value in plain signs and TeX, without layout and without what encloses it.

  `13\,535` and `13 535` become `13535`, `2½` becomes `2 1/2`, `90°` becomes `90^\circ`,
  `**\(x² + 1\).**` becomes `x^{2} + 1`.
  """
  text = _INVISIBLE.sub("", text).translate(_CHARACTERS)
  text = _ROOT.sub(lambda m: rf"\sqrt{{{m[1] or m[2]}}}", text)
  text = _DEGREE.sub(r"^\\circ ", text)
  text = _SUPERSCRIPT.sub(lambda m: "^{" + _nfkc(m[0]) + "}", text)
  text = _SUBSCRIPT.sub(lambda m: "_{" + _nfkc(m[0]) + "}", text)
  text = plain_signs(_nfkc(text))
  text = _ENVIRONMENT.sub(" ", _HTML.sub(r"\2", text))
  text = _stripped(_LAYOUT.sub("", _FRACTION_NAME.sub(r"\\frac", text)))
  text = _GROUPS.sub(lambda m: re.sub(r"\D", "", m[0]), text)
  text = _TEX_SPACE.sub(" ", text).replace("{,}", ",")
  return re.sub(r" {2,}", " ", text.replace("\n", " ")).strip()


def _nfkc(text: str) -> str:
  return text if text.isascii() else unicodedata.normalize("NFKC", text).replace("\u2212", "-")


def _stripped(text: str) -> str:
  """The text without enclosing white space, emphasis, math delimiters and closing punctuation."""
  return _END.sub("", _START.sub("", text))
