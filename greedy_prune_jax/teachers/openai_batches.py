"""A teacher behind the batch interface of an OpenAI-compatible endpoint.

A run uploads its requests as a file, makes a batch from it, and fetches the results when the batch
is done. It notes its batches in its folder; a resumed run waits for these instead of asking anew:

    batches/process-00000.jsonl   {"id": batch, "requests": [...]} for a new batch, and again with
                                  "done": true and the requests whose results were read
"""

import dataclasses
import hashlib
import json
import random
import re
import time
from collections.abc import Callable, Container, Generator, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import jax
from absl import logging

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.jsonl import JsonlWriter, encode_line, process_records, process_writer
from greedy_prune_jax.runs.records import Record, check_form
from greedy_prune_jax.teachers.completions import (
  Dialect,
  most_bytes,
  most_tokens,
  read_completion,
  refusal_words,
)
from greedy_prune_jax.teachers.endpoint import Endpoint, RequestBudget
from greedy_prune_jax.teachers.failures import FailedRequestError, shortened, wait_before, words_of
from greedy_prune_jax.teachers.settings import EndpointSettings, WritingSettings
from greedy_prune_jax.teachers.teacher import ChatPrompt, Reply

FOLDER = "batches"  # of a run's folder
_CHAT = "/v1/chat/completions"
_ENDED = ("completed", "failed", "expired", "cancelled")
_NOT_FOUND = 404  # status of HTTP
_WINDOW = "24h"  # the only one that there is

AnswerT = TypeVar("AnswerT")


@dataclasses.dataclass
class _Pending:
  """A prompt that has no reply yet."""

  prompt: ChatPrompt
  dialect: Dialect
  attempts: int = 0
  most: int | None = None  # tokens that the budget holds for it; None: not asked by this run
  why: str = "the batch ended without it"

  def settle(self, budget: RequestBudget, used: int) -> None:
    """Returns the tokens held for this prompt to the budget."""
    if self.most is not None:
      budget.settle(self.most, used)
      self.most = None


class _NotFoundError(UserError):
  """The endpoint has no batch or file of this id, or, where one is to be made, no batches."""


