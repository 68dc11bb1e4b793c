"""Secrets in what a server answers: found in any spelling that a page, JSON or an address has."""

import html.entities
import re
from typing import Any

SHOWN_AS = "[the key]"
_SHORTEST = 8  # characters; placeholders such as "none" or "EMPTY" are no secrets
# Between two characters: a line that was wrapped, a tag, a character without a width.
_BETWEEN = (
  r"(?:\s|\\{1,8}[nrt]|=\r?\n|<[^<>]{0,60}>|&(?:shy|nbsp|zwj|zwnj);"
  r"|\\{1,8}u(?:200[b-f]|2060|feff|00ad)|[\u00ad\u200b-\u200f\u2060\ufeff])"
)
_NAMES = {code: name for name, code in html.entities.name2codepoint.items()}


class SecretFilter:
  """Replaces secrets in texts, as they are or escaped, and broken into lines or not."""

  def __init__(self, *secrets: str):
    """Takes texts that nothing may show; short ones are none."""
    patterns = [_pattern(secret) for secret in secrets if len(secret) >= _SHORTEST]
    self._pattern = re.compile("|".join(patterns), re.IGNORECASE) if patterns else None

  def text(self, text: str) -> str:
    """The text without secrets."""
    return self._pattern.sub(SHOWN_AS, text) if self._pattern else text

  def value(self, value: Any) -> Any:
    """A JSON value without secrets in any of its strings, keys included."""
    if isinstance(value, str):
      return self.text(value)
    if isinstance(value, list):
      return [self.value(item) for item in value]
    if isinstance(value, dict):
      return {self.text(key): self.value(item) for key, item in value.items()}
    return value


def _pattern(secret: str) -> str:
  return rf"{_BETWEEN}{{0,8}}".join(map(_spellings, secret))


def _spellings(character: str) -> str:
  """A character of ASCII as it is, or escaped as in JSON, in a page, or in an address."""
  code = ord(character)
  spellings = [
    re.escape(character),
    rf"\\{{1,8}}u00{code:02x}",
    rf"\\{{1,8}}x{code:02x}",
    rf"&\#0{{0,5}}{code};",
    rf"&\#x0{{0,5}}{code:x};",
    rf"%(?:25)?{code:02x}",
  ]
  if name := _NAMES.get(code):
    spellings.append(f"&{name};")
  return f"(?:{'|'.join(spellings)})"
