"""A teacher behind the batch interface of an OpenAI-compatible endpoint.

Requests are uploaded as a file, a batch is made of it, and its results are fetched when it is done.
The batches of a run are noted in its folder, so that a run that is started again waits for those
that are under way, by their ids, instead of asking anew:

    batches/process-00000.jsonl   {"id": batch, "requests": [...]}, and the same with "done": true
                                  for those requests whose results were read
"""

import dataclasses
import hashlib
import io
import json
import random
import time
from collections.abc import Callable, Container, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
from absl import logging

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.jsonl import JsonlWriter, encode_line, read_records
from greedy_prune_jax.runs.records import Record
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

FOLDER = "batches"  # of a run's folder
_ENDED = ("completed", "failed", "expired", "cancelled")
_WINDOW = "24h"  # the only one that there is

Result = TypeVar("Result")


@dataclasses.dataclass
class _Asked:
  """A prompt without a reply yet."""

  prompt: ChatPrompt
  dialect: Dialect
  attempts: int = 0
  most: int | None = None  # tokens that the budget holds for it; None: not asked by this run
  why: str = "the batch ended without it"

  def settle(self, budget: Budget, used: int) -> None:
    """Gives back to the budget what it holds."""
    if self.most is not None:
      budget.settle(self.most, used)
      self.most = None


