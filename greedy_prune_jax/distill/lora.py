"""LoRA (arXiv 2106.09685): frozen weights, and a trained product of two thin matrices beside each.

The matrices are a flat dict of their own, stacked over layers as the weights are:
`layers.attention.q.a` is [L, D, r] and `layers.attention.q.b` [L, r, N, H]. `b` begins at zero, so
that a student begins as the model it comes from.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from greedy_prune_jax.distill.parameters import Params
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.layouts import LAYOUTS, base_path
from greedy_prune_jax.models.weights import LowRank, MasterWeight

# What PEFT and transformers call the weights that can be adapted, and what we call them.
TARGETS = {
  "q_proj": "layers.attention.q",
  "k_proj": "layers.attention.k",
  "v_proj": "layers.attention.v",
  "o_proj": "layers.attention.out",
  "gate_proj": "layers.mlp.gate",
  "up_proj": "layers.mlp.up",
  "down_proj": "layers.mlp.down",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
  """Weights that LoRA adapts, with its rank and scale.

  Attributes:
    rank: r, of the change.
    alpha: the change is scaled by alpha / rank.
    targets: keys of `TARGETS`.
  """

  rank: int
  alpha: float
  targets: tuple[str, ...]

  @property
  def scale(self) -> float:
    """Factor of the matrices' product."""
    return self.alpha / self.rank


def init_lora(params: Mapping[str, Any], config: LoraConfig, seed: int) -> Params:
  """The matrices at the start: `a` uniform as PEFT has it, `b` zero; float32.

  Args:
    params: the student's weights, or their shapes.

  Raises:
    UserError: the student has no weight of a target's name.
  """
  matrices = {}
  for at, target in enumerate(sorted(config.targets)):
    names = adapted_names(params, target)
    if not names:
      raise UserError(
        f"lora_targets has {target}, which no layer of this model has (its feed-forward has no "
        "gate, or is made of experts); leave it out"
      )
    key = jax.random.fold_in(jax.random.key(seed), at)
    for name in names:
      shape, num_in = params[name].shape, axes_in(name)
      layers, into, out = shape[0], shape[1 : 1 + num_in], shape[1 + num_in :]
      bound = 1 / math.sqrt(math.prod(into))  # Kaiming's with a = sqrt(5), as in PyTorch's layers
      a = jax.random.uniform(key, (layers, *into, config.rank), jnp.float32, -bound, bound)
      matrices[f"{name}.a"] = a
      matrices[f"{name}.b"] = jnp.zeros((layers, config.rank, *out), jnp.float32)
      key = jax.random.fold_in(key, 0)
  return matrices


def adapted_names(names: Iterable[str], target: str) -> list[str]:
  """Parameters among some that a target adapts: of all layers, or of each kind of layer."""
  return [name for name in sorted(names) if base_path(name) == TARGETS[target]]


def axes_in(name: str) -> int:
  """Number of axes of a weight (one layer of it) that are summed over: those stored last."""
  return len(LAYOUTS[base_path(name)].stored[-1])


def apply_lora(
  weights: Mapping[str, Array | MasterWeight],
  matrices: Mapping[str, Array | MasterWeight],
  config: LoraConfig,
) -> dict[str, Array | MasterWeight | LowRank]:
  """The weights, adapted ones as `LowRank`."""
  adapted = {
    name: LowRank(weights[name], matrices[f"{name}.a"], matrices[f"{name}.b"], config.scale)
    for target in config.targets
    for name in adapted_names(weights, target)
  }
  return {**weights, **adapted}


def merge_lora(
  weights: Mapping[str, Array], matrices: Mapping[str, Array], config: LoraConfig
) -> Params:
  """The weights with the change added, all in float32: bfloat16 rounds most of a change away."""
  merged = {name: weight.astype(jnp.float32) for name, weight in weights.items()}
  for name in [name for t in config.targets for name in adapted_names(weights, t)]:
    a, b = matrices[f"{name}.a"], matrices[f"{name}.b"]
    layers, rank = b.shape[:2]
    change = jnp.einsum(
      "lir,lro->lio",
      a.reshape(layers, -1, rank),
      b.reshape(layers, rank, -1),
      precision=jax.lax.Precision.HIGHEST,
    )
    merged[name] += config.scale * change.reshape(merged[name].shape)
  return merged
