"""Our side of `train_speed`, in a process of its own that never imports PyTorch."""

import dataclasses
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.train_sides import BETAS, LEARNING_RATE, MAX_GRAD_NORM, Task, serve
from greedy_prune_jax.distill.batches import Batch, pack_batch, packed_width
from greedy_prune_jax.distill.examples import Example
from greedy_prune_jax.distill.lora import TARGETS, LoraConfig, init_lora
from greedy_prune_jax.distill.optimizer import OptimizerSettings, make_optimizer
from greedy_prune_jax.distill.parameters import flat_params
from greedy_prune_jax.distill.step import Student, init_state, make_train_step
from greedy_prune_jax.models.decoder import Model

LORA_SEED = 0  # of the adapter that both sides begin with
OPTIMIZER = OptimizerSettings(
  optimizer="adamw",
  learning_rate=LEARNING_RATE,
  schedule="constant",
  warmup_steps=0,
  final_fraction=1.0,
  weight_decay=0.0,
  b1=BETAS[0],
  b2=BETAS[1],
  mu_dtype="",
  max_grad_norm=MAX_GRAD_NORM,
)


@dataclasses.dataclass
class OurStep:
  """Our step, ready to run again and again on one batch.

  Attributes:
    model: the model to train.
    batch: the batch.
    lora: the matrices to train; None: all weights.
    dtype: products' dtype.
    remat: one of `distill.loss.REMAT`.
  """

  model: Model
  batch: Batch
  lora: LoraConfig | None
  dtype: str
  remat: str = "none"

  def __post_init__(self):
    trained, self._frozen = flat_params(self.model.params), {}
    if self.lora is not None:
      trained, self._frozen = init_lora(trained, self.lora, LORA_SEED), trained
    optimizer = make_optimizer(OPTIMIZER, steps=1)
    self._state = init_state(trained, optimizer)
    student = Student(self.model, self.lora, jnp.dtype(self.dtype), self.remat)
    self._step = make_train_step(student, optimizer)
    self._rows = jax.device_put(self.batch.rows)

  def __call__(self) -> tuple[float, float]:
    """Trains a step; the loss before it and the seconds it took."""
    started = time.perf_counter()
    self._state, metrics = self._step(self._state, self._frozen, self._rows)
    jax.block_until_ready(self._state)
    return float(metrics.loss), time.perf_counter() - started


def packed(examples: Sequence[tuple[list[int], int]]) -> Batch:
  """The batch as the `distill` job packs it."""
  made = [Example(f"{i}", np.asarray(ids, np.int32), n) for i, (ids, n) in enumerate(examples)]
  return pack_batch(made, packed_width([len(example) for example in made], len(made)))


def lora_config(rank: int, alpha: float) -> LoraConfig | None:
  """LoRA on all of its targets; None for rank 0."""
  return LoraConfig(rank=rank, alpha=alpha, targets=tuple(TARGETS)) if rank else None


def prepare(task: Task) -> tuple[int, Callable[[], tuple[float, float]]]:
  """Loads the model; see `train_sides.serve`."""
  # Here, so that `on_device` needs neither ml_collections nor gguf.
  from greedy_prune_jax.jobs.entry import keep_compilations
  from greedy_prune_jax.models.pretrained import load_model

  keep_compilations()
  lora, batch = lora_config(task.lora_rank, task.lora_alpha), packed(task.examples)
  # As the job does it: what is trained is float32, what is frozen is only computed with.
  model = load_model(task.model, jnp.dtype("float32" if lora is None else task.dtype))
  return batch.rows.token_ids.size, OurStep(model, batch, lora, task.dtype)


if __name__ == "__main__":
  serve(prepare)
