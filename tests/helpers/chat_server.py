"""A chat completions endpoint on loopback that answers, fails, stalls and breaks off as told.

It has a batch interface too: a batch's requests are answered as they would be one by one.
"""

import contextlib
import dataclasses
import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclasses.dataclass(frozen=True)
class Answer:
  """The server's answer to a request.

  Attributes:
    body: a JSON object, or the text or bytes to send as they are.
    status: status of HTTP.
    headers: further ones.
    send: bytes of the body to send before breaking off; None: all.
    stall: say nothing until the server is closed.
    drip: seconds between two bytes of the body, and of the headers before it; 0: all at once.
    endless: bytes to repeat behind the body, which then stands for the whole answer, headers and
      all; they come every `drip` seconds.
  """

  body: Any
  status: int = 200
  headers: dict[str, str] = dataclasses.field(default_factory=dict)
  send: int | None = None
  stall: bool = False
  drip: float = 0.0
  endless: bytes = b""


def completion(
  text: str | None, finish_reason: Any = "stop", tokens: tuple | None = (10, 5)
) -> Answer:
  """A reply; `tokens` are the prompt's and its own."""
  choice = {
    "index": 0,
    "message": {"role": "assistant", "content": text},
    "finish_reason": finish_reason,
  }
  whole = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
  if tokens is not None:
    counts = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    whole["usage"] = counts | {"total_tokens": sum(tokens)}
  return Answer(whole)


def reply(message: dict[str, Any], finish_reason: Any = "stop", **further: Any) -> Answer:
  """A completion whose message is of any form; keys of `further` are added to its body."""
  body = completion("", finish_reason).body
  body["choices"][0]["message"] = {"role": "assistant"} | message
  return Answer(body | further)


def refusal(status: int, message: str, code: str | None = None, **headers: str) -> Answer:
  return Answer({"error": {"message": message, "code": code}}, status, headers)


