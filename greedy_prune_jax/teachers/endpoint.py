"""Chat completions as OpenAI-compatible endpoints take and give them."""

import dataclasses
import json
import logging
import os
import threading
from typing import Any

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.teachers.settings import STRUCTURED, EndpointSettings, WritingSettings
from greedy_prune_jax.teachers.structured import schema_in_words
from greedy_prune_jax.teachers.teacher import ChatPrompt, Reply

# Tokens of a chat template's marks, and of a system text that some put in by themselves.
_CHAT_OVERHEAD = 100
# Statuses after which trying again may help: timeout, conflict, too early, rate limit.
_TRY_AGAIN = (408, 409, 425, 429)
# Statuses that no prompt can change: the key, the account, the model's name, the address.
_HOPELESS = (401, 402, 403, 404)
_NO_MONEY = "insufficient_quota"  # which comes with the status of a rate limit


@dataclasses.dataclass(frozen=True)
class Dialect:
  """What an endpoint understands, as far as that is known.

  Attributes:
    structured: see `EndpointSettings`.
    limit_name: all servers know `max_tokens`; OpenAI's newest models another name.
  """

  structured: str
  limit_name: str = "max_tokens"

  def arguments(self, prompt: ChatPrompt, model: str, settings: WritingSettings) -> dict[str, Any]:
    """The arguments of a chat completion; what an endpoint need not know is left out."""
    request: dict[str, Any] = {}
    if prompt.schema is not None and self.structured == "json_schema":
      schema = {"name": "reply", "schema": dict(prompt.schema), "strict": True}
      request["response_format"] = {"type": "json_schema", "json_schema": schema}
    else:
      prompt = schema_in_words(prompt)
      if prompt.schema is not None and self.structured == "json_object":
        request["response_format"] = {"type": "json_object"}
    request["messages"] = [{"role": "user", "content": prompt.question}]
    if prompt.system:
      request["messages"].insert(0, {"role": "system", "content": prompt.system})
    request |= {
      "model": model,
      self.limit_name: settings.max_new_tokens,
      "temperature": settings.temperature,
    }
    if settings.temperature > 0:
      request["seed"] = prompt.seed
    if settings.top_p < 1:
      request["top_p"] = settings.top_p
    if settings.top_k:
      request["extra_body"] = {"top_k": settings.top_k}  # not OpenAI's, but most servers'
    if settings.stop_strings:
      request["stop"] = list(settings.stop_strings)
    return request

  def after_refusal(self, prompt: ChatPrompt, status: int, message: str) -> "Dialect | None":
    """What to try where a prompt was refused in this one; None where nothing is left to try."""
    if status not in (400, 422):
      return None
    if self.limit_name == "max_tokens" and "max_completion_tokens" in message:
      return dataclasses.replace(self, limit_name="max_completion_tokens")
    if prompt.schema is not None and self.structured != STRUCTURED[-1]:
      # How a server says that it cannot do this is not agreed upon, so less is tried.
      weaker = STRUCTURED[STRUCTURED.index(self.structured) + 1]
      return dataclasses.replace(self, structured=weaker)
    return None

  def after_success(self, prompt: ChatPrompt, worked: "Dialect") -> "Dialect":
    """What the next prompts are asked in, after one was answered in another dialect."""
    return (
      worked
      if prompt.schema is not None
      else dataclasses.replace(self, limit_name=worked.limit_name)
    )


def most_tokens(request: dict[str, Any], settings: WritingSettings) -> int:
  """The most tokens that a request can take; a text makes no more of them than it has bytes."""
  texts = [message["content"] for message in request["messages"]]
  if "response_format" in request:
    texts.append(json.dumps(request["response_format"]))  # some endpoints put it into the prompt
  return sum(len(text.encode()) for text in texts) + _CHAT_OVERHEAD + settings.max_new_tokens


def may_pass(status: int, code: str | None) -> bool:
  """Whether a request that got this status may be answered if it is made again."""
  return status >= 500 or (status in _TRY_AGAIN and code != _NO_MONEY)


