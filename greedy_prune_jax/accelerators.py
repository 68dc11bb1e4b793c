"""Peak FLOP/s and memory of known accelerators; the peak of others, measured."""

import functools
import os
import re
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Accelerator(NamedTuple):
  """One device as JAX counts them."""

  kinds: tuple[str, ...]  # JAX's names of it (`device_kind`), or their beginnings
  peak_flops: float  # FLOP/s of dense bfloat16 products, as the maker states it
  memory: float  # bytes


# The makers' figures; of NVIDIA's, which state products with sparse matrices, the dense half. Those
# of H100, A100 and TPU v5e were looked up for this table, in copies of the makers' pages; others
# are as commonly cited. None was measured here.
ACCELERATORS = {
  "h100": Accelerator(("NVIDIA H100",), 989e12, 80e9),  # SXM
  "h100-pcie": Accelerator(("NVIDIA H100 PCIe",), 756e12, 80e9),
  "h200": Accelerator(("NVIDIA H200",), 989e12, 141e9),
  "a100-40gb": Accelerator(("NVIDIA A100",), 312e12, 40e9),
  "a100-80gb": Accelerator(("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB"), 312e12, 80e9),
  "l4": Accelerator(("NVIDIA L4",), 121e12, 24e9),
  "l40s": Accelerator(("NVIDIA L40S",), 362e12, 48e9),
  "tpu-v4": Accelerator(("TPU v4",), 275e12, 32e9),
  "tpu-v5e": Accelerator(("TPU v5 lite", "TPU v5e"), 197e12, 16e9),
  "tpu-v5p": Accelerator(("TPU v5p", "TPU v5"), 459e12, 95e9),
  "tpu-v6e": Accelerator(("TPU v6",), 918e12, 32e9),
}


def find_accelerator(device_kind: str) -> str | None:
  """The name in `ACCELERATORS` of what JAX calls a device; None where it is not known."""
  matches = [
    (len(kind), name)
    for name, accelerator in ACCELERATORS.items()
    for kind in accelerator.kinds
    # "NVIDIA L4" is no beginning of "NVIDIA L40".
    if device_kind.startswith(kind) and not device_kind[len(kind) :][:1].isdigit()
  ]
  return max(matches)[1] if matches else None


def device_memory() -> int | None:
  """Bytes of this process's first device that JAX may use; None on a CPU, or if it does not say."""
  device = jax.local_devices()[0]
  return None if device.platform == "cpu" else (device.memory_stats() or {}).get("bytes_limit")


def machine_memory() -> int:
  """Bytes of this machine's memory, which its CPU devices share."""
  return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def product_precision(dtype: Any, platform: str | None) -> Any:
  """Precision of products of operands of a dtype.

  float32 is multiplied in full, but on NVIDIA's tensor cores as three products in TF32: 2.5 times
  the FLOP/s by their maker's peaks, and nearly as precise (docs/measured.md).

  Args:
    dtype: dtype of both operands.
    platform: platform of the compiled program; None: not known.
  """
  if platform == "gpu" and dtype == jnp.float32 and _has_tf32():
    return jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3
  return jax.lax.Precision.HIGHEST


@functools.cache
def _has_tf32() -> bool:
  """False where this machine has a GPU from before TF32, or one that is not NVIDIA's."""
  gpus = [device for device in jax.local_devices() if device.platform == "gpu"]
  return all(re.match(r"(\d\d|[89])\.", str(gpu.compute_capability)) for gpu in gpus)


def matmul_peak(dtype: Any = jnp.float32, sizes=(1024, 2048), repeats: int = 5) -> float:
  """FLOP/s of the fastest of some large square products, each the best of `repeats`."""
  best = 0.0
  for size in sizes:
    a = jax.random.normal(jax.random.key(0), (size, size), dtype)
    b = jax.random.normal(jax.random.key(1), (size, size), dtype)
    # As the model multiplies, where a device's default is less precise.
    precision = product_precision(a.dtype, jax.local_devices()[0].platform)
    multiply = functools.partial(jnp.dot, precision=precision, preferred_element_type=jnp.float32)
    product = jax.jit(multiply)
    product(a, b).block_until_ready()
    for _ in range(repeats):
      started = time.perf_counter()
      product(a, b).block_until_ready()
      best = max(best, 2 * size**3 / (time.perf_counter() - started))
  return best
