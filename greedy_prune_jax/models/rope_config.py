"""The rotary position embedding of one kind of layer, as a config describes it."""

import dataclasses

from greedy_prune_jax.models.fields import FieldError, check_positive, check_size

# What each kind of rope must be given beside `theta`.
ROPE_KINDS: dict[str, tuple[str, ...]] = {
  "default": (),
  "linear": ("factor",),
  "dynamic": ("factor",),
  "yarn": ("factor", "original_max_positions"),
  "longrope": ("factor", "original_max_positions", "short_factor", "long_factor"),
  "llama3": ("factor", "original_max_positions", "low_freq_factor", "high_freq_factor"),
  "proportional": (),
  "none": (),
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
  rotated_fraction: float = 1.0  # share of the head width, or for proportional of pairs, rotated
  query_growth: float | None = None  # queries grow with log(1 + position // original_max_positions)

  def __post_init__(self):
    if self.kind not in ROPE_KINDS:
      raise FieldError("kind", self.kind, f"one of {', '.join(ROPE_KINDS)}")
    for name in ROPE_KINDS[self.kind]:
      if not getattr(self, name):
        raise FieldError(name, getattr(self, name), f"a value: rope kind {self.kind} needs one")
    check_positive(self, "theta", "factor", "low_freq_factor", "high_freq_factor", "beta_fast")
    check_positive(self, "beta_slow", "attention_factor", "mscale", "mscale_all_dim")
    check_positive(self, "short_factor", "long_factor", "rotated_fraction", "query_growth")
    if "original_max_positions" in ROPE_KINDS[self.kind] or self.query_growth:
      check_size("max_positions", self.original_max_positions)
    if self.rotated_fraction > 1:
      raise FieldError("rotated_fraction", self.rotated_fraction, "a number up to 1")
    if self.kind in ("yarn", "longrope", "llama3") and self.theta <= 1:
      raise FieldError("theta", self.theta, "a number above 1")
    if self.kind == "llama3" and self.high_freq_factor <= self.low_freq_factor:
      expected = f"a number above low_freq_factor={self.low_freq_factor}"
      raise FieldError("high_freq_factor", self.high_freq_factor, expected)

  def rotated_width(self, head_dim: int) -> int:
    """Dimensions of a head that are rotated; the others lie behind them in every file."""
    if self.kind == "proportional":  # all are, some of them by nothing
      return head_dim
    return int(head_dim * self.rotated_fraction)
