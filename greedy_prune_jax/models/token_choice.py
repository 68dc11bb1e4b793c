"""Choice of the next token: the likeliest, or one drawn with a temperature from the likelier ones.

Sorting a vocabulary takes longer than a small model's forward pass, so nothing here sorts. What
top_k allows is found by halving. Of that a token is drawn; if top_p does not allow it, it and
everything less likely are ruled out and another is drawn. That is rejection sampling, hence exact,
and a round is a few passes over the vocabulary (FlashInfer samples this way on GPUs, arXiv
2501.01005).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

_BLOCK = 128  # logits that a draw narrows its choice to first
_TEMPERATURES = (1e-30, 1e30)


class Choice(NamedTuple):
  """Settings by which each of B rows chooses its tokens."""

  seed: UInt32[Array, " B"]
  temperature: Float[Array, " B"]  # 0: the likeliest token, of equals the one of lowest id
  top_p: Float[Array, " B"]  # of top_k's, tokens until they have this share together; 1: all
  top_k: Int[Array, " B"]  # so many tokens are allowed; 0: all


def choose_tokens(
  logits: Float[Array, "B V"], choice: Choice, step: Int[Array, " B"]
) -> Int[Array, " B"]:
  """The next token of every row; it depends on the row's own logits, choice and step alone.

  A token is allowed if the likelier ones are fewer than top_k and have together less than top_p of
  the probability of all that top_k allows, as in transformers. So equally likely tokens are allowed
  together.

  Args:
    logits: logits of the next token, in float32.
    step: number of tokens drawn for the row before; every step of a seed has randomness of its own.
  """
  likeliest = jnp.argmax(logits, axis=-1).astype(jnp.int32)
  wanted = choice.temperature > 0

  def draw():
    # Beyond these bounds a quotient could be infinite or NaN, and any token come out.
    temperature = jnp.clip(choice.temperature, *_TEMPERATURES)
    scaled = logits / jnp.where(wanted, temperature, 1.0)[:, None]
    limited = wanted & (choice.top_k > 0)
    top = functools.partial(_top, scaled, choice.top_k, limited)
    scaled = jax.lax.cond(limited.any(), top, lambda: scaled)
    keys = jax.vmap(lambda seed, at: jax.random.fold_in(jax.random.key(seed), at))(
      choice.seed, step
    )
    return jnp.where(wanted, _draw_allowed(keys, scaled, choice.top_p, wanted), likeliest)

  return jax.lax.cond(wanted.any(), draw, lambda: likeliest)


def _top(
  logits: Float[Array, "B V"], top_k: Int[Array, " B"], limited: Bool[Array, " B"]
) -> Float[Array, "B V"]:
  """The logits, with -inf for those less than the top_k-th of each limited row.

  That one is searched among the bits of all floats, which lie in the floats' order once those of
  negative ones are turned round: at most 32 counts.
  """
  order = jax.lax.bitcast_convert_type(logits, jnp.int32)
  order = jnp.where(order < 0, order ^ jnp.int32(2**31 - 1), order)

  def body(bounds):
    low, high = bounds  # the top_k-th is neither below nor above them
    middle = (low | high) - ((low ^ high) >> 1)  # rounded up, and without overflow
    count = (order >= middle[:, None]).sum(-1)
    return (
      jnp.where(count >= top_k, middle, low),
      jnp.where(count > top_k, high, jnp.where(count == top_k, middle, middle - 1)),
    )

  low = order.min(-1)
  start = low, jnp.where(limited, order.max(-1), low)
  low, _ = jax.lax.while_loop(lambda bounds: (bounds[0] < bounds[1]).any(), body, start)
  return jnp.where(order >= low[:, None], logits, -jnp.inf)


def _draw_allowed(
  keys: Key[Array, " B"],
  logits: Float[Array, "B V"],
  top_p: Float[Array, " B"],
  wanted: Bool[Array, " B"],
) -> Int[Array, " B"]:
  """Draws for every wanted row until top_p allows its token."""
  top_p = jnp.where(top_p < 1, top_p, jnp.inf)
  probs = jax.nn.softmax(logits, axis=-1)

  def body(state):
    round_, floor, token, open_ = state
    candidates = jnp.where(logits > floor[:, None], logits, -jnp.inf)
    drawn = jax.vmap(_draw)(jax.vmap(lambda key: jax.random.fold_in(key, round_))(keys), candidates)
    drawn_logit = jnp.take_along_axis(logits, drawn[:, None], axis=-1)
    likelier = logits > drawn_logit
    allowed = jnp.where(likelier, probs, 0.0).sum(-1) < top_p
    allowed |= ~likelier.any(-1)  # a top_p that is 0 in float32 still allows the likeliest token
    token = jnp.where(open_, drawn, token)
    return round_ + 1, drawn_logit[:, 0], token, open_ & ~allowed

  rows = logits.shape[0]
  start = (jnp.int32(0), jnp.full(rows, -jnp.inf), jnp.zeros(rows, jnp.int32), wanted)
  return jax.lax.while_loop(lambda state: state[-1].any(), body, start)[2]


def _draw(key: Key[Array, ""], logits: Float[Array, " V"]) -> Int[Array, ""]:
  """One token, drawn from softmax(logits): first its block, then which one of the block.

  Drawing from a few hundred blocks and from one block takes that much randomness, not the
  vocabulary's.
  """
  padding = -logits.shape[0] % _BLOCK
  blocks = jnp.pad(logits, (0, padding), constant_values=-jnp.inf).reshape(-1, _BLOCK)
  block_key, token_key = jax.random.split(key)
  block = jax.random.categorical(block_key, jax.nn.logsumexp(blocks, axis=-1))
  token = jax.random.categorical(token_key, blocks[block])
  return (block * _BLOCK + token).astype(jnp.int32)
