"""Log-probabilities of targets from hidden states, without an array of [positions, vocabulary]."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from greedy_prune_jax.models.decoder import Decoder

# Hidden states that meet the LM head at once: enough rows for an efficient product, few enough that
# float32 logits of a 256k vocabulary stay under 300 MB.
HEAD_CHUNK = 256


def target_log_probs(
  decoder: Decoder, hidden: Float[Array, "T D"], targets: Int[Array, "T M"]
) -> Float[Array, "T M"]:
  """Log-probability in nats of M possible next tokens after each of T positions.

  Logits are made in chunks of at most `HEAD_CHUNK` positions; log-sum-exp in float32.
  """
  total = hidden.shape[0]
  chunks = -(-total // HEAD_CHUNK)
  size = -(-total // chunks)
  pad = chunks * size - total
  hidden = jnp.pad(hidden, ((0, pad), (0, 0))).reshape(chunks, size, -1)
  padded = jnp.pad(targets, ((0, pad), (0, 0))).reshape(chunks, size, -1)
  # Where this is differentiated, no chunk's logits are kept.
  one_chunk = jax.checkpoint(lambda chunk: _log_probs(decoder, *chunk))
  log_probs = jax.lax.map(one_chunk, (hidden, padded))
  return log_probs.reshape(chunks * size, -1)[:total]


def counted_log_probs(
  decoder: Decoder,
  hidden: Float[Array, "T D"],
  targets: Int[Array, "T M"],
  counted: Bool[Array, " T"],
) -> Float[Array, "T M"]:
  """As `target_log_probs`, of some positions: only as many meet the LM head. 0 elsewhere."""
  size = min(HEAD_CHUNK, hidden.shape[0])
  order = jnp.argsort(~counted, stable=True)
  order = jnp.pad(order, (0, -order.shape[0] % size), constant_values=hidden.shape[0])

  def one_chunk(index, log_probs):
    at = jax.lax.dynamic_slice_in_dim(order, index * size, size)
    some = (x.at[at].get(mode="fill", fill_value=0) for x in (hidden, targets))
    return log_probs.at[at].set(_log_probs(decoder, *some), mode="drop")

  nothing = jnp.zeros(targets.shape)
  chunks = -(-counted.sum() // size)
  log_probs = jax.lax.fori_loop(0, chunks, one_chunk, nothing)
  return jnp.where(counted[:, None], log_probs, 0.0)


def _log_probs(
  decoder: Decoder, hidden: Float[Array, "T D"], targets: Int[Array, "T M"]
) -> Float[Array, "T M"]:
  logits = decoder.logits(hidden)
  picked = jnp.take_along_axis(logits, targets, axis=-1)
  top = logits.max(axis=-1, keepdims=True)
  # The sum as a product with ones: XLA's CPU backend does not vectorise a fused exp-and-sum, and
  # took four times as long for it.
  total = jnp.dot(
    jnp.exp(logits - top), jnp.ones(logits.shape[-1]), precision=jax.lax.Precision.HIGHEST
  )
  return picked - top - jnp.log(total)[:, None]
