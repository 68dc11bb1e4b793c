"""The jitted scorer: the likelihood of a chain, and of the chain after each possible deletion.

Everything here is written for one chain and is `vmap`ped over chains by the caller. The numbers
equal those of deleting a token, laying the text out anew and running a full forward pass (with the
rope of the whole chain's length, where a model's depends on it); what is saved is the work that
those passes share:

1. The prompt runs once a chain (`start_chain`).
2. Each step runs the current reasoning and answer once over the cached prompt (`run_text`). That
   gives the chain's own NLL, keys and values of every kept prefix, and, since deleting token c
   changes what follows token c - 1, the probability of token c + 1 there.
3. Only the suffix behind each deletion is left. Suffixes are packed into rows of one width (see
   `packing`); `score_slots` runs them, their queries meeting the shared prefix in one large product
   and their own suffix beside it, merged in one softmax (cascade attention, as in Hydragen,
   arXiv 2402.05099). `exact.score_deletions` puts the parts together.

Objective and notation: arXiv 2601.03066. Sums are of log-probabilities in nats.
"""

import dataclasses
from functools import partial
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from greedy_prune_jax.models.attention import MASKED, attend_masked, causal_mask
from greedy_prune_jax.models.decoder import Decoder
from greedy_prune_jax.models.forward import KeyValues, forward_hidden
from greedy_prune_jax.scoring.cascade_kernel import attend_cascade
from greedy_prune_jax.scoring.likelihood import target_log_probs
from greedy_prune_jax.scoring.objectives import Objective
from greedy_prune_jax.scoring.packing import RowSlots, Text, unit_spans

AttentionKind = Literal["xla", "pallas"]  # how packed rows attend
ATTENTIONS: tuple[AttentionKind, ...] = get_args(AttentionKind)


class CachedPrompt(NamedTuple):
  """Keys and values of one pass over a prompt."""

  length: Int[Array, ""]  # P
  keys_values: KeyValues  # [L, S, K, H]; the prompt fills [0, P), `run_text` writes behind it
  last_hidden: Float[Array, " D"]  # predicts the token behind the prompt


class TextPass(NamedTuple):
  """Keys, values and log-probabilities of one pass over the current text."""

  prefix: KeyValues  # [L, S, K, H]: prompt, reasoning and answer
  log_probs: Float[Array, " C"]  # of text token j, given all before it
  skip_log_probs: Float[Array, " C"]  # of what follows the unit that starts at j, were it deleted


class ChainState(NamedTuple):
  """One chain as it stands: the parts that every scoring of its candidates shares."""

  prompt: CachedPrompt
  text: Text
  text_pass: TextPass


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
  """Static description of one compiled search: a length bucket, and how it scores.

  Attributes:
    width: W, slots of a row: at least `pair_width` of every text.
    text: C, capacity for reasoning and answer.
    prefix: S, capacity for prompt and text.
    answer: most answer tokens of any chain; read for the objective `answer` alone.
    block_rows: R, rows that go through the model at once.
    objective: `joint` or `answer`.
    token_units: every unit is one token.
    attention: how packed rows attend; the numbers are the same.
  """

  width: int
  text: int
  prefix: int
  answer: int
  block_rows: int
  objective: Objective = "joint"
  token_units: bool = True
  attention: AttentionKind = "xla"


@dataclasses.dataclass(frozen=True)
class Scorer:
  """The model and the program that score candidates."""

  decoder: Decoder
  program: Program

  @property
  def answer_only(self) -> bool:
    """Whether the answer's likelihood alone counts."""
    return self.program.objective == "answer"

  def run_texts(self, prompts: CachedPrompt, texts: Text) -> ChainState:
    """`run_text` for a batch of chains."""
    run = partial(run_text, self.decoder)
    passes = jax.vmap(run, in_axes=(PROMPT_AXES, 0), out_axes=TEXT_PASS_AXES)(prompts, texts)
    return ChainState(prompts, texts, passes)


# Where the batch axis stands in a batch of these, for `vmap`: layers stay in front, to be scanned.
_KV_AXES = KeyValues._make((1, 1))
PROMPT_AXES = CachedPrompt._make((0, _KV_AXES, 0))
TEXT_PASS_AXES = TextPass._make((_KV_AXES, 0, 0))
CHAIN_AXES = ChainState._make((PROMPT_AXES, 0, TEXT_PASS_AXES))


