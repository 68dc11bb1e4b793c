"""The optimiser: Optax's, with the schedule of its learning rate."""

import dataclasses

import jax
import optax

from greedy_prune_jax.distill.parameters import decays

OPTIMIZERS = ("adamw", "adafactor")
SCHEDULES = ("cosine", "constant")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
  """Rule by which weights are updated.

  Attributes:
    name: one of `OPTIMIZERS`. Adafactor keeps row and column sums where AdamW keeps two numbers a
      weight.
    learning_rate: highest learning rate.
    schedule: `cosine`: down to `final_fraction` of it, which a step after the last would have;
      `constant`: it stays.
    warmup_steps: over which it rises from nearly 0.
    steps: number of steps of the run.
    final_fraction: last learning rate over the highest; see `schedule`.
    weight_decay: a step takes this times the learning rate off every matrix.
    b1: decay of AdamW's mean.
    b2: decay of AdamW's mean square.
    mu_dtype: dtype of AdamW's mean; empty: that of the weights.
    max_grad_norm: larger gradients are scaled to this norm; 0: none are.
  """

  name: str
  learning_rate: float
  schedule: str
  warmup_steps: int
  steps: int
  final_fraction: float
  weight_decay: float
  b1: float
  b2: float
  max_grad_norm: float
  mu_dtype: str = ""


def learning_rate(config: OptimizerConfig) -> optax.Schedule:
  """The learning rate of each step, counted from 0. No step is wasted on a rate of 0."""
  peak, warmup = config.learning_rate, config.warmup_steps
  if config.schedule == "constant":
    after = optax.constant_schedule(peak)
  else:
    decay_steps = max(config.steps - warmup, 1)
    after = optax.cosine_decay_schedule(peak, decay_steps, config.final_fraction)
  rise = optax.linear_schedule(peak / (warmup + 1), peak, max(warmup, 1))
  return optax.join_schedules([rise, after], [warmup])


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
  """The chain of clipping and the optimiser, over a flat dict of parameters."""
  rate = learning_rate(config)
  if config.name == "adamw":
    update = optax.adamw(
      rate,
      config.b1,
      config.b2,
      mu_dtype=config.mu_dtype or None,
      weight_decay=config.weight_decay,
      mask=_decay_mask,
    )
  else:
    # Its decay is not scaled by the learning rate, so that is done here, to mean the same.
    def decay(count):
      return config.weight_decay * rate(count)

    update = optax.adafactor(
      rate,
      multiply_by_parameter_scale=False,  # the rate is of the step, as AdamW's is
      weight_decay_rate=decay if config.weight_decay else None,
      weight_decay_mask=_decay_mask,
    )
  if not config.max_grad_norm:
    return update
  return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), update)


def _decay_mask(params: dict[str, jax.Array]) -> dict[str, bool]:
  return {name: decays(name) for name in params}
