"""The gated delta rule: a recurrence over tokens, in the form of tokens and in that of chunks.

Each head has a state, a map from keys to values. A token fades it, reads what it now says of the
token's key, and writes the difference from the token's value, as far as its rate goes:

    S <- exp(log_decay) S
    change = rate * (value - S^T key)
    S <- S + key change^T
    out = S^T query

Seen from any state S0, the state after some tokens is S0 faded, and the sum of key change^T, each
faded by the tokens behind it. So keys, changes and log-decays are to this layer what keys and
values are to attention: from them `advance_state` makes the state at any place. The changes of a
chunk solve one triangular system (`run_chunk`; arXiv 2406.06484, 2412.06464).

Axis letters: T tokens or slots, J heads of keys and queries, M heads of values (a multiple of J), P
width of keys, O width of values. All in float32.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from greedy_prune_jax.models.weights import product_in_full


class DeltaInputs(NamedTuple):
  """Inputs of the recurrence; axes may stand in front."""

  query: Float[Array, "*B T J P"]
  key: Float[Array, "*B T J P"]
  value: Float[Array, "*B T M O"]
  log_decay: Float[Array, "*B T M"]  # at most 0
  rate: Float[Array, "*B T M"]  # 0 to 1


def run_tokens(
  inputs: DeltaInputs, state: Float[Array, "M P O"]
) -> tuple[Float[Array, "T M O"], Float[Array, "M P O"]]:
  """Outputs and last state, token by token: what all else is held against."""

  def step(state, token):
    groups = state.shape[0] // token.key.shape[0]
    query, key = (jnp.repeat(x, groups, axis=0) for x in (token.query, token.key))
    state = state * jnp.exp(token.log_decay)[:, None, None]
    change = token.rate[:, None] * (token.value - product_in_full("mpo,mp->mo", state, key))
    state = state + key[:, :, None] * change[:, None, :]
    return state, product_in_full("mpo,mp->mo", state, query)

  state, out = jax.lax.scan(step, state, inputs)
  return out, state


def run_chunk(
  inputs: DeltaInputs,
  sequence: Int[Array, " T"],
  of_key: Float[Array, "T M O"],
  of_query: Float[Array, "T M O"],
) -> tuple[Float[Array, "T M O"], Float[Array, "T M O"]]:
  """Outputs and changes of the tokens of a chunk.

  Args:
    inputs: tokens of one or several sequences, those of one side by side.
    sequence: number of each token's sequence.
    of_key: values that the state before a sequence's first token here gives to its keys.
    of_query: values that this state gives to its queries.
  """
  groups = inputs.value.shape[1] // inputs.key.shape[1]
  same = sequence[:, None] == sequence[None, :]
  between, since_start = _decays(inputs.log_decay, same)
  keys = jnp.repeat(product_in_full("tjp,sjp->jts", inputs.key, inputs.key), groups, axis=0)
  queries = jnp.repeat(product_in_full("tjp,sjp->jts", inputs.query, inputs.key), groups, axis=0)
  rate = inputs.rate.T[:, :, None]  # [M, T, 1]
  wanted = rate * (inputs.value - since_start * of_key).swapaxes(0, 1)
  system = jnp.tril(rate * between * keys, -1)
  change = jax.lax.linalg.triangular_solve(
    system, wanted, left_side=True, lower=True, unit_diagonal=True
  ).swapaxes(0, 1)
  return since_start * of_query + product_in_full("mts,smo->tmo", between * queries, change), change


def read_state(state: Float[Array, "M P O"], x: Float[Array, "T J P"]) -> Float[Array, "T M O"]:
  """Values that a state gives to keys or queries."""
  grouped = state.reshape(x.shape[1], -1, *state.shape[1:])  # [J, G, P, O]
  return product_in_full("jgpo,tjp->tjgo", grouped, x).reshape(len(x), *state.shape[::2])


def advance_state(
  state: Float[Array, "M P O"],
  key: Float[Array, "T J P"],
  change: Float[Array, "T M O"],
  log_decay: Float[Array, "T M"],
  counted: Bool[Array, " T"],
) -> Float[Array, "M P O"]:
  """The state behind some tokens of which the changes are known; the others are as if not there."""
  log_decay = jnp.where(counted[:, None], log_decay, 0.0)
  behind = jnp.cumsum(jnp.pad(log_decay[:0:-1], ((1, 0), (0, 0))), axis=0)[::-1]
  kept = jnp.where(counted[:, None, None], jnp.exp(behind)[..., None] * change, 0.0)
  kept = kept.reshape(len(key), key.shape[1], -1, kept.shape[-1])
  key = jnp.where(counted[:, None, None], key, 0.0)
  written = product_in_full("tjp,tjgo->jgpo", key, kept).reshape(state.shape)
  return state * jnp.exp(log_decay.sum(axis=0))[:, None, None] + written


def run_chunks(
  inputs: DeltaInputs, state: Float[Array, "M P O"], sequence: Int[Array, " T"], size: int
) -> tuple[Float[Array, "T M O"], Float[Array, "T M O"], Float[Array, "M P O"]]:
  """Outputs, changes and last state, chunk by chunk.

  Args:
    inputs: tokens of one or several sequences, one behind the other.
    state: state before the first token; every other sequence begins with nothing.
    sequence: number of each token's sequence.
    size: tokens of a chunk.
  """
  length = inputs.key.shape[0]
  size = min(size, length)
  missing = -length % size

  def chunks(x: Array, **pad) -> Array:
    x = jnp.pad(x, ((0, missing), *[(0, 0)] * (x.ndim - 1)), **pad)
    return x.reshape(-1, size, *x.shape[1:])

  def step(carried, chunk):
    (state, last), (inputs, sequence) = carried, chunk
    goes_on = sequence == last
    of_key, of_query = (
      jnp.where(goes_on[:, None, None], read_state(state, x), 0.0)
      for x in (inputs.key, inputs.query)
    )
    out, change = run_chunk(inputs, sequence, of_key, of_query)
    state = jnp.where(goes_on[-1], state, 0.0)
    counted = sequence == sequence[-1]
    state = advance_state(state, inputs.key, change, inputs.log_decay, counted)
    return (state, sequence[-1]), (out, change)

  # Tokens that fill the last chunk neither fade the state nor write to it.
  of_chunks = DeltaInputs(*map(chunks, inputs)), chunks(sequence, mode="edge")
  (state, _), found = jax.lax.scan(jax.checkpoint(step), (state, sequence[0]), of_chunks)
  out, change = (x.reshape(-1, *x.shape[2:])[:length] for x in found)
  return out, change, state


def _decays(
  log_decay: Float[Array, "T M"], same: Bool[Array, "T T"]
) -> tuple[Float[Array, "M T T"], Float[Array, "T M 1"]]:
  """Decays from behind each token s up to token t of its sequence, and from the sequence's start.

  Sums of terms of one sign: differences of running sums would lose what is small beside them.
  """
  index = jnp.arange(len(same))
  upto = same & (index[:, None] >= index[None, :])  # [t, r]
  behind = index[:, None] > index[None, :]  # [r, s]
  summed = jnp.where(upto[None], log_decay.T[:, None, :], 0.0)  # [M, t, r]
  between = product_in_full("mtr,rs->mts", summed, behind.astype(jnp.float32))
  between = jnp.where(upto[None], jnp.exp(between), 0.0)
  return between, jnp.exp(summed.sum(axis=-1)).T[..., None]
