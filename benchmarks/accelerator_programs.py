"""The programs that `accelerators` compiles, on shapes alone."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from benchmarks.accelerator_targets import Target
from benchmarks.train_ours import OPTIMIZER, lora_config
from greedy_prune_jax.distill.batches import PackedRows
from greedy_prune_jax.distill.lora import init_lora
from greedy_prune_jax.distill.memory import step_memory
from greedy_prune_jax.distill.optimizer import make_optimizer
from greedy_prune_jax.distill.parameters import flat_params
from greedy_prune_jax.distill.step import Student, abstract_state, make_train_step
from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.models.decoding import Rows, Texts, admit, decode, empty_rows, rows_on_mesh
from greedy_prune_jax.models.parameters import abstract_model
from greedy_prune_jax.parallel import DATA, device_bytes, weight_shardings

_EVERYWHERE = P()


@dataclasses.dataclass(frozen=True)
class Place:
  """Devices to compile for: one, or a mesh."""

  target: Target
  data: int = 1
  model: int = 1
  sequence: int = 1

  @functools.cached_property
  def mesh(self) -> Any:
    """None for one device."""
    return self.target.mesh(self.data, self.model, self.sequence)

  def shape(self, x: Any, spec: P = _EVERYWHERE) -> jax.ShapeDtypeStruct:
    """The shape and dtype of an array that lies here."""
    if self.mesh is None:
      sharding: Any = SingleDeviceSharding(self._device)
    else:
      sharding = NamedSharding(self.mesh, spec)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

  def array(
    self, shape: tuple[int, ...], dtype: Any, spec: P = _EVERYWHERE
  ) -> jax.ShapeDtypeStruct:
    """An array of a shape."""
    return self.shape(jax.ShapeDtypeStruct(shape, dtype), spec)

  @functools.cached_property
  def _device(self) -> Any:
    return self.target.devices(1)[0]

  def weights(self, config: ModelConfig, dtype: str, *, fully_sharded: bool = False) -> Model:
    """A model's parameters as they lie here."""
    model = abstract_model(config, jnp.dtype(dtype), self.target.platform)
    if self.mesh is None:
      return dataclasses.replace(model, params=jax.tree.map(self.shape, model.params))
    choose = weight_shardings(self.mesh, fully_sharded=fully_sharded)
    assert choose is not None
    params = jax.tree.map(
      lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
      model.params,
      choose(model.params),
    )
    return dataclasses.replace(model, params=params)


@dataclasses.dataclass(frozen=True)
class Program:
  """A program, ready to be compiled, and what it is held against.

  Attributes:
    trace: gives what `lower` is called on.
    flops: floating-point operations that the work needs on one device, by our own count; None: not
      counted.
    needed_bytes: bytes that it must read on one device; None: not counted.
    memory: our estimate of what it takes on one device; None: we make none.
    trips: rounds of its loops whose count the program does not show, from their source and
      depth.
    kernel_costs: FLOPs and bytes of one run of its Pallas kernel, if it has one, on one device.
    outside_loops: runs of what is in no loop; 0 where a call of the program loops for long.
  """

  trace: Callable[[], Any]
  flops: float | None = None
  needed_bytes: float | None = None
  memory: float | None = None
  trips: Callable[[str, int], float | None] = lambda source, depth: 1.0
  kernel_costs: tuple[float, ...] = ()
  outside_loops: float = 1.0


def decode_step(place: Place, config: ModelConfig, dtype: str, rows: int, capacity: int) -> Program:
  """One step of `rows` texts, in a cache of `capacity` tokens that is half full."""
  model = place.weights(config, dtype)
  state = _rows(place, config, dtype, rows, capacity)
  stop_ids = place.array((1,), jnp.int32)
  cache = sum(_device_bytes(x) for x in jax.tree.leaves(state.caches))
  # By design every row reads all of the cache's length, whatever it holds.
  return Program(
    lambda: decode.trace(model.graph, model.params, state, stop_ids, steps=1, mesh=place.mesh),
    flops=rows * _flops(config, capacity, head=1.0) / (place.data * place.model),
    needed_bytes=device_bytes(model.params) + cache,
    memory=device_bytes(model.params) + cache,
  )


