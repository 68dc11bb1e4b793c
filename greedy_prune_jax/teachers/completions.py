"""Chat completions: requests to OpenAI-compatible endpoints, and replies from them."""

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any

from greedy_prune_jax.chains.thinking import FORMS
from greedy_prune_jax.chains.thinking_chains import AUTO, ON
from greedy_prune_jax.runs.records import Record
from greedy_prune_jax.teachers.failures import FILTERED, FailedRequestError, shortened, words_of
from greedy_prune_jax.teachers.settings import (
  CAN_BE_OMITTED,
  STRUCTURED,
  TEMPLATE_VARIABLES,
  EndpointSettings,
  WritingSettings,
)
from greedy_prune_jax.teachers.structured import schema_in_words
from greedy_prune_jax.teachers.teacher import (
  CUT_OFF,
  NEVER,
  OWN,
  REFUSED,
  STOPPED,
  TOOL_CALL,
  ChatPrompt,
  Reply,
)

# Tokens that a chat template adds: its marks, and in some a system text of its own.
_CHAT_OVERHEAD = 100
_BYTES_PER_TOKEN = 64  # most bytes of JSON for a token of a reply
_FURTHER_BYTES = 1 << 20  # most bytes of an answer beside its replies
_REFUSED_STATUS = (400, 422)  # statuses for a request that the endpoint does not understand
_MOST_TOKENS = 10**9  # a larger count of tokens is taken for an error, and ignored
# Values of finish_reason from OpenAI, Anthropic, Google, Mistral, Hugging Face and others.
_GOOD_ENDS = ("stop", "eos", "eos_token", "end_turn", "stop_sequence", "stop_token", "end_of_text")
_GOOD_ENDS += ("end", "complete", "completed", "finished", "")
_CUT_END = re.compile(r"length|max_\w*tokens|token_limit|context_window")
_FILTERED_END = re.compile(
  r"filter|safety|sensitive|recitation|blocklist|blocked|prohibited|spii|moderation|guardrail|toxic"
)
_FAILED_END = re.compile(
  r"error|fail|abort|cancel|timeout|malformed|insufficient|overload|unavailable|disconnect|"
  + _FILTERED_END.pattern
)


@dataclasses.dataclass(frozen=True)
class Dialect:
  """Form of requests that an endpoint understands, as far as its replies have shown.

  Attributes:
    structured: form of requests for JSON, as in `EndpointSettings`.
    omit: fields that are not sent: those of `EndpointSettings`, and `top_k` and `top_p` where the
      endpoint refused them although they allow all tokens.
    limit_name: name of the limit of tokens: `max_tokens`, but `max_completion_tokens` for OpenAI's
      newest models.
    all_top_k: value of `top_k` that allows all tokens: 0, but -1 for some servers.
  """

  structured: str
  omit: frozenset[str] = frozenset()
  limit_name: str = "max_tokens"
  all_top_k: int = 0

  @classmethod
  def of(cls, endpoint: EndpointSettings) -> "Dialect":
    """The dialect of the first request."""
    return cls(endpoint.structured, frozenset(endpoint.omit))

  def arguments(self, prompt: ChatPrompt, model: str, settings: WritingSettings) -> Record:
    """The body of a request. It states every setting, so that no server's default applies."""
    request: Record = {}
    if prompt.schema is not None and self.structured == "json_schema":
      schema = {"name": "reply", "schema": dict(prompt.schema), "strict": True}
      request["response_format"] = {"type": "json_schema", "json_schema": schema}
    else:
      prompt = schema_in_words(prompt)
      if prompt.schema is not None and self.structured == "json_object":
        request["response_format"] = {"type": "json_object"}
    question, system = prompt.question, prompt.system
    if system and "system" in self.omit:
      question, system = f"{system}\n\n{question}", None
    request["messages"] = [{"role": "user", "content": question}]
    if system:
      request["messages"].insert(0, {"role": "system", "content": system})
    request |= {"model": model, self.limit_name: _limit(settings)}
    sampling = {
      "temperature": settings.temperature,
      "top_p": settings.top_p,
      "top_k": settings.top_k or self.all_top_k,  # most servers know it, OpenAI's does not
    }
    if settings.temperature > 0:
      sampling["seed"] = prompt.seed
    if settings.stop_strings:
      sampling["stop"] = list(settings.stop_strings)
    if settings.thinking != AUTO:  # vLLM, SGLang and others pass these to the chat template
      thinks = settings.thinking == ON
      sampling[TEMPLATE_VARIABLES] = {"enable_thinking": thinks, "thinking": thinks}
    return request | {name: x for name, x in sampling.items() if name not in self.omit}

  def after_refusal(
    self, prompt: ChatPrompt, settings: WritingSettings, error: FailedRequestError
  ) -> "Dialect | None":
    """The dialect to try after a refusal in this one; None where no other is left."""
    if error.status not in _REFUSED_STATUS:
      return None
    if self.limit_name == "max_tokens" and "max_completion_tokens" in error.body:
      return dataclasses.replace(self, limit_name="max_completion_tokens")
    if _names(error.body, "top_k") and not settings.top_k and "top_k" not in self.omit:
      if self.all_top_k == 0 and "-1" in error.body:
        return dataclasses.replace(self, all_top_k=-1)
      return dataclasses.replace(self, omit=self.omit | {"top_k"})
    if _names(error.body, "top_p") and settings.top_p == 1 and "top_p" not in self.omit:
      return dataclasses.replace(self, omit=self.omit | {"top_p"})
    if prompt.schema is not None and self.structured != STRUCTURED[-1]:
      # Servers have no common words for "no such response format", so try a weaker one.
      weaker = STRUCTURED[STRUCTURED.index(self.structured) + 1]
      return dataclasses.replace(self, structured=weaker)
    return None

  def after_success(self, prompt: ChatPrompt, worked: "Dialect") -> "Dialect":
    """The dialect of later prompts, after the dialect `worked` got a reply to this one."""
    kept = self.structured if prompt.schema is None else worked.structured
    return dataclasses.replace(worked, structured=kept)


