"""The jitted scorer: runs spans of candidates' texts, and sums the likelihoods that they show.

The numbers equal those of deleting a unit, laying the text out anew and running a full forward pass
(with the rope of the whole chain's length, where a model's depends on it); what is saved is the
work that those passes share:

1. The text as it stands runs once, and behind a deletion only from there on. That gives its own
   NLL, keys and values of every prefix, and, since deleting a unit changes what follows the token
   before it, the probability of the token that then follows.
2. Only the suffix behind each deletion is left, and of that only what no earlier step has run:
   deleting a unit leaves all candidates before it as they were up to there.

`stream` says how spans are laid out, `tiles` how they attend, `exact` and `racing` which to run.

Objective and notation: arXiv 2601.03066. Sums are of log-probabilities in nats.
"""

import dataclasses
import math
from functools import partial
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from greedy_prune_jax.models.decoder import Decoder
from greedy_prune_jax.models.forward import Caches, KeyValues
from greedy_prune_jax.models.weights import bfloat16_as_uint16
from greedy_prune_jax.parallel import SEQUENCE
from greedy_prune_jax.scoring.likelihood import counted_log_probs
from greedy_prune_jax.scoring.objectives import Objective
from greedy_prune_jax.scoring.recurrence import (
  empty_borders,
  empty_columns,
  recur_slots,
  renewed_borders,
)
from greedy_prune_jax.scoring.stream import (
  Slots,
  Spans,
  Text,
  block_slots,
  deletion_spans,
  lay_out,
  suffix_lengths,
)
from greedy_prune_jax.scoring.tiles import attend_tiles

AttentionKind = Literal["xla", "pallas"]  # how a block's slots attend
ATTENTIONS: tuple[AttentionKind, ...] = get_args(AttentionKind)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
  """Static description of one compiled search."""

  places: int  # S, capacity for prompt, reasoning and answer
  units: int  # U, capacity for units
  kept: int  # columns of its candidates that a chain may keep from step to step
  block: int  # T, slots that go through the model at once
  rest: int  # slots of the smaller blocks that run what does not fill a block
  tile: int  # slots that attend together; a divisor of a device's share of both
  tile_by_tile: bool  # see `attend_tiles`
  slot_shards: int = 1  # devices, along the mesh axis `sequence`, that share the slots of a block
  objective: Objective = "joint"
  attention: AttentionKind = "xla"  # implementation of attention; the numbers are the same
  # Tokens behind a deletion whose changes are seen again after deletions close by; 0 where no
  # changes are remembered (S is 0 in `ChainState.changes` then).
  window: int = 0
  # True where these are `places` for each of a few candidates, shared out anew in each step of a
  # race; False where each candidate has its own, as far as they go.
  pooled: bool = False


@dataclasses.dataclass(frozen=True)
class Scorer:
  """The model and the program that score candidates."""

  decoder: Decoder
  program: Program

  @property
  def answer_only(self) -> bool:
    """True where the answer's likelihood alone counts."""
    return self.program.objective == "answer"


class ChainState(NamedTuple):
  """Chains as they stand, and what is known of them."""

  texts: Text  # every field with an axis B in front
  text_cache: Caches  # [L, B, S, K*H] of the texts, as bits; and `Columns` of them, if any recur
  borders: Float[Array, "L B C M P O"] | None  # states before places of the texts, if there are any
  kept_cache: Caches  # [L, B, Z, K*H] of candidates' columns, as bits; `Columns` too
  kept_log_probs: Float[Array, "B Z 3"]  # of each of these: sum up to it, its own, its skip
  kept_offsets: Int[Array, "B U"]  # where in Z each candidate's columns are kept
  columns_known: Int[Array, "B U"]  # columns of each candidate up to which what is kept holds
  log_probs: Float[Array, "B S"]  # of each token, given all before it; 0 in the prompt
  skip_log_probs: Float[Array, "B S"]  # of what follows the unit that begins here, were it deleted
  text_known: Int[Array, " B"]  # places up to which text and log-probabilities hold
  old_skips: Int[Array, "B 2"]  # places [first, stop) behind which skips hold no longer
  changes: Float[Array, "B U S"]  # of each token's log-probability by each deletion, as last seen
  stale: Bool[Array, "B U"]  # units near which tokens were deleted since


