"""Features of each reasoning token from one forward pass: attention received, entropy, surprisal.

Attention is reduced inside each layer's `attend`, by blocks of queries: of a chain of thousands of
tokens no layer's probabilities exist at once.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from greedy_prune_jax.chains.segments import Segments
from greedy_prune_jax.models.attention import attend_masked, causal_mask
from greedy_prune_jax.models.decoder import Decoder, Model
from greedy_prune_jax.models.forward import forward_hidden
from greedy_prune_jax.models.recurrence import refuse_recurrence
from greedy_prune_jax.models.sizes import round_up
from greedy_prune_jax.parallel import DATA, axis_size, place_batch
from greedy_prune_jax.scoring.likelihood import HEAD_CHUNK, target_log_probs

# What is kept of each layer and head, in this order, for the token as a key and, last, as a query.
STATISTICS = (
  "from answer, mean",
  "from answer, max",
  "from later reasoning, mean",
  "from later reasoning, max",
  "from closing tag, mean",
  "from closing tag, max",
  "own entropy",
)
ENTROPY = STATISTICS.index("own entropy")

# Lengths are rounded up to multiples of this, so that few programs are compiled; so many queries
# attend at a time.
_BLOCK = 64


class ChainBatch(NamedTuple):
  """Whole chains, right-padded to one length T, and where their segments end."""

  token_ids: Int[Array, "*B T"]
  num_prompt: Int[Array, "*B"]
  num_reasoning: Int[Array, "*B"]
  num_answer: Int[Array, "*B"]
  closing: Int[Array, "*B 2"]  # see `Segments`


class TokenFeatures(NamedTuple):
  """Features of the reasoning tokens; R is at least the most that any chain of the batch has.

  What stands behind a chain's own reasoning tokens is without meaning.
  """

  attention: Float[Array, "*B R L N S"]  # S: `STATISTICS`; probabilities, the entropy in nats
  surprisal: Float[Array, "*B R"]  # nats


@partial(jax.jit, static_argnames=("graph", "capacity"))
def token_features(
  graph: nnx.GraphDef,
  params: nnx.State,
  batch: ChainBatch,
  *,
  capacity: int,
) -> TokenFeatures:
  """Features of all reasoning tokens of a batch of chains, from one forward pass.

  Args:
    capacity: R, at least the most reasoning tokens of any chain.
  """
  decoder = nnx.merge(graph, params)
  run = partial(_features_of_chain, decoder, capacity=capacity)
  return jax.vmap(run)(batch)


def _features_of_chain(decoder: Decoder, chain: ChainBatch, *, capacity: int) -> TokenFeatures:
  """Features of one chain, as `ChainBatch` without its batch axis.

  Means and maxima are over the positions of the answer (of a thinking chain: behind its closing
  tag), over those of the closing tag (0 where there is none), and over the reasoning positions
  behind the token (0 for the last token, which has none).
  """
  length = len(chain.token_ids)
  positions = jnp.arange(length)
  begin, end = chain.num_prompt, chain.num_prompt + chain.num_reasoning
  is_reasoning = (positions >= begin) & (positions < end)
  tag, said = end + chain.closing[0], end + chain.closing[1]
  is_answer = (positions >= said) & (positions < end + chain.num_answer)
  is_closing = (positions >= tag) & (positions < said)
  num_behind = jnp.maximum(end - 1 - positions, 1)
  counts = jnp.maximum(is_answer.sum(), 1), num_behind[None], jnp.maximum(is_closing.sum(), 1)
  place = begin + jnp.arange(capacity)  # of the reasoning tokens; past the end it is clipped
  kv_dtype = decoder.embedding.dtype

  def attend(q, k, v, window, sinks, _):
    k, v = k.astype(kv_dtype), v.astype(kv_dtype)
    softcap = decoder.config.attention_softcap

    def one_block(carried, queries):
      q, at = queries  # [Q, N, H], [Q]
      mask = causal_mask(at, positions, window)
      out, probs = attend_masked(q, k, v, mask, softcap, sinks)  # [N, Q, T]
      behind = is_reasoning[at, None] & (at[:, None] > positions[None, :])
      sums, maxima = [], []
      for of_group in (is_answer[at, None], behind, is_closing[at, None]):
        kept = jnp.where(of_group[None], probs, 0.0)
        sums.append(kept.sum(axis=1))
        maxima.append(kept.max(axis=1))
      entropy = -jax.scipy.special.xlogy(probs, probs).sum(axis=2)
      carried = carried[0] + jnp.stack(sums), jnp.maximum(carried[1], jnp.stack(maxima))
      return carried, (out, entropy)

    nothing = jnp.zeros((len(counts), q.shape[1], length))  # [3, N, T]
    queries = q.reshape(-1, _BLOCK, *q.shape[1:]), positions.reshape(-1, _BLOCK)
    (sums, maxima), (out, entropy) = jax.lax.scan(one_block, (nothing, nothing), queries)
    means = [total / count for total, count in zip(sums, counts, strict=True)]
    pairs = [each for pair in zip(means, maxima, strict=True) for each in pair]
    own = entropy.swapaxes(0, 1).reshape(q.shape[1], length)
    return out.reshape(q.shape), {"statistics": jnp.stack([*pairs, own], axis=-1)[:, place]}

  x = decoder.embed(chain.token_ids)
  hidden, outputs = decoder.run_layers(x, positions, attend)
  log_probs = target_log_probs(decoder, hidden[place - 1], chain.token_ids[place][:, None])
  return TokenFeatures(outputs["statistics"].transpose(2, 0, 1, 3), -log_probs[:, 0])


def extract_features(
  model: Model,
  chains: Sequence[Segments],
  *,
  batch_size: int,
) -> list[tuple[Float[np.ndarray, "N L H S"], Float[np.ndarray, " N"]]]:
  """Attention statistics and surprisals of each chain's reasoning tokens, on the host.

  Args:
    model: reads the chains, on the devices that its parameters lie on.
    chains: chains, at most `batch_size`.
    batch_size: chains in the batch; fewer are filled up, so that one program serves all batches of
      a length, and as many more as make their number a multiple of the mesh axis `data`.
  """
  refuse_recurrence(model.config, "the analysis of attention")
  capacity = round_up(max(len(chain.reasoning) for chain in chains), _BLOCK)
  alike: dict[nnx.GraphDef, list[int]] = {}  # chains whose ropes turn alike
  for i, chain in enumerate(chains):
    alike.setdefault(model.graph_for(len(chain)), []).append(i)
  features = {}
  for graph, members in alike.items():
    batch = _pack([chains[i] for i in members], batch_size, axis_size(model.params, DATA))
    values = jax.device_get(
      token_features(
        graph,
        model.params,
        place_batch(batch, model.params),
        capacity=capacity,
      )
    )
    for row, i in enumerate(members):
      num_reasoning = len(chains[i].reasoning)
      features[i] = (values.attention[row, :num_reasoning], values.surprisal[row, :num_reasoning])
  return [features[i] for i in range(len(chains))]


def _pack(chains: Sequence[Segments], batch_size: int, multiple: int) -> ChainBatch:
  """Chains side by side; the last one stands in where the batch is not full, or no `multiple`."""
  if not 1 <= len(chains) <= batch_size:
    raise ValueError(f"{len(chains)} chains for a batch of {batch_size}")
  batch_size += -batch_size % multiple
  filled = [*chains, *[chains[-1]] * (batch_size - len(chains))]
  token_ids = np.zeros((batch_size, round_up(max(map(len, filled)), _BLOCK)), np.int32)
  for row, chain in zip(token_ids, filled, strict=True):
    row[: len(chain)] = np.concatenate(chain.parts)
  sizes: Any = {
    f"num_{part}": np.array([len(getattr(chain, part)) for chain in filled], np.int32)
    for part in ("prompt", "reasoning", "answer")
  }
  closing: Any = np.array([chain.closing for chain in filled], np.int32)
  return ChainBatch(cast(Any, token_ids), **sizes, closing=closing)  # put on devices next


def token_entropies(model: Model, segments: Segments) -> Float[np.ndarray, " N"]:
  """Entropies in nats, [N]: how undecided the model is where each reasoning token comes."""
  token_ids = np.zeros(round_up(len(segments), HEAD_CHUNK), np.int32)  # few sizes: few programs
  token_ids[: len(segments)] = np.concatenate(segments.parts)
  entropies = jax.device_get(
    _entropies(model.graph_for(len(segments)), model.params, jnp.asarray(token_ids))
  )
  begin = len(segments.prompt)
  return entropies[begin - 1 : begin - 1 + len(segments.reasoning)]


@partial(jax.jit, static_argnames="graph")
def _entropies(
  graph: nnx.GraphDef, params: nnx.State, token_ids: Int[Array, " T"]
) -> Float[Array, " T"]:
  """Entropy of the distribution behind each position; logits of `HEAD_CHUNK` positions at once."""
  decoder = nnx.merge(graph, params)
  hidden, _, _ = forward_hidden(decoder, token_ids)

  def one_chunk(chunk):
    log_probs = jax.nn.log_softmax(decoder.logits(chunk).astype(jnp.float32), axis=-1)
    return -(jnp.exp(log_probs) * log_probs).sum(axis=-1)

  chunks = hidden.reshape(-1, HEAD_CHUNK, hidden.shape[-1])
  return jax.lax.map(one_chunk, chunks).reshape(-1)
