"""The shape and the switches of a decoder, independent of the file that it was read from."""

import dataclasses
from typing import NamedTuple

from greedy_prune_jax.models.fields import (
  SIZES,
  FieldError,
  check_positive,
  check_size,
  check_whole,
)
from greedy_prune_jax.models.rope_config import RopeConfig

# A layer with this window attends to everything: no supported context reaches it.
FULL_ATTENTION = 2**30


# Parts that keep a state in place of keys and values: Gated DeltaNet, and a short convolution.
RECURRENCES = ("delta", "conv")

ATTENTIONS = ("attention", "global_attention")  # with keys and values of their own

# Names that a part with attention or a feed-forward may have -> the part that it is a form of.
VARIANTS: dict[str, str] = {
  **{shared + name: "attention" for shared in ("", "shared_") for name in ATTENTIONS},
  "wide_mlp": "mlp",
}


def base_part(part: str) -> str:
  """The part that a name is a form of."""
  return VARIANTS.get(part, part)


def cache_name(part: str) -> str:
  """The part whose keys and values a part with attention attends to."""
  return part.removeprefix("shared_")


class Heads(NamedTuple):
  """Key/value heads of a layer."""

  num_kv_heads: int
  head_dim: int


class CacheShape(NamedTuple):
  """Keys, or values, of the layers whose heads are alike."""

  num_layers: int
  num_kv_heads: int
  head_dim: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
  """Everything that decides what a decoder computes; hashable, so `jit` can hold it static.

  Sizes are counts; `model_dim` is D, `num_heads` N, `num_kv_heads` K, `head_dim` H, `mlp_dim` the
  width of the feed-forward hidden layer, `vocab_size` V, `num_layers` L.
  """

  family: str  # a name of `families.FAMILIES`
  vocab_size: int
  model_dim: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  mlp_dim: int
  max_positions: int  # the model's context, in tokens
  norm_eps: float
  tied_head: bool

  ropes: tuple[RopeConfig, ...] = (RopeConfig(),)
  rope_length: int | None = None  # longest text, for ropes that depend on it: `config_for_length`
  layer_rope: tuple[int, ...] = ()  # per layer, an index into `ropes`; empty: all 0
  layer_window: tuple[int, ...] = ()  # per layer, tokens attended to, itself included; empty: all

  layer_recurrent: tuple[int, ...] = ()  # per layer, 1 with `recurrence` for attention; empty: none
  recurrence: str = ""  # one of RECURRENCES, or empty
  conv_width: int = 0  # tokens that its convolution takes together
  conv_bias: bool = False  # on all projections and the filters of short convolutions
  delta_key_heads: int = 0  # of queries and keys
  delta_value_heads: int = 0
  delta_key_dim: int = 0  # width of one head's queries and keys
  delta_value_dim: int = 0

  global_head_dim: int = 0  # of layers without a window, where that differs; see `mixer_of_layers`
  global_kv_heads: int = 0
  global_keys_as_values: bool = False  # these layers' values are their keys, before norm and rope
  shared_kv_layers: int = 0  # last layers, which attend to an earlier one's keys and values
  wide_shared_mlp: bool = False  # their feed-forwards are twice as wide

  activation: str = "silu"  # a name of `hf_config.ACTIVATIONS`
  gated_mlp: bool = True  # down(activation(gate) * up), else down(activation(up))
  num_experts: int = 0  # E; 0: every layer has one feed-forward
  experts_per_token: int = 0
  expert_dim: int = 0  # width of one expert's hidden layer
  shared_expert_dim: int = 0  # of a further one that every token takes, times a gate; 0: none
  experts_beside_mlp: bool = False  # in every layer, with norms of their own (Gemma 4)
  layer_experts: tuple[int, ...] = ()  # per layer, 1 where it has experts; empty: all, if there are
  renormalised_experts: bool = True  # a token's weights of its experts add up to 1
  expert_bias: bool = False  # on the router and on the experts' projections
  glu_limit: float | None = None  # clamps gates, and ups on both sides, of (up + 1) * swish(gate)
  glu_alpha: float = 1.0  # of that swish, gate * sigmoid(alpha * gate)
  qkv_bias: bool = False
  out_bias: bool = False  # on the attention's output projection
  mlp_bias: bool = False
  qk_norm: bool = False  # RMS norm over the head width of queries and keys
  value_norm: bool = False  # RMS norm over the head width of values, without a weight (Gemma 4)
  gated_attention: bool = False  # its output times the sigmoid of a projection (Qwen3-Next)
  attention_sinks: bool = False  # a score a head that no value belongs to (gpt-oss)
  wide_qk_norm: bool = False  # RMS norm over all heads of queries, and of keys, at once (OLMo)
  pre_norms: bool = True  # a norm before attention and before the feed-forward
  post_norms: bool = False  # a norm after attention and after the feed-forward (Gemma, OLMo)
  unit_offset_norm: bool = False  # a norm's weight is stored as its difference from 1 (Gemma)
  scale_embedding: bool = False  # embeddings times sqrt(D) (Gemma)
  per_layer_dim: int = 0  # width of each token's embedding for every layer; 0: none (Gemma 4)
  layer_scalars: bool = False  # a layer's result is multiplied by a number of its own (Gemma 4)
  embedding_multiplier: float = 1.0  # Granite, as the two below
  residual_multiplier: float = 1.0  # of what a layer adds to the residual stream
  logit_divisor: float = 1.0
  attention_scale: float | None = None  # multiplies q.k; None: H ** -0.5
  attention_softcap: float | None = None
  logit_softcap: float | None = None

  def __post_init__(self):
    for field in SIZES:
      check_size(field, getattr(self, field))
    check_positive(self, "norm_eps", "attention_scale", "attention_softcap", "logit_softcap")
    check_positive(self, "glu_limit", "glu_alpha")
    check_positive(self, "embedding_multiplier", "residual_multiplier", "logit_divisor")
    for field in dataclasses.fields(self):
      if field.type is bool and type(getattr(self, field.name)) is not bool:
        raise FieldError(field.name, getattr(self, field.name), "true or false")
    self._check_experts()
    self._check_recurrence()
    self._check_shared()
    for name in ("layer_rope", "layer_window", "layer_experts", "layer_recurrent"):
      value = getattr(self, name)
      if value and len(value) != self.num_layers:
        raise FieldError(name, value, f"{self.num_layers} entries, one a layer")
    for window in self.layer_window:
      check_whole("layer_window", window, 1, FULL_ATTENTION)
    self._check_divisor("num_kv_heads", "num_heads")
    if self.head_dim % 2:
      raise FieldError("head_dim", self.head_dim, "an even number: rope rotates pairs")
    if self.activation == "xielu" and self.gated_mlp:
      raise FieldError("activation", "xielu", "another: this family's feed-forward has a gate")
    if not self.pre_norms and not self.post_norms:
      raise FieldError("pre_norms", False, "norms before or after")
    for index, rope in enumerate(self.ropes):
      self._check_pairs(rope, self.rope_head_dim(index))

  def _check_experts(self) -> None:
    if self.num_experts == 0 and not self.experts_beside_mlp:
      return
    check_whole("num_experts", self.num_experts, 1, 2**14)
    check_whole("experts_per_token", self.experts_per_token, 1, self.num_experts)
    check_whole("expert_dim", self.expert_dim, 1, SIZES["mlp_dim"])
    check_whole("shared_expert_dim", self.shared_expert_dim, 0, SIZES["mlp_dim"])

  def _check_shared(self) -> None:
    """Checks heads that differ from layer to layer."""
    if self.global_head_dim or self.global_kv_heads:
      check_size("head_dim", self.global_head_dim)
      check_size("num_kv_heads", self.global_kv_heads)
    check_whole("shared_kv_layers", self.shared_kv_layers, 0, self.num_layers - 1)
    check_whole("per_layer_dim", self.per_layer_dim, 0, SIZES["model_dim"])
    if self.global_kv_heads:
      self._check_divisor("global_kv_heads", "num_heads")
    if self.global_head_dim % 2:
      raise FieldError("global_head_dim", self.global_head_dim, "an even number")
    mixers = set(self.mixer_of_layers)
    if {cache_name(mixer) for mixer in mixers} - mixers:
      expected = "so few that a layer of each kind has keys and values of its own"
      raise FieldError("shared_kv_layers", self.shared_kv_layers, expected)

  def _check_recurrence(self) -> None:
    if not any(self.layer_recurrent):
      return
    if self.recurrence not in RECURRENCES:
      raise FieldError("recurrence", self.recurrence, f"one of {', '.join(RECURRENCES)}")
    sizes = {"conv_width": "head_dim"}
    if self.recurrence == "delta":
      sizes |= {"delta_key_heads": "num_heads", "delta_value_heads": "num_heads"}
      sizes |= {"delta_key_dim": "head_dim", "delta_value_dim": "head_dim"}
    for name, kind in sizes.items():
      check_whole(name, getattr(self, name), 1, SIZES[kind])
    if self.recurrence == "delta":
      self._check_divisor("delta_key_heads", "delta_value_heads")
    if self.conv_width < 2:
      raise FieldError("conv_width", self.conv_width, "at least 2 tokens")
    if self.activation != "silu":
      raise FieldError("activation", self.activation, "silu: recurrent layers have no other")
    if all(self.layer_recurrent):
      raise FieldError("layer_recurrent", self.layer_recurrent, "a layer with attention")

  def _check_divisor(self, name: str, of: str) -> None:
    if getattr(self, of) % getattr(self, name):
      raise FieldError(name, getattr(self, name), f"a divisor of {of}={getattr(self, of)}")

  def _check_pairs(self, rope: RopeConfig, head_dim: int) -> None:
    width = rope.rotated_width(head_dim)
    if width < 2 or width % 2:
      expected = f"a share of the head width {head_dim} that is an even number of dimensions"
      raise FieldError("rotated_fraction", rope.rotated_fraction, expected)
    for name in ("short_factor", "long_factor"):
      factors = getattr(rope, name)
      if factors and len(factors) != width // 2:
        rotated = f"head width {width}" if width == head_dim else f"rotated width {width}"
        raise FieldError(name, list(factors), f"{width // 2} numbers, one a pair of the {rotated}")

  @property
  def rope_of_layers(self) -> tuple[int, ...]:
    """For each layer, the index of its rope in `ropes`."""
    return self.layer_rope or (0,) * self.num_layers

  @property
  def window_of_layers(self) -> tuple[int, ...]:
    """For each layer, how many tokens a token attends to, itself included."""
    return self.layer_window or (FULL_ATTENTION,) * self.num_layers

  @property
  def kind_of_layers(self) -> tuple[str, ...]:
    """For each layer, the name of its feed-forward: `mlp`, `wide_mlp` or `experts`."""
    alone = bool(self.num_experts) and not self.experts_beside_mlp
    experts = self.layer_experts or (alone,) * self.num_layers
    first_wide = self.num_layers - self.shared_kv_layers * self.wide_shared_mlp
    mlps = ("mlp" if layer < first_wide else "wide_mlp" for layer in range(self.num_layers))
    return tuple("experts" if has else mlp for has, mlp in zip(experts, mlps, strict=True))

  @property
  def mixer_of_layers(self) -> tuple[str, ...]:
    """For each layer, the name of the part where tokens meet: `attention` or `recurrence`.

    Attention is `global_attention` where a layer has no window and `global_head_dim` is set, and
    `shared_` stands before the name where keys and values are an earlier layer's.
    """
    recurrent = self.layer_recurrent or (0,) * self.num_layers
    first_shared = self.num_layers - self.shared_kv_layers
    names = []
    for layer, window in enumerate(self.window_of_layers):
      is_global = self.global_head_dim and window == FULL_ATTENTION
      name = "shared_" * (layer >= first_shared) + "global_" * bool(is_global) + "attention"
      names.append(self.recurrence if recurrent[layer] else name)
    return tuple(names)

  @property
  def conv_channels(self) -> int:
    """Channels of the recurrent layers' convolution."""
    if self.recurrence == "conv":
      return self.model_dim
    of_keys = self.delta_key_heads * self.delta_key_dim
    return 2 * of_keys + self.delta_value_heads * self.delta_value_dim

  @property
  def has_recurrence(self) -> bool:
    """True where some layers have a recurrence in place of attention."""
    return any(self.layer_recurrent)

  @property
  def recurrent_layers(self) -> tuple[int, ...]:
    """Numbers of the layers that have a recurrence in place of attention."""
    return tuple(layer for layer, recurs in enumerate(self.layer_recurrent) if recurs)

  @property
  def parts_of_layers(self) -> tuple[tuple[str, ...], ...]:
    """For each layer, the names of its parts that other layers may lack."""
    mixers, kinds = self.mixer_of_layers, self.kind_of_layers
    if set(mixers) == {"attention"}:
      return tuple((kind,) for kind in kinds)
    return tuple(zip(mixers, kinds, strict=True))

  def layers_with(self, name: str) -> tuple[int, ...]:
    """Numbers of the layers that have a part of this name; all have what is no part of a kind."""
    of_kinds = ["attention", *RECURRENCES, "mlp", *["experts"] * (not self.experts_beside_mlp)]
    if base_part(name) not in of_kinds:
      return tuple(range(self.num_layers))
    parts = zip(self.mixer_of_layers, self.kind_of_layers, strict=True)
    return tuple(layer for layer, of_layer in enumerate(parts) if name in of_layer)

  @property
  def caches(self) -> dict[str, CacheShape]:
    """Names of the arrays of keys and values, which are parts' -> their shapes."""
    names = dict.fromkeys(name for name in self.mixer_of_layers if name in ATTENTIONS)
    return {name: CacheShape(len(self.layers_with(name)), *self.heads(name)) for name in names}

  @property
  def cache_width(self) -> int:
    """Numbers in the keys, or the values, of one position in all caches."""
    return sum(layers * heads * width for layers, heads, width in self.caches.values())

  @property
  def attention_width(self) -> int:
    """Width of the queries of all layers with attention."""
    mixers = [mixer for mixer in self.mixer_of_layers if mixer not in RECURRENCES]
    return sum(self.num_heads * self.heads(mixer).head_dim for mixer in mixers)

  def heads(self, part: str) -> Heads:
    """Key/value heads of a part with attention."""
    if "global_" in part:
      return Heads(self.global_kv_heads, self.global_head_dim)
    return Heads(self.num_kv_heads, self.head_dim)

  def rope_head_dim(self, index: int) -> int:
    """Head width of the layers with a rope."""
    ropes = zip(self.rope_of_layers, self.mixer_of_layers, strict=True)
    return next(
      (self.heads(mixer).head_dim for rope, mixer in ropes if rope == index), self.head_dim
    )

  @property
  def query_scale(self) -> float:
    """Factor of queries before they meet keys."""
    return self.head_dim**-0.5 if self.attention_scale is None else self.attention_scale

  def matmul_params(self, *, head: bool) -> int:
    """Number of weights that every position is multiplied with, without or with the LM head."""
    gates = self.num_heads if self.gated_attention else 0
    of_values = self.delta_value_heads * self.delta_value_dim
    per_width = {
      **{
        name: self._attention_params(name) + gates * self.head_dim
        for name in VARIANTS
        if name != "wide_mlp"
      },
      "delta": 2 * self.delta_key_heads * self.delta_key_dim
      + 3 * of_values
      + 2 * self.delta_value_heads,
      "conv": 4 * self.model_dim,
      "mlp": (3 if self.gated_mlp else 2) * self.mlp_dim,
      "wide_mlp": 6 * self.mlp_dim,
      "experts": 3 * self.experts_per_token * self.expert_dim
      + self.num_experts
      + (3 * self.shared_expert_dim + 1 if self.shared_expert_dim else 0),
    }
    beside = ("experts",) * (self.num_layers if self.experts_beside_mlp else 0)
    parts = (*self.mixer_of_layers, *self.kind_of_layers, *beside)
    layers = self.model_dim * sum(per_width[part] for part in parts)
    layers += 3 * self.model_dim * self.per_layer_dim * self.num_layers
    return layers + (self.vocab_size * self.model_dim if head else 0)

  def _attention_params(self, part: str) -> int:
    """Weights of a part with attention, over the model's width."""
    kv_heads, head_dim = self.heads(part)
    own = 0 if part.startswith("shared_") else 1 if self.takes_keys(part) else 2
    return head_dim * (2 * self.num_heads + own * kv_heads)

  def takes_keys(self, part: str) -> bool:
    """True where a part's values are its keys."""
    return self.global_keys_as_values and "global_" in part
