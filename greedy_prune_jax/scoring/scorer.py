"""The jitted scorer: runs spans of candidates' texts, and sums the likelihoods that they show.

The numbers equal those of deleting a unit, laying the text out anew and running a full forward pass
(with the rope of the whole chain's length, where a model's depends on it); what is saved is the
work that those passes share:

1. The text as it stands runs once, and behind a deletion only from there on. That gives its own
   NLL, keys and values of every prefix, and, since deleting a unit changes what follows the token
   before it, the probability of the token that then follows.
2. Only the suffix behind each deletion is left, and of that only what no earlier step has run:
   deleting a unit leaves all candidates before it as they were up to there.

`stream` says how spans are laid out, `tiles` how they attend, `exact` and `shortlist` which to run.

Objective and notation: arXiv 2601.03066. Sums are of log-probabilities in nats.
"""

import dataclasses
from functools import partial
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from greedy_prune_jax.models.decoder import Decoder
from greedy_prune_jax.models.forward import KeyValues
from greedy_prune_jax.models.weights import bfloat16_as_uint16
from greedy_prune_jax.scoring.cascade_kernel import attend_cascade
from greedy_prune_jax.scoring.likelihood import counted_log_probs
from greedy_prune_jax.scoring.objectives import Objective
from greedy_prune_jax.scoring.stream import (
  Slots,
  Spans,
  Text,
  block_slots,
  lay_out,
  suffix_lengths,
  unit_spans,
)
from greedy_prune_jax.scoring.tiles import attend_tiles

AttentionKind = Literal["xla", "pallas"]  # how a block's slots attend
ATTENTIONS: tuple[AttentionKind, ...] = get_args(AttentionKind)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
  """Static description of one compiled search.

  Attributes:
    places: S, capacity for prompt, reasoning and answer.
    units: U, capacity for units.
    kept: columns of its candidates that a chain may keep from step to step.
    block: T, slots that go through the model at once.
    rest: slots of the smaller blocks that run what does not fill a block.
    tile: slots that attend together; a divisor of both.
    tiles_at_once: tiles that attend side by side; 0 for all of a block.
    objective: `joint` or `answer`.
    attention: implementation of attention; the numbers are the same.
  """

  places: int
  units: int
  kept: int
  block: int
  rest: int
  tile: int
  tiles_at_once: int
  objective: Objective = "joint"
  attention: AttentionKind = "xla"


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
  text_cache: KeyValues  # [L, B, S, K, H] of the texts, as bits
  kept_cache: KeyValues  # [L, B, Z, K, H] of candidates' columns, as bits
  kept_sums: Float[Array, "B Z 2"]  # summed log-probabilities up to each of these; see `Sums`
  kept_offsets: Int[Array, "B U"]  # where in Z each candidate's columns are kept
  log_probs: Float[Array, "B S"]  # of each token, given all before it; 0 in the prompt
  skip_log_probs: Float[Array, "B S"]  # of what follows the unit that begins here, were it deleted
  text_known: Int[Array, " B"]  # places up to which all this holds
  columns_known: Int[Array, "B U"]  # columns of each candidate up to which what is kept holds


class Sums(NamedTuple):
  """Summed log-probabilities of the counted targets up to the end of each span, nats."""

  total: Float[Array, "B U"]
  change: Float[Array, "B U"]  # of the first of them, less the same before the deletion


def start_state(decoder: Decoder, program: Program, texts: Text) -> ChainState:
  """Chains of which nothing is known yet, with empty caches of the program's sizes.

  Args:
    decoder: the scoring model.
    program: static sizes.
    texts: the chains, each field with an axis B in front.
  """
  config, (batch, places) = decoder.config, texts.token_ids.shape
  index = jnp.arange(texts.unit_sizes.shape[1])[None, :]
  lengths = jnp.where(index < texts.num_units[:, None], suffix_lengths(texts), 0)
  ends = jnp.cumsum(lengths, axis=1)
  # Candidates whose columns do not fit share one place, in which they stay as long as they run.
  offsets = jnp.where(ends <= program.kept, ends - lengths, program.kept)

  def cache(size: int) -> KeyValues:
    shape = (config.num_layers, batch, size, config.num_kv_heads, config.head_dim)
    return bfloat16_as_uint16(
      KeyValues(*[jnp.zeros(shape, decoder.embedding.dtype)] * 2), decoder.platform
    )

  kept = program.kept + program.places
  return ChainState(
    texts=texts,
    text_cache=cache(places),
    kept_cache=cache(kept),
    kept_sums=jnp.zeros((batch, kept, 2)),
    kept_offsets=offsets,
    log_probs=jnp.zeros((batch, places)),
    skip_log_probs=jnp.zeros((batch, places)),
    text_known=jnp.zeros(batch, jnp.int32),
    columns_known=jnp.zeros_like(texts.unit_sizes),
  )


