"""The optimiser: Optax's, with the schedule of its learning rate."""

import dataclasses

import jax
import optax

from greedy_prune_jax.distill.parameters import decays
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.settings import DTYPES, JobSettings, check_choice, check_least

OPTIMIZERS = ("adamw", "adafactor")
SCHEDULES = ("cosine", "constant")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSettings(JobSettings):
  """The rule by which weights are updated.

  Adafactor keeps row and column sums where AdamW keeps two numbers a weight.
  """

  optimizer: str
  learning_rate: float
  schedule: str
  warmup_steps: int
  final_fraction: float
  weight_decay: float
  b1: float
  b2: float
  mu_dtype: str
  max_grad_norm: float

  def __post_init__(self):
    super().__post_init__()
    check_choice("optimizer", self.optimizer, OPTIMIZERS)
    if self.mu_dtype:
      check_choice("mu_dtype", self.mu_dtype, DTYPES)
      if self.optimizer != "adamw":
        raise UserError(
          f"mu_dtype={self.mu_dtype}, but {self.optimizer} keeps no mean; set it to ''"
        )
    check_choice("schedule", self.schedule, SCHEDULES)
    check_least(self, 0, "warmup_steps", "weight_decay", "max_grad_norm")
    if not self.learning_rate > 0:
      raise UserError(f"learning_rate={self.learning_rate}; expected a number above 0")
    if not 0 <= self.final_fraction <= 1:
      raise UserError(f"final_fraction={self.final_fraction}; expected a number from 0 to 1")
    for name in ("b1", "b2"):
      if not 0 <= getattr(self, name) < 1:
        raise UserError(f"{name}={getattr(self, name)}; expected a number from 0 to below 1")


def learning_rate(settings: OptimizerSettings, steps: int) -> optax.Schedule:
  """The learning rate of each step, counted from 0. No step is wasted on a rate of 0.

  The cosine would reach its last rate in the step after the last.
  """
  peak, warmup = settings.learning_rate, settings.warmup_steps
  if settings.schedule == "constant":
    after = optax.constant_schedule(peak)
  else:
    decay_steps = max(steps - warmup, 1)
    after = optax.cosine_decay_schedule(peak, decay_steps, settings.final_fraction)
  rise = optax.linear_schedule(peak / (warmup + 1), peak, max(warmup, 1))
  return optax.join_schedules([rise, after], [warmup])


def make_optimizer(settings: OptimizerSettings, steps: int) -> optax.GradientTransformation:
  """The chain of clipping and the optimiser, for so many steps, over a flat dict of parameters."""
  rate = learning_rate(settings, steps)
  if settings.optimizer == "adamw":
    update = optax.adamw(
      rate,
      settings.b1,
      settings.b2,
      mu_dtype=settings.mu_dtype or None,
      weight_decay=settings.weight_decay,
      mask=_decay_mask,
    )
  else:
    # Its decay is not scaled by the learning rate, so that is done here, to mean the same.
    def decay(count):
      return settings.weight_decay * rate(count)

    update = optax.adafactor(
      rate,
      multiply_by_parameter_scale=False,  # the rate is of the step, as AdamW's is
      weight_decay_rate=decay if settings.weight_decay else None,
      weight_decay_mask=_decay_mask,
    )
  if not settings.max_grad_norm:
    return update
  return optax.chain(optax.clip_by_global_norm(settings.max_grad_norm), update)


def _decay_mask(params: dict[str, jax.Array]) -> dict[str, bool]:
  return {name: decays(name) for name in params}
