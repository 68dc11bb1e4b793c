"""An HTTP client whose requests end: answers of a bounded size, read in a bounded time.

A time limit of each read does not bound a body, nor headers, that come byte by byte, so a timer
shuts the connection down. It knows the connection from when that is made, so none is kept for a
second request. Imported only where the package openai, which brings httpx2, is installed.
"""

import contextlib
import socket
import threading
from collections.abc import Mapping
from typing import Any

import httpx2
import openai

from greedy_prune_jax.teachers.failures import FailedRequestError

_ENCODINGS = ("", "identity", "gzip", "deflate")  # others may swell a few bytes to any size


class BoundedClient(openai.DefaultHttpxClient):
  """Reads every answer whole, up to a size and a time; see `bounded_client`."""

  response_type = httpx2.Response
  most_bytes: int
  most_seconds: float

  def send(self, request: httpx2.Request, *, stream: bool = False, **kwargs: Any) -> Any:
    """Sends a request, reads all of the answer; a FailedRequestError if it is too long or slow."""
    timer = _Timer(self.most_seconds)
    request.extensions = {**request.extensions, "trace": timer.trace}
    with timer:
      response = super().send(request, stream=True, **kwargs)
      with contextlib.closing(response):
        body = self._read(response)
    headers = [(k, v) for k, v in response.headers.raw if k.lower() not in _OF_THE_WIRE]
    return httpx2.Response(response.status_code, headers=headers, content=body, request=request)

  def _read(self, response: httpx2.Response) -> bytes:
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding not in _ENCODINGS:
      raise FailedRequestError("the answer is packed in a way that was not asked for")
    body = bytearray()
    for chunk in response.iter_bytes():
      body += chunk
      if len(body) > self.most_bytes:
        raise FailedRequestError(f"the answer is longer than {self.most_bytes:,} bytes")
    return bytes(body)


_OF_THE_WIRE = (b"content-encoding", b"content-length", b"transfer-encoding")


def bounded_client(*, most_bytes: int, most_seconds: float) -> BoundedClient:
  """A client that follows no redirect, as that could take the prompts elsewhere.

  Args:
    most_bytes: bytes of an answer, at most.
    most_seconds: seconds from the connection's beginning to the answer's end.
  """
  client = BoundedClient(
    follow_redirects=False,
    headers={"Accept-Encoding": "gzip, deflate"},
    limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
  )
  client.most_bytes, client.most_seconds = most_bytes, most_seconds
  return client


class _Timer:
  """Shuts a request's connection down when its time is over."""

  def __init__(self, seconds: float):
    self._seconds = seconds
    self._sockets: list[socket.socket] = []
    self._is_over = threading.Event()
    self._timer = threading.Timer(seconds, self._end)
    self._timer.daemon = True

  def trace(self, event: str, info: Mapping[str, Any]) -> None:
    """Takes what httpcore2 tells of a request: the sockets that it opens."""
    if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
      self._sockets.append(info["return_value"].get_extra_info("socket"))
    if self._is_over.is_set():
      self._end()

  def _end(self) -> None:
    self._is_over.set()
    for one in self._sockets:
      with contextlib.suppress(OSError):  # it is closed
        one.shutdown(socket.SHUT_RDWR)

  def __enter__(self) -> "_Timer":
    self._timer.start()
    return self

  def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
    self._timer.cancel()
    if self._is_over.is_set() and (kind is None or issubclass(kind, Exception)):
      raise FailedRequestError(
        f"the answer took more than {self._seconds:g} s (endpoint.max_seconds)"
      ) from None