def start_state(decoder: Decoder, program: Program, texts: Text) -> ChainState:
  """Chains of which nothing is known yet, with empty caches of the program's sizes.

  Args:
    texts: the chains, each field with an axis B in front.
  """
  config, (batch, places) = decoder.config, texts.token_ids.shape
  units = texts.unit_sizes.shape[1]
  index = jnp.arange(units)[None, :]
  lengths = jnp.where(index < texts.num_units[:, None], suffix_lengths(texts), 0)
  ends = jnp.cumsum(lengths, axis=1)
  # Candidates whose columns do not fit share one place, in which they stay as long as they run.
  fits = (ends <= program.kept) & (not program.pooled)
  offsets = jnp.where(fits, ends - lengths, program.kept)

  def caches(size: int) -> Caches:
    # Heads and widths in one axis: alone, both would be padded to a TPU's tiles of 8 by 128.
    zeros = {
      name: jnp.zeros((layers, batch, size, heads * width), decoder.embedding.dtype)
      for name, (layers, heads, width) in config.caches.items()
    }
    by_name: Caches = {name: KeyValues(x, x) for name, x in zeros.items()}
    if config.has_recurrence:
      columns = empty_columns(config, (batch, size), decoder.embedding.dtype)
      by_name[config.recurrence] = columns
    return bfloat16_as_uint16(by_name, decoder.platform)

  kept = program.kept + program.places
  return ChainState(
    texts=texts,
    text_cache=caches(places),
    borders=empty_borders(config, batch, places),
    kept_cache=caches(kept),
    kept_log_probs=jnp.zeros((batch, kept, 3)),
    kept_offsets=offsets,
    columns_known=jnp.zeros_like(texts.unit_sizes),
    log_probs=jnp.zeros((batch, places)),
    skip_log_probs=jnp.zeros((batch, places)),
    text_known=jnp.zeros(batch, jnp.int32),
    old_skips=jnp.zeros((batch, 2), jnp.int32),
    changes=jnp.zeros((batch, units, places if program.window else 0), jnp.bfloat16),
    stale=jnp.ones((batch, units), bool),
  )


def run_spans(
  scorer: Scorer,
  state: ChainState,
  spans: Spans,
  window: int | Int[Array, ""] = 0,
  remembers: bool | Bool[Array, ""] = True,
) -> tuple[ChainState, Float[Array, "B U"]]:
  """Runs spans through the model.

  Args:
    state: the chains; what the spans find is put into it, but not what it is good for
      (`text_known`, `columns_known`).
    remembers: False to leave `changes` as they are.

  Returns:
    The state, and the summed log-probabilities of the counted targets of each candidate up to the
    end of its span.
  """
  layout = lay_out(spans, scorer.program.tile)
  sums = _sums_before(state, spans)
  first_slot = jnp.zeros((), jnp.int32)
  sizes = tuple(dict.fromkeys((scorer.program.block, scorer.program.rest)))
  for size, is_last in zip(sizes, (*[False] * (len(sizes) - 1), True), strict=True):
    left = jnp.maximum(layout.total - first_slot, 0)
    # What fills less than four fifths of a block is left to smaller ones.
    blocks = -(-left // size) if is_last else (left + size // 5) // size

    def run_block(index, carried, first_slot=first_slot, size=size):
      state, sums = carried
      slots = block_slots(
        state.texts, spans, layout, state.kept_offsets, first_slot + index * size, size, window
      )
      log_probs, counted, keys_values = _run_block(scorer, state, slots)
      if scorer.program.window:
        state = _remember(state, slots, log_probs[:, 0], counted & remembers)
      running = _running_sums(state, slots, log_probs[:, 0])
      state = _keep_texts(state, slots, keys_values, log_probs)
      found = jnp.concatenate([running[:, None], log_probs], axis=1)
      state = _keep_columns(state, slots, keys_values, found, scorer.program.kept)
      chain = jnp.where(slots.is_last, slots.chain, sums.shape[0])
      return state, sums.at[chain, slots.sequence].set(running, mode="drop")

    with jax.named_scope(f"blocks_{size}"):
      state, sums = jax.lax.fori_loop(0, blocks, run_block, (state, sums))
    first_slot += blocks * size
  return state, sums[:, 1:]


def _sums_before(state: ChainState, spans: Spans) -> Float[Array, "B V"]:
  """Sums up to its span of each sequence, V = 1 + U of them."""
  at = jnp.maximum(state.kept_offsets + spans.first[:, 1:] - 1, 0)
  kept = jnp.take_along_axis(state.kept_log_probs[..., 0], at, axis=1)
  return jnp.pad(jnp.where(spans.first[:, 1:] > 0, kept, 0.0), ((0, 0), (1, 0)))


def _run_block(
  scorer: Scorer, state: ChainState, slots: Slots
) -> tuple[Float[Array, "T 2"], Bool[Array, " T"], Caches]:
  """A block's `_slot_log_probs`, and its part of the caches, [L, T, ...], as bits."""
  slot_shards = scorer.program.slot_shards
  own_slots = jax.tree.map(lambda x: _own_shard(x, slot_shards), slots)
  hidden, keys_values = _run_layers(scorer, state, slots, own_slots)
  log_probs, counted = _slot_log_probs(scorer, state, own_slots, hidden)
  return _all_gather(log_probs, slot_shards), _all_gather(counted, slot_shards), keys_values


def _own_shard(x: Array, slot_shards: int) -> Array:
  """The slots [T, ...] of a block that this one of the devices which share it runs."""
  if slot_shards == 1:
    return x
  size = x.shape[0] // slot_shards
  return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(SEQUENCE) * size, size)


