"""Log-probabilities of targets from hidden states, without an array of [positions, vocabulary]."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

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

  def one_chunk(chunk):
    logits = decoder.logits(chunk[0])
    picked = jnp.take_along_axis(logits, chunk[1], axis=-1)
    top = logits.max(axis=-1, keepdims=True)
    # The sum as a product with ones: XLA's CPU backend does not vectorise a fused exp-and-sum, and
    # took four times as long for it.
    total = jnp.dot(
      jnp.exp(logits - top), jnp.ones(logits.shape[-1]), precision=jax.lax.Precision.HIGHEST
    )
    return picked - top - jnp.log(total)[:, None]

  log_probs = jax.lax.map(one_chunk, (hidden, padded))
  return log_probs.reshape(chunks * size, -1)[:total]
