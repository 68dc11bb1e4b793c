"""One step of training: a pure function under plain `jax.jit`, which takes the state's place."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from greedy_prune_jax.distill import parameters
from greedy_prune_jax.distill.batches import PackedRows
from greedy_prune_jax.distill.lora import LoraConfig, apply_lora
from greedy_prune_jax.distill.loss import completion_nll
from greedy_prune_jax.distill.parameters import Params, unflat_params
from greedy_prune_jax.models.decoder import Decoder, Model
from greedy_prune_jax.parallel import place


class TrainState(NamedTuple):
  """State that a step replaces and checkpoints hold."""

  step: Array  # [] int32, steps done
  trained: Params  # all weights, or LoRA's matrices
  optimizer: optax.OptState


class StepMetrics(NamedTuple):
  """Measures of a step; all float32 []."""

  loss: Array  # mean NLL of the completions' tokens, nats, before the update
  grad_norm: Array  # over all that is trained, before clipping
  update_norm: Array  # of what was added to it


TrainStep = Callable[[TrainState, Params, PackedRows], tuple[TrainState, StepMetrics]]
Evaluate = Callable[[Params, Params, PackedRows], Float[Array, ""]]


@dataclasses.dataclass(frozen=True)
class Student:
  """Parts that a student's weights are put together from.

  Attributes:
    model: a model of the student's shape; its values are not read.
    lora: the matrices to train; None: all weights are trained.
    compute_dtype: large products' dtype; trained weights may be float32 beside it.
    remat: one of `loss.REMAT`.
    mesh: devices of parameters and rows; None: one device.
  """

  model: Model
  lora: LoraConfig | None
  compute_dtype: Any
  remat: str = "none"
  mesh: Mesh | None = None

  def decoder(self, trained: Params, frozen: Params) -> Decoder:
    """The decoder that a step runs; `frozen` is empty where all weights are trained."""
    dtype, platform = self.compute_dtype, self.model.platform
    values: dict[str, Any] = parameters.master_weights(trained, dtype, platform)
    if self.lora is not None:
      base: dict[str, Any] = parameters.cast(frozen, dtype)
      if jnp.dtype(dtype) == jnp.float32:
        base = parameters.master_weights(base, dtype, platform)
      values = apply_lora(base, values, self.lora)
    return nnx.merge(self.model.graph, unflat_params(self.model.params, values))

  def nll(self, trained: Params, frozen: Params, rows: PackedRows) -> Float[Array, ""]:
    """Summed NLL of one part of a batch, [R, W]."""
    decoder = self.decoder(trained, frozen)
    train_head = self.lora is None
    return completion_nll(decoder, rows, remat=self.remat, train_head=train_head, mesh=self.mesh)


def init_state(
  trained: Params, optimizer: optax.GradientTransformation, mesh: Mesh | None = None
) -> TrainState:
  """The state before the first step; what the optimiser keeps lies as the parameters do."""
  if mesh is None:
    return TrainState(jnp.int32(0), trained, optimizer.init(trained))
  places = jax.tree.map(lambda x: x.sharding, abstract_state(trained, optimizer, mesh))
  optimizer_state = jax.jit(optimizer.init, out_shardings=places.optimizer)(trained)
  return TrainState(place(np.int32(0), places.step), trained, optimizer_state)


def abstract_state(
  trained: Params, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
  """Shapes and shardings of the state before the first step.

  What the optimiser keeps of a parameter, in its shape, lies as the parameter does. All else
  (counters, Adafactor's sums over rows and columns) is small and goes to every device.

  Args:
    trained: parameters, or their shapes and shardings.
  """

  def shape(path: tuple[Any, ...], leaf: Any) -> jax.ShapeDtypeStruct:
    owner = trained.get(getattr(path[-1], "key", "")) if path else None
    sharding: Any = NamedSharding(mesh, P())
    if owner is not None and owner.shape == leaf.shape:
      sharding = owner.sharding
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

  step: Any = jax.ShapeDtypeStruct((), jnp.int32)
  state = TrainState(step, trained, jax.eval_shape(optimizer.init, trained))
  return jax.tree.map_with_path(shape, state)


def make_train_step(
  student: Student, optimizer: optax.GradientTransformation, like: TrainState | None = None
) -> TrainStep:
  """The compiled step; it donates the state that it is given.

  Gradients are those of the mean over all completion tokens of the batch, into however many parts
  it is divided.

  Args:
    like: a state that lies on the student's mesh as all later ones are to; needless without one.
  """
  mesh = student.mesh
  places = None if mesh is None else jax.tree.map(lambda x: x.sharding, like)
  everywhere = None if mesh is None else NamedSharding(mesh, P())

  def value_and_grad(trained: Params, frozen: Params, rows: PackedRows):
    nll, gradients = jax.value_and_grad(student.nll)(trained, frozen, rows)
    if places is not None:  # each device sums up its share of the gradient and no more
      gradients = jax.lax.with_sharding_constraint(gradients, places.trained)
    return nll, gradients

  @functools.partial(jax.jit, donate_argnums=0, out_shardings=(places, everywhere))
  def train_step(state: TrainState, frozen: Params, rows: PackedRows):
    nll, gradients = _sum_over_parts(value_and_grad, state.trained, frozen, rows)
    tokens = (rows.scored < rows.scored.shape[-1]).sum()
    gradients = jax.tree.map(lambda g: g / tokens, gradients)
    updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.trained)
    trained = cast(Params, optax.apply_updates(state.trained, updates))  # of the same kind
    norms = optax.tree.norm(gradients), optax.tree.norm(updates)
    metrics = StepMetrics(nll / tokens, *norms)
    return TrainState(state.step + 1, trained, optimizer_state), metrics

  return train_step


def make_evaluate(student: Student) -> Evaluate:
  """The compiled sum of NLLs of a batch in one part."""
  everywhere = None if student.mesh is None else NamedSharding(student.mesh, P())

  @functools.partial(jax.jit, out_shardings=everywhere)
  def evaluate(trained: Params, frozen: Params, rows: PackedRows):
    return student.nll(trained, frozen, _part(rows, 0))

  return evaluate


def _sum_over_parts(value_and_grad, trained: Params, frozen: Params, rows: PackedRows):
  """The sums of a function's value and of its gradients over the parts of a batch."""
  total = value_and_grad(trained, frozen, _part(rows, 0))
  if rows.token_ids.shape[0] == 1:
    return total

  def add(total, part):
    return jax.tree.map(jnp.add, total, value_and_grad(trained, frozen, part)), None

  rest = jax.tree.map(lambda array: array[1:], rows)
  return jax.lax.scan(add, total, rest)[0]


def _part(rows: PackedRows, index: int) -> PackedRows:
  return PackedRows(*(array[index] for array in rows))
