"""A teacher that runs here: a model and the sampler.

A model that is to think is asked twice. Its first text, from the opening tag on, is its thinking:
it ends at the closing tag, or after `max_thinking_tokens`. The second is its reply, behind the
thinking and the closing tag in the tokens in which pruning scores such a chain.
"""

import dataclasses
import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from transformers import PreTrainedTokenizerFast

from greedy_prune_jax.accelerators import device_memory, machine_memory
from greedy_prune_jax.chains.chat_template import ChatTemplate, load_chat_template
from greedy_prune_jax.chains.segments import encode_parts
from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.models.pretrained import load_model, load_stop_ids, load_tokenizer
from greedy_prune_jax.models.recurrence import cache_shapes
from greedy_prune_jax.models.rope import config_for_length
from greedy_prune_jax.models.sampler import Request, Sample, Sampler
from greedy_prune_jax.parallel import DATA, MODEL, axis_size, device_bytes, weight_shardings
from greedy_prune_jax.teachers.local_thinking import LocalThinking
from greedy_prune_jax.teachers.settings import WritingSettings
from greedy_prune_jax.teachers.structured import schema_in_words
from greedy_prune_jax.teachers.teacher import BROKEN, ChatPrompt, Reply

_CPU_ROWS = 32  # of all CPU devices; more make a product little faster and the cache slower
_MOST_ROWS = 256  # of each other device of `data`
_MEMORY_SHARE = 0.7  # of what the weights leave; the rest is for one step's own arrays


