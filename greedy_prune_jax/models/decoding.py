"""Decoding on the device: rows of texts that grow by one token a step, and their cache.

A row holds one text at a time. `admit` puts prompts into free rows, `decode` lets all rows write
for a number of steps without coming back to the host, and `resize` moves rows into a cache of
another size. Sizes are static, so each is compiled once per number of rows and cache length; the
caller (`sampler`) draws both from a few.

Where the model lies on a mesh (`mesh`, else None), texts and their rows of the cache lie along
`data` and the cache's heads along `model`. A row stays on its devices for life: what a text reads
and writes of the cache never travels, and each device chooses the tokens of its own rows.

Axis letters: those of `decoder`; B rows, S positions of the cache, E stop ids.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from greedy_prune_jax.models.attention import MASKED, softcapped
from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.decoder import Decoder, merge_decoder
from greedy_prune_jax.models.delta_rule import run_tokens
from greedy_prune_jax.models.forward import Caches, KeyValues, forward_hidden
from greedy_prune_jax.models.recurrence import (
  RecurrentCache,
  cache_shapes,
  each_row,
  mix_tokens,
)
from greedy_prune_jax.models.sizes import TPU_LANES
from greedy_prune_jax.models.token_choice import Choice, choose_tokens
from greedy_prune_jax.models.weights import product_in_full
from greedy_prune_jax.parallel import DATA, MODEL, on_mesh


class Texts(NamedTuple):
  """State of B texts that are being written."""

  length: Int[Array, " B"]  # tokens in the cache
  last_id: Int[Array, " B"]  # the token that comes behind them, and is run next
  written: Int[Array, " B"]  # tokens drawn, those before the prompt's end included
  budget: Int[Array, " B"]  # value of `written` at which the text ends
  active: Bool[Array, " B"]  # still writing
  finite: Bool[Array, " B"]  # False once the model gave no numbers; the text then ends
  choice: Choice


class Rows(NamedTuple):
  """B texts in the making, and their cache.

  Keys are [L, B, K, H, S] and values [L, B, K, S, H] of each cache, as the products over
  them read them: with keys of [S, H], that with the queries takes a CPU five times as long.
  Position s of a row holds its token s; those from `length` on hold nothing yet.
  """

  caches: Caches  # of the layers with attention
  states: RecurrentCache | None  # of the recurrent layers, [L, B, ...]
  texts: Texts

  @property
  def capacity(self) -> int:
    """Positions of the caches, S."""
    return next(iter(self.caches.values())).v.shape[3]


_AXES = DATA, MODEL  # of the mesh: each device runs its own rows and heads
_HEADS = P(None, DATA, MODEL)  # where keys and values lie on a mesh, the cache's and new ones


def rows_on_mesh(states: RecurrentCache | None) -> Any:
  """Places of `Rows` on a mesh, a prefix of the tree.

  Args:
    states: those of the rows, or their shapes. The channels of a short convolution lie along
      `model` as its weights do; the delta rule is whole there.
  """
  split = states is not None and states.state is None
  of_states = P(None, DATA, None, MODEL) if split else P(None, DATA)
  return Rows(_HEADS, of_states, P(DATA))  # pyright: ignore[reportArgumentType]


def empty_rows(
  config: ModelConfig, rows: int, capacity: int, dtype: DTypeLike, mesh: Mesh | None = None
) -> Rows:
  """Rows that are all free.

  Args:
    rows: number of rows; a multiple of the mesh axis `data`.
    capacity: positions of the cache.
    dtype: dtype of the cache.
  """

  shapes = cache_shapes(config, rows, dtype) if config.has_recurrence else None
  places = rows_on_mesh(shapes)

  def zeros(shape, dtype, spec: P = places.texts):
    return jnp.zeros(shape, dtype, device=mesh and NamedSharding(mesh, spec))

  caches = {
    name: KeyValues(
      zeros((shape.num_layers, rows, shape.num_kv_heads, shape.head_dim, capacity), dtype, _HEADS),
      zeros((shape.num_layers, rows, shape.num_kv_heads, capacity, shape.head_dim), dtype, _HEADS),
    )
    for name, shape in config.caches.items()
  }
  kinds = (jnp.uint32, jnp.float32, jnp.float32, jnp.int32)
  choice = Choice(*(zeros(rows, kind) for kind in kinds))
  counts = {name: zeros(rows, jnp.int32) for name in ("length", "last_id", "written", "budget")}
  texts = Texts(**counts, active=zeros(rows, bool), finite=~zeros(rows, bool), choice=choice)
  states = jax.tree.map(lambda x: zeros(x.shape, x.dtype, places.states), shapes)
  return Rows(caches, states, texts)


@functools.partial(jax.jit, static_argnames=("graph", "mesh"), donate_argnames="rows")
def admit(
  graph: nnx.GraphDef,
  params: nnx.State,
  rows: Rows,
  admitted: Texts,
  prompt_ids: Int[Array, "R T"],
  source: Int[Array, " B"],
  mesh: Mesh | None = None,
) -> Rows:
  """Puts prompts into rows.

  Args:
    admitted: the texts of the rows where a prompt comes in: `last_id` is the prompt's last token,
      and `length` counts those before it.
    prompt_ids: prompts without their last tokens, right-padded; T is at most the cache's length.
    source: index of the prompt that each row takes; -1 where it goes on with its own.
  """
  lengths = None
  if rows.states is not None:
    prompt = jnp.where(source >= 0, source, len(prompt_ids))
    lengths = jnp.zeros(len(prompt_ids), jnp.int32).at[prompt].set(admitted.length, mode="drop")
  decoder, places = merge_decoder(graph, params), rows_on_mesh(rows.states)
  _, kept, _ = forward_hidden(decoder, prompt_ids, lengths=lengths)
  states = kept.pop(decoder.config.recurrence, None)
  # Every device gets its heads of all prompts: any row may take any of them.
  of_prompts = P(None, None, *places.states[2:])
  specs = (places, P(DATA), P(None, None, None, MODEL), of_prompts, P(DATA))
  return on_mesh(_put, mesh, specs, places, _AXES)(rows, admitted, kept, states, source)


def _put(
  rows: Rows,
  admitted: Texts,
  kept: Caches,
  states: RecurrentCache | None,
  source: Int[Array, " B"],
) -> Rows:
  """The rows with what prompts leave where `source` says so.

  Args:
    kept: keys and values of the prompts, [L, R, T, K, H].
    states: states behind the prompts, [L, R, ...].
  """
  taken = source >= 0

  def put(cache, new, axis):  # new has the axes of the cache, but R for B and T for S
    width = new.shape[axis]
    old = jax.lax.slice_in_dim(cache, 0, width, axis=axis)
    start = jnp.where(taken[None, :, None, None, None], new[:, source], old)
    return jax.lax.dynamic_update_slice_in_dim(cache, start, 0, axis)

  def put_both(cache: KeyValues, new: KeyValues) -> KeyValues:  # new is [L, R, T, K, H]
    keys = put(cache.k, new.k.transpose(0, 1, 3, 4, 2), 4)
    return KeyValues(keys, put(cache.v, new.v.transpose(0, 1, 3, 2, 4), 3))

  caches = {name: put_both(cache, kept[name]) for name, cache in rows.caches.items()}
  texts = jax.tree.map(lambda old, new: jnp.where(taken, new, old), rows.texts, admitted)
  of_rows = jax.tree.map(lambda x: x[:, source], states)
  return Rows(caches, _of_rows(taken, of_rows, rows.states), texts)


def _of_rows(
  wanted: Bool[Array, " B"], new: RecurrentCache | None, old: RecurrentCache | None
) -> RecurrentCache | None:
  """The new states of the wanted rows, and the old ones of the others."""

  def choose(new: Array, old: Array) -> Array:  # [L, B, ...]
    return jnp.where(wanted.reshape(1, -1, *[1] * (new.ndim - 2)), new, old)

  return jax.tree.map(choose, new, old)


@functools.partial(jax.jit, static_argnames=("capacity", "mesh"))
def resize(rows: Rows, take: Int[Array, " b"], capacity: int, mesh: Mesh | None = None) -> Rows:
  """Some of the rows, in a cache of another size.

  Args:
    take: indices of rows; each device of `data` counts its own from 0, and as many of it are taken
      as of any other.
    capacity: positions of the new cache. No text may be longer.
  """
  move, places = functools.partial(_take, capacity=capacity), rows_on_mesh(rows.states)
  return on_mesh(move, mesh, (places, P(DATA)), places, _AXES)(rows, take)


def _take(rows: Rows, take: Int[Array, " b"], *, capacity: int) -> Rows:
  kept = min(capacity, rows.capacity)

  def fit(cache, axis):
    room = [(0, capacity - kept if at == axis else 0) for at in range(cache.ndim)]
    return jnp.pad(jax.lax.slice_in_dim(cache[:, take], 0, kept, axis=axis), room)

  caches = {n: KeyValues(fit(cache.k, 4), fit(cache.v, 3)) for n, cache in rows.caches.items()}
  states = jax.tree.map(lambda x: x[:, take], rows.states)
  return Rows(caches, states, jax.tree.map(lambda x: x[take], rows.texts))


@functools.partial(jax.jit, static_argnames=("graph", "steps", "mesh"), donate_argnames="rows")
def decode(
  graph: nnx.GraphDef,
  params: nnx.State,
  rows: Rows,
  stop_ids: Int[Array, " E"],
  *,
  steps: int,
  mesh: Mesh | None = None,
) -> tuple[Rows, Int[Array, "B steps"]]:
  """Lets every active row write up to `steps` tokens.

  A row stops being active when it has written a stop id or all of its budget. The cache must have
  room for what every active row may write.

  Args:
    stop_ids: tokens that end a text.
    steps: most tokens a row; fewer are run when no row is active any more.

  Returns:
    The rows, and the tokens that each wrote, from the left; -1 behind them.
  """
  decoder, places = merge_decoder(graph, params), rows_on_mesh(rows.states)
  specs = (places, P(DATA), P(DATA), _HEADS, places.states, P())
  write = functools.partial(_write, platform=decoder.platform)
  write = on_mesh(write, mesh, specs, (places, P(DATA)), _AXES)

  def step(carry):
    index, rows, written = carry
    hidden, new, states = _run_last(decoder, rows)
    logits = decoder.logits(hidden)
    if mesh is not None:  # else the head's weights would travel to the rows, and not the logits
      logits = jax.lax.with_sharding_constraint(logits, NamedSharding(mesh, P(DATA, MODEL)))
    rows, ids = write(rows, hidden, logits, new, states, stop_ids)
    return index + 1, rows, written.at[:, index].set(ids)

  def unfinished(carry):
    index, rows, _ = carry
    return (index < steps) & rows.texts.active.any()

  start = (jnp.int32(0), rows, jnp.full((rows.texts.length.shape[0], steps), -1, jnp.int32))
  _, rows, written = jax.lax.while_loop(unfinished, step, start)
  return rows, written


def _write(
  rows: Rows,
  hidden: Float[Array, "B D"],
  logits: Float[Array, "B V"],
  new: Caches,
  states: RecurrentCache | None,
  stop_ids: Int[Array, " E"],
  *,
  platform: str,
) -> tuple[Rows, Int[Array, " B"]]:
  """Lets every active row write the token that comes next.

  Args:
    hidden: states of the rows' last tokens.
    new: keys and values of the last tokens, [L, B, K, H].
    states: states behind the last tokens, [L, B, ...].
    stop_ids: tokens that end a text.

  Returns:
    The rows, and what each wrote; -1 for nothing.
  """
  texts = rows.texts
  next_ids = choose_tokens(logits, texts.choice, texts.written)
  finite = jnp.isfinite(hidden).all(-1)
  stopped = (next_ids[:, None] == stop_ids[None]).any(-1)
  count = texts.written + texts.active
  after = texts._replace(
    length=texts.length + texts.active,
    last_id=jnp.where(texts.active, next_ids, texts.last_id),
    written=count,
    active=texts.active & finite & ~stopped & (count < texts.budget),
    finite=texts.finite & (finite | ~texts.active),
  )
  ids = jnp.where(texts.active & finite, next_ids, -1)
  return Rows(_append(rows, new, platform), _of_rows(texts.active, states, rows.states), after), ids


def _run_last(
  decoder: Decoder, rows: Rows
) -> tuple[Float[Array, "B D"], Caches, RecurrentCache | None]:
  """Runs each row's last token over its cache: hidden states, its own keys and values, new states.

  The cache is only read here: a scan that gave back a new one would copy all of it at every step.
  """
  softcap = decoder.config.attention_softcap
  slots = jnp.arange(rows.capacity)
  length = rows.texts.length
  distance = length[:, None] - slots[None]  # [B, S]

  def attend(q, k, v, window, sinks, layer):
    cache, kv_heads = layer.value, k.shape[2]
    k, v = k[:, 0].astype(cache.k.dtype), v[:, 0].astype(cache.v.dtype)  # [B, K, H]
    q = q.reshape(q.shape[0], kv_heads, -1, q.shape[-1])
    visible = (distance > 0) & (distance < window)
    to_cache = softcapped(product_in_full("bkgh,bkhs->bkgs", q, cache.k), softcap)
    to_cache = jnp.where(visible[:, None, None], to_cache, MASKED)
    to_own = softcapped(product_in_full("bkgh,bkh->bkg", q, k), softcap)[..., None]
    top = jnp.maximum(to_cache.max(-1, keepdims=True), to_own)
    if sinks is not None:
      sinks = sinks.astype(jnp.float32).reshape(1, kv_heads, -1, 1)
      top = jnp.maximum(top, sinks)
    to_cache, to_own = jnp.exp(to_cache - top), jnp.exp(to_own - top)
    total = to_cache.sum(-1, keepdims=True) + to_own
    if sinks is not None:
      total += jnp.exp(sinks - top)
    out = product_in_full("bkgs,bksh->bkgh", to_cache, cache.v) + to_own * v[:, :, None]
    out = (out / total).reshape(out.shape[0], 1, -1, out.shape[-1])
    return out, {layer.name: KeyValues(k, v)} if layer.own else {}

  def recur(mixed, cache):
    def one_row(mixed, cache):
      before = cache.channels.astype(jnp.float32)[None]
      run_delta = functools.partial(run_tokens, state=cache.state)
      out, state = mix_tokens(decoder.config, mixed, before, run_delta)
      new = mixed.channels.astype(cache.channels.dtype)
      return out, RecurrentCache(state, jnp.concatenate([cache.channels[1:], new]))

    return each_row(one_row, mixed, cache)

  x = decoder.embed(rows.texts.last_id[:, None])
  recurrence = decoder.config.recurrence
  inputs = rows.caches if rows.states is None else rows.caches | {recurrence: rows.states}
  hidden, new = decoder.run_layers(
    x, length[:, None], attend, inputs, unroll=decoder.platform == "gpu", recur=recur
  )
  return hidden[:, 0], new, new.pop(recurrence, None)


def _append(rows: Rows, new: Caches, platform: str) -> Caches:
  """The caches with each active row's new keys and values, [L, B, K, H], behind its others."""
  append = _append_in_place if platform == "tpu" else _append_at_once
  return {name: append(rows.texts, cache, new[name]) for name, cache in rows.caches.items()}


