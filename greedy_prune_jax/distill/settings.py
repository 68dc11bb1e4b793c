"""The settings of a `distill` run, checked before anything is loaded."""

import dataclasses

from greedy_prune_jax.chains.settings import ChainSettings
from greedy_prune_jax.distill.examples import ExampleSettings
from greedy_prune_jax.distill.lora import TARGETS, LoraConfig
from greedy_prune_jax.distill.loss import REMAT
from greedy_prune_jax.distill.optimizer import OptimizerSettings
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.scratch import RandomInit
from greedy_prune_jax.models.settings import ModelSettings
from greedy_prune_jax.runs.settings import DTYPES, MOST, check_choice, check_least

EXPORTS = ("none", "last", "best")

# What a later run in the same workdir may set differently: nothing here changes what is learned,
# but for rounding.
MAY_CHANGE = (
  "mesh.data",
  "mesh.model",
  "fully_sharded",
  "remat",
  "num_parts",
  "keep_checkpoints",
  "export",
  "show_progress",
  "compilation_cache",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillSettings(ChainSettings, ModelSettings, ExampleSettings, OptimizerSettings):
  """Settings of `configs/distill.py`, which explains each."""

  config_file = "configs/distill.py"

  num_validation: int
  student: str
  init: str
  compute_dtype: str
  lora_rank: int
  lora_alpha: float
  lora_targets: tuple[str, ...]
  steps: int
  epochs: float
  num_parts: int
  save_every: int
  keep_checkpoints: int
  patience: int
  export: str
  fully_sharded: bool
  remat: str
  show_progress: bool

  def __post_init__(self):
    super().__post_init__()
    check_choice("compute_dtype", self.compute_dtype, DTYPES)
    check_choice("export", self.export, EXPORTS)
    check_choice("remat", self.remat, tuple(REMAT))
    check_least(self, 0, "num_validation", "lora_rank", "steps", "epochs", "patience")
    check_least(self, 1, "batch_size", "num_parts", "save_every", "keep_checkpoints")
    if self.init:
      RandomInit.parse(self.init)
      if self.lora_rank:
        raise UserError(
          f"init={self.init} with lora_rank={self.lora_rank}: LoRA's matrices are added to weights "
          "that know something; set lora_rank=0"
        )
    self._check_sizes()

  def _check_sizes(self) -> None:
    if bool(self.steps) == bool(self.epochs):
      raise UserError(
        f"steps={self.steps}, epochs={self.epochs}; set one of them, and the other to 0"
      )
    if self.batch_size % self.num_parts:
      raise UserError(
        f"batch_size={self.batch_size} is not a multiple of num_parts={self.num_parts}, over "
        f"which its gradients are accumulated"
      )
    if not self.lora_rank and self.dtype == "bfloat16":
      raise UserError(
        "dtype=bfloat16 with lora_rank=0: most updates are too small to change a weight that is "
        "kept in bfloat16; set dtype=float32, and compute_dtype=bfloat16 for fast products"
      )
    if self.lora_rank and not self.lora_targets:
      raise UserError(f"lora_targets is empty; expected some of {', '.join(TARGETS)}")
    for target in self.lora_targets:
      check_choice("lora_targets", target, tuple(TARGETS))
    if not self.num_validation and (self.patience or self.export == "best"):
      raise UserError(
        f"num_validation=0, but patience={self.patience} and export={self.export} go by the "
        f"validation loss; hold some chains out, or set patience=0 and export=last"
      )

  @property
  def lora(self) -> LoraConfig | None:
    """LoRA's part; None where all weights are trained."""
    if not self.lora_rank:
      return None
    return LoraConfig(rank=self.lora_rank, alpha=self.lora_alpha, targets=self.lora_targets)

  def num_steps(self, num_chains: int) -> int:
    """Steps of the run, on so many training chains; a UserError for more than any run takes.

    Epochs are rounded to whole steps, one at least.
    """
    steps = self.steps or self.epochs * num_chains / self.batch_size
    if steps > MOST["steps"]:
      most = MOST["steps"]
      raise UserError(f"epochs={self.epochs} are {steps:.3g} steps; expected at most {most}")
    return max(1, round(steps))
