"""The loss of packed rows: negative log-likelihood of completions, the LM head in chunks.

Logits are computed for some scored positions at a time, so no array is [rows, width, vocabulary].
The loss is the last operation of the forward pass. Its gradients with respect to hidden states and
head are therefore computed in the same pass, from the same logits, and no logits are kept or
computed twice.

Axis letters beside those of `models.decoder`: R rows, W width of a row.
"""

import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from greedy_prune_jax.distill.attention import Seen, attend_packed
from greedy_prune_jax.distill.batches import PackedRows
from greedy_prune_jax.models.decoder import Decoder, project
from greedy_prune_jax.models.recurrence import recur_rows
from greedy_prune_jax.models.weights import MasterWeight
from greedy_prune_jax.parallel import DATA, on_mesh

# Scored positions of a chunk, over all rows of a device. In small chunks, adding up the head's
# gradient takes longer than computing it. In large chunks, the last one is mostly empty (on a CPU,
# where larger products are no faster), or logits take too much memory (elsewhere).
CPU_HEAD_CHUNK = 256
_LOGIT_BYTES = 2**30  # memory of a chunk's logits, in float32

WrapLayer = Callable[[Any], Any]

# Parts of a layer that the backward pass computes again. `none`: attention only, always, as its
# scores grow with the square of the width. `dots`: all but the large products. `full`: everything.
REMAT: dict[str, WrapLayer] = {
  "none": lambda body: body,
  "dots": functools.partial(
    jax.checkpoint, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable
  ),
  "full": jax.checkpoint,
}


def packed_hidden(
  decoder: Decoder, rows: PackedRows, remat: str = "none", mesh: Mesh | None = None
) -> Float[Array, "R W D"]:
  """Normalised hidden states of packed rows, [R, W] each; no segment attends to another."""
  kv_dtype = decoder.embedding[...].dtype
  softcap = decoder.config.attention_softcap

  def attend(q, k, v, window, sinks, _):
    seen = Seen(rows.segments, rows.positions, window)
    out = attend_packed(softcap, q, k.astype(kv_dtype), v.astype(kv_dtype), seen, sinks)
    return cast(Array, out), {}  # pyright does not know the type that custom_vjp returns

  x = decoder.embed(rows.token_ids)
  if mesh is not None:  # gather weights to the rows' devices, not rows to the weights'
    x = jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P(DATA)))
  recur = None
  if decoder.config.has_recurrence:
    recur = recur_rows(decoder.config, rows.segments)
  hidden, _ = decoder.run_layers(x, rows.positions, attend, wrap_layer=REMAT[remat], recur=recur)
  return hidden


def completion_nll(
  decoder: Decoder,
  rows: PackedRows,
  *,
  remat: str = "none",
  train_head: bool = True,
  mesh: Mesh | None = None,
) -> Float[Array, ""]:
  """Negative log-likelihood in nats, summed over the completions of packed rows, [R, W] each.

  Args:
    remat: one of `REMAT`.
    train_head: True to compute the head's gradient; False leaves it 0.
    mesh: mesh with the rows along its axis `data`; None: one device.
  """
  hidden = packed_hidden(decoder, rows, remat, mesh)
  chunk = head_chunk(decoder.platform, decoder.config.vocab_size)
  nll = functools.partial(head_nll, decoder.config.logit_softcap, train_head, chunk)
  if mesh is not None and mesh.shape[DATA] > 1:
    nll = _along_data(nll, mesh)
  with jax.named_scope("head"):
    return nll(hidden, decoder.head_weight, rows.scored, rows.targets)


def _along_data(nll: Callable[..., Array], mesh: Mesh) -> Callable[..., Array]:
  """Lets each device of `data` run through the chunks of its own rows.

  Devices then sum the head's gradient, which is as large as the head, once instead of with every
  chunk.
  """

  def of_own_rows(*operands: Array) -> Array:
    return nll(*operands)[None]

  each = on_mesh(of_own_rows, mesh, (P(DATA), P(), P(DATA), P(DATA)), P(DATA))
  return lambda *operands: each(*operands).sum()


