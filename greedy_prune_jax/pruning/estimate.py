"""Cost of a `prune` run, from its chains, the tokenizer and the model's config."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AbstractMesh

from greedy_prune_jax.accelerators import ACCELERATORS, device_memory, find_accelerator, matmul_peak
from greedy_prune_jax.chains.reading import skipper
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.parameters import abstract_model
from greedy_prune_jax.models.pretrained import load_config, load_tokenizer
from greedy_prune_jax.parallel import DATA, MODEL, SEQUENCE, partition
from greedy_prune_jax.pruning.cost import Work, ranking_work, search_work
from greedy_prune_jax.pruning.run import (
  check_ranking,
  search_settings,
  step_positions_of,
)
from greedy_prune_jax.pruning.settings import GREEDY, PruneSettings
from greedy_prune_jax.pruning.tasks import PruneTask, check_any, read_tasks
from greedy_prune_jax.rankings.registry import RANKINGS
from greedy_prune_jax.search.capacity import (
  Placement,
  batch_bytes,
  free_bytes,
  places_of,
  plan_batching,
)
from greedy_prune_jax.search.host import plan_kept


class Devices(NamedTuple):
  """Devices that the run is planned for."""

  name: str
  known: str | None  # its name in `ACCELERATORS`
  platform: str
  replicas: int  # groups of devices that take chains side by side, over all processes
  slot_shards: int  # devices that share the positions of a chain
  split: int  # devices that share the weights
  peak_flops: float  # FLOP/s of one
  peak_source: str  # where that is from
  memory: float | None  # bytes of one; None where the device does not say, as a CPU

  @property
  def total(self) -> int:
    """All devices."""
    return self.replicas * self.of_chain

  @property
  def of_chain(self) -> int:
    """Devices that work on one chain."""
    return self.slot_shards * self.split


def estimate_run(settings: PruneSettings) -> str:
  """Reads the chains and says what pruning them takes; loads no weights and writes nothing.

  All chains count, whatever a workdir holds already.

  Raises:
    UserError: something that the settings name cannot be used, or the devices are not described.
  """
  tokenizer, config = load_tokenizer(settings.pruner), load_config(settings.pruner)
  check_ranking(settings, config)
  skip = skipper(settings.on_bad_chain)
  tasks = list(read_tasks(settings, tokenizer, config.max_positions, {}, skip))
  check_any(tasks, settings)
  works = [_work(settings, config, task) for task in tasks]
  devices = _devices(settings)
  return _format(settings, config, tasks, works, devices)


def _work(settings: PruneSettings, config: ModelConfig, task: PruneTask) -> Work:
  if settings.ranking != GREEDY:
    return ranking_work(config, task.path, settings.ranking, settings.deletions_per_step)
  search = search_settings(settings)
  work = search_work(config, task.path, search)
  if task.audit is not None:  # exact scores at every step, and exact search
    exact = search_work(config, task.path, search._replace(screen=None))
    work = Work(work.positions + 2 * exact.positions, work.flops + 2 * exact.flops)
  return work


def _devices(settings: PruneSettings) -> Devices:
  """The devices that the settings describe; what they leave open is this machine's."""
  plan, mesh = settings.plan, settings.mesh
  if plan.device:
    name, known, memory = plan.device, plan.device, ACCELERATORS[plan.device].memory
    platform = "tpu" if plan.device.startswith("tpu-") else "gpu"
    count = plan.num_devices or mesh.given
  else:
    local = jax.local_devices()[0]
    platform = local.platform
    name, known = local.device_kind, find_accelerator(local.device_kind)
    memory = device_memory()
    here = jax.device_count() if 0 in mesh.sizes.values() else mesh.given * jax.process_count()
    count = plan.num_devices or here
  left = max(count // mesh.given, 1)  # of an open axis
  split, slot_shards = mesh.model or left, mesh.sequence or left
  if count % (split * slot_shards):
    sizes = " times ".join(f"mesh.{axis}={mesh.sizes[axis]}" for axis in (SEQUENCE, MODEL))
    raise UserError(
      f"{sizes} does not divide {count} devices; set plan.num_devices to their number over all "
      f"processes"
    )
  peak, source = _peak(settings, known)
  replicas = count // (split * slot_shards)
  return Devices(name, known, platform, replicas, slot_shards, split, peak, source, memory)


def _peak(settings: PruneSettings, known: str | None) -> tuple[float, str]:
  """FLOP/s of one device, and where that is from."""
  if settings.plan.peak_flops:
    return settings.plan.peak_flops, "as plan.peak_flops says"
  if known is None:
    peak = matmul_peak(jnp.dtype(settings.dtype))
    return peak, f"measured now, with {settings.dtype} matrix products"
  if settings.dtype != "bfloat16":
    raise UserError(
      f"dtype={settings.dtype}: the peak that is known of {known} is of bfloat16 products; pass "
      f"--config.dtype=bfloat16, or the peak as --config.plan.peak_flops"
    )
  return ACCELERATORS[known].peak_flops, "the maker's, dense bfloat16"


def weight_bytes(config: ModelConfig, dtype: str, split: int) -> int:
  """Bytes of the weights on each of the devices that share them.

  Raises:
    UserError: a parameter cannot be split so.
  """
  mesh = AbstractMesh((1, split), (DATA, MODEL))
  total = 0
  for path, leaf in nnx.to_flat_state(abstract_model(config, dtype).params):
    value = leaf.get_value()
    spec = partition(".".join(map(str, path)), value.shape, mesh)
    parts = math.prod(mesh.shape[axis] for axis in spec if axis is not None)
    total += math.prod(value.shape) // parts * value.dtype.itemsize
  return total


def _format(
  settings: PruneSettings,
  config: ModelConfig,
  tasks: Sequence[PruneTask],
  works: Sequence[Work],
  devices: Devices,
) -> str:
  segments = [task.path.segments for task in tasks]
  lengths = [len(s.reasoning) for s in segments]
  flops = sum(work.flops for work in works)
  # Chains are not divided: the longest holds up all others in the end.
  slowest = max(flops / devices.total, max(work.flops for work in works) / devices.of_chain)
  seconds = slowest / (settings.plan.utilisation * devices.peak_flops)
  how = f"search {settings.search}, objective {settings.objective}"
  if settings.ranking != GREEDY:
    how = f"ranking {settings.ranking}"
    if others := RANKINGS[settings.ranking].other_models:
      how += f" (without {others}, which is not counted)"
  positions = (
    f"{devices.slot_shards} share a chain's positions, " if devices.slot_shards > 1 else ""
  )
  rows = [
    ("chains", f"{len(tasks)}, with {min(lengths)} to {max(lengths)} reasoning tokens"),
    ("pruner", f"{settings.pruner}, {settings.dtype}; {how}, unit {settings.unit}"),
    ("positions", f"{sum(work.positions for work in works):,.0f}"),
    ("FLOPs", f"{flops:.3g}"),
    (
      "devices",
      f"{devices.total} x {devices.name} ({devices.replicas} side by side, {positions}"
      f"{devices.split} share the weights), peak {devices.peak_flops:.3g} FLOP/s each: "
      f"{devices.peak_source}",
    ),
    ("memory per device", _memory(settings, config, tasks, devices)),
    (
      "expected time",
      f"{_duration(seconds)} at {settings.plan.utilisation:.0%} of the peak "
      f"(plan.utilisation), without loading and compiling",
    ),
  ]
  if devices.known:
    rows.append(("device-hours", f"{seconds * devices.total / 3600:.3g}"))
  return "\n".join(["cost estimate (dry run)", *(f"{name:>18}  {value}" for name, value in rows)])


def _memory(
  settings: PruneSettings, config: ModelConfig, tasks: Sequence[PruneTask], devices: Devices
) -> str:
  segments = [task.path.segments for task in tasks]
  weights = weight_bytes(config, settings.dtype, devices.split)
  if devices.memory is not None and weights > devices.memory:
    return (
      f"{weights / 1e9:.2f} GB for the weights alone: more than the {devices.memory / 1e9:.0f} GB "
      f"that there are; raise mesh.model"
    )
  placement = Placement(
    jnp.dtype(settings.dtype).itemsize,
    devices.replicas,
    devices.split,
    devices.platform,
    devices.slot_shards,
  )
  batching = plan_batching(
    segments,
    config,
    1 if settings.ranking != GREEDY else settings.batch_size,
    [*step_positions_of(tasks, search_settings(settings))],
    None if devices.memory is None else free_bytes(devices.memory, weights),
    placement,
  )
  chains = -(-max(map(len, batching.batches)) // devices.replicas)
  kept = _kept_columns(settings, config, tasks, batching.kept_bytes, chains, placement)
  rest = batch_bytes(config, batching, max(map(places_of, segments)), kept, placement)
  of = "" if devices.memory is None else f" of {devices.memory / 1e9:.0f} GB"
  return (
    f"{(weights + rest) / 1e9:.2f} GB{of}: {weights / 1e9:.2f} GB weights, {rest / 1e9:.2f} GB "
    f"for {chains} chain{'s' if chains > 1 else ''} at once"
  )


def _kept_columns(
  settings: PruneSettings,
  config: ModelConfig,
  tasks: Sequence[PruneTask],
  kept_bytes: float,
  chains: int,
  placement: Placement,
) -> int:
  """Columns that the longest chain's candidates keep, at most; rankings keep none."""
  if settings.ranking != GREEDY:
    return 0
  search = search_settings(settings)._replace(kept_bytes=kept_bytes)
  paths = [task.path for task in tasks]
  kept, _ = plan_kept(config, paths, search, chains, placement)
  if settings.audit:  # audited chains are searched exactly as well
    exact, _ = plan_kept(config, paths, search._replace(screen=None), chains, placement)
    kept = max(kept, exact)
  return kept


def _duration(seconds: float) -> str:
  for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
    if seconds >= 2 * size:
      return f"{seconds / size:.1f} {unit}"
  return f"{seconds:.1f} seconds"
