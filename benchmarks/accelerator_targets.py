"""Accelerators to compile for on a machine that has none.

XLA compiles for a TPU with libtpu's description of a slice (extra `tpu-aot`), and for a GPU with
CUDA's compiler and a description of the card (extra `gpu-aot`, `h100.txtpb`). Nothing runs.
"""

import dataclasses
import os
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from greedy_prune_jax.accelerators import ACCELERATORS, Accelerator

CARD = Path(__file__).with_name("h100.txtpb")
# 6: how often a TPU multiplies in bfloat16 for one product of float32 (`Precision.HIGHEST`).
_TPU_PASSES = 6


@dataclasses.dataclass(frozen=True)
class Target:
  """One kind of device.

  Attributes:
    name: short.
    platform: JAX's name of it.
    topologies: JAX's names of a topology by number of devices.
    key: key of `ACCELERATORS`.
    bandwidth: bytes a second of its memory, as the maker states them.
    float32_flops: FLOP/s of float32 products: on a GPU three in TF32, on a TPU six in bfloat16.
    clock: Hz of the TPU's matrix units; 0 for what is no TPU.
  """

  name: str
  platform: str
  topologies: Mapping[int, str]
  key: str
  bandwidth: float
  float32_flops: float
  clock: float = 0.0

  @property
  def accelerator(self) -> Accelerator:
    """Its peak and memory."""
    return ACCELERATORS[self.key]

  def peak(self, dtype: str) -> float:
    """FLOP/s of products of a dtype."""
    return self.accelerator.peak_flops if dtype == "bfloat16" else self.float32_flops

  def devices(self, count: int) -> list[Any]:
    """So many of them, to compile for; `compile_environment` must have been set."""
    from jax.experimental import topologies

    name = self.topologies[count]
    if self.platform == "tpu":
      slice_ = topologies.get_topology_desc(platform="tpu", topology_name=name)
    else:
      slice_ = topologies.get_topology_desc(
        platform="cuda", topology_name="h100", target_config=CARD.read_text(), topology=name
      )
    return list(slice_.devices)[:count]

  def mesh(self, data: int, model: int, sequence: int = 1) -> Any:
    """A mesh of the axes `data`, `sequence` and `model`; None for one device."""
    from greedy_prune_jax.parallel import SearchMeshSettings, make_mesh

    settings = SearchMeshSettings(data=data, sequence=sequence, model=model)
    return make_mesh(settings, self.devices(settings.given)) if settings.given > 1 else None


def _tpu(name: str, topologies: Mapping[int, str], bandwidth: float, mxu_flops: int) -> Target:
  key = f"tpu-{name}"
  peak = ACCELERATORS[key].peak_flops
  return Target(name, "tpu", topologies, key, bandwidth, peak / _TPU_PASSES, clock=peak / mxu_flops)


# FLOPs a cycle: of 4 matrix units of 128 x 128, 4 of 256 x 256, and 8 of 128 x 128.
TARGETS = {
  "v5e": _tpu("v5e", {1: "v5e:2x2", 4: "v5e:2x2", 8: "v5e:2x4"}, 819e9, 2 * 4 * 128**2),
  "v6e": _tpu("v6e", {1: "v6e:2x2", 4: "v6e:2x2", 8: "v6e:2x4"}, 1640e9, 2 * 4 * 256**2),
  "v5p": _tpu("v5p", {1: "v5p:2x2x1", 4: "v5p:2x2x1", 8: "v5p:2x2x2"}, 2765e9, 2 * 8 * 128**2),
  "h100": Target(
    "h100", "gpu", {1: "1x1x1", 4: "1x1x4", 8: "1x1x8"}, "h100", 3352e9, float32_flops=495e12 / 3
  ),
}


def compile_environment() -> dict[str, str]:
  """Environment variables of a process that compiles for these, to be set before it starts."""
  cuda = Path(sysconfig.get_paths()["purelib"]) / "nvidia" / "cu13"
  # Nothing can be timed here, so that no kernel is chosen by its time.
  flags = f"--xla_gpu_cuda_data_dir={cuda} --xla_gpu_autotune_level=0"
  return {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip(),
    "PATH": f"{cuda / 'bin'}:{os.environ['PATH']}",
  }