def start_chain(
  decoder: Decoder,
  prompt_ids: Int[Array, " T"],
  length: Int[Array, ""],
) -> CachedPrompt:
  """Runs a right-padded prompt once. Its cache has room for the prompt alone; see `with_room`.

  Args:
    decoder: the scoring model.
    prompt_ids: prompt tokens, padded on the right.
    length: P, number of prompt tokens.
  """
  hidden, kept, _ = forward_hidden(decoder, prompt_ids)
  return CachedPrompt(length, kept, hidden[length - 1])


def with_room(prompts: CachedPrompt, capacity: int) -> CachedPrompt:
  """A batch's prompts with caches of S = `capacity` positions: at least P plus the text's C."""

  def widen(x):
    return jnp.pad(x, ((0, 0), (0, 0), (0, capacity - x.shape[2]), (0, 0), (0, 0)))

  return prompts._replace(keys_values=KeyValues(*(widen(x) for x in prompts.keys_values)))


def run_text(decoder: Decoder, prompt: CachedPrompt, text: Text) -> TextPass:
  """Runs the current text over the cached prompt."""
  capacity, (size,) = prompt.keys_values.k.shape[1], text.token_ids.shape
  positions = prompt.length + jnp.arange(size)

  def attend(q, k, v, window, cache):
    k, v = (
      jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), prompt.length, axis=0)
      for old, new in zip(cache, (k, v), strict=True)
    )
    mask = causal_mask(positions, jnp.arange(capacity), window)
    out, _ = attend_masked(q, k, v, mask, decoder.config.attention_softcap)
    return out, KeyValues(k, v)

  x = decoder.embed(text.token_ids)
  hidden, prefix = decoder.run_layers(x, positions, attend, prompt.keys_values)
  before = jnp.concatenate([prompt.last_hidden[None], hidden[:-1]])  # predicts text token j
  starts, stops = unit_spans(text)
  following = text.token_ids.at[starts].set(text.token_ids[stops], mode="drop")
  log_probs = target_log_probs(decoder, before, jnp.stack([text.token_ids, following], axis=-1))
  return TextPass(prefix, log_probs[:, 0], log_probs[:, 1])


def _attend_packed(decoder, prefix_mask, own_mask):
  """Attention of packed rows over the shared prefix and each row's own slots, as one softmax.

  prefix_mask is [R, W, S] and own_mask [R, W, W], functions of the layer's window. Queries are kept
  as [K, R, W * G, H]: against the prefix that is one product per key/value head.
  """
  softcap = decoder.config.attention_softcap

  def product(subscripts, a, b):
    return jnp.einsum(
      subscripts,
      a.astype(b.dtype),
      b,
      precision=jax.lax.Precision.HIGHEST,
      preferred_element_type=jnp.float32,
    )

  def attend(q, k, v, window, prefix):
    groups = q.shape[2] // k.shape[2]
    q = _by_kv_head(q, k.shape[2])
    k, v = k.astype(prefix.k.dtype), v.astype(prefix.v.dtype)

    def masked(scores, mask):
      scores = scores if softcap is None else softcap * jnp.tanh(scores / softcap)
      mask = jnp.repeat(mask(window), groups, axis=1)[None]
      return jnp.where(mask, scores, MASKED)

    to_prefix = masked(product("krqh,skh->krqs", q, prefix.k), prefix_mask)
    to_own = masked(product("krqh,rukh->krqu", q, k), own_mask)
    top = jnp.maximum(to_prefix.max(-1, keepdims=True), to_own.max(-1, keepdims=True))
    to_prefix, to_own = jnp.exp(to_prefix - top), jnp.exp(to_own - top)
    total = to_prefix.sum(-1, keepdims=True) + to_own.sum(-1, keepdims=True)
    out = product("krqs,skh->krqh", to_prefix, prefix.v) + product("krqu,rukh->krqh", to_own, v)
    return _by_slot(out / total, groups), None

  return attend


