"""A teacher behind an OpenAI-compatible endpoint: OpenAI's, or a server such as vLLM's."""

import concurrent.futures
import random
import threading
from collections.abc import Iterator, Sequence

from absl import logging

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.teachers.completions import (
  Dialect,
  most_bytes,
  most_tokens,
  read_completion,
  refusal_words,
)
from greedy_prune_jax.teachers.endpoint import Endpoint, RequestBudget
from greedy_prune_jax.teachers.failures import FailedRequestError, wait_before
from greedy_prune_jax.teachers.settings import EndpointSettings, WritingSettings
from greedy_prune_jax.teachers.teacher import ChatPrompt, Reply

# Questions without a reply, and with no reply to another between them, after which no more are
# asked. Those that the endpoint refuses do not count: a resumed run may have no others left.
_MOST_FAILURES = 5


class OpenAITeacher:
  """Writes by chat completions, several at once."""

  def __init__(self, endpoint: EndpointSettings, settings: WritingSettings):
    """Connects to nothing; a UserError if the package openai, the model or the key is missing."""
    self._endpoint = Endpoint(endpoint, most_bytes=most_bytes(settings))
    self._writing = settings
    self._dialect = Dialect.of(endpoint)
    self.budget = RequestBudget(endpoint.max_requests, endpoint.max_tokens)

  def write(self, prompts: Sequence[ChatPrompt]) -> Iterator[Reply]:
    """See `Teacher`; replies that are under way when it gives up are still yielded."""
    halt = _Halt(self._endpoint.name)
    with concurrent.futures.ThreadPoolExecutor(self._endpoint.settings.concurrency) as pool:
      futures = [pool.submit(self._reply, prompt, halt) for prompt in prompts]
      try:
        for future in concurrent.futures.as_completed(futures):
          if (reply := future.result()) is not None:
            yield reply
      finally:
        halt.event.set()
    if halt.reason is not None:
      raise UserError(halt.reason)

  def _reply(self, prompt: ChatPrompt, halt: "_Halt") -> Reply | None:
    """Asks until there is a reply; None where all asking was halted. Runs in a thread."""
    if prompt.reply_start:
      return Reply.failed(prompt, "an endpoint cannot go on with a reply that is begun for it")
    settings, reason, refused = self._endpoint.settings, "", False
    for attempt in range(settings.max_attempts):
      if halt.event.is_set():
        return None
      try:
        reply = self._attempt(prompt)
        halt.replied()
        return reply
      except UserError as error:  # the budget
        halt.because(str(error))
        return None
      except FailedRequestError as error:
        reason, refused = refusal_words(error), error.is_of_prompt
        if error.is_hopeless:
          halt.because(f"{self._endpoint.name} refuses: {reason}")
          return None
        if not error.may_pass:
          return Reply.failed(prompt, reason)
        logging.info("%s, attempt %d: %s", prompt.id, attempt + 1, reason)
        wait = wait_before(attempt, settings.backoff, error.wait, random.uniform(0.5, 1))
        if attempt + 1 < settings.max_attempts and halt.event.wait(wait):
          return None
    reason += f" ({settings.max_attempts} attempts)"
    if not refused:
      halt.failed(prompt.question, reason)
    return Reply.failed(prompt, reason)

  def _attempt(self, prompt: ChatPrompt) -> Reply:
    """One reply, asked for in a dialect that the endpoint does not refuse."""
    dialect: Dialect = self._dialect
    while True:
      try:
        reply = self._ask(prompt, dialect)
      except FailedRequestError as error:
        weaker = dialect.after_refusal(prompt, self._writing, error)
        if weaker is None:
          raise
        dialect = weaker
      else:
        self._dialect = self._dialect.after_success(prompt, dialect)
        return reply

  def _ask(self, prompt: ChatPrompt, dialect: Dialect) -> Reply:
    """One request; a UserError if the budget is spent, a FailedRequestError without a reply."""
    request = dialect.arguments(prompt, self._endpoint.settings.model, self._writing)
    most = most_tokens(request, self._writing)
    self.budget.take(most)
    used = most  # unless it says what it was; one that got no whole reply may have been answered
    try:
      body = self._endpoint.post("/chat/completions", request)
      reply, count = read_completion(prompt, body, self._writing)
      used = most if count is None else count
      return reply
    except FailedRequestError as error:
      used = most if error.status is None else 0
      raise
    finally:
      self.budget.settle(most, used)


class _Halt:
  """Tells all threads to ask no more, by itself where the endpoint seems to be down."""

  def __init__(self, name: str):
    self.event = threading.Event()
    self.reason: str | None = None
    self._name = name
    self._lock = threading.Lock()
    self._failed = set[str]()  # questions since the last reply

  def replied(self) -> None:
    """Takes note that the endpoint answers."""
    with self._lock:
      self._failed.clear()

  def failed(self, question: str, reason: str) -> None:
    """Takes note of a question without a reply; samples of one count once."""
    with self._lock:
      self._failed.add(question)
      if len(self._failed) >= _MOST_FAILURES:
        self.because(
          f"{self._name} gave no reply to {_MOST_FAILURES} questions in a row, the last time "
          f"because: {reason}"
        )

  def because(self, reason: str) -> None:
    self.reason = self.reason or reason
    self.event.set()
