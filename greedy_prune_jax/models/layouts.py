"""Layouts of stored matrices beside those of a decoder's parameters, and sizes of their axes."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

from greedy_prune_jax.models.config import ModelConfig, base_part
from greedy_prune_jax.models.families import FAMILIES
from greedy_prune_jax.models.parameter_table import AXES


@dataclasses.dataclass(frozen=True)
class Layout:
  """Axes of a parameter (one layer of it), and which of them each stored axis is made of.

  Letters are those of `greedy_prune_jax.models.decoder`, `delta_net` and `short_conv`; K stands for
  the key/value heads.
  """

  axes: str  # letters of the parameter's axes
  stored: tuple[str, ...]  # letters of each axis of its tensor
  # Parameters that take turns along the last axis of one tensor; where it is 1, those of one tensor
  # lie there one behind the other, along the axis `joined`.
  turns: int = 1
  joined: int = 0  # number of that axis


LAYOUTS = {name: Layout(axes, stored) for name, (axes, stored) in AXES.items()}

# Ends of the names of tensors that lie otherwise: each expert's gates before its ups.
_GATES_BEFORE_UPS = Layout("EDI", ("E", "I", "D"), joined=1)
_OTHER_LAYOUTS: dict[str, Layout] = {
  ".experts.gate_up_proj": _GATES_BEFORE_UPS,
  ".ffn_gate_up_exps.weight": _GATES_BEFORE_UPS,
}
# The same of families with `transposed_experts`.
_TRANSPOSED_LAYOUTS: dict[str, Layout] = {
  ".experts.gate_up_proj": Layout("EDI", ("E", "D", "I"), turns=2),
  ".experts.gate_up_proj_bias": Layout("EI", ("E", "I"), turns=2),
  ".experts.down_proj": Layout("EID", ("E", "I", "D")),
}


# Ends of the names of tensors in which each head has the rows of all its parameters side by side ->
# letter of the heads.
_ROWS_BY_HEAD = {
  ".in_proj_qkvz.weight": "J",
  ".in_proj_ba.weight": "J",
  ".ssm_in.weight": "J",
  ".ssm_ba.weight": "J",
}


# Parameters whose axis H is that of queries and keys, and is ordered as `head_order` says.
_ROTATED = re.compile(r"layers\.attention\.(wide_)?[qk](_bias|_norm\.scale)?")


def part_of(path: str) -> str:
  """The part of a layer that a parameter belongs to; empty where it is no layer's."""
  return path.split(".")[1] if path.startswith("layers.") else ""


def base_path(path: str) -> str:
  """A parameter's path in the part that its own is a form of: a key of `LAYOUTS`."""
  part = part_of(path)
  return path.replace(part, base_part(part), 1) if part else path


def axis_sizes(config: ModelConfig, path: str) -> dict[str, int]:
  """Size of each axis letter of `LAYOUTS` for a parameter."""
  part = part_of(path)
  kv_heads, head_dim = config.heads(part)
  return {
    "V": config.vocab_size,
    "D": config.model_dim,
    "N": config.num_heads,
    "K": kv_heads,
    "H": head_dim,
    "F": config.mlp_dim * (2 if part == "wide_mlp" else 1),
    "L": config.num_layers,
    "U": config.per_layer_dim,
    "E": config.num_experts,
    "R": config.num_experts,  # the router's outputs, which stay on every device
    "I": config.expert_dim,
    "S": config.shared_expert_dim,
    "J": config.delta_key_heads,
    "M": config.delta_value_heads,
    "P": config.delta_key_dim,
    "O": config.delta_value_dim,
    "W": config.conv_width,
    "Z": config.conv_channels,
    "1": 1,
  }


def head_order(config: ModelConfig, name: str) -> np.ndarray | None:
  """Index in a checkpoint of each of a head's dimensions; None where it has them in our order.

  We rotate dimension i with i + H / 2. Checkpoints have those that are rotated first, in halves or
  pair by pair, and behind them those that are not: a head of ours is made of halves of both.
  """
  interleaved = FAMILIES[config.family].interleaved
  head_dim = config.heads(part_of(name)).head_dim
  width = min(rope.rotated_width(head_dim) for rope in config.ropes)
  if not _ROTATED.fullmatch(base_path(name)) or (width == head_dim and not interleaved):
    return None
  rotated, others = np.arange(width), np.arange(width, head_dim)
  pairs = rotated.reshape(-1, 2).T if interleaved else rotated.reshape(2, -1)
  return np.concatenate([pairs, others.reshape(2, -1)], axis=1).reshape(-1)


def layout_of(config: ModelConfig, path: str, name: str) -> Layout:
  """The layout of a parameter whose tensors have this name: one for each expert, or one for all."""
  transposed = FAMILIES[config.family].transposed_experts
  others = _TRANSPOSED_LAYOUTS if transposed else _OTHER_LAYOUTS
  layout = next((x for end, x in others.items() if name.endswith(end)), LAYOUTS[base_path(path)])
  return Layout(layout.axes[1:], layout.stored[1:]) if "{expert}" in name else layout


def tensor_names(config: ModelConfig, path: str, name: str) -> list[str]:
  """Names of all tensors of a parameter, for each layer that has it and each expert."""
  layers = layers_of(config, path) if "{layer}" in name else [None]
  experts = range(config.num_experts) if "{expert}" in name else [None]
  return [name.format(layer=layer, expert=expert) for layer in layers for expert in experts]


def layers_of(config: ModelConfig, path: str) -> tuple[int, ...]:
  """Numbers of the layers that a parameter of layers is stacked over."""
  return config.layers_with(part_of(path))


def shared_tensors(config: ModelConfig, names: Mapping[str, str]) -> Iterator[str]:
  """Tensors for keys and values that checkpoints hold of layers that attend to an earlier one's."""
  for part in ("shared_attention", "shared_global_attention"):
    for layer in config.layers_with(part):
      for weight in ("k", "v", "k_bias", "v_bias", "k_norm.scale"):
        yield names[f"layers.attention.{weight}"].format(layer=layer)


def row_groups(config: ModelConfig, path: str, name: str) -> int:
  """Groups of rows in which the parameters of one tensor take turns; 1: each is one block of it."""
  if config.gated_attention and path in ("layers.attention.q", "layers.attention.gate"):
    return config.num_heads
  heads = next((letter for end, letter in _ROWS_BY_HEAD.items() if name.endswith(end)), "1")
  return axis_sizes(config, path)[heads]


def fused_places(config: ModelConfig, names: Mapping[str, str]) -> dict[str, int]:
  """Place along its tensor's axis `joined` at which each parameter begins; or its number, where
  they take turns.
  """
  ends: dict[tuple[str, str], int] = {}
  starts: dict[str, int] = {}
  for path, name in names.items():
    sizes, layout = axis_sizes(config, path), layout_of(config, path, name)
    tensor = part_of(path), name
    starts[path] = ends.get(tensor, 0)
    joined = layout.stored[layout.joined]
    size = math.prod(sizes[a] for a in joined) if layout.turns == 1 else 1
    ends[tensor] = starts[path] + size
  return starts
