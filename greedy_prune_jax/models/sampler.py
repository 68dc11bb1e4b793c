"""Batched generation: requests in, texts out as they finish, rows refilled from the queue.

Life of a request: it waits in the queue; its prompt is run into a free row of the cache (`admit`);
the row writes with all others, some steps between two looks from the host (`decode`); when it has
written a stop id, a stop string or all that it may, the host yields it and gives its row to the
next request (continuous batching). When the queue is empty and rows fall free, those left move
together into fewer rows. Numbers of rows and cache lengths are drawn from a few, so compilation is
bounded.

On a mesh every device of `data` has as many rows as any other. Requests go where the fewest texts
are being written, and rows that fall free go when every device has enough of them: a text never
moves to another device.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Int

from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.models.decoding import Rows, Texts, admit, decode, empty_rows, resize
from greedy_prune_jax.models.sizes import bucket, power_of_two
from greedy_prune_jax.models.token_choice import Choice
from greedy_prune_jax.parallel import DATA, axis_size, mesh_of, place_rows

FinishReason = Literal["stop", "length", "not_finite"]

_CACHE_MULTIPLE = 64
_PROMPT_MULTIPLE = 32
# Of the prompts that one `admit` runs, unless a single one is longer; rows that make their number a
# power of two come on top.
_PREFILL_POSITIONS = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
  """A text to write on."""

  prompt_ids: tuple[int, ...]  # token ids, at least one
  max_new_tokens: int  # most tokens to write, at least 1
  temperature: float = 0.0  # 0 writes the likeliest token
  # The likeliest of top_k's tokens that have this share of their probability together are allowed;
  # 1: all.
  top_p: float = 1.0
  top_k: int = 0  # number of tokens that are allowed; 0: all
  seed: int = 0  # seed of this request's draws, from 0 to 2**32 - 1
  stop_strings: tuple[str, ...] = ()  # the text ends before the first of these; none is empty
  stop_ids: tuple[int, ...] = ()  # tokens that end this text, beside those of the sampler
  # Tokens that were drawn with this seed for the text before: draws go on behind them.
  num_written: int = 0

  def __post_init__(self):
    if not self.prompt_ids:
      raise ValueError("prompt_ids is empty; expected at least one token")


@dataclasses.dataclass(frozen=True)
class Sample:
  """Text that was written for one request."""

  # Ids without the stop id, up to the token that completes a stop string.
  token_ids: tuple[int, ...]
  text: str  # text of these ids, up to the stop string
  # `stop` (an id or a string), `length` (max_new_tokens), or `not_finite` (the model gave numbers
  # that are not finite; what it wrote before is here).
  finish_reason: FinishReason
  ended_by: int | str | None = None  # the id or string that stopped it; None where nothing did

  @property
  def num_draws(self) -> int:
    """Tokens that were drawn for the text: those of `token_ids`, and the stop id."""
    return len(self.token_ids) + isinstance(self.ended_by, int)


# Decides from a request's index and its text whether another request goes on with it.
Follow = Callable[[int, Sample], Request | None]


class Sampler:
  """Writes texts with one model.

  A request's text does not depend on which others run beside it, but for rounding: products of
  other sizes may round differently, and two tokens be likeliest by less than that.
  """

  def __init__(
    self,
    model: Model,
    decode_text: Callable[[list[int]], str],
    stop_ids: Sequence[int],
    *,
    max_rows: int = 32,
    steps: int = 16,
    rope_length: int | None = None,
  ):
    """Makes a sampler; nothing is compiled yet.

    Args:
      model: writes, on the mesh that its parameters lie on.
      decode_text: makes text from token ids.
      stop_ids: tokens that end a text, such as the end of the assistant's turn.
      max_rows: most texts at once, over all devices.
      steps: tokens that rows write between two looks from the host.
      rope_length: positions have the angles of a text of so many tokens (see `config_for_length`);
        by default of the model's context.
    """
    self._model = model
    self._mesh = mesh_of(model.params)
    self._num_groups = axis_size(model.params, DATA)
    self._decode_text = decode_text
    self._stop_ids = frozenset(stop_ids)
    self._device_stop_ids = jnp.asarray(sorted(stop_ids), jnp.int32)
    self._max_rows = max_rows
    self._steps = steps
    self._context = model.config.max_positions
    self._graph = model.graph_for(rope_length or self._context)

  def sample(
    self, requests: Sequence[Request], follow: Follow = lambda index, sample: None
  ) -> Iterator[tuple[int, Sample]]:
    """Yields the index of each request and what was written, in the order in which they finish.

    Args:
      requests: texts to write on.
      follow: gets every finished text; the request that it returns is run next under the same
        index, and its text yielded instead.

    Raises:
      ValueError: a request may need more than the model's context (at once, before any is run).
    """
    for index, request in enumerate(requests):
      self._check_length(index, request)
    return self._run(collections.deque(enumerate(requests)), follow)

  def _check_length(self, index: int, request: Request) -> None:
    needed = len(request.prompt_ids) + request.max_new_tokens
    if needed > self._context:
      raise ValueError(
        f"request {index}: {len(request.prompt_ids)} prompt tokens and max_new_tokens="
        f"{request.max_new_tokens} make {needed}, more than the model's context of {self._context}"
      )

  def _run(
    self, queue: collections.deque[tuple[int, Request]], follow: Follow
  ) -> Iterator[tuple[int, Sample]]:
    rows: Rows | None = None
    texts: list[_Text | None] = []  # of each row
    while queue or any(texts):
      free = self._max_rows - sum(text is not None for text in texts)
      coming = [_Text(*queue.popleft()) for _ in range(min(free, len(queue)))]
      rows, texts = self._fit(rows, texts, coming)
      rows = self._admit(rows, texts, coming)
      rows, written = decode(
        self._graph,
        self._model.inference_params,
        rows,
        self._device_stop_ids,
        steps=self._steps,
        mesh=self._mesh,
      )
      written, state = jax.device_get((written, rows.texts))  # pyright: ignore
      for row, text in enumerate(texts):
        if text is None:
          continue
        sample = self._extend(text, written[row], bool(state.active[row]), bool(state.finite[row]))
        if sample is None:
          continue
        texts[row] = None
        if (following := follow(text.index, sample)) is None:
          yield text.index, sample
        else:
          self._check_length(text.index, following)
          queue.appendleft((text.index, following))
      active = place_rows(np.array([text is not None for text in texts]), self._mesh)
      rows = rows._replace(texts=rows.texts._replace(active=active))  # pyright: ignore

  def _fit(
    self, rows: Rows | None, texts: "list[_Text | None]", coming: "Sequence[_Text]"
  ) -> "tuple[Rows, list[_Text | None]]":
    """Rows for the texts being written and those to come, with room for the next steps."""
    busy = [text for text in texts if text is not None]
    longest = max(text.length for text in (*busy, *coming))
    needed = bucket(longest + self._steps, _CACHE_MULTIPLE)
    groups = self._groups(texts)
    most_busy = max(sum(texts[row] is not None for row in group) for group in groups)
    each = power_of_two(max(most_busy, -(-(len(busy) + len(coming)) // len(groups))))
    if rows is None:
      dtype = jnp.dtype(self._model.decoder.embedding.dtype)
      size = each * len(groups)
      return empty_rows(self._model.config, size, needed, dtype, self._mesh), [None] * size
    if each == len(groups[0]) and needed <= rows.capacity:
      return rows, texts
    # Not more than there were: work and queue only ever shrink.
    take = [row for of in groups for row in sorted(of, key=lambda row: texts[row] is None)[:each]]
    own = place_rows(np.array(take) % len(groups[0]), self._mesh)
    return resize(rows, own, needed, self._mesh), [texts[row] for row in take]

  def _groups(self, texts: "Sequence[_Text | None]") -> list[range]:
    """The rows of each device of `data`."""
    each = len(texts) // self._num_groups
    return [range(at * each, (at + 1) * each) for at in range(self._num_groups)]

  def _free_rows(self, texts: "Sequence[_Text | None]") -> list[int]:
    """Free rows; first those of devices where the fewest texts are being written."""
    ranked = []
    for group in self._groups(texts):
      free = [row for row in group if texts[row] is None]
      ranked += [(len(group) - len(free) + at, row) for at, row in enumerate(free)]
    return [row for _, row in sorted(ranked)]

  def _admit(self, rows: Rows, texts: "list[_Text | None]", coming: "Sequence[_Text]") -> Rows:
    """Gives `coming` free rows and runs their prompts into these, those of like length at once."""
    free = self._free_rows(texts)
    # By width, then by prompt: several samples of one prompt need it run only once.
    groups: dict[int, dict[tuple[int, ...], list[int]]] = {}
    for row, text in zip(free, coming, strict=False):
      texts[row] = text
      prompt = text.request.prompt_ids
      group = groups.setdefault(bucket(len(prompt) - 1, _PROMPT_MULTIPLE), {})
      group.setdefault(prompt, []).append(row)
    requests = [text.request if text else None for text in texts]
    for width, group in sorted(groups.items()):
      prompts, most = list(group.items()), max(1, _PREFILL_POSITIONS // width)
      for part in (prompts[at : at + most] for at in range(0, len(prompts), most)):
        prompt_ids = np.zeros((power_of_two(len(part)), width), np.int32)
        source = np.full(len(texts), -1, np.int32)
        for at, (prompt, new_rows) in enumerate(part):
          prompt_ids[at, : len(prompt) - 1] = prompt[:-1]
          source[new_rows] = at
        rows = self._run_prompts(rows, requests, prompt_ids, source)
    return rows

  def _run_prompts(
    self,
    rows: Rows,
    requests: Sequence[Request | None],
    prompt_ids: Int[np.ndarray, "R T"],
    source: Int[np.ndarray, " B"],
  ) -> Rows:
    """See `admit`; prompts lie along `data` where their number allows it."""
    even = len(prompt_ids) % self._num_groups == 0
    return admit(
      self._graph,
      self._model.inference_params,
      rows,
      _new_texts(requests, self._mesh),
      place_rows(prompt_ids, self._mesh) if even else prompt_ids,
      place_rows(source, self._mesh),
      self._mesh,
    )

  def _extend(
    self, text: "_Text", written: np.ndarray, active: bool, finite: bool
  ) -> Sample | None:
    """Adds what a row has written to its text; the sample if it is finished with that."""
    known = len(text.ids)
    text.ids += written[written >= 0].tolist()
    if (stopped := self._stopped(text, known)) is not None:
      return stopped
    if active:
      return None
    reason: FinishReason = "length"
    ended_by = None
    if not finite:
      reason = "not_finite"
    elif text.ids[-1] in self._stop_ids:
      reason = "stop"
      ended_by = text.ids.pop()
    return Sample(tuple(text.ids), self._decode_text(text.ids), reason, ended_by)

  def _stopped(self, text: "_Text", known: int) -> Sample | None:
    """The sample if one of the request's own stops is among the tokens from `known` on."""
    request = text.request
    # Decoding a long text at every step would take longer than writing it: its end is looked at.
    width = max((4 * len(stop) for stop in request.stop_strings), default=0)
    tail = self._decode_text(text.ids[max(known - width, 0) :]) if width else ""
    may_stop = any(stop in tail for stop in request.stop_strings)
    for end in range(known + 1, len(text.ids) + 1):
      if text.ids[end - 1] in request.stop_ids:
        ids = text.ids[: end - 1]
        return Sample(tuple(ids), self._decode_text(ids), "stop", text.ids[end - 1])
      whole = self._decode_text(text.ids[:end]) if may_stop else ""
      found = [(at, stop) for stop in request.stop_strings if (at := whole.find(stop)) >= 0]
      if found:
        at, stop = min(found)
        return Sample(tuple(text.ids[:end]), whole[:at], "stop", stop)
    return None


