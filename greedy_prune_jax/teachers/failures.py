"""Requests that failed: whether they may pass, how long to wait, and what happened, in words."""

import contextlib
import datetime
import email.utils
import html
import json
import math
import re
from collections.abc import Mapping

_LONGEST_WAIT = 120.0  # seconds between two attempts
# Statuses after which trying again may help: timeout, conflict, too early, rate limit.
_TRY_AGAIN = (408, 409, 425, 429)
# Statuses that no prompt can change: the key, the account, the model's name, the address.
_HOPELESS = (401, 402, 403, 404)
_NO_MONEY = "insufficient_quota"  # which comes with the status of a rate limit
FILTERED = "content_filter"
_SHOWN = 300  # characters of a body that a message quotes


class FailedRequestError(Exception):
  """A request got no answer, or one that is a failure of the provider.

  Attributes:
    status: status of HTTP; None where there is none, or where it says that all went well.
    body: text of the answer, without the key.
    code: the endpoint's own code of the failure.
    wait: seconds that the endpoint asks to wait.
  """

  def __init__(
    self,
    words: str,
    *,
    status: int | None = None,
    body: str = "",
    code: str | None = None,
    wait: float = 0.0,
  ):
    super().__init__(f"{status}: {words}" if status else words)
    self.status, self.body, self.code, self.wait = status, body, code, wait

  @property
  def may_pass(self) -> bool:
    """True where the request may be answered if it is made again."""
    if self.status is None or self.status >= 500:
      return True
    return self.status in _TRY_AGAIN and self.code != _NO_MONEY

  @property
  def is_of_prompt(self) -> bool:
    """True where the endpoint is well, and refuses this prompt or its reply."""
    return self.code == FILTERED or not (self.may_pass or self.is_hopeless)

  @property
  def is_hopeless(self) -> bool:
    """True where every other request would fail like this too."""
    status = self.status or 0
    return 300 <= status < 400 or status in _HOPELESS or self.code == _NO_MONEY


def words_of(text: str) -> str:
  """The words of a body, for a message: those of its error where it is JSON, else its text."""
  try:
    value = json.loads(text)
  except (ValueError, RecursionError):
    text = re.sub(r"(?is)<(script|style)\b.*?</\1>|<[^<>]*>", " ", text)  # a page
    return shortened(html.unescape(text)) or "no reason is given"
  for key in ("error", "message", "detail", "msg"):
    inner = value.get(key) if isinstance(value, dict) else None
    value = inner if inner else value
  if not isinstance(value, str):
    value = "" if not value else text
  return shortened(value) or "no reason is given"


def shortened(text: str) -> str:
  """A text on one line, cut to what a message can hold; no character of it commands a terminal."""
  text = " ".join(text[: 8 * _SHOWN].split())
  text = "".join(x if x.isprintable() else x.encode("unicode_escape").decode() for x in text)
  return text[:_SHOWN] + ("..." if len(text) > _SHOWN else "")


def connection_words(error: BaseException) -> str:
  """The system's words for a connection that failed, such as "Connection refused"."""
  cause: BaseException | None = error
  while cause is not None:
    if isinstance(cause, OSError) and cause.strerror:
      return f"the connection failed: {cause.strerror}"
    cause = cause.__cause__ or cause.__context__
  return "the connection broke off"


def retry_after(headers: Mapping[str, str]) -> float:
  """Seconds that a response's headers ask to wait; 0 where they do not say."""
  for name, scale in (("retry-after-ms", 1000), ("retry-after", 1)):
    try:
      seconds = float(headers.get(name, "")) / scale
    except ValueError:
      continue
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0
  date = _date(headers.get("retry-after", ""))
  return max(0.0, (date - datetime.datetime.now(datetime.UTC)).total_seconds()) if date else 0.0


def _date(text: str) -> datetime.datetime | None:
  """A date in any form of HTTP's, or in ISO 8601's; UTC where it names no zone."""
  for parse in (email.utils.parsedate_to_datetime, datetime.datetime.fromisoformat):
    with contextlib.suppress(ValueError, TypeError, OverflowError):
      date = parse(text.strip())
      return date if date.tzinfo else date.replace(tzinfo=datetime.UTC)
  return None


def wait_before(attempt: int, backoff: float, asked: float, share: float) -> float:
  """Seconds to wait before an attempt is made again.

  Args:
    attempt: number of attempts that were made before the one that failed.
    backoff: seconds after the first attempt.
    asked: seconds that the endpoint asks to wait.
    share: share of the time by backoff, from 0.5 to 1, drawn by chance so that clients come apart.
  """
  own = min(backoff * 2.0 ** min(attempt, 30), _LONGEST_WAIT)
  return max(own * share, min(asked, _LONGEST_WAIT))