def refusal_words(error: FailedRequestError) -> str:
  """A refusal in words, with the setting to change if it names a field of the request."""
  named = [name for name in CAN_BE_OMITTED if _names(error.body, name)]
  if not named or error.status in (None, 401, 402, 403, 404, 429):
    return str(error)
  omit = ", ".join(f"'{name}'" for name in named)
  return f"{error}; if the endpoint does not know that field, set endpoint.omit=({omit},)"


def _names(body: str, name: str) -> bool:
  """Tells whether an error's body mentions a field of the request."""
  if name == "system":
    return re.search(r"(?i)system\W{0,3} (role|message|prompt|instruction)", body) is not None
  return re.search(rf"(?i)\b{name}\b", body) is not None


def most_tokens(request: Record, settings: WritingSettings) -> int:
  """Most tokens that a request can take, reply included; a text has at most one for each byte."""
  texts = [message["content"] for message in request["messages"]]
  if "response_format" in request:
    texts.append(json.dumps(request["response_format"]))  # some servers add it to the prompt
  return sum(len(text.encode()) for text in texts) + _CHAT_OVERHEAD + _limit(settings)


def _limit(settings: WritingSettings) -> int:
  """Most tokens of a reply, including its thinking where the settings ask for thinking."""
  return settings.max_new_tokens + (settings.max_thinking_tokens if settings.thinking == ON else 0)


def most_bytes(settings: WritingSettings, replies: int = 1) -> int:
  """Most bytes of an answer with that many replies; a longer answer is a failure."""
  return _FURTHER_BYTES + replies * (_BYTES_PER_TOKEN * _limit(settings) + 4096)


