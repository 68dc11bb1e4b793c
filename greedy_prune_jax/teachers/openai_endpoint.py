"""A teacher behind an OpenAI-compatible endpoint: OpenAI's, or a server such as vLLM's."""

import concurrent.futures
import contextlib
import random
import threading
from collections.abc import Iterator, Sequence, Set
from typing import Any

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.teachers.endpoint import (
  Budget,
  Dialect,
  connect,
  is_hopeless,
  may_pass,
  most_tokens,
  reply_of,
)
from greedy_prune_jax.teachers.settings import EndpointSettings, WritingSettings
from greedy_prune_jax.teachers.teacher import ChatPrompt, Reply

_MOST_FAILURES = 5  # questions in a row without a reply after which no more are asked
_LONGEST_WAIT = 120.0  # seconds between two attempts


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
    self._openai, self._client = connect(endpoint)
    self._endpoint = endpoint
    self._settings = settings
    self._dialect = Dialect(endpoint.structured)
    self.budget = Budget(endpoint.max_requests, endpoint.max_tokens)

  def write(self, prompts: Sequence[ChatPrompt]) -> Iterator[Reply]:
    """See `Teacher`; replies that are under way when it gives up are still yielded."""
    halt, failed = _Halt(), set[int]()
    with concurrent.futures.ThreadPoolExecutor(self._endpoint.concurrency) as pool:
      futures = {pool.submit(self._reply, prompt, halt): i for i, prompt in enumerate(prompts)}
      try:
        for future in concurrent.futures.as_completed(futures):
          reply = future.result()
          if reply is None:
            continue
          if reply.error:
            failed.add(futures[future])
            if _questions_around(futures[future], failed, prompts) >= _MOST_FAILURES:
              halt.because(
                f"{self._place} gave no reply to {_MOST_FAILURES} questions in a row, the last "
                f"time because: {reply.error}"
              )
          yield reply
      finally:
        halt.event.set()
    if halt.reason is not None:
      raise UserError(halt.reason)

  @property
  def _place(self) -> str:
    return f"{self._endpoint.model} at {self._client.base_url}"

  def _reply(self, prompt: ChatPrompt, halt: "_Halt") -> Reply | None:
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
        if is_hopeless(error.status_code, error.code):
          halt.because(f"{self._place} refuses: {reason}")
          return None
        return Reply.failed(prompt, reason)
    return Reply.failed(prompt, f"{reason} ({self._endpoint.max_attempts} attempts)")

  def _attempt(self, prompt: ChatPrompt) -> Reply:
    """One reply, asked for in a way that the endpoint does not refuse."""
    dialect: Dialect | None = self._dialect
    while True:
      try:
        reply = self._ask(prompt, dialect)
      except self._openai.APIStatusError as error:
        dialect = dialect.after_refusal(prompt, error.status_code, error.message)
        if dialect is None:
          raise
      else:
        self._dialect = self._dialect.after_success(prompt, dialect)
        return reply

  def _ask(self, prompt: ChatPrompt, dialect: Dialect) -> Reply:
    """One request.

    Raises:
      UserError: the budget is spent.
      _TryAgainError: it failed in a way that may pass.
      openai.APIStatusError: the endpoint refuses it.
    """
    request = dialect.arguments(prompt, self._endpoint.model, self._settings)
    most = most_tokens(request, self._settings)
    self.budget.take(most)
    used = most  # unless it says what it was; one that got no whole reply may have been answered
    try:
      completion = self._client.chat.completions.create(**request)
      reply = reply_of(prompt, completion)
      if reply.num_tokens is not None:
        used = completion.usage.prompt_tokens + completion.usage.completion_tokens
      return reply
    except self._openai.APIStatusError as error:
      used = 0
      if may_pass(error.status_code, error.code):
        reason = f"{error.status_code}: {error.message}"
        raise _TryAgainError(reason, _retry_after(error.response.headers)) from error
      raise
    # What is not JSON, or JSON of another form, may be all that came of a reply.
    except (self._openai.APIError, ValueError, AttributeError, TypeError, IndexError) as error:
      cause = error.__cause__ or error
      raise _TryAgainError(f"{type(cause).__name__}: {cause or error}") from error
    finally:
      self.budget.settle(most, used)


def _questions_around(place: int, failed: Set[int], prompts: Sequence[ChatPrompt]) -> int:
  """How many questions the failed prompts without a gap around one ask.

  Prompts next to each other, and not those that happened to fail one after the other: a refusal
  comes at once, long before the replies to others. Samples of one question count once.
  """
  first = last = place
  while first - 1 in failed:
    first -= 1
  while last + 1 in failed:
    last += 1
  return len({prompt.question for prompt in prompts[first : last + 1]})


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


def _retry_after(headers: Any) -> float:
  """Seconds that a response's headers ask to wait; 0 where they do not say so in seconds."""
  with contextlib.suppress(ValueError):
    return max(0.0, float(headers.get("retry-after", "0")))
  return 0.0