@dataclasses.dataclass
class _Text:
  """A text in the making, on the host."""

  index: int
  request: Request
  ids: list[int] = dataclasses.field(default_factory=list)  # written so far

  @property
  def length(self) -> int:
    """Tokens, the prompt's included."""
    return len(self.request.prompt_ids) + len(self.ids)


def _new_texts(requests: Sequence[Request | None], mesh: Mesh | None) -> Texts:
  """State of the rows of these requests before anything is written; None: a free row."""

  def column(get: Callable[[Request], float | bool], dtype: DTypeLike) -> Any:
    return np.array([get(request) if request else 0 for request in requests], dtype)

  texts = Texts(
    length=column(lambda request: len(request.prompt_ids) - 1, np.int32),
    last_id=column(lambda request: request.prompt_ids[-1], np.int32),
    written=column(lambda request: request.num_written, np.int32),
    budget=column(lambda request: request.num_written + request.max_new_tokens, np.int32),
    active=column(lambda _: True, bool),
    finite=column(lambda _: True, bool),
    choice=Choice(
      seed=column(lambda request: request.seed, np.uint32),
      temperature=column(lambda request: request.temperature, np.float32),
      top_p=column(lambda request: request.top_p, np.float32),
      top_k=column(lambda request: min(request.top_k, 2**31 - 1), np.int32),
    ),
  )
  return place_rows(texts, mesh)
