"""A chat completions endpoint on loopback that answers, fails, stalls and breaks off as told."""

import contextlib
import dataclasses
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclasses.dataclass(frozen=True)
class Answer:
  """What the server does with a request.

  Attributes:
    body: a JSON object, or the text to send as it is.
    status: of HTTP.
    headers: further ones.
    send: how many bytes of the body to send before breaking off; None: all.
    stall: say nothing until the server is closed.
  """

  body: Any
  status: int = 200
  headers: dict[str, str] = dataclasses.field(default_factory=dict)
  send: int | None = None
  stall: bool = False


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


def refusal(status: int, message: str, code: str | None = None, **headers: str) -> Answer:
  return Answer({"error": {"message": message, "code": code}}, status, headers)


class ChatServer:
  """Calls `respond(request, count)` for each request; count: how often its question came before."""

  def __init__(self, respond: Callable[[dict[str, Any], int], Answer]):
    self.requests: list[dict[str, Any]] = []
    self.keys: list[str | None] = []
    self.most_at_once = 0
    self._respond, self._lock, self._at_once = respond, threading.Lock(), 0
    self._closed = threading.Event()
    chat_server = self

    class Handler(BaseHTTPRequestHandler):
      def do_POST(self):
        chat_server._handle(self)

      def log_message(self, *_):
        pass

    self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    self._server.daemon_threads = True
    self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
    threading.Thread(target=self._server.serve_forever, daemon=True).start()

  def questions(self) -> list[str]:
    return [request["messages"][-1]["content"] for request in self.requests]

  def close(self) -> None:
    self._closed.set()
    self._server.shutdown()
    self._server.server_close()

  def _handle(self, handler: BaseHTTPRequestHandler) -> None:
    request = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
    assert handler.path == "/v1/chat/completions"
    with self._lock:
      question = request["messages"][-1]["content"]
      count = self.questions().count(question)
      self.requests.append(request)
      self.keys.append(handler.headers["Authorization"])
      self._at_once += 1
      self.most_at_once = max(self.most_at_once, self._at_once)
    answer = self._respond(request, count)
    with self._lock:
      self._at_once -= 1
    if answer.stall:
      self._closed.wait()
      return
    body = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
    data = body.encode()
    handler.send_response(answer.status)
    headers = {"Content-Type": "application/json", "Content-Length": str(len(data))}
    for name, value in (headers | answer.headers).items():
      handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
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