def _all_gather(x: Array, slot_shards: int) -> Array:
  """The slots of the whole block, on each of the devices that share it."""
  return x if slot_shards == 1 else jax.lax.all_gather(x, SEQUENCE, tiled=True)


def _run_layers(
  scorer: Scorer, state: ChainState, slots: Slots, own_slots: Slots
) -> tuple[Float[Array, "T D"], Caches]:
  """Hidden states of a device's own slots, and all of the block's part of the caches."""
  decoder, program, texts = scorer.decoder, scorer.program, state.texts
  dtype = decoder.embedding.dtype

  if program.attention == "pallas":
    # Pallas takes a quarter of a second to import.
    from greedy_prune_jax.scoring.cascade_kernel import attend_cascade

    attend_slots = partial(attend_cascade, platform=decoder.platform)
  else:
    text_tile = _text_tile(program, texts.token_ids.shape[0], own_slots.valid.shape[0])
    attend_slots = partial(attend_tiles, text_tile=text_tile, tile_by_tile=program.tile_by_tile)

  def attend(q, k, v, window, sinks, cache):
    block = (_all_gather(x.astype(dtype), program.slot_shards) for x in (k, v))
    own = KeyValues(*block)
    out = attend_slots(
      q,
      own,
      state.text_cache[cache.name],
      state.kept_cache[cache.name],
      cache.value,
      window,
      own_slots,
      texts.answer_start - 1,
      tile=program.tile,
      softcap=decoder.config.attention_softcap,
      sinks=sinks,
    )
    return out, {cache.name: bfloat16_as_uint16(own, decoder.platform)} if cache.own else {}

  x = decoder.embed(texts.token_ids[own_slots.chain, own_slots.source])
  layers = {name: jnp.arange(shape.num_layers) for name, shape in decoder.config.caches.items()}
  if not decoder.config.has_recurrence:
    return decoder.run_layers(x, own_slots.position, attend, layers)
  recurrence = decoder.config.recurrence

  def recur(mixed, layer):
    # A recurrence goes from slot to slot: each device runs those of all.
    of_all = jax.tree.map(
      lambda x: _all_gather(x, program.slot_shards), mixed._replace(filter=None)
    )
    mixed = of_all._replace(filter=mixed.filter)
    out, own = recur_slots(
      mixed,
      layer,
      state.text_cache[recurrence],
      state.kept_cache[recurrence],
      state.borders,
      slots,
      config=decoder.config,
      dtype=dtype,
    )
    return _own_shard(out, program.slot_shards), bfloat16_as_uint16(own, decoder.platform)

  layers[recurrence] = jnp.arange(len(decoder.config.recurrent_layers))
  return decoder.run_layers(x, own_slots.position, attend, layers, recur=recur)


def _text_tile(program: Program, num_chains: int, size: int) -> int:
  """Slots of a block of a size that meet the keys of the texts together; see `attend_tiles`.

  On a CPU four tiles at once are faster than one after the other (docs/measured.md). Where there
  are several chains, the next tile may be another's.
  """
  if num_chains > 1 or not program.tile_by_tile:
    return program.tile
  return math.gcd(size, 4 * program.tile)


def _slot_log_probs(
  scorer: Scorer, state: ChainState, slots: Slots, hidden: Float[Array, "T D"]
) -> tuple[Float[Array, "T 2"], Bool[Array, " T"]]:
  """Of the next token, and of what follows the unit that it begins; 0 where they do not count."""
  texts, target = state.texts, slots.source + 1
  following = jax.vmap(_behind_units)(texts)
  targets = jnp.stack(
    [texts.token_ids[slots.chain, target], following[slots.chain, target]], axis=-1
  )
  counts_from = texts.num_prompt[slots.chain]
  if scorer.answer_only:  # of candidates; the text's own likelihood is wanted in any case
    counts_from = jnp.where(slots.sequence > 0, texts.answer_start[slots.chain], counts_from)
  counted = slots.valid & (target >= counts_from)
  return counted_log_probs(scorer.decoder, hidden, targets, counted), counted


def _behind_units(text: Text) -> Int[Array, " S"]:
  """At the place where each unit begins, the token behind the unit."""
  starts, stops = deletion_spans(text)
  return text.token_ids.at[starts].set(text.token_ids[stops], mode="drop")


