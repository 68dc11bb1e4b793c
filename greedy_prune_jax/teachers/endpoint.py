"""An OpenAI-compatible endpoint: bounded requests, failures in words, and the budget of a run."""

import json
import logging
import os
import re
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.records import Record
from greedy_prune_jax.teachers.failures import (
  FailedRequestError,
  connection_words,
  retry_after,
  shortened,
  words_of,
)
from greedy_prune_jax.teachers.secrets import SecretFilter
from greedy_prune_jax.teachers.settings import EndpointSettings


class Endpoint:
  """JSON in, JSON out; every failure is a FailedRequestError that says in words what happened.

  Attributes:
    name: model and place, for messages.
    settings: settings of the endpoint.
  """

  def __init__(self, settings: EndpointSettings, *, most_bytes: int):
    """Connects to nothing yet.

    Args:
      most_bytes: bytes of an answer, at most; a longer one is a failure.

    Raises:
      UserError: the package openai is not installed, or the model or the key cannot be used.
    """
    try:
      import openai  # an extra

      from greedy_prune_jax.teachers.bounded_http import bounded_client
    except ImportError as error:
      raise UserError(
        "teacher=openai needs the package openai; install it with: "
        "pip install 'greedy_prune_jax[openai]'"
      ) from error
    if not settings.model:
      raise UserError("endpoint.model is empty; expected the name of a model at the endpoint")
    key = _read_key(settings)
    self.settings = settings
    self._openai = openai
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it reports every request
    http = bounded_client(most_bytes=most_bytes, most_seconds=settings.max_seconds)
    try:
      # It tries nothing again by itself: every attempt counts in the budget.
      self._client = openai.OpenAI(
        base_url=settings.base_url or None,
        api_key=key or "none",
        timeout=settings.timeout,
        max_retries=0,
        http_client=http,
      )
    except Exception as error:  # of the package's own reader of addresses
      raise UserError(
        f"endpoint.base_url={settings.base_url!r} is no address; expected one such as "
        "http://localhost:8000/v1"
      ) from error
    self._response = type(http).response_type
    url = self._client.base_url
    self._secrets = SecretFilter(key, urllib.parse.unquote(url.userinfo.decode()).partition(":")[2])
    self.name = f"{settings.model} at {url.copy_with(userinfo=b'', query=None)}"

  def post(self, path: str, body: Mapping[str, Any]) -> Record:
    """The object that a request with a JSON body is answered by."""
    return self._object(lambda: self._client.post(path, body=body, cast_to=self._response))

  def get(self, path: str) -> Record:
    """The object at a path."""
    return self._object(lambda: self._client.get(path, cast_to=self._response))

  def get_text(self, path: str) -> str:
    """The text at a path."""
    return self._text(lambda: self._client.get(path, cast_to=self._response))

  def upload(self, content: bytes) -> Record:
    """Uploads a file of a batch's requests; the object that describes it."""
    files = self._client.files.with_raw_response
    file = ("requests.jsonl", content)
    return self._object(lambda: files.create(file=file, purpose="batch").http_response)

  def parse(self, text: str) -> Any:
    """The JSON value of a text without the key; a FailedRequestError where it is none."""
    try:
      value = json.loads(text, parse_constant=lambda _: None)  # NaN says nothing
    except (ValueError, RecursionError) as error:
      said = f": {self._words(text)}" if text.strip() else ", but empty"
      raise FailedRequestError(f"the answer is not JSON{said}", body=text) from error
    return self._secrets.value(value)  # once more, without JSON's escapes

  def _object(self, send: Callable[[], Any]) -> Record:
    text = self._text(send)
    value = self.parse(text)
    if not isinstance(value, dict):
      raise FailedRequestError(f"the answer is no JSON object: {self._words(text)}", body=text)
    return value

  def _text(self, send: Callable[[], Any]) -> str:
    """The text of an answer, without the key."""
    try:
      return self._without_key(send().content)
    except FailedRequestError:
      raise
    except self._openai.APIStatusError as error:
      raise self._refusal(error.response) from None
    except self._openai.APITimeoutError:
      raise FailedRequestError(
        f"no sign of life for {self.settings.timeout:g} s (endpoint.timeout)"
      ) from None
    except self._openai.APIConnectionError as error:
      raise FailedRequestError(self._without_key(connection_words(error).encode())) from None
    except (self._openai.OpenAIError, ValueError, TypeError, RuntimeError):
      # The package's own texts name its insides, and some quote the headers.
      raise FailedRequestError("the request could not be sent, or its answer not read") from None

  def _refusal(self, response: Any) -> FailedRequestError:
    """The failure that an answer with a status of failure stands for."""
    text = self._without_key(response.content)
    try:
      value = self.parse(text)
    except FailedRequestError:
      value = None
    error = value.get("error") if isinstance(value, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    words = self._words(text)
    if 300 <= response.status_code < 400:
      place = self._without_key(response.headers.get("location", "").encode())
      words = f"it redirects to {shortened(place)}; set endpoint.base_url to where it is"
    return FailedRequestError(
      words,
      status=response.status_code,
      body=text,
      code=code if isinstance(code, str) else None,
      wait=retry_after(response.headers),
    )

  def _words(self, text: str) -> str:
    return self._secrets.text(words_of(text))  # once more, without what it was escaped by

  def _without_key(self, content: bytes) -> str:
    return self._secrets.text(content.decode(errors="replace"))


def _read_key(settings: EndpointSettings) -> str:
  """The key that the environment holds; empty where a server is asked without one."""
  name = settings.api_key_env
  key = os.environ.get(name, "").strip()
  if not key and not settings.base_url:
    raise UserError(
      f"the environment variable {name} is not set; expected the endpoint's key. "
      "Set it, name another by endpoint.api_key_env, or name a server by endpoint.base_url"
    )
  if not re.fullmatch("[!-~]*", key):
    raise UserError(
      f"the environment variable {name} holds no key: it has spaces, line breaks or letters beyond "
      "ASCII, which no header can hold"
    )
  return key


class RequestBudget:
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