def _attend_by_kernel(decoder, place, visible, segment):
  """The same attention by `cascade_kernel`; what slots may see is given as numbers, each [R, W]."""

  def attend(q, k, v, window, prefix):
    k, v = (x.astype(prefix.k.dtype).transpose(2, 0, 1, 3) for x in (k, v))
    out = attend_cascade(
      _by_kv_head(q, k.shape[0]),
      prefix.k.transpose(1, 0, 2),
      prefix.v.transpose(1, 0, 2),
      k,
      v,
      place,
      visible,
      segment,
      window,
      softcap=decoder.config.attention_softcap,
      platform=decoder.platform,
    )
    return _by_slot(out, q.shape[2] // k.shape[0]), None

  return attend


def _by_kv_head(q: Float[Array, "R W N H"], kv_heads: int) -> Float[Array, "K R Q H"]:
  """Queries of each key/value head together, G = N / K of a slot side by side."""
  rows, width, heads, head_dim = q.shape
  q = q.reshape(rows, width, kv_heads, heads // kv_heads, head_dim).transpose(2, 0, 1, 3, 4)
  return q.reshape(kv_heads, rows, -1, head_dim)


def _by_slot(out: Float[Array, "K R Q H"], groups: int) -> Float[Array, "R W N H"]:
  """Undoes `_by_kv_head`."""
  kv_heads, rows, queries, head_dim = out.shape
  out = out.reshape(kv_heads, rows, queries // groups, groups, head_dim)
  return out.transpose(1, 2, 0, 3, 4).reshape(rows, queries // groups, kv_heads * groups, head_dim)


def score_slots(
  scorer: Scorer,
  chain: ChainState,
  slots: RowSlots,
  scored: Bool[Array, "R W"],
  *,
  max_scored: int,
  attention: AttentionKind,
) -> Float[Array, "R W"]:
  """Log-probability of the text token behind each slot's token, given the slot's candidate.

  Args:
    scorer: model and program.
    chain: one chain.
    slots: layout of the rows.
    scored: slots whose output is wanted.
    max_scored: static bound on the number of scored slots; only as many meet the LM head.
    attention: as in `Program`.

  Returns:
    Nats; 0 in slots that are not scored.
  """
  decoder, text, prefix = scorer.decoder, chain.text, chain.text_pass.prefix
  prompt_length = chain.prompt.length
  rows, width = slots.source.shape
  positions = prompt_length + slots.position
  visible = prompt_length + slots.visible

  resume, last = prompt_length + slots.resume, prompt_length + text.num_reasoning - 1

  def prefix_mask(window):
    key = jnp.arange(prefix.k.shape[1])[None, None, :]
    seen = (key < visible[..., None]) | ((key >= resume[..., None]) & (key < last))
    return seen & (positions[..., None] - key < window)

  def own_mask(window):
    same = slots.segment[:, :, None] == slots.segment[:, None, :]
    causal = causal_mask(jnp.arange(width), jnp.arange(width), jnp.int32(width))
    return same & causal[None] & (positions[:, :, None] - positions[:, None, :] < window)

  if attention == "pallas":
    attend = _attend_by_kernel(decoder, positions, visible, slots.segment)
  else:
    attend = _attend_packed(decoder, prefix_mask, own_mask)
  x = decoder.embed(text.token_ids[slots.source])
  hidden, _ = decoder.run_layers(x, positions, attend, prefix)

  hidden = hidden.reshape(rows * width, -1)
  targets = text.token_ids[slots.source + 1].reshape(rows * width)
  if max_scored >= rows * width:
    log_probs = target_log_probs(decoder, hidden, targets[:, None])[:, 0]
    return jnp.where(scored, log_probs.reshape(rows, width), 0.0)
  (at,) = jnp.nonzero(scored.reshape(-1), size=max_scored, fill_value=rows * width)
  hidden, targets = (x.at[at].get(mode="fill", fill_value=0) for x in (hidden, targets))
  log_probs = target_log_probs(decoder, hidden, targets[:, None])[:, 0]
  flat = jnp.zeros(rows * width).at[at].set(log_probs, mode="drop")
  return flat.reshape(rows, width)


def segment_sums(
  values: Float[Array, "R W"], segment: Int[Array, "R W"], segments: int
) -> Float[Array, "R M"]:
  """Sums each row's segments, in a fixed order (a scatter-add has none on accelerators)."""
  return jnp.stack([jnp.where(segment == m, values, 0.0).sum(1) for m in range(segments)], axis=1)