def is_hopeless(status: int, code: str | None) -> bool:
  """Whether every other request would get this status too."""
  return status in _HOPELESS or code == _NO_MONEY


def reply_of(prompt: ChatPrompt, completion: Any) -> Reply:
  """The reply in a chat completion.

  Raises:
    ValueError, AttributeError, TypeError, IndexError: it is none.
  """
  choice, usage = completion.choices[0], completion.usage
  if not isinstance(choice.finish_reason, str):
    raise ValueError(f"finish_reason is {choice.finish_reason!r}")
  return Reply(
    id=prompt.id,
    text=_encodable(choice.message.content or ""),
    finish_reason=choice.finish_reason,
    num_tokens=usage.completion_tokens if usage else None,
  )


def _encodable(text: str) -> str:
  """The text without halves of surrogate pairs, which JSON can hold and files of UTF-8 cannot."""
  return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def connect(endpoint: EndpointSettings) -> tuple[Any, Any]:
  """The package openai, and a client of it; nothing is sent yet.

  Raises:
    UserError: the package is not installed, or the model or the key is missing.
  """
  try:
    import openai  # an extra
  except ImportError as error:
    raise UserError(
      "teacher=openai needs the package openai; install it with: "
      "pip install 'greedy_prune_jax[openai]'"
    ) from error
  if not endpoint.model:
    raise UserError("endpoint.model is empty; expected the name of a model at the endpoint")
  key = os.environ.get(endpoint.api_key_env)
  if not key and not endpoint.base_url:
    raise UserError(
      f"the environment variable {endpoint.api_key_env} is not set; expected the endpoint's key. "
      "Set it, name another by endpoint.api_key_env, or name a server by endpoint.base_url"
    )
  logging.getLogger("httpx2").setLevel(logging.WARNING)  # it reports every request
  # It tries nothing again by itself: every attempt counts in the budget.
  client = openai.OpenAI(
    base_url=endpoint.base_url or None,
    api_key=key or "none",
    timeout=endpoint.timeout,
    max_retries=0,
  )
  return openai, client


class Budget:
  """Counts requests and tokens, and allows none that might go beyond the limits."""

  def __init__(self, max_requests: int, max_tokens: int):
    """Takes the limits; 0 stands for none."""
    self._max_requests = max_requests
    self._max_tokens = max_tokens
    self._changed = threading.Condition()
    self._under_way: list[int] = []  # the most tokens that each request can take
    self.requests = 0
    self.tokens = 0

  def take(self, most_tokens: int, *, wait: bool = True) -> bool:
    """Waits until a request that takes up to `most_tokens` fits in, and counts it.

    Every call that returns True must be followed by one of `settle`. Without `wait`, False says
    that it does not fit in yet.

    Raises:
      UserError: it will not fit in, even if all requests under way turn out to have cost nothing.
    """
    with self._changed:
      while True:
        if self._max_requests and self.requests >= self._max_requests:
          raise UserError(
            f"the budget is spent: endpoint.max_requests={self._max_requests} requests were made. "
            "What was answered is stored; the same command goes on, with a new budget."
          )
        if not self._max_tokens or (
          self.tokens + sum(self._under_way) + most_tokens <= self._max_tokens
        ):
          self.requests += 1
          self._under_way.append(most_tokens)
          return True
        if not self._under_way:
          raise UserError(
            f"the budget is spent: of endpoint.max_tokens={self._max_tokens}, {self.tokens} were "
            f"used, and the next request may take {most_tokens}. What was answered is stored; the "
            "same command goes on, with a new budget."
          )
        if not wait:
          return False
        self._changed.wait()

  def settle(self, most_tokens: int, used: int) -> None:
    """Replaces what a request could take by what it took."""
    with self._changed:
      self._under_way.remove(most_tokens)
      self.tokens += used
      self._changed.notify_all()
