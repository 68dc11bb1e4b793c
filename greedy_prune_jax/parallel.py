"""Many devices and many processes: the mesh, where arrays lie on it, how processes meet.

A mesh has two axes: chains of a batch lie along `data`, weights (heads, feed-forward, vocabulary)
along `model`. That of a search has a third, `sequence`, whose devices share the slots of each block
(see `scoring.scorer`). For all but training a mesh spans the devices of one process: chains are
dealt out to processes by index before any of them reaches a device, so processes never wait for
each other's arrays, and each one can be killed and its chains taken over by a run with another
number of processes.

The mesh of a training spans the devices of all processes, which hold the same batches and take
every step together. It may also spread what is on every device of `data` otherwise (weights, and
what the optimiser keeps of them) along `data`: *fully sharded*.
"""

import contextlib
import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from absl import logging
from flax import nnx
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from greedy_prune_jax.errors import UserError

DATA, SEQUENCE, MODEL = "data", "sequence", "model"

T = TypeVar("T")
_FULLY = "fully"  # in a rule: along `data` where parameters are fully sharded, else not split

# Parameter path -> how the parameter lies on the mesh; the first pattern that fits the whole path
# counts. Letters are those of `models.decoder`; parameters of layers are stacked over L. `.a` and
# `.b` are LoRA's matrices beside a weight: too thin to be worth splitting for their size alone.
PARTITION_RULES: tuple[tuple[str, P], ...] = (
  (r"embedding|head", P(MODEL, _FULLY)),  # [V, D]
  (r"per_layer\.table", P(MODEL, None, _FULLY)),  # [V, L, U]
  (r"per_layer\.projection", P(_FULLY, None, None)),  # [D, L, U]
  (r"layers\.per_layer\.gate", P(None, _FULLY, None)),  # [L, D, U]
  (r"layers\.per_layer\.out", P(None, None, _FULLY)),  # [L, U, D]
  (r"layers\.(?:\w+_)?attention\.([qkv]|gate)", P(None, _FULLY, MODEL, None)),  # [L, D, N|K, H]
  (r"layers\.(?:\w+_)?attention\.[qkv]\.b", P(None, None, MODEL, None)),  # [L, r, N or K, H]
  (r"layers\.(?:\w+_)?attention\.[qkv]_bias", P(None, MODEL, None)),  # [L, N or K, H]
  (r"layers\.(?:\w+_)?attention\.sinks", P(None, MODEL)),  # [L, N]
  (r"layers\.(?:\w+_)?attention\.wide_[qk]_norm\.scale", P(None, MODEL, None)),  # [L, N or K, H]
  (r"layers\.(?:\w+_)?attention\.out", P(None, MODEL, None, _FULLY)),  # [L, N, H, D]
  (r"layers\.(?:\w+_)?attention\.out\.a", P(None, MODEL, None, None)),  # [L, N, H, r]
  (r"layers\.(?:wide_)?mlp\.(gate|up)", P(None, _FULLY, MODEL)),  # [L, D, F]
  (r"layers\.(?:wide_)?mlp\.(gate|up)\.b", P(None, None, MODEL)),  # [L, r, F]
  (r"layers\.(?:wide_)?mlp\.(gate|up)_bias", P(None, MODEL)),  # [L, F]
  (r"layers\.(?:wide_)?mlp\.down", P(None, MODEL, _FULLY)),  # [L, F, D]
  (r"layers\.(?:wide_)?mlp\.down\.a", P(None, MODEL, None)),  # [L, F, r]
  # A part of every expert on each device: whole experts would travel to the rows that take them.
  (r"layers\.experts\.(gate|up)", P(None, None, _FULLY, MODEL)),  # [L, E, D, I]
  (r"layers\.experts\.down", P(None, None, MODEL, _FULLY)),  # [L, E, I, D]
  (r"layers\.experts\.(gate|up)_bias", P(None, None, MODEL)),  # [L, E, I]
  (r"layers\.experts\.shared\.(gate|up)", P(None, _FULLY, MODEL)),  # [L, D, S]
  (r"layers\.experts\.shared\.down", P(None, MODEL, _FULLY)),  # [L, S, D]
  # Whole along `model`: parts of a recurrence would meet in loops that rows of the mesh run
  # different numbers of times.
  (r"layers\.delta\.(q|k|v|gate)", P(None, _FULLY, None, None)),  # [L, D, J or M, P or O]
  (r"layers\.delta\.out", P(None, None, None, _FULLY)),  # [L, M, O, D]
  # The channels of a short convolution never meet.
  (r"layers\.conv\.(in_gate|out_gate|value)", P(None, _FULLY, MODEL)),  # [L, D, Z]
  (r"layers\.conv\.(in_gate|out_gate|value|filter)_bias", P(None, MODEL)),  # [L, Z]
  (r"layers\.conv\.filter", P(None, MODEL)),  # [L, Z, 1, W]
  (r"layers\.conv\.out", P(None, MODEL, _FULLY)),  # [L, Z, D]
  (r".*", P()),  # norms, and biases of what is summed over `model`: on every device
)

