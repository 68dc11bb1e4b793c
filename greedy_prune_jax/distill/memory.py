"""Memory that a step of training takes on a device, reckoned before anything is compiled."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import logging
from jax.extend.core import Var

from greedy_prune_jax.accelerators import device_memory
from greedy_prune_jax.distill.batches import Batch, PackedRows
from greedy_prune_jax.distill.loss import head_chunk
from greedy_prune_jax.distill.parameters import Params
from greedy_prune_jax.distill.step import Student, TrainState
from greedy_prune_jax.parallel import DATA, device_bytes


class StepMemory(NamedTuple):
  """Bytes on a device, by what they hold."""

  state: float  # weights, and what the optimiser keeps
  gradients: float
  kept: float  # what the backward pass needs of the forward pass
  layer: float  # one layer's backward pass: what it computes again, and scores of attention
  rounded: float  # copies of the weights in the dtype of products
  head: float  # of the LM head: its weights, and a chunk's logits

  @property
  def total(self) -> float:
    """The most at any one time: the head's are gone when the first gradients come."""
    return self.state + self.kept + self.rounded + max(self.gradients + self.layer, self.head)


def step_memory(
  student: Student, state: TrainState, frozen: Params, rows: int, width: int
) -> StepMemory:
  """Reckons what a step takes.

  It does not know how XLA orders operations and pads arrays, nor which activations a mesh's axis
  `model` divides: it counts them whole. docs/measured.md has it beside what was compiled.

  Args:
    state, frozen: arrays, or their shapes and shardings.
    rows: rows of one part of a batch, over all devices.
  """
  shards = 1 if student.mesh is None else student.mesh.shape[DATA]
  rows = -(-rows // shards)
  config, compute = student.model.config, jnp.dtype(student.compute_dtype)
  of_trained, of_frozen = device_bytes(state.trained), device_bytes(frozen)
  size = max(x.dtype.itemsize for x in state.trained.values())
  head = config.vocab_size * config.model_dim
  logits = min(head_chunk(student.model.platform, config.vocab_size), rows * width)
  trains_head = student.lora is None
  chunk = logits * config.vocab_size * (4 * (1 + trains_head) + compute.itemsize)

  def kept_with(remat: str) -> int:
    some = dataclasses.replace(student, remat=remat, mesh=None)
    return _kept_bytes(some, state.trained, frozen, rows, width) - 4 * head * trains_head

  kept = kept_with(student.remat)
  again = (kept_with("none") - kept) / config.num_layers
  scores = 4 * rows * config.num_heads * width**2  # and their weights, and the gradient of these
  return StepMemory(
    state=of_trained + of_frozen + device_bytes(state.optimizer),
    gradients=of_trained,
    kept=kept,
    layer=again + 3 * scores,
    rounded=of_trained * compute.itemsize / size if compute.itemsize < size else 0,
    head=head * (compute.itemsize + 4 * trains_head) + chunk,
  )


def _kept_bytes(student: Student, trained: Params, frozen: Params, rows: int, width: int) -> int:
  """Bytes that the forward pass of some rows hands to the backward pass, beside the weights."""
  ids = jax.ShapeDtypeStruct((rows, width), jnp.int32)
  batch = PackedRows(*(ids for _ in PackedRows._fields))

  def kept(trained: Params, frozen: Params, batch: PackedRows) -> Any:
    return jax.vjp(lambda x: student.nll(x, frozen, batch), trained)[1]

  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (trained, frozen))
  jaxpr = jax.make_jaxpr(kept)(*shapes, batch).jaxpr
  given = set(jaxpr.invars)
  handed_on: set[Any] = {x for x in jaxpr.outvars if isinstance(x, Var)} - given
  return sum(math.prod(x.aval.shape) * x.aval.dtype.itemsize for x in handed_on)


def warn_of_memory(student: Student, state: TrainState, frozen: Params, batch: Batch) -> None:
  """Warns of a step that is larger than a device, before XLA fails at it."""
  limit = device_memory()
  if limit is None or jax.process_index() > 0:
    return
  needed = step_memory(student, state, frozen, *batch.rows.token_ids.shape[1:])
  if needed.total <= limit:
    return
  held = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in needed._asdict().items())
  logging.warning(
    "a step takes about %.1f GB of each device (%s), which has %.1f; where it fails, try "
    "remat=full, a larger num_parts, mu_dtype=bfloat16, optimizer=adafactor, lora_rank, "
    "fully_sharded=True or a larger mesh.model",
    needed.total / 1e9,
    held,
    limit / 1e9,
  )