class OpenAIBatchTeacher:
  """Writes by batches of chat completions; knows the batches that an earlier run has made."""

  def __init__(self, endpoint: EndpointSettings, settings: WritingSettings, folder: Path):
    """Connects to nothing yet.

    Args:
      endpoint: where and how to ask; `endpoint.batch` is above 0.
      settings: how to write.
      folder: of the run.

    Raises:
      UserError: the package openai is not installed, or the model or the key is missing.
    """
    self._openai, self._client = connect(endpoint)
    self._endpoint = endpoint
    self._settings = settings
    self._folder = folder / FOLDER
    self._dialect = Dialect(endpoint.structured)
    self.budget = Budget(endpoint.max_requests, endpoint.max_tokens)

  def write(self, prompts: Sequence[ChatPrompt]) -> Iterator[Reply]:
    """See `Teacher`; prompts that a batch leaves without a reply go into another.

    Where the endpoint refuses all requests for good, all batches are read before that is raised:
    else every later run would meet the same refusal in them.
    """
    asked = {self._key(prompt): _Asked(prompt, self._dialect) for prompt in prompts}
    path = self._folder / f"process-{jax.process_index():05d}.jsonl"
    with JsonlWriter(path) as notes:
      batches = _under_way(self._folder, asked)
      while asked:
        batches |= self._submit(asked, batches, notes)
        refusal: UserError | None = None
        for batch_id in list(batches):
          keys = batches.pop(batch_id)
          refusal = (yield from self._replies(batch_id, keys, asked)) or refusal
          notes.write({"id": batch_id, "requests": keys, "done": True})
        if refusal:
          raise refusal

  def _key(self, prompt: ChatPrompt) -> str:
    """Names a request to the endpoint: by all that decides its reply, so that it can be found."""
    parts = [dataclasses.asdict(x) for x in (prompt, self._settings)]
    text = json.dumps([self._endpoint.model, *parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]

  def _submit(
    self, asked: dict[str, _Asked], under_way: dict[str, list[str]], notes: JsonlWriter
  ) -> dict[str, list[str]]:
    """Makes batches of what is in none, as far as the budget goes; keys of each, by its id.

    Raises:
      UserError: nothing is under way, and the budget allows nothing more.
    """
    there = {key for keys in under_way.values() for key in keys}
    lines: dict[str, bytes] = {}
    made: dict[str, list[str]] = {}
    for key in [key for key in asked if key not in there]:
      item = asked[key]
      arguments = item.dialect.arguments(item.prompt, self._endpoint.model, self._settings)
      most = most_tokens(arguments, self._settings)
      try:
        if not self.budget.take(most, wait=False):
          break
      except UserError:
        if not (lines or made or under_way):
          raise
        break  # what is under way comes first
      item.most, item.attempts = most, item.attempts + 1
      lines[key] = encode_line(_request(key, arguments))
      if len(lines) == self._endpoint.batch:
        made |= self._make_batch(lines, notes)
        lines = {}
    return made | (self._make_batch(lines, notes) if lines else {})

  def _make_batch(self, lines: dict[str, bytes], notes: JsonlWriter) -> dict[str, list[str]]:
    """Uploads requests and makes a batch of them."""
    content, client = b"".join(lines.values()), self._client
    file = self._call(
      lambda: client.files.create(file=("requests.jsonl", io.BytesIO(content)), purpose="batch")
    )
    batch = self._call(
      lambda: client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window=_WINDOW
      )
    )
    notes.write({"id": batch.id, "requests": list(lines)})
    logging.info("batch %s: %d requests", batch.id, len(lines))
    return {batch.id: list(lines)}

  def _replies(
    self, batch_id: str, keys: Sequence[str], asked: dict[str, _Asked]
  ) -> Generator[Reply, None, UserError | None]:
    """Waits for a batch, and takes what it answered out of `asked`.

    A batch that was refused as a whole answered nothing; its requests may be made again.

    Returns:
      The refusal of all requests for good, if it holds one.

    Raises:
      UserError: the batch or its results cannot be fetched.
    """
    batch, refusal = self._wait(batch_id), None
    for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
      for line in self._lines(file_id):
        item = asked.get(line.get("custom_id", ""))
        if item is None:
          continue  # of another process, or answered already
        try:
          reply = self._read(item, line)
        except UserError as error:
          refusal = error
          continue
        if reply is not None:
          del asked[line["custom_id"]]
          yield reply
    errors = [error.message for error in (batch.errors and batch.errors.data) or []]
    for key in [key for key in keys if key in asked]:
      item = asked[key]
      item.settle(self.budget, 0)
      if batch.status == "failed":
        item.why = "; ".join(filter(None, errors)) or "the batch failed"
      if item.attempts >= self._endpoint.max_attempts:
        del asked[key]
        yield Reply.failed(item.prompt, f"{item.why} ({item.attempts} attempts)")
      else:
        logging.warning("batch %s, %s: %s", batch_id, item.prompt.id, item.why)
    return refusal

  def _read(self, item: _Asked, line: Record) -> Reply | None:
    """The reply on a line of results; None where another batch may have one.

    Raises:
      UserError: the endpoint refuses all requests for good.
    """
    response = line.get("response") or {}
    status, body = response.get("status_code"), response.get("body") or {}
    if status == 200:
      try:
        completion = self._openai.types.chat.ChatCompletion.model_validate(body)
        reply = reply_of(item.prompt, completion)
      except (ValueError, AttributeError, TypeError, IndexError) as error:
        item.why = f"{type(error).__name__}: {error}"
        return None
      usage = completion.usage
      used = usage.prompt_tokens + usage.completion_tokens if usage else item.most or 0
      item.settle(self.budget, used)
      self._dialect = self._dialect.after_success(item.prompt, item.dialect)
      return reply
    error = body.get("error") or line.get("error") or {}
    message, code = str(error.get("message", "no reason is given")), error.get("code")
    item.why = f"{status}: {message}" if status else message
    if status is None or may_pass(status, code):
      return None
    if is_hopeless(status, code):
      raise UserError(f"{self._place} refuses: {item.why}")
    weaker = item.dialect.after_refusal(item.prompt, status, message)
    if weaker is not None:
      item.dialect, item.attempts = weaker, item.attempts - 1  # another question, in a way
      return None
    item.settle(self.budget, 0)
    return Reply.failed(item.prompt, item.why)

  @property
  def _place(self) -> str:
    return f"{self._endpoint.model} at {self._client.base_url}"

  def _wait(self, batch_id: str) -> Any:
    """The batch, when it has ended."""
    while True:
      batch = self._call(lambda: self._client.batches.retrieve(batch_id))
      if batch.status in _ENDED:
        return batch
      counts = batch.request_counts
      if counts:
        done = counts.completed + counts.failed
        logging.info("batch %s: %s, %d of %d", batch_id, batch.status, done, counts.total)
      time.sleep(self._endpoint.poll)

  def _lines(self, file_id: str) -> Iterator[Record]:
    text = self._call(lambda: self._client.files.content(file_id).text)
    for line in text.split("\n"):  # a text may hold other ends of lines, such as U+2028
      if line.strip():
        yield json.loads(line)

  def _call(self, call: Callable[[], Result]) -> Result:
    """What a call to the endpoint returns, tried again where that may help.

    Raises:
      UserError: it failed for good.
    """
    reason = ""
    for attempt in range(self._endpoint.max_attempts):
      try:
        return call()
      except self._openai.APIStatusError as error:
        reason = f"{error.status_code}: {error.message}"
        if not may_pass(error.status_code, error.code):
          break
      except self._openai.APIError as error:
        reason = f"{type(error.__cause__ or error).__name__}: {error}"
      if attempt + 1 < self._endpoint.max_attempts:
        time.sleep(self._endpoint.backoff * 2**attempt * random.uniform(0.5, 1))
    raise UserError(
      f"{self._place} refuses: {reason}. Batches that were made are noted in {self._folder}; the "
      "same command goes on with them"
    )


def _request(key: str, arguments: Record) -> Record:
  """A line of a batch's file."""
  body = {name: value for name, value in arguments.items() if name != "extra_body"}
  return {
    "custom_id": key,
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": body | arguments.get("extra_body", {}),
  }


def _under_way(folder: Path, wanted: Container[str]) -> dict[str, list[str]]:
  """Wanted requests of the batches that were noted and whose results nobody has read, by batch.

  Any process may have noted them: a run that goes on may have another number of processes.
  """
  made: dict[str, list[str]] = {}
  read: set[tuple[str, str]] = set()
  for path in sorted(folder.glob("*.jsonl")):
    for record in read_records(path, drop_torn=True):
      batch_id = record["id"]
      if record.get("done"):
        # Notes of earlier versions do not say which requests: all.
        read |= {(batch_id, key) for key in record.get("requests", made.get(batch_id, []))}
      else:
        made[batch_id] = record["requests"]
  left = {
    batch_id: [key for key in keys if key in wanted and (batch_id, key) not in read]
    for batch_id, keys in made.items()
  }
  return {batch_id: keys for batch_id, keys in left.items() if keys}