def read_completion(
  prompt: ChatPrompt, body: Any, settings: WritingSettings
) -> tuple[Reply, int | None]:
  """Reads the reply of a chat completion, and the tokens of prompt and reply if it counts them.

  Raises:
    FailedRequestError: the body is no chat completion, or reports a failure.
  """
  shown = json.dumps(body)
  choices = body.get("choices") if isinstance(body, dict) else None
  choice = choices[0] if isinstance(choices, list) and choices else None
  message = choice.get("message") if isinstance(choice, dict) else None
  is_failure = isinstance(body, dict) and body.get("error")
  if is_failure or not isinstance(choice, dict) or not isinstance(message, dict):
    words = words_of(shown)
    if choices is not None and words == shortened(shown):  # which says nothing
      words = "the reply has no choices" if choice is None else "the reply's choice has no message"
    raise FailedRequestError(words, body=shown)
  end = _end(choice.get("finish_reason"), shown)
  if choice.get("error") or _FAILED_END.search(end):
    said = f": {words_of(json.dumps(choice['error']))}" if choice.get("error") else ""
    raise FailedRequestError(
      f"the reply ended with {end or 'an error'!r}{said}",
      body=shown,
      code=FILTERED if _FILTERED_END.search(end) else None,
    )
  text, thinking, refusal = _texts(message, shown)
  usage = body["usage"] if isinstance(body.get("usage"), dict) else {}
  written, read = _count(usage, "completion_tokens"), _count(usage, "prompt_tokens")
  called = message.get("tool_calls") or message.get("function_call")
  if not (text.strip() or thinking.strip() or refusal or called or written):
    raise FailedRequestError("the reply is empty", body=shown)
  text, end = _cut(text, end, settings.stop_strings)
  end = TOOL_CALL if called and end != CUT_OFF and not text.strip() else end
  details = usage.get("completion_tokens_details")
  details = details if isinstance(details, dict) else {}
  reply = Reply(
    id=prompt.id,
    text=refusal or text,
    thinking=thinking or None,
    thinking_form=FORMS[0].name if thinking else None,
    thinking_end=_thinking_end(thinking, text, end),
    finish_reason=REFUSED if refusal else end,
    num_tokens=written,
    num_thinking_tokens=_count(details, "reasoning_tokens"),
    served=_encodable(body["model"]) if isinstance(body.get("model"), str) else None,
  )
  return reply, None if written is None or read is None else written + read


def _thinking_end(thinking: str, text: str, end: str) -> str | None:
  if not thinking:
    return None
  return NEVER if end == CUT_OFF and not text.strip() else OWN


def _end(reason: Any, shown: str) -> str:
  """The reply's finish_reason in our words; an unknown one as the endpoint wrote it."""
  if not isinstance(reason, str | None):
    raise FailedRequestError(f"finish_reason is {json.dumps(reason)[:80]}", body=shown)
  known = (reason or "").strip().lower()
  if known in _GOOD_ENDS:
    return STOPPED
  if _CUT_END.search(known) and not _FAILED_END.search(known):
    return CUT_OFF
  return REFUSED if known == "refusal" else known


def _cut(text: str, end: str, stop_strings: Sequence[str]) -> tuple[str, str]:
  """Cuts a text at its first stop string, which some servers include; the second is its end."""
  places = [place for stop in stop_strings if (place := text.find(stop)) >= 0]
  return (text[: min(places)], STOPPED) if places else (text, end)


def _texts(message: Record, shown: str) -> tuple[str, str, str]:
  """Text, thinking and refusal of a message; those that it lacks are empty."""
  text, thinking, refusal = _parts(message.get("content"), "text", shown)
  for key in ("reasoning_content", "reasoning", "thinking", "reasoning_details"):
    if not thinking:
      thinking = "".join(_parts(message.get(key), "thinking", shown)[:2])
  refusal += "".join(_parts(message.get("refusal"), "text", shown))
  return _encodable(text), _encodable(thinking), _encodable(refusal)


def _parts(content: Any, kind: str, shown: str) -> tuple[str, str, str]:
  """Text, thinking and refusal of a content: null, a string, a part, or a list of parts."""
  if content is None:
    return "", "", ""
  if isinstance(content, str):
    return tuple(content if kind == name else "" for name in ("text", "thinking", "refusal"))  # pyright: ignore
  if isinstance(content, list):
    several = [_parts(part, kind, shown) for part in content]
    return tuple("".join(column) for column in zip(*several, strict=True)) or ("", "", "")  # pyright: ignore
  if not isinstance(content, dict):
    raise FailedRequestError(f"a part of the reply is {json.dumps(content)[:80]}", body=shown)
  named = str(content.get("type", ""))
  if "thinking" in named or "reasoning" in named:
    kind = "thinking"
  elif "refusal" in named:
    kind = "refusal"
  for key in (kind, "text", "summary", "content"):
    if content.get(key) is not None:
      return _parts(content[key], kind, shown)
  if not named:
    raise FailedRequestError(f"a part of the reply is {json.dumps(content)[:80]}", body=shown)
  return "", "", ""  # a part of another kind, such as an encrypted one


def _count(usage: Record, key: str) -> int | None:
  """A number of tokens from the usage; None where it has no valid one."""
  value = usage.get(key)
  whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
  return int(value) if whole and 0 <= value <= _MOST_TOKENS else None  # pyright: ignore


def _encodable(text: str) -> str:
  """Replaces lone halves of surrogate pairs, which JSON allows but UTF-8 cannot write."""
  return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