class LocalTeacher:
  """Writes with a model of ours."""

  def __init__(
    self,
    model: Model,
    tokenizer: PreTrainedTokenizerFast,
    template: ChatTemplate,
    settings: WritingSettings,
    *,
    further_stops: Collection[int] = (),
    thinking_form: str | None = None,
    batch_size: int = 0,
  ):
    """Takes the parts.

    Args:
      model: writes, on the devices that its parameters lie on.
      further_stops: tokens that end a reply beside those of the template; see `load_stop_ids`.
      thinking_form: form in which the model thinks, where its template shows none.
      batch_size: most replies at once, over all devices; 0: chosen from their memory.

    Raises:
      UserError: the template cannot think, or cannot but think, and is to do otherwise.
    """
    self._model = model
    self._tokenizer = tokenizer
    self._template = template
    self._settings = settings
    # Decoded texts hold no special tokens, so a stop string that is one stops by its id.
    special = {x.content: i for i, x in tokenizer.added_tokens_decoder.items() if x.special}
    stops = {special[text] for text in settings.stop_strings if text in special}
    self._stop_ids = sorted({*template.stop_ids, *further_stops, *stops})
    self._batch_size = batch_size
    self._thinking = LocalThinking.of(template, tokenizer, settings.thinking, thinking_form)

  @classmethod
  def load(
    cls,
    name: str,
    settings: WritingSettings,
    *,
    chat_template: str = "tokenizer",
    dtype: str = "float32",
    batch_size: int = 0,
    mesh: Mesh | None = None,
  ) -> "LocalTeacher":
    """Loads the model of that name (see `load_model`) onto a mesh, and what belongs to it.

    Raises:
      UserError: model, tokenizer or chat template cannot be used.
    """
    tokenizer = load_tokenizer(name)
    template = load_chat_template(chat_template, tokenizer)
    model = load_model(name, dtype, shardings=mesh and weight_shardings(mesh))
    return cls(
      model,
      tokenizer,
      template,
      settings,
      further_stops=load_stop_ids(name),
      batch_size=batch_size,
    )

  def write(self, prompts: Sequence[ChatPrompt]) -> Iterator[Reply]:
    """Yields one reply a prompt; one whose prompt fills the model's context is a failed one."""
    asked, requests = [], []
    # Some models' ropes depend on how long the text is, but no text's on the others'.
    alike: dict[ModelConfig, list[int]] = {}
    for prompt in map(schema_in_words, prompts):
      request = self._first_request(prompt)
      if isinstance(request, str):
        yield Reply.failed(prompt, request)
        continue
      most = self._most_tokens(prompt, request)
      alike.setdefault(config_for_length(self._model.config, most), []).append(len(asked))
      asked.append(prompt)
      requests.append(request)
    for members in alike.values():
      yield from self._write([asked[i] for i in members], [requests[i] for i in members])

  def _write(self, asked: Sequence[ChatPrompt], requests: Sequence[Request]) -> Iterator[Reply]:
    """The replies to prompts whose texts have the same angles."""
    thoughts: dict[int, Sample] = {}

    def answer(index: int, sample: Sample) -> Request | None:
      if not self._thinks(asked[index]) or index in thoughts:
        return None
      thoughts[index] = sample
      return self._answer_request(asked[index], sample)

    longest = max(map(self._most_tokens, asked, requests))
    sampler = Sampler(
      self._model,
      self._decode,
      self._stop_ids,
      max_rows=self._batch_size or _rows_that_fit(self._model, longest),
      rope_length=longest,
    )
    for index, sample in sampler.sample(requests, answer):
      prompt, thought = asked[index], thoughts.get(index)
      if self._thinking is not None and thought is not None:
        yield self._thinking.reply(prompt, thought, None if sample is thought else sample)
        continue
      yield Reply(
        id=prompt.id,
        text=sample.text,
        finish_reason=sample.finish_reason,
        num_tokens=len(sample.token_ids),
      )

  def _thinks(self, prompt: ChatPrompt) -> bool:
    """True if the reply to a prompt begins with the model's own thinking."""
    return self._thinking is not None and not prompt.reply_start

  def _most_tokens(self, prompt: ChatPrompt, request: Request) -> int:
    """Most tokens of the whole text that a prompt's first request may begin, about."""
    behind = self._behind_thinking if self._thinks(prompt) else 0
    longest = len(request.prompt_ids) + request.max_new_tokens + behind
    return min(longest, self._model.config.max_positions)

  @property
  def _behind_thinking(self) -> int:
    """Most tokens behind a thinking."""
    if self._thinking is None:
      return 0
    return self._thinking.num_closing + self._settings.max_new_tokens

  def _first_request(self, prompt: ChatPrompt) -> Request | str:
    """The request of a reply, or of the thinking before it; or why there is none."""
    if self._thinking is None or not self._thinks(prompt):
      return self._request(prompt)
    request = self._request(self._thinking.opened(prompt), **self._thinking.stops)
    if isinstance(request, str):
      return request
    room = self._model.config.max_positions - len(request.prompt_ids)
    left = room - self._behind_thinking
    most = min(self._settings.max_thinking_tokens, left if left > 0 else room)
    return dataclasses.replace(request, max_new_tokens=most)

  def _answer_request(self, prompt: ChatPrompt, thought: Sample) -> Request | None:
    """The request of the reply behind a thinking; None where the thinking is all there will be."""
    assert self._thinking is not None  # else nobody thought
    may_be_forced = self._settings.force_answer and thought.finish_reason != BROKEN
    if not self._thinking.has_ended(thought) and not may_be_forced:
      return None
    closed = self._thinking.closed(prompt, thought)
    request = self._request(closed, num_written=thought.num_draws)
    return None if isinstance(request, str) else request

  def _prompt_ids(self, prompt: ChatPrompt) -> tuple[int, ...]:
    """The prompt and the parts of the beginning reply, each tokenised apart as by `segment`."""
    form, start = prompt.thinking_form, prompt.reply_start
    text = self._template.prompt(prompt.question, prompt.system, thinking_form=form)
    layout = form and self._template.layout_of(form)
    if layout and len(start) > 1 and (layout.stated or layout.form.name != form):
      start = (start[0], layout.closing)
    if not any(start):  # the reply's first token begins with the prompt's last space
      text = text.rstrip(" ")
    parts = encode_parts(self._tokenizer, text, *start)
    return tuple(np.concatenate([part.ids for part in parts]).tolist())

  def _request(self, prompt: ChatPrompt, **changes: Any) -> Request | str:
    """The request of a prompt's reply; or why there is none."""
    settings, context = self._settings, self._model.config.max_positions
    ids = self._prompt_ids(prompt)
    if len(ids) >= context:
      return f"its prompt has {len(ids)} tokens, and the model's context {context}"
    plain = Request(
      prompt_ids=ids,
      max_new_tokens=min(settings.max_new_tokens, context - len(ids)),
      temperature=settings.temperature,
      top_p=settings.top_p,
      top_k=settings.top_k,
      seed=prompt.seed,
      stop_strings=settings.stop_strings,
    )
    return dataclasses.replace(plain, **changes)

  def _decode(self, token_ids: list[int]) -> str:
    text = self._tokenizer.decode(
      token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return cast(str, text)  # and not a list, for one list of ids


def _rows_that_fit(model: Model, length: int) -> int:
  """Number of texts of `length` tokens whose cache the devices' memory can hold."""
  replicas, split = (axis_size(model.params, axis) for axis in (DATA, MODEL))
  limit, most = device_memory(), _MOST_ROWS
  if limit is None:
    limit, most = machine_memory() // jax.local_device_count(), max(_CPU_ROWS // replicas, 1)
  itemsize = jnp.dtype(model.decoder.embedding.dtype).itemsize
  # The cache is there twice while rows move to one of another size.
  row = 2 * _cache_bytes(model.config, length, itemsize, split)
  fitting = _MEMORY_SHARE * (limit - device_bytes(model.params)) / row
  return replicas * min(most, 1 << (max(int(fitting), 1).bit_length() - 1))


def _cache_bytes(config: ModelConfig, length: int, itemsize: int, split: int) -> int:
  """Bytes of a row on each of `split` devices: keys and values, states of recurrent layers.

  Of the states only those of short convolutions are split.
  """
  keys_values = 2 * config.cache_width // split * length * itemsize
  if not config.has_recurrence:
    return keys_values
  states = jax.tree.leaves(cache_shapes(config, 1, jnp.float32))
  whole = sum(math.prod(x.shape) * x.dtype.itemsize for x in states)
  return keys_values + (whole // split if config.recurrence == "conv" else whole)