def run_spans(
  scorer: Scorer,
  state: ChainState,
  spans: Spans,
  sizes: tuple[int, ...],
  *,
  of_texts: bool = False,
  window: int = 0,
  counted_columns: int | Int[Array, ""] = 0,
) -> tuple[ChainState, Sums]:
  """Runs spans through the model.

  Args:
    scorer: model and program.
    state: the chains; what the spans find is put into it, but not what it is good for
      (`text_known`, `columns_known`).
    spans: spans to run.
    sizes: slots of a block; the second size runs what is too little for the first.
    of_texts: the spans are of the texts as they stand, and else all of candidates.
    window: see `stream.window_spans`.
    counted_columns: columns of which `Sums.change` is the sum.

  Returns:
    The state, and the sums of the candidates that ran to the end of their span; 0 of the others.
  """
  layout = lay_out(spans, scorer.program.tile)
  sums = jnp.zeros((*spans.first.shape, 2))
  first_slot = jnp.zeros((), jnp.int32)
  for size, is_last in zip(sizes, (*[False] * (len(sizes) - 1), True), strict=True):
    left = jnp.maximum(layout.total - first_slot, 0)
    # What fills less than four fifths of a block is left to smaller ones.
    blocks = -(-left // size) if is_last else (left + size // 5) // size

    def run_block(index, carried, first_slot=first_slot, size=size):
      state, sums = carried
      slots = block_slots(
        state.texts, spans, layout, state.kept_offsets, first_slot + index * size, size, window
      )
      hidden, keys_values = _run_layers(scorer, state, slots)
      log_probs, skip, counted = _slot_log_probs(scorer, state, slots, hidden, of_texts=of_texts)
      if of_texts:
        return _keep_texts(state, slots, keys_values, log_probs, skip), sums
      before = state.log_probs[slots.chain, slots.source + 1]
      counted &= slots.column < counted_columns
      change = jnp.where(counted, log_probs - before, 0.0)
      running = _running_sums(state, slots, jnp.stack([log_probs, change], axis=-1))
      state = _keep_columns(state, slots, keys_values, running, scorer.program.kept)
      chain = jnp.where(slots.is_last, slots.chain, sums.shape[0])
      return state, sums.at[chain, slots.sequence].set(running, mode="drop")

    state, sums = jax.lax.fori_loop(0, blocks, run_block, (state, sums))
    first_slot += blocks * size
  return state, Sums(sums[:, 1:, 0], sums[:, 1:, 1])


def _run_layers(
  scorer: Scorer, state: ChainState, slots: Slots
) -> tuple[Float[Array, "T D"], KeyValues]:
  """Hidden states of a block, and its keys and values, [L, T, K, H], as bits."""
  decoder, program, texts = scorer.decoder, scorer.program, state.texts
  dtype = decoder.embedding.dtype

  if program.attention == "pallas":
    attend_slots = partial(attend_cascade, platform=decoder.platform)
  else:
    attend_slots = partial(attend_tiles, at_once=program.tiles_at_once)

  def attend(q, k, v, window, sinks, layer):
    own = KeyValues(k.astype(dtype), v.astype(dtype))
    out = attend_slots(
      q,
      own,
      state.text_cache,
      state.kept_cache,
      layer,
      window,
      slots,
      texts.answer_start - 1,
      tile=program.tile,
      softcap=decoder.config.attention_softcap,
      sinks=sinks,
    )
    return out, bfloat16_as_uint16(own, decoder.platform)

  x = decoder.embed(texts.token_ids[slots.chain, slots.source])
  layers = jnp.arange(decoder.config.num_layers)
  return decoder.run_layers(x, slots.position, attend, layers)


def _slot_log_probs(
  scorer: Scorer,
  state: ChainState,
  slots: Slots,
  hidden: Float[Array, "T D"],
  *,
  of_texts: bool,
) -> tuple[Float[Array, " T"], Float[Array, " T"], Bool[Array, " T"]]:
  """Of the next token; of what follows the unit that it begins; and where they count, else 0."""
  texts, target = state.texts, slots.source + 1
  following = jax.vmap(_behind_units)(texts)
  targets = jnp.stack(
    [texts.token_ids[slots.chain, target], following[slots.chain, target]], axis=-1
  )
  of_answer = scorer.answer_only and not of_texts
  counts_from = texts.answer_start if of_answer else texts.num_prompt
  counted = slots.valid & (target >= counts_from[slots.chain])
  log_probs = counted_log_probs(scorer.decoder, hidden, targets, counted)
  return log_probs[:, 0], log_probs[:, 1], counted


def _behind_units(text: Text) -> Int[Array, " S"]:
  """At the place where each unit begins, the token behind the unit."""
  starts, stops = unit_spans(text)
  return text.token_ids.at[starts].set(text.token_ids[stops], mode="drop")


def _keep_texts(
  state: ChainState,
  slots: Slots,
  keys_values: KeyValues,
  log_probs: Float[Array, " T"],
  skip_log_probs: Float[Array, " T"],
) -> ChainState:
  """Stores what a block found of the texts as they stand."""
  num_chains = state.texts.token_ids.shape[0]
  chain = jnp.where(slots.valid, slots.chain, num_chains)
  scored = jnp.where(slots.source + 1 >= state.texts.num_prompt[slots.chain], chain, num_chains)
  target = slots.source + 1
  return state._replace(
    text_cache=_put(state.text_cache, chain, slots.source, keys_values),
    log_probs=state.log_probs.at[scored, target].set(log_probs, mode="drop"),
    skip_log_probs=state.skip_log_probs.at[scored, target].set(skip_log_probs, mode="drop"),
  )


def _keep_columns(
  state: ChainState,
  slots: Slots,
  keys_values: KeyValues,
  running: Float[Array, "T 2"],
  shared_place: int,
) -> ChainState:
  """Stores a block's columns: those that have a place, and those of the one that goes on."""
  num_chains = state.texts.token_ids.shape[0]
  goes_on = slots.valid[-1] & ~slots.is_last[-1] & (slots.begin == slots.begin[-1])
  kept = slots.valid & ((slots.kept_start < shared_place) | goes_on)
  chain = jnp.where(kept, slots.chain, num_chains)
  at = slots.kept_start + slots.column
  return state._replace(
    kept_cache=_put(state.kept_cache, chain, at, keys_values),
    kept_sums=state.kept_sums.at[chain, at].set(running, mode="drop"),
  )


def _put(
  cache: KeyValues, chain: Int[Array, " T"], at: Int[Array, " T"], new: KeyValues
) -> KeyValues:
  """Writes [L, T, K, H] into a cache [L, B, Z, K, H]; chains beyond B are left out."""
  return KeyValues(
    *(x.at[:, chain, at].set(y, mode="drop") for x, y in zip(cache, new, strict=True))
  )


def _running_sums(
  state: ChainState, slots: Slots, values: Float[Array, "T 2"]
) -> Float[Array, "T 2"]:
  """Sums of each sequence's values up to each slot, with those of its columns that are kept.

  Summed sequence by sequence, in a fixed order (a scatter-add has none on accelerators).
  """
  at = jnp.maximum(slots.kept_stop - 1, 0)
  earlier = state.kept_sums[slots.chain, at]
  earlier = jnp.where((slots.kept_stop > slots.kept_start)[:, None], earlier, 0.0)
  begins = slots.begin == jnp.arange(slots.begin.shape[0])

  def combine(left, right):
    return left[0] | right[0], jnp.where(right[0], right[1], left[1] + right[1])

  _, sums = jax.lax.associative_scan(combine, (begins[:, None], values))
  return sums + earlier