def _append_at_once(texts: Texts, cache: KeyValues, new: KeyValues) -> KeyValues:
  """See `_append`: one scatter of all rows."""
  batch, heads = new.k.shape[1:3]
  row, head = jnp.arange(batch)[:, None], jnp.arange(heads)[None]
  at = jnp.where(texts.active, texts.length, cache.v.shape[3])[:, None]  # beyond: dropped
  # The slice between the index arrays leaves [B, K] in front of [L, H]; side by side, they stay
  # where they are.
  keys = cache.k.at[:, row, head, :, at].set(new.k.transpose(1, 2, 0, 3), mode="drop")
  values = cache.v.at[:, row, head, at].set(new.v, mode="drop")
  return KeyValues(keys, values)


def _append_in_place(texts: Texts, cache: KeyValues, new: KeyValues) -> KeyValues:
  """See `_append`: row by row, in the order in which the products read the cache.

  Left to itself, XLA orders a TPU's cache as it likes to write it, and turns all of it for the
  products and back at every token (compiled).
  """
  narrow = cache.v.shape[-1] % TPU_LANES  # such values are read with their places side by side
  values_order = (0, 1, 2, 4, 3) if narrow else (0, 1, 2, 3, 4)

  def in_order(cache: KeyValues) -> KeyValues:
    return KeyValues(
      with_layout_constraint(cache.k, Layout((0, 1, 2, 3, 4))),
      with_layout_constraint(cache.v, Layout(values_order)),
    )

  def put(cache: Array, new: Array, start: tuple[Any, ...], active: Array) -> Array:
    old = jax.lax.dynamic_slice(cache, start, new.shape)
    return jax.lax.dynamic_update_slice(cache, jnp.where(active, new, old), start)

  def put_row(row: Array, cache: KeyValues) -> KeyValues:
    k, v = (jax.lax.dynamic_slice_in_dim(x, row, 1, axis=1) for x in new)
    at, active = texts.length[row], texts.active[row]
    keys = put(cache.k, k[..., None], (0, row, 0, 0, at), active)
    return in_order(KeyValues(keys, put(cache.v, v[..., None, :], (0, row, 0, at, 0), active)))

  return jax.lax.fori_loop(0, texts.length.shape[0], put_row, in_order(cache))