# How long a process waits for the others where all of them meet: shares of unequal chains may end
# days apart. A process that died ends the waiting: JAX notices and ends all others too.
_MEETING_SECONDS = 30 * 24 * 3600


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshSettings:
  """Devices along each axis of a process's mesh; 0, on one axis, for all that the others leave."""

  data: int
  model: int

  def __post_init__(self):
    for axis, size in self.sizes.items():
      if size < 0:
        raise UserError(f"mesh.{axis}={size}; expected 0 or more")
    if len(open_axes := [axis for axis, size in self.sizes.items() if not size]) > 1:
      raise UserError(
        f"{' and '.join(f'mesh.{axis}=0' for axis in open_axes)}: only one axis can take whatever "
        f"is left"
      )

  @property
  def sizes(self) -> dict[str, int]:
    """Sizes by axis, the axis of the nearest devices last."""
    sizes = dataclasses.asdict(self)
    return {axis: sizes[axis] for axis in (DATA, SEQUENCE, MODEL) if axis in sizes}

  @property
  def given(self) -> int:
    """Devices that the sizes name, without those of an open axis."""
    return math.prod(size for size in self.sizes.values() if size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchMeshSettings(MeshSettings):
  """Devices along each axis of the mesh of a search."""

  sequence: int


def make_mesh(settings: MeshSettings, devices: Sequence[Any] | None = None) -> Mesh:
  """The mesh of this process, or of all of them.

  Args:
    settings: devices along each axis.
    devices: devices to choose from; this process's by default, all (`jax.devices()`) in training.

  Raises:
    UserError: there are too few devices, or one axis cannot take all that the other leaves.
  """
  own = devices is None
  devices = jax.local_devices() if devices is None else devices
  asked = ", ".join(f"mesh.{axis}={size}" for axis, size in settings.sizes.items())
  whose = "this process" if own else "all processes"
  who = "this process has" if own else "all processes have"
  beyond = ", and a mesh does not reach beyond its process" if own else ""
  sizes, given = settings.sizes, settings.given
  if 0 in sizes.values() and len(devices) % given:
    raise UserError(
      f"{asked}: {given} does not divide the {len(devices)} devices of {whose}; give all sizes "
      f"to leave some idle, or others"
    )
  sizes = {axis: size or len(devices) // given for axis, size in sizes.items()}
  count = math.prod(sizes.values())
  if count > len(devices):
    raise UserError(f"{asked} takes {count} devices; {who} {len(devices)}{beyond}")
  if count < len(devices):
    logging.warning("%s: %d devices stay idle", asked, len(devices) - count)
  arranged = _arranged(tuple(sizes.values()), devices[:count])
  return Mesh(arranged, tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def _arranged(shape: tuple[int, ...], devices: Sequence[Any]) -> np.ndarray:
  """The devices as they are to lie on a mesh.

  On a TPU slice neighbours on the mesh are neighbours by wire, where JAX knows how to do that.
  Elsewhere, and for shapes that the wires do not have, the devices keep their order, which is by
  process: those that share weights, along the last axis, are of one host where it has enough.
  """
  if devices[0].platform == "tpu":
    with contextlib.suppress(AssertionError, NotImplementedError, ValueError):
      return mesh_utils.create_device_mesh(shape, devices)
  return np.array(devices, dtype=object).reshape(shape)


def weight_shardings(
  mesh: Mesh, *, fully_sharded: bool = False
) -> Callable[[nnx.State], Any] | None:
  """Shardings for `load_model`, from parameters' shapes; None for the one default device."""
  if mesh.size == 1:
    return None

  def choose(shapes: nnx.State) -> Any:
    names = [".".join(map(str, path)) for path in nnx.to_flat_state(shapes).paths]
    leaves, tree = jax.tree.flatten(shapes)
    by_name = dict(zip(names, leaves, strict=True))
    chosen = named_shardings(by_name, mesh, fully_sharded=fully_sharded)
    return jax.tree.unflatten(tree, chosen.values())

  return choose


def named_shardings(
  shapes: Mapping[str, Any], mesh: Mesh, *, fully_sharded: bool = False
) -> dict[str, NamedSharding]:
  """Shardings of parameters by their names; `shapes` are arrays or what else has a shape."""
  return {
    name: NamedSharding(mesh, partition(name, x.shape, mesh, fully_sharded=fully_sharded))
    for name, x in shapes.items()
  }


def partition(
  name: str, shape: Sequence[int], mesh: Mesh | AbstractMesh, *, fully_sharded: bool = False
) -> P:
  """Partition of a parameter, by the first of `PARTITION_RULES` that fits its path.

  Raises:
    UserError: a dimension cannot be split evenly.
  """
  rule = next(spec for pattern, spec in PARTITION_RULES if re.fullmatch(pattern, name))
  axes = {_FULLY: DATA if fully_sharded else None}
  spec = P(*(axes.get(axis, axis) for axis in rule))
  # Split over one device is not split: JAX might call by that name whatever else is not.
  if all(axis is None or mesh.shape[axis] == 1 for axis in spec):
    return P()
  for dimension, axis in enumerate(spec):
    if axis is not None and shape[dimension] % mesh.shape[axis]:
      otherwise = ", or fully_sharded=False" if axis == DATA else ""
      raise UserError(
        f"parameter {name} of shape {list(shape)}: dimension {dimension}, of size "
        f"{shape[dimension]}, cannot be split evenly over the mesh axis {axis} of size "
        f"{mesh.shape[axis]}; set mesh.{axis} to a divisor of {shape[dimension]}{otherwise}"
      )
  return spec


def mesh_of(params: nnx.State) -> Mesh | None:
  """The mesh that parameters lie on; None where they lie on one device."""
  sharding = jax.tree.leaves(params)[0].sharding
  mesh = sharding.mesh if isinstance(sharding, NamedSharding) else None
  return mesh if isinstance(mesh, Mesh) else None


def axis_size(params: nnx.State, axis: str) -> int:
  """Devices along an axis of the mesh that parameters lie on; 1 where they lie on one device."""
  mesh = mesh_of(params)
  return 1 if mesh is None else mesh.shape.get(axis, 1)


def place_batch(arrays: Any, params: nnx.State) -> Any:
  """Puts a batch beside the parameters that will meet it: its first axis along `data`.

  Args:
    arrays: a pytree of host arrays, whose first axis is a multiple of the mesh axis `data`.
  """
  return place_rows(arrays, mesh_of(params))


def place_rows(arrays: Any, mesh: Mesh | None, axis: int = 0) -> Any:
  """Puts host arrays on a mesh with one axis along `data`; on the default device if it is None."""
  if mesh is None:
    return jax.device_put(arrays)
  # Along one device is nowhere in particular, as JAX says of its results.
  sharding = NamedSharding(mesh, P(*[None] * axis, DATA) if mesh.shape[DATA] > 1 else P())
  return place(arrays, jax.tree.map(lambda _: sharding, arrays))


def place(arrays: Any, shardings: Any) -> Any:
  """Puts arrays on a mesh: of one process, or of several that all have the same arrays.

  Args:
    arrays: a pytree of arrays, whole in each process.
    shardings: the same tree of shardings.
  """

  def put(x: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    if sharding.is_fully_addressable:
      return jax.device_put(x, sharding)
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

  return jax.tree.map(put, arrays, shardings)


def gathered(arrays: Any) -> Any:
  """Arrays of which this process has a part, whole on the host of each; all must call it."""
  from jax.experimental import multihost_utils

  def gather(x: jax.Array) -> Any:
    return x if x.is_fully_addressable else multihost_utils.process_allgather(x, tiled=True)

  return jax.tree.map(gather, arrays)


def on_mesh(
  function: Callable[..., T],
  mesh: Mesh | AbstractMesh | None,
  in_specs: Any,
  out_specs: Any,
  axes: Sequence[str] = (DATA,),
) -> Callable[..., T]:
  """The function, run by each device on its own part of the arguments.

  Args:
    function: function of a device's part.
    mesh: the mesh; None: the function itself.
    in_specs: places of the arguments.
    out_specs: places of the results.
    axes: axes of the mesh along which devices run by themselves, as far as it has them; the
      compiler handles the others.
  """
  if mesh is None:
    return function
  # Loops begin with equal values and end with each device's own, which JAX's check would refuse.
  return jax.shard_map(
    function,
    mesh=mesh,
    in_specs=in_specs,
    out_specs=out_specs,
    axis_names=set(axes).intersection(mesh.axis_names),
    check_vma=False,
  )


def on_model_shards(function: Callable[..., T], in_specs: Any, out_specs: Any) -> Callable[..., T]:
  """Of a function that runs inside `on_mesh`: each device of `model` runs it on its own part.

  Args:
    function: function of a device's part.
    in_specs: places of the arguments along `model`.
    out_specs: places of the results.
  """
  if jax.sharding.get_abstract_mesh().empty:
    return function
  return jax.shard_map(
    function, in_specs=in_specs, out_specs=out_specs, axis_names={MODEL}, check_vma=False
  )


def num_model_shards() -> int:
  """Devices along `model` of the mesh that `on_mesh` runs its function on; 1 outside of it."""
  return jax.sharding.get_abstract_mesh().shape.get(MODEL, 1)


def device_bytes(tree: Any) -> int:
  """Bytes that arrays, or shapes with shardings, take on each of the devices that they lie on."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
  )


def start_processes(
  coordinator: str | None,
  num_processes: int | None,
  process_id: int | None,
  *,
  saves_on_sigterm: bool = False,
) -> None:
  """Makes this process one of several; to be called before anything touches a device.

  What is None is found out by JAX, where the processes were started by SLURM or Open MPI or run on
  a TPU pod slice.

  Args:
    coordinator: HOST:PORT at which process 0 can be reached.
    num_processes: processes of the run.
    process_id: number of this process, from 0.
    saves_on_sigterm: True if a SIGTERM of one is to stop all at one step (see
      `distill.termination`), and not that process at once.

  Raises:
    UserError: the processes do not find each other, or JAX does not know how.
  """
  jax.config.update("jax_enable_preemption_service", saves_on_sigterm)
  try:
    jax.distributed.initialize(
      coordinator, num_processes, process_id, shutdown_timeout_seconds=_MEETING_SECONDS
    )
  except (ValueError, TypeError, RuntimeError) as error:
    raise UserError(
      f"this process cannot join the others: {error}. Outside of SLURM and TPU pod slices each "
      f"process needs --coordinator=HOST:PORT (of process 0), --num_processes=N and "
      f"--process_id=I, from 0"
    ) from error


def own_share(items: Sequence[T]) -> Sequence[T]:
  """This process's share of what all processes of a run have to do."""
  return items[jax.process_index() :: jax.process_count()]


def meet(name: str) -> None:
  """Waits until all processes have come to the meeting of this name; each name serves once."""
  if jax.process_count() > 1:
    from orbax.checkpoint import multihost  # takes seconds; a single process does without

    # Not JAX's sync_global_devices: a collective over the network between devices, which nothing
    # else here needs, and which cannot wait for days.
    multihost.get_barrier_sync_fn()(key=name, timeout_ms=1000 * _MEETING_SECONDS)


def refuse_processes(reason: str) -> None:
  """Ends a run of several processes that wants to be one process; to be called by all of them.

  Raises:
    UserError: there are several. Each of them tells: none is ended by the end of another.
  """
  if jax.process_count() > 1:
    leave_processes()
    raise UserError(reason)


def leave_processes() -> None:
  """Waits until all processes have come here, then parts from them; may be called twice.

  From here on a process can end, well or badly, without taking the others with it.
  """
  jax.distributed.shutdown()