def _keep_texts(
  state: ChainState, slots: Slots, keys_values: Caches, log_probs: Float[Array, "T 2"]
) -> ChainState:
  """Stores what a block found of the texts as they stand."""
  num_chains = state.texts.token_ids.shape[0]
  chain = jnp.where(slots.valid & (slots.sequence == 0), slots.chain, num_chains)
  target = slots.source + 1
  scored = jnp.where(target >= state.texts.num_prompt[slots.chain], chain, num_chains)
  text_cache = _put(state.text_cache, chain, slots.source, keys_values)
  state = with_borders(state, text_cache, *_run_places(chain, slots.source, num_chains))
  return state._replace(
    log_probs=state.log_probs.at[scored, target].set(log_probs[:, 0], mode="drop"),
    skip_log_probs=state.skip_log_probs.at[scored, target].set(log_probs[:, 1], mode="drop"),
  )


def _keep_columns(
  state: ChainState,
  slots: Slots,
  keys_values: Caches,
  log_probs: Float[Array, "T 3"],
  shared_place: int,
) -> ChainState:
  """Stores a block's columns: those that have a place, and those of the one that goes on."""
  num_chains = state.texts.token_ids.shape[0]
  goes_on = slots.valid[-1] & ~slots.is_last[-1] & (slots.begin == slots.begin[-1])
  kept = slots.valid & (slots.sequence > 0) & ((slots.kept_start < shared_place) | goes_on)
  chain = jnp.where(kept, slots.chain, num_chains)
  at = slots.kept_start + slots.column
  return state._replace(
    kept_cache=_put(state.kept_cache, chain, at, keys_values),
    kept_log_probs=state.kept_log_probs.at[chain, at].set(log_probs, mode="drop"),
  )


def _remember(
  state: ChainState, slots: Slots, log_probs: Float[Array, " T"], counted: Bool[Array, " T"]
) -> ChainState:
  """Stores how a block's candidates change the tokens that they count."""
  num_chains, target = state.texts.token_ids.shape[0], slots.source + 1
  chain = jnp.where(counted & (slots.sequence > 0), slots.chain, num_chains)
  change = (log_probs - state.log_probs[slots.chain, target]).astype(state.changes.dtype)
  unit = slots.sequence - 1
  return state._replace(changes=state.changes.at[chain, unit, target].set(change, mode="drop"))


def _put(caches: Caches, chain: Int[Array, " T"], at: Int[Array, " T"], new: Caches) -> Caches:
  """Writes [L, T, K, H] into caches [L, B, Z, K*H]; chains beyond B are left out.

  Layers are written one by one: to write all of them at once, XLA would transpose the caches for a
  TPU.
  """

  def put(cache: Array, new: Array) -> Array:
    new = new.reshape(*new.shape[:2], *cache.shape[3:])
    return cache.at[jnp.arange(len(cache))[:, None], chain, at].set(new, mode="drop")

  return jax.tree.map(put, caches, new)


def _run_places(
  chain: Int[Array, " T"], place: Int[Array, " T"], num_chains: int
) -> tuple[Int[Array, " B"], Int[Array, " B"]]:
  """The first place of each chain's text that a block runs, and the one behind the last."""
  nothing = jnp.full(num_chains, jnp.iinfo(jnp.int32).max)
  first = nothing.at[chain].min(place, mode="drop")
  return first, jnp.zeros(num_chains, jnp.int32).at[chain].max(place + 1, mode="drop")


def with_borders(
  state: ChainState, text_cache: Caches, first: Int[Array, " B"], stop: Int[Array, " B"]
) -> ChainState:
  """The state with caches of texts that are new in places [first, stop)."""
  if state.borders is None:
    return state._replace(text_cache=text_cache)
  borders = renewed_borders(state.borders, text_cache["delta"].written, first, stop)
  return state._replace(text_cache=text_cache, borders=borders)


def _running_sums(
  state: ChainState, slots: Slots, values: Float[Array, " T"]
) -> Float[Array, " T"]:
  """Sums of each sequence's values up to each slot, with those of its columns that are kept.

  Summed sequence by sequence, in a fixed order (a scatter-add has none on accelerators).
  """
  at = jnp.maximum(slots.kept_stop - 1, 0)
  earlier = state.kept_log_probs[slots.chain, at, 0]
  earlier = jnp.where(slots.kept_stop > slots.kept_start, earlier, 0.0)
  index = jnp.arange(slots.begin.shape[0])

  def twice_as_far(k, sums):
    before = index - (1 << k)
    return sums + jnp.where(before >= slots.begin, sums[jnp.maximum(before, 0)], 0.0)

  doublings = max(len(index) - 1, 0).bit_length()
  return jax.lax.fori_loop(0, doublings, twice_as_far, values) + earlier
