"""A teacher behind an OpenAI-compatible endpoint: OpenAI's, or a server such as vLLM's."""

import concurrent.futures
import contextlib
import logging
import os
import random
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from greedy_prune_jax.chains.errors import UserError
from greedy_prune_jax.teachers.budget import Budget
from greedy_prune_jax.teachers.endpoint_settings import STRUCTURED, EndpointSettings
from greedy_prune_jax.teachers.structured import schema_in_words
from greedy_prune_jax.teachers.teacher import Prompt, Reply, WritingSettings

_MOST_FAILURES = 5  # prompts in a row without a reply after which no more are asked
_LONGEST_WAIT = 120.0  # seconds between two attempts
_BYTES_PER_TOKEN = 3  # fewer than texts have on average, so that prompts are not underrated
# Statuses after which trying again may help: timeout, conflict, too early, rate limit, server.
_TRY_AGAIN = (408, 409, 425, 429)
# Statuses that no prompt can change: the key, the account, the model's name, the address.
_HOPELESS = (401, 402, 403, 404)


class OpenAITeacher:
  """Writes by chat completions, several at once."""

  def __init__(self, endpoint: EndpointSettings, settings: WritingSettings):
    """Connects to nothing yet.

    Args:
      endpoint: where and how to ask.
      settings: how to write.

    Raises:
      UserError: the package openai is not installed, or the model or the key is missing.
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
    self._openai: Any = openai
    # It tries nothing again by itself: every attempt counts in the budget.
    self._client: Any = openai.OpenAI(
      base_url=endpoint.base_url or None,
      api_key=key or "none",
      timeout=endpoint.timeout,
      max_retries=0,
    )
    self._endpoint = endpoint
    self._settings = settings
    self._structured = endpoint.structured
    self._limit_name = "max_tokens"  # all servers know it; OpenAI's newest models another
    self.budget = Budget(endpoint.max_requests, endpoint.max_tokens)

  def write(self, prompts: Sequence[Prompt]) -> Iterator[Reply]:
    """See `Teacher`; replies that are under way when it gives up are still yielded."""
    halt, in_a_row = _Halt(), 0
    with concurrent.futures.ThreadPoolExecutor(self._endpoint.concurrency) as pool:
      futures = [pool.submit(self._reply, prompt, halt) for prompt in prompts]
      try:
        for future in concurrent.futures.as_completed(futures):
          reply = future.result()
          if reply is None:
            continue
          in_a_row = in_a_row + 1 if reply.error else 0
          if in_a_row == _MOST_FAILURES:
            halt.because(
              f"{self._place} gave no reply to {_MOST_FAILURES} prompts in a row, the last time "
              f"because: {reply.error}"
            )
          yield reply
      finally:
        halt.event.set()
    if halt.reason is not None:
      raise UserError(halt.reason)

  @property
  def _place(self) -> str:
    return f"{self._endpoint.model} at {self._client.base_url}"

  def _reply(self, prompt: Prompt, halt: "_Halt") -> Reply | None:
    """Asks until there is a reply; None where all asking was halted. Runs in a thread."""
    if prompt.reply_start:
      return Reply.failed(prompt, "an endpoint cannot go on with a reply that is begun for it")
    reason = ""
    for attempt in range(self._endpoint.max_attempts):
      if halt.event.is_set():
        return None
      try:
        return self._attempt(prompt)
      except UserError as error:  # the budget
        halt.because(str(error))
        return None
      except _TryAgainError as error:
        reason = str(error)
        wait = min(self._endpoint.backoff * 2**attempt, _LONGEST_WAIT) * random.uniform(0.5, 1)
        last = attempt + 1 == self._endpoint.max_attempts
        if not last and halt.event.wait(max(wait, min(error.wait, _LONGEST_WAIT))):
          return None
      except self._openai.APIStatusError as error:
        reason = f"{error.status_code}: {error.message}"
        if error.status_code in _HOPELESS or error.code == "insufficient_quota":
          halt.because(f"{self._place} refuses: {reason}")
          return None
        return Reply.failed(prompt, reason)
    return Reply.failed(prompt, f"{reason} ({self._endpoint.max_attempts} attempts)")

  def _attempt(self, prompt: Prompt) -> Reply:
    """One reply, asked for in a way that the endpoint does not refuse."""
    structured = self._structured
    while True:
      limit_name = self._limit_name
      try:
        reply = self._ask(prompt, structured, limit_name)
      except self._openai.APIStatusError as error:
        if error.status_code not in (400, 422):
          raise
        if limit_name == "max_tokens" and "max_completion_tokens" in error.message:
          self._limit_name = "max_completion_tokens"
        elif prompt.schema is not None and structured != STRUCTURED[-1]:
          # How a server says that it cannot do this is not agreed upon, so less is tried.
          structured = STRUCTURED[STRUCTURED.index(structured) + 1]
        else:
          raise
      else:
        if prompt.schema is not None:
          self._structured = structured  # what worked is what the next prompt is asked by
        return reply

  def _ask(self, prompt: Prompt, structured: str, limit_name: str) -> Reply:
    """One request.

    Raises:
      UserError: the budget is spent.
      _TryAgainError: it failed in a way that may pass.
      openai.APIStatusError: the endpoint refuses it.
    """
    request = self._request(prompt, structured, limit_name)
    size = sum(len(message["content"].encode()) for message in request["messages"])
    most = size // _BYTES_PER_TOKEN + self._settings.max_new_tokens
    self.budget.take(most)
    used = 0
    try:
      completion = self._client.chat.completions.create(**request)
      used = most  # unless it says what it was
      reply = _reply_of(prompt, completion)
      if reply.num_tokens is not None:
        used = completion.usage.prompt_tokens + completion.usage.completion_tokens
      return reply
    except self._openai.APIStatusError as error:
      quota = error.code == "insufficient_quota"
      if error.status_code >= 500 or (error.status_code in _TRY_AGAIN and not quota):
        reason = f"{error.status_code}: {error.message}"
        raise _TryAgainError(reason, _retry_after(error.response.headers)) from error
      raise
    # What is not JSON, or JSON of another form, may be all that came of a reply.
    except (self._openai.APIError, ValueError, AttributeError, TypeError, IndexError) as error:
      cause = error.__cause__ or error
      raise _TryAgainError(f"{type(cause).__name__}: {cause or error}") from error
    finally:
      self.budget.settle(most, used)

  def _request(self, prompt: Prompt, structured: str, limit_name: str) -> dict[str, Any]:
    """The arguments of a chat completion; what an endpoint need not know is left out."""
    settings, request = self._settings, dict[str, Any]()
    if prompt.schema is not None and structured == "json_schema":
      schema = {"name": "reply", "schema": dict(prompt.schema), "strict": True}
      request["response_format"] = {"type": "json_schema", "json_schema": schema}
    else:
      prompt = schema_in_words(prompt)
      if prompt.schema is not None and structured == "json_object":
        request["response_format"] = {"type": "json_object"}
    request["messages"] = [{"role": "user", "content": prompt.question}]
    if prompt.system:
      request["messages"].insert(0, {"role": "system", "content": prompt.system})
    request |= {
      "model": self._endpoint.model,
      limit_name: settings.max_new_tokens,
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


class _TryAgainError(Exception):
  """An attempt failed in a way that may pass.

  Attributes:
    wait: seconds that the endpoint asks to wait.
  """

  def __init__(self, reason: str, wait: float = 0.0):
    super().__init__(reason)
    self.wait = wait


class _Halt:
  """Tells all threads to ask no more."""

  def __init__(self):
    self.event = threading.Event()
    self.reason: str | None = None

  def because(self, reason: str) -> None:
    self.reason = self.reason or reason
    self.event.set()


def _reply_of(prompt: Prompt, completion: Any) -> Reply:
  choice, usage = completion.choices[0], completion.usage
  if not isinstance(choice.finish_reason, str):
    raise ValueError(f"finish_reason is {choice.finish_reason!r}")
  return Reply(
    id=prompt.id,
    text=choice.message.content or "",
    finish_reason=choice.finish_reason,
    num_tokens=usage.completion_tokens if usage else None,
  )


def _retry_after(headers: Any) -> float:
  """Seconds that a response's headers ask to wait; 0 where they do not say so in seconds."""
  with contextlib.suppress(ValueError):
    return max(0.0, float(headers.get("retry-after", "0")))
  return 0.0