class OpenAIBatchTeacher:
  """Gets replies by batches of chat completions, those of earlier runs included."""

  def __init__(self, endpoint: EndpointSettings, settings: WritingSettings, folder: Path):
    """Prepares requests, but does not connect.

    Args:
      endpoint: settings of the endpoint, with `endpoint.batch` above 0.

    Raises:
      UserError: the package openai is not installed, or the model or the key is missing.
    """
    self._endpoint = Endpoint(endpoint, most_bytes=most_bytes(settings, endpoint.batch))
    self._writing = settings
    self._folder = folder / FOLDER
    self._dialect = Dialect.of(endpoint)
    self.budget = RequestBudget(endpoint.max_requests, endpoint.max_tokens)

  def write(self, prompts: Sequence[ChatPrompt]) -> Iterator[Reply]:
    """Yields replies as `Teacher` does; prompts left without one go into another batch.

    If the endpoint refuses all requests for good, every batch is read before the error is raised.
    Otherwise each later run would meet the same refusal in the unread ones.
    """
    asked = {self._key(prompt): _Pending(prompt, self._dialect) for prompt in prompts}
    with process_writer(self._folder, jax.process_index()) as notes:
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
    """Names a request by a hash of all that decides its reply, so that a later run finds it."""
    parts = [dataclasses.asdict(x) for x in (prompt, self._writing)]
    text = json.dumps([self._endpoint.settings.model, *parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]

  def _submit(
    self, asked: dict[str, _Pending], under_way: dict[str, list[str]], notes: JsonlWriter
  ) -> dict[str, list[str]]:
    """Makes batches of the prompts that are in none, within the budget; their keys, by batch id.

    Raises:
      UserError: no batch is under way, and the budget allows no further request.
    """
    there = {key for keys in under_way.values() for key in keys}
    lines: dict[str, bytes] = {}
    made: dict[str, list[str]] = {}
    for key in [key for key in asked if key not in there]:
      item = asked[key]
      arguments = item.dialect.arguments(item.prompt, self._endpoint.settings.model, self._writing)
      most = most_tokens(arguments, self._writing)
      try:
        if not self.budget.take(most, wait=False):
          break
      except UserError:
        if not (lines or made or under_way):
          raise
        break  # what is under way comes first
      item.most, item.attempts = most, item.attempts + 1
      lines[key] = encode_line(_request(key, arguments))
      if len(lines) == self._endpoint.settings.batch:
        made |= self._make_batch(lines, notes)
        lines = {}
    return made | (self._make_batch(lines, notes) if lines else {})

  def _make_batch(self, lines: dict[str, bytes], notes: JsonlWriter) -> dict[str, list[str]]:
    """Uploads requests, and makes a batch of them."""
    content = b"".join(lines.values())
    file_id = self._call(lambda: _id_of(self._endpoint.upload(content)))
    made = {"input_file_id": file_id, "endpoint": _CHAT, "completion_window": _WINDOW}
    batch_id = self._call(lambda: _id_of(self._endpoint.post("/batches", made)))
    notes.write({"id": batch_id, "requests": list(lines)})
    logging.info("batch %s: %d requests", batch_id, len(lines))
    return {batch_id: list(lines)}

  def _replies(
    self, batch_id: str, keys: Sequence[str], asked: dict[str, _Pending]
  ) -> Generator[Reply, None, UserError | None]:
    """Waits for a batch, and removes the prompts that it answered from `asked`.

    A batch that is refused as a whole answers none, so its requests may go into another batch.

    Returns:
      An error of the endpoint that holds for all requests; None where there is none.

    Raises:
      UserError: the batch or its results cannot be fetched.
    """
    refusal = None
    try:
      batch = self._wait(batch_id)
      lines = list(self._lines(batch))
    except _NotFoundError as error:
      raise UserError(
        f"batch {batch_id} or its results are not to be found at {self._endpoint.name}: they "
        f"expired, or belong to another account or base_url ({error}). To ask its {len(keys)} "
        f"requests anew, and pay for them again, remove the line of this id from the notes in "
        f"{self._folder}"
      ) from error
    for line in lines:
      item = asked.get(key := _text_at(line, "custom_id"))
      if item is None:
        continue  # of another process, or answered already
      try:
        reply = self._read(item, line)
      except UserError as error:
        refusal = error
        continue
      if reply is not None:
        del asked[key]
        yield reply
    for key in [key for key in keys if key in asked]:
      item = asked[key]
      item.settle(self.budget, 0)
      if batch["status"] == "failed":
        item.why = (
          words_of(json.dumps(_first_error(batch.get("errors"))))
          if batch.get("errors")
          else "the batch failed"
        )
      if item.attempts >= self._endpoint.settings.max_attempts:
        del asked[key]
        yield Reply.failed(item.prompt, f"{item.why} ({item.attempts} attempts)")
      else:
        logging.warning("batch %s, %s: %s", batch_id, item.prompt.id, item.why)
    return refusal

  def _read(self, item: _Pending, line: Record) -> Reply | None:
    """The reply in a line, None if another batch may bring one; a UserError if all are refused."""
    response = line.get("response")
    try:
      if not isinstance(response, dict) or response.get("status_code") != 200:
        raise _failure(line)
      reply, count = read_completion(item.prompt, response.get("body"), self._writing)
    except FailedRequestError as error:
      item.why = refusal_words(error)
      if error.is_hopeless:
        raise UserError(f"{self._endpoint.name} refuses: {item.why}") from error
      if error.may_pass:
        return None
      weaker = item.dialect.after_refusal(item.prompt, self._writing, error)
      if weaker is not None:
        item.dialect, item.attempts = weaker, item.attempts - 1  # another question, in a way
        return None
      item.settle(self.budget, 0)
      return Reply.failed(item.prompt, item.why)
    item.settle(self.budget, item.most or 0 if count is None else count)
    self._dialect = self._dialect.after_success(item.prompt, item.dialect)
    return reply

  def _wait(self, batch_id: str) -> Record:
    """Waits until the batch has ended, and returns it; a UserError after `endpoint.batch_hours`."""
    hours = self._endpoint.settings.batch_hours
    end = time.monotonic() + 3600 * hours
    while True:
      batch = self._call(lambda: _with_status(self._endpoint.get(f"/batches/{batch_id}")))
      if batch["status"] in _ENDED:
        return batch
      logging.info("batch %s: %s%s", batch_id, shortened(batch["status"]), _progress(batch))
      if time.monotonic() >= end:
        raise UserError(
          f"batch {batch_id} at {self._endpoint.name} still has the status "
          f"{shortened(batch['status'])!r} after endpoint.batch_hours={hours:g}; the same command "
          "goes on waiting. To ask anew, remove the batch from the notes in "
          f"{self._folder}"
        )
      time.sleep(self._endpoint.settings.poll)

  def _lines(self, batch: Record) -> Iterator[Record]:
    """The results of a batch that are JSON objects; other lines are logged and skipped."""
    for file_id in (batch.get("output_file_id"), batch.get("error_file_id")):
      if not file_id:
        continue
      path = f"/files/{_checked_id(file_id)}/content"
      text = self._call(lambda path=path: self._endpoint.get_text(path))
      for line in text.split("\n"):  # a text may hold other ends of lines, such as U+2028
        try:
          value = self._endpoint.parse(line) if line.strip() else None
        except FailedRequestError as error:
          logging.warning("a result of a batch: %s", error)
          continue
        if isinstance(value, dict):
          yield value

  def _call(self, call: Callable[[], AnswerT]) -> AnswerT:
    """Makes a call, again and again while that may help, and returns the answer.

    Raises:
      _NotFoundError: the endpoint has no such thing.
      UserError: the call failed for good otherwise.
    """
    settings, reason = self._endpoint.settings, ""
    for attempt in range(settings.max_attempts):
      try:
        return call()
      except FailedRequestError as error:
        reason = str(error)
        if error.status == _NOT_FOUND:
          raise _NotFoundError(f"{self._endpoint.name} refuses: {reason}") from error
        if not error.may_pass:
          break
        if attempt + 1 < settings.max_attempts:
          time.sleep(wait_before(attempt, settings.backoff, error.wait, random.uniform(0.5, 1)))
    raise UserError(
      f"{self._endpoint.name} refuses: {reason}. Batches that were made are noted in "
      f"{self._folder}; the same command goes on with them"
    )


def _text_at(record: Record, key: str) -> str:
  value = record.get(key)
  return value if isinstance(value, str) else ""


def _checked_id(value: object) -> str:
  """Returns an id that can be part of a path, or raises a FailedRequestError."""
  if (
    not isinstance(value, str)
    or not re.fullmatch(r"[A-Za-z0-9_.:-]{1,200}", value)
    or ".." in value
  ):
    raise FailedRequestError(f"the answer has the id {shortened(json.dumps(value))}")
  return value


def _id_of(answer: Record) -> str:
  """The id of a new file or batch, from the endpoint's answer."""
  if not answer.get("id"):
    raise FailedRequestError(f"the answer has no id: {words_of(json.dumps(answer))}")
  return _checked_id(answer["id"])


def _with_status(batch: Record) -> Record:
  """Returns a batch that has a status, or raises a FailedRequestError."""
  if not _text_at(batch, "status"):
    raise FailedRequestError(f"the batch has no status: {words_of(json.dumps(batch))}")
  for name in ("output_file_id", "error_file_id"):
    if batch.get(name):
      _checked_id(batch[name])
  return batch


def _progress(batch: Record) -> str:
  """Counts of finished requests in words; empty where the endpoint gives none."""
  counts = batch.get("request_counts")
  if not isinstance(counts, dict):
    return ""
  done = [counts.get(name) for name in ("completed", "failed", "total")]
  return (
    f" ({done[0]} done, {done[1]} failed of {done[2]})" if all(type(x) is int for x in done) else ""
  )


def _first_error(errors: object) -> object:
  """The first error of a failed batch, whatever form its errors have."""
  while isinstance(errors, dict) and errors.get("data"):
    errors = errors["data"]
  return errors[0] if isinstance(errors, list) and errors else errors


def _failure(line: Record) -> FailedRequestError:
  """The failure that a line of results reports instead of a reply."""
  response = line.get("response")
  response = response if isinstance(response, dict) else {}
  status, body = response.get("status_code"), response.get("body") or line.get("error") or line
  error = body.get("error", body) if isinstance(body, dict) else body
  code = error.get("code") if isinstance(error, dict) else None
  text = json.dumps(body)
  odd = (
    "" if type(status) is int or status is None else f"its status is {json.dumps(status)[:40]}; "
  )
  return FailedRequestError(
    odd + words_of(text),
    status=status if type(status) is int else None,
    body=text,
    code=code if isinstance(code, str) else None,
  )


def _request(key: str, arguments: Record) -> Record:
  """A line of a batch's file."""
  return {"custom_id": key, "method": "POST", "url": _CHAT, "body": arguments}


def _check_note(record: Record) -> None:
  check_form(record, {"id": str, "done?": bool, "requests?": [str]})
  if not record.get("done"):
    check_form(record, {"requests": list})


def _under_way(folder: Path, wanted: Container[str]) -> dict[str, list[str]]:
  """Wanted requests of noted batches whose results were not read yet, by batch id.

  All processes' notes are read, since a resumed run may have another number of processes.
  """
  made: dict[str, list[str]] = {}
  read: set[tuple[str, str]] = set()
  for record in process_records(folder, _check_note):
    batch_id = record["id"]
    if record.get("done"):
      # Notes of earlier versions name no requests; there, all of the batch were read.
      read |= {(batch_id, key) for key in record.get("requests", made.get(batch_id, []))}
    else:
      made[batch_id] = record["requests"]
  left = {
    batch_id: [key for key in keys if key in wanted and (batch_id, key) not in read]
    for batch_id, keys in made.items()
  }
  return {batch_id: keys for batch_id, keys in left.items() if keys}