class ChatServer:
  """Calls `respond(request, count)` for each request; count: how often its question came before.

  Attributes:
    requests: all that were made, one by one and in batches.
    batches: batches by id; a test may change a batch's status, or look at its requests.
    looks: number of looks at a batch before it is done.
    refuse_batch: message with which a batch fails as a whole, or None.
  """

  def __init__(self, respond: Callable[[dict[str, Any], int], Answer]):
    self.batches: dict[str, dict[str, Any]] = {}
    self.files: dict[str, str] = {}
    self.looks = 0
    self.refuse_batch: Callable[[int], str | None] = lambda number: None
    self.broken_looks = 0  # so many looks at batches get an error of the server
    self._numbers = itertools.count(1)
    self.requests: list[dict[str, Any]] = []
    self.keys: list[str | None] = []
    self.most_at_once = 0
    self._respond, self._lock, self._at_once = respond, threading.Lock(), 0
    self._closed = threading.Event()
    chat_server = self

    class Handler(BaseHTTPRequestHandler):
      def do_POST(self):
        size = int(self.headers["Content-Length"])
        body = self.rfile.read(size)
        if self.path == "/v1/chat/completions":
          chat_server._handle(self, json.loads(body))
        elif self.path == "/v1/files":
          _send(self, chat_server._take_file(body.decode()))
        else:
          assert self.path == "/v1/batches"
          _send(self, chat_server._make_batch(json.loads(body)))

      def do_GET(self):
        _, _, kind, name, *rest = self.path.split("/")
        if kind == "files":
          assert rest == ["content"]
          text = chat_server.files.get(name)
          _send(self, Answer(text) if text is not None else refusal(404, "no such file"))
        else:
          assert kind == "batches"
          _send(self, chat_server._look(name))

      def log_message(self, *_):
        pass

    self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    self._server.daemon_threads = True
    self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
    # `close` waits for the next look at whether to end, which is half a second by default.
    serve = {"target": self._server.serve_forever, "kwargs": {"poll_interval": 0.01}}
    threading.Thread(**serve, daemon=True).start()

  def questions(self) -> list[str]:
    return [request["messages"][-1]["content"] for request in self.requests]

  def close(self) -> None:
    self._closed.set()
    self._server.shutdown()
    self._server.server_close()

  def _count(self, request: dict[str, Any]) -> int:
    """Counts how often a request's question came before; it now has come once more."""
    count = self.questions().count(request["messages"][-1]["content"])
    self.requests.append(request)
    return count

  def _take_file(self, form: str) -> Answer:
    assert 'name="purpose"\r\n\r\nbatch\r\n' in form
    content = re.search(r"filename=.*?\r\n\r\n(.*?)\r\n--", form, re.DOTALL)
    assert content is not None
    return Answer(self._file(content[1]))

  def _file(self, text: str) -> dict[str, Any]:
    name = f"file-{next(self._numbers)}"
    self.files[name] = text
    about = {"object": "file", "bytes": len(text), "created_at": 0, "filename": "x"}
    return about | {"id": name, "purpose": "batch", "status": "processed"}

  def _make_batch(self, asked: dict[str, Any]) -> Answer:
    assert asked["endpoint"] == "/v1/chat/completions"
    number = len(self.batches)
    batch = asked | {
      "id": f"batch-{number}",
      "object": "batch",
      "created_at": 0,
      "status": "in_progress",
      "looks": self.looks,
    }
    if (message := self.refuse_batch(number)) is not None:
      errors = {"object": "list", "data": [{"code": "bad", "message": message}]}
      batch |= {"status": "failed", "errors": errors}
    self.batches[batch["id"]] = batch
    return Answer(batch)

  def _look(self, name: str) -> Answer:
    batch = self.batches[name]
    if self.broken_looks > 0:
      self.broken_looks -= 1
      return refusal(503, "overloaded")
    if batch["status"] == "in_progress" and batch["looks"] == 0:
      self._finish(batch)
    batch["looks"] -= 1
    return Answer(batch)

  def _finish(self, batch: dict[str, Any]) -> None:
    """Answers a batch's requests, good ones into one file, bad ones into another."""
    text = self.files[batch["input_file_id"]].strip()
    lines = [json.loads(line) for line in text.split("\n")]
    results: tuple[list, list] = [], []
    for line in lines:
      answer = self._respond(line["body"], self._count(line["body"]))
      if answer.stall:
        continue  # the batch ends without it
      response = {"status_code": answer.status, "request_id": "r", "body": answer.body}
      result = {"id": "x", "custom_id": line["custom_id"], "response": response, "error": None}
      results[answer.status != 200].append(result)
    for key, found in zip(("output_file_id", "error_file_id"), results, strict=True):
      if found:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in found)
        batch[key] = self._file(text)["id"]
    batch["status"] = "completed"

  def _handle(self, handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
    with self._lock:
      count = self._count(request)
      self.keys.append(handler.headers["Authorization"])
      self._at_once += 1
      self.most_at_once = max(self.most_at_once, self._at_once)
    answer = self._respond(request, count)
    with self._lock:
      self._at_once -= 1
    if answer.stall:
      self._closed.wait()
      return
    _send(handler, answer)


def _send(handler: BaseHTTPRequestHandler, answer: Answer) -> None:
  data = answer.body if isinstance(answer.body, bytes | str) else json.dumps(answer.body)
  data = data.encode() if isinstance(data, str) else data
  if answer.endless:
    with contextlib.suppress(OSError):  # the other side has left
      handler.wfile.write(data)
      while True:
        handler.wfile.write(answer.endless)
        time.sleep(answer.drip)
    return
  if answer.drip:
    with contextlib.suppress(OSError):  # the other side has left
      for byte in b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + data:
        handler.wfile.write(bytes([byte]))
        time.sleep(answer.drip)
    return
  handler.send_response(answer.status)
  headers = {"Content-Type": "application/json", "Content-Length": str(len(data))}
  for name, value in (headers | answer.headers).items():
    handler.send_header(name.replace("_", "-"), value)
  handler.end_headers()
  with contextlib.suppress(OSError):  # the other side has left
    handler.wfile.write(data[: answer.send])
    handler.wfile.flush()
  if answer.send is not None:
    handler.connection.close()


@contextlib.contextmanager
def serving(respond: Callable[[dict[str, Any], int], Answer]) -> Iterator[ChatServer]:
  server = ChatServer(respond)
  try:
    yield server
  finally:
    server.close()