def head_chunk(platform: str, vocabulary: int) -> int:
  """Scored positions of a chunk, over all rows of a device."""
  return CPU_HEAD_CHUNK if platform == "cpu" else _LOGIT_BYTES // (4 * vocabulary)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def head_nll(
  softcap: float | None,
  train_head: bool,
  chunk: int,
  hidden: Float[Array, "R W D"],
  head: Float[Array, "V D"] | MasterWeight,
  scored: Int[Array, "R W"],
  targets: Int[Array, "R W"],
) -> Float[Array, ""]:
  """Sum of the NLLs of `targets`, predicted at the positions `scored`, as in `PackedRows`."""
  weight = head.rounded() if isinstance(head, MasterWeight) else head
  columns, count = _chunks(scored, chunk)

  def add(i, total):
    part, _, target, valid = _chunk_of(i, columns, hidden, scored, targets)
    return total + _chunk_nll(softcap, weight, part, target, valid)[0]

  return jax.lax.fori_loop(0, count, add, jnp.float32(0))


def _head_nll_forward(softcap, train_head, chunk, hidden, head, scored, targets):
  """Computes the loss, and its gradients as residuals for the backward pass."""
  weight = head.rounded() if isinstance(head, MasterWeight) else head
  columns, count = _chunks(scored, chunk)

  def add(i, carry):
    total, d_hidden, d_weight = carry
    part, at, target, valid = _chunk_of(i, columns, hidden, scored, targets)
    nll, probs, slope = _chunk_nll(softcap, weight, part, target, valid)
    d_logits = _d_logits(probs, target, valid, slope).astype(weight.dtype)
    d_part = project("rcv,vd->rcd", d_logits, weight)
    rows = jnp.arange(hidden.shape[0])[:, None]
    d_hidden = d_hidden.at[rows, at].set(d_part, mode="drop")  # each position is scored once
    if train_head:
      d_weight += project("rcv,rcd->vd", d_logits, part.astype(weight.dtype))
    return total + nll, d_hidden, d_weight

  d_weight = jnp.zeros(weight.shape if train_head else (), jnp.float32)
  start = (jnp.float32(0), jnp.zeros_like(hidden), d_weight)
  total, d_hidden, d_weight = jax.lax.fori_loop(0, count, add, start)
  return total, (d_hidden, d_weight, head)


def _head_nll_backward(softcap, train_head, chunk, kept, cotangent):
  d_hidden, d_weight, head = kept

  def of_head(weight):
    return (cotangent * jnp.broadcast_to(d_weight, weight.shape)).astype(weight.dtype)

  return cotangent * d_hidden, jax.tree.map(of_head, head), None, None


head_nll.defvjp(_head_nll_forward, _head_nll_backward)


def _chunks(scored: Int[Array, "R W"], chunk: int) -> tuple[int, Array]:
  """Columns of `scored` in a chunk, and the number of chunks that cover all used columns."""
  rows, width = scored.shape
  columns = min(max(chunk // rows, 1), width)
  used = (scored < width).sum(-1).max()
  return columns, -(-used // columns)


def _chunk_of(i, columns: int, hidden, scored, targets):
  """The i-th chunk: hidden states [R, c, D]; positions, targets and validity, [R, c] each."""
  width = scored.shape[1]
  pad = ((0, 0), (0, -width % columns))  # without it, dynamic_slice would shift the last slice
  at = jax.lax.dynamic_slice_in_dim(
    jnp.pad(scored, pad, constant_values=width), i * columns, columns, axis=1
  )
  target = jax.lax.dynamic_slice_in_dim(jnp.pad(targets, pad), i * columns, columns, axis=1)
  part = jnp.take_along_axis(hidden, jnp.minimum(at, width - 1)[..., None], axis=1)
  return part, at, target, at < width


def _chunk_nll(softcap, weight, part, target, valid):
  """NLL of a chunk, its probabilities [R, c, V], and the slope of the softcap; 1 without a cap."""
  logits = project("rcd,vd->rcv", part, weight)
  slope = jnp.float32(1)
  if softcap is not None:
    squashed = jnp.tanh(logits / softcap)
    logits, slope = softcap * squashed, 1 - squashed * squashed
  picked = jnp.take_along_axis(logits, target[..., None], axis=-1)[..., 0]
  top = logits.max(axis=-1, keepdims=True)
  unnormalised = jnp.exp(logits - top)
  # A sum as a product with ones; `scoring.likelihood` gives the reason.
  total = jnp.dot(unnormalised, jnp.ones(logits.shape[-1]), precision=jax.lax.Precision.HIGHEST)
  nll = jnp.log(total) + top[..., 0] - picked
  return jnp.where(valid, nll, 0).sum(), unnormalised / total[..., None], slope


def _d_logits(probs, target, valid, slope):
  """Gradient of the summed NLL with respect to the logits before the softcap."""
  vocabulary = jnp.arange(probs.shape[-1])[None, None]
  hot = vocabulary == target[..., None]
  return jnp.where(valid[..., None], probs - hot, 0) * slope
