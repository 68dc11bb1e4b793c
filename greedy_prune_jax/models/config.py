"""The shape and the switches of a decoder, independent of the file that it was read from."""

import dataclasses

# A layer with this window attends to everything: no supported context reaches it.
FULL_ATTENTION = 2**30

# What each kind of rope must be given beside `theta`.
ROPE_KINDS: dict[str, tuple[str, ...]] = {
  "default": (),
  "linear": ("factor",),
  "dynamic": ("factor",),
  "yarn": ("factor", "original_max_positions"),
  "longrope": ("factor", "original_max_positions", "short_factor", "long_factor"),
  "llama3": ("factor", "original_max_positions", "low_freq_factor", "high_freq_factor"),
  "proportional": (),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeConfig:
  """Rotary position embedding of one kind of layer.

  `kind` and the fields below it are those of the Hugging Face `rope_parameters` (formerly
  `rope_scaling`) dictionary; see `greedy_prune_jax.models.rope` for what each kind computes.
  """

  theta: float = 10_000.0  # base of the geometric series of wavelengths
  kind: str = "default"  # one of ROPE_KINDS
  factor: float = 1.0  # how many times longer texts may get
  original_max_positions: int = 0  # context before it was made longer, in tokens
  low_freq_factor: float = 1.0  # llama3
  high_freq_factor: float = 4.0  # llama3
  attention_factor: float | None = None  # yarn, longrope; None: derived from `factor`
  beta_fast: float = 32.0  # yarn
  beta_slow: float = 1.0  # yarn
  mscale: float | None = None  # yarn
  mscale_all_dim: float | None = None  # yarn
  truncate: bool = True  # yarn
  short_factor: tuple[float, ...] = ()  # longrope: a divisor for each pair
  long_factor: tuple[float, ...] = ()  # longrope: those of longer texts
  rotated_fraction: float = 1.0  # proportional: share of the pairs that is rotated

  def __post_init__(self):
    if self.kind not in ROPE_KINDS:
      raise ValueError(f"unknown rope kind {self.kind!r}; known are {', '.join(ROPE_KINDS)}")
    for name in ROPE_KINDS[self.kind]:
      if not getattr(self, name):
        raise ValueError(f"rope kind {self.kind!r} needs {name}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
  """Everything that decides what a decoder computes; hashable, so `jit` can hold it static.

  Sizes are counts; `model_dim` is D, `num_heads` N, `num_kv_heads` K, `head_dim` H, `mlp_dim` the
  width of the feed-forward hidden layer, `vocab_size` V, `num_layers` L.
  """

  family: str  # the Hugging Face model_type: llama, mistral, qwen2, qwen3, gemma2, gemma3_text
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
  layer_rope: tuple[int, ...] = ()  # per layer, an index into `ropes`; empty: all 0
  layer_window: tuple[int, ...] = ()  # per layer, tokens attended to, itself included; empty: all

  activation: str = "silu"  # silu, gelu_tanh, gelu
  qkv_bias: bool = False
  out_bias: bool = False  # on the attention's output projection
  mlp_bias: bool = False
  qk_norm: bool = False  # RMS norm over the head width of queries and keys
  post_norms: bool = False  # a norm after attention and after the feed-forward (Gemma)
  unit_offset_norm: bool = False  # a norm's weight is stored as its difference from 1 (Gemma)
  scale_embedding: bool = False  # embeddings times sqrt(D) (Gemma)
  attention_scale: float | None = None  # multiplies q.k; None: H ** -0.5
  attention_softcap: float | None = None
  logit_softcap: float | None = None

  def __post_init__(self):
    for name in ("layer_rope", "layer_window"):
      value = getattr(self, name)
      if value and len(value) != self.num_layers:
        raise ValueError(f"{name} has {len(value)} entries for {self.num_layers} layers")
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f"num_heads={self.num_heads} is not a multiple of num_kv_heads={self.num_kv_heads}"
      )

  @property
  def rope_of_layers(self) -> tuple[int, ...]:
    """For each layer, the index of its rope in `ropes`."""
    return self.layer_rope or (0,) * self.num_layers

  @property
  def window_of_layers(self) -> tuple[int, ...]:
    """For each layer, how many tokens a token attends to, itself included."""
    return self.layer_window or (FULL_ATTENTION,) * self.num_layers

  @property
  def query_scale(self) -> float:
    """What queries are multiplied with before they meet keys."""
    return self.head_dim**-0.5 if self.attention_scale is None else self.attention_scale

  def matmul_params(self, *, head: bool) -> int:
    """Number of weights that every position is multiplied with, without or with the LM head."""
    attention = self.model_dim * self.head_dim * 2 * (self.num_heads + self.num_kv_heads)
    per_layer = attention + 3 * self.model_dim * self.mlp_dim
    return self.num_layers * per_layer + (self.vocab_size * self.model_dim if head else 0)