def prefill(place: Place, config: ModelConfig, dtype: str, count: int, width: int) -> Program:
  """Runs `count` prompts of `width` tokens into as many rows."""
  model = place.weights(config, dtype)
  state = _rows(place, config, dtype, count, 2 * width)
  ids = place.array((count, width), jnp.int32, P(DATA))
  source = place.array((count,), jnp.int32, P(DATA))
  return Program(
    lambda: admit.trace(model.graph, model.params, state, state.texts, ids, source, place.mesh),
    flops=count * width * _flops(config, width / 2, head=0.0) / (place.data * place.model),
  )


def _rows(place: Place, config: ModelConfig, dtype: str, rows: int, capacity: int) -> Rows:
  shapes = jax.eval_shape(lambda: empty_rows(config, rows, capacity, jnp.dtype(dtype)))
  places = rows_on_mesh(shapes.states)
  caches = jax.tree.map(lambda x: place.shape(x, places.caches), shapes.caches)
  texts: Texts = jax.tree.map(lambda x: place.shape(x, places.texts), shapes.texts)
  states = jax.tree.map(lambda x: place.shape(x, places.states), shapes.states)
  return Rows(caches, states, texts)


def train_step(
  place: Place,
  config: ModelConfig,
  *,
  rows: int,
  width: int,
  rank: int = 0,
  remat: str = "none",
  fully_sharded: bool = False,
  mu_dtype: str = "",
  dtype: str = "bfloat16",
) -> Program:
  """A step of full rows, of which two thirds are completions, with products in `dtype`."""
  lora = lora_config(rank, 2.0 * rank)
  model = place.weights(config, dtype if lora else "float32", fully_sharded=fully_sharded)
  weights: Any = flat_params(model.params)
  trained, frozen = weights, {}
  if lora is not None:
    shapes = jax.eval_shape(lambda w: init_lora(w, lora, 0), weights)
    trained, frozen = jax.tree.map(place.shape, shapes), weights
  optimizer = make_optimizer(dataclasses.replace(OPTIMIZER, mu_dtype=mu_dtype), steps=1)
  state = abstract_state(trained, optimizer, place.mesh) if place.mesh else None
  if state is None:
    state = jax.tree.map(place.shape, _state_shapes(trained, optimizer))
  student = Student(model, lora, jnp.dtype(dtype), remat, place.mesh)
  step: Any = make_train_step(student, optimizer, state)
  batch = PackedRows(
    *(place.array((1, rows, width), jnp.int32, P(None, DATA)) for _ in PackedRows._fields)
  )
  tokens, scored = rows * width, rows * width * 2 / 3
  passes = 4 if lora else 6
  head = config.vocab_size * config.model_dim
  needed = passes * (config.matmul_params(head=False) * tokens + head * scored)
  return Program(
    lambda: step.trace(state, frozen, batch),
    flops=needed / (place.data * place.model),
    memory=step_memory(student, state, frozen, rows, width).total,
    trips=lambda source, depth: _head_chunks(config, rows // place.data, width),
  )


def _state_shapes(trained: Any, optimizer: Any) -> Any:
  from greedy_prune_jax.distill.step import init_state

  return jax.eval_shape(lambda t: init_state(t, optimizer), trained)


def _head_chunks(config: ModelConfig, rows: int, width: int) -> float:
  """Chunks of scored positions that the loss takes, where two thirds of a row are scored."""
  columns = min(max(2**30 // (4 * config.vocab_size) // rows, 1), width)
  return float(-(-(width * 2 // 3) // columns))


def _flops(config: ModelConfig, seen: float, head: float) -> float:
  """FLOPs of one position that sees so many others; `head`: share that meets the LM head."""
  attention = 4.0 * config.num_layers * config.num_heads * config.head_dim * seen
  of_head = 2.0 * config.vocab_size * config.model_dim * head
  return 2.0 * config.matmul_params(head=False) + of_head + attention


def _device_bytes(x: Any) -> float:
  sharding: Any = x.sharding
  shape = sharding.shard_shape(x.shape)
  return float(jnp.dtype(x.dtype).itemsize) * functools.reduce(lambda a, b: a * b, shape, 1)
