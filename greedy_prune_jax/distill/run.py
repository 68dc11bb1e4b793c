"""The `distill` run: chains in, a student out; resumable at any step."""

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh
from tqdm import tqdm

from greedy_prune_jax.chains.chat_template import load_chat_template
from greedy_prune_jax.chains.question_sets import split_source
from greedy_prune_jax.distill.batches import (
  Batch,
  packed_width,
  training_batches,
  validation_batches,
)
from greedy_prune_jax.distill.checkpoints import Checkpoints, TrainProgress, saved_steps
from greedy_prune_jax.distill.examples import ExampleSet, make_examples, read_texts
from greedy_prune_jax.distill.export import export_student, load_base
from greedy_prune_jax.distill.lora import init_lora
from greedy_prune_jax.distill.memory import warn_of_memory
from greedy_prune_jax.distill.metrics import MetricsLog, peak_flops, train_step_flops
from greedy_prune_jax.distill.optimizer import learning_rate, make_optimizer
from greedy_prune_jax.distill.parameters import Params, flat_params
from greedy_prune_jax.distill.settings import DistillSettings
from greedy_prune_jax.distill.step import (
  Evaluate,
  StepMetrics,
  Student,
  init_state,
  make_evaluate,
  make_train_step,
)
from greedy_prune_jax.distill.workdir import mark_ended, note_examples
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.models.pretrained import load_tokenizer
from greedy_prune_jax.parallel import (
  DATA,
  MODEL,
  make_mesh,
  named_shardings,
  place,
  place_rows,
  refuse_processes,
  weight_shardings,
)
from greedy_prune_jax.runs.files import explain_os_errors
from greedy_prune_jax.runs.jsonl import JsonlWriter
from greedy_prune_jax.runs.weights import hold_weights


@dataclasses.dataclass(frozen=True)
class TrainResult:
  """End of a run.

  Attributes:
    step: steps done.
    steps: number of steps of the whole run.
    passes: passes over the training chains so far.
    loss: loss of the last step run now, nats per token; None if none was.
    stopped: True where it was asked to stop before its end.
    exported: the Hugging Face folder, if one was written.
  """

  step: int
  steps: int
  passes: float
  loss: float | None
  progress: TrainProgress
  stopped: bool
  exported: Path | None


def run_distill(
  settings: DistillSettings, workdir: Path, should_stop: Callable[[int], bool] = lambda _: False
) -> TrainResult:
  """Trains from the last checkpoint, or from the start, to the end.

  Args:
    workdir: the run's workdir; the caller makes sure that no other process writes there.
    should_stop: asked after each step, which it is given; if it is time, the run saves and returns.

  Raises:
    UserError: something that the settings name cannot be used, or a loss is not finite.
  """
  mesh, first = _mesh(settings), jax.process_index() == 0
  if settings.lora and first:
    hold_weights(workdir, settings.student, begun=bool(saved_steps(workdir)))
  choose = mesh and weight_shardings(mesh, fully_sharded=settings.fully_sharded)
  # Frozen weights are only computed with; trained ones are kept in `dtype`.
  load_dtype = jnp.dtype(settings.compute_dtype if settings.lora else settings.dtype)
  model = load_base(settings, load_dtype, choose)
  examples = read_examples(settings, model)
  steps = settings.num_steps(len(examples.train))
  optimizer = make_optimizer(settings, steps)
  # All at once: asked for one by one, each would wait behind the step that the device is busy with.
  rates = np.asarray(jax.vmap(learning_rate(settings, steps))(jnp.arange(steps)))
  _warn_of_warmup(settings, rates)
  passes_a_step = settings.batch_size / len(examples.train)
  trained, frozen = _divide(model, settings, mesh)
  state = init_state(trained, optimizer, mesh)
  dtype = jnp.dtype(settings.compute_dtype)
  # Keeps no weights. Ropes that depend on the text's length are those of the longest example.
  graph, shapes = model.graph_for(examples.longest), jax.eval_shape(lambda: model.params)
  shapes = dataclasses.replace(model, graph=graph, params=shapes)
  student = Student(shapes, settings.lora, dtype, settings.remat, mesh)
  train_step, evaluate = make_train_step(student, optimizer, state), make_evaluate(student)
  data, held_out = _batches(settings, examples, mesh)

  with Checkpoints(workdir, num_last=settings.keep_checkpoints) as checkpoints:
    progress = TrainProgress(data=None, examples=examples.fingerprint)
    del trained, model
    step, state, saved = checkpoints.restore_last(state)
    if saved is not None:
      if saved.examples not in (None, progress.examples):
        raise UserError(
          f"{settings.chains} has not the examples that {workdir} was begun with; go on with "
          f"those, or choose another workdir"
        )
      progress = dataclasses.replace(saved, examples=progress.examples)
      data.set_state(progress.data)
    if first:  # not before: a refused run leaves the notes of the begun one
      _note(workdir, examples)
    hidden = not (first and settings.show_progress)
    with (
      MetricsLog(workdir, step) as log,
      tqdm(initial=step, total=steps, unit="step", disable=hidden) as bar,
    ):
      report = _Reporter(log, bar, student, rates, passes_a_step)
      begun, stopped = step, should_stop(step)
      while step < steps and not stopped and not _stalled(settings, progress):
        batch = next(data)
        if step == begun:
          warn_of_memory(student, state, frozen, batch)
        state, metrics = train_step(state, frozen, place_rows(batch.rows, mesh, axis=1))
        step += 1
        report.finished()  # of the step before: the device is busy with this one
        report.started(step, batch, metrics)
        stopped = should_stop(step)
        due = step % settings.save_every == 0 or step == steps
        if due or stopped:
          report.finished()  # a state that is not finite is not saved
          loss = _validate(evaluate, state.trained, frozen, held_out, mesh) if due else None
          if loss is not None:
            log.write(step, {"validation_loss": loss})
          progress = progress.after(data.get_state(), step, loss)
          log.check_there()
          checkpoints.save(state, progress)
          report.resumed()
  over = step >= steps or _stalled(settings, progress)
  exported = None
  if over and settings.export != "none":
    chosen = progress.best_step if settings.export == "best" else step
    del state, frozen  # the export needs room for the model again
    exported = export_student(workdir, chosen or step, settings, mesh)
  if over and first:
    mark_ended(workdir, step, progress.best_step)
  passes = step * passes_a_step
  return TrainResult(step, steps, passes, report.loss, progress, not over, exported)


def _warn_of_warmup(settings: DistillSettings, rates: np.ndarray) -> None:
  """Logs a warning where a run ends before its learning rate has risen."""
  if settings.warmup_steps >= len(rates):
    logging.warning(
      "the learning rate rises for warmup_steps=%d and the run has %d steps, so it gets to %.2g, "
      "not learning_rate=%g; set warmup_steps below %d, or take more chains, epochs or steps",
      settings.warmup_steps,
      len(rates),
      rates.max(),
      settings.learning_rate,
      len(rates),
    )


def read_examples(settings: DistillSettings, model: Model) -> ExampleSet:
  """The examples of a run."""
  if split_source(settings.chains) is not None:
    logging.warning(
      "%s: trains on the dataset's own worked solutions; students do better on chains that a "
      "model wrote",
      settings.chains,
    )
  tokenizer = load_tokenizer(settings.student)
  template = load_chat_template(settings.chat_template, tokenizer)
  longest = min(settings.max_length, model.config.max_positions)
  return make_examples(
    read_texts(
      settings.chains,
      settings.keep_ratios,
      num_chains=settings.num_chains,
      seed=settings.seed,
      columns=settings.columns,
    ),
    dataclasses.replace(settings, max_length=longest),
    tokenizer,
    template,
    num_validation=settings.num_validation,
    seed=settings.seed,
  )


def _note(workdir: Path, examples: ExampleSet) -> None:
  """Writes what a run trains on, and in `skipped.jsonl` what it leaves out; logs their number."""
  note_examples(workdir, examples.thinking_form)
  path = workdir / "skipped.jsonl"
  with explain_os_errors(path):
    path.unlink(missing_ok=True)
  if examples.left_out:
    logging.warning("left out %d examples; see %s", len(examples.left_out), path)
    with JsonlWriter(path) as writer:
      for left_out in examples.left_out:
        writer.write(dataclasses.asdict(left_out))


def _mesh(settings: DistillSettings) -> Mesh | None:
  """The mesh of the run, over all processes; None for the only device.

  Raises:
    UserError: there is no such mesh, or of several processes' devices some would stay idle.
  """
  mesh = make_mesh(settings.mesh, jax.devices() if jax.process_count() > 1 else None)
  if mesh.size < jax.device_count():
    refuse_processes(
      f"mesh.data={mesh.shape[DATA]}, mesh.model={mesh.shape[MODEL]} takes {mesh.size} of "
      f"{jax.device_count()} devices; where several processes train, it must take all"
    )
  return mesh if mesh.size > 1 else None


def _divide(model: Model, settings: DistillSettings, mesh: Mesh | None) -> tuple[Params, Params]:
  """Divides parameters into trained and frozen ones."""
  weights = flat_params(model.params)
  if settings.lora is None:
    return weights, {}
  matrices = init_lora(weights, settings.lora, settings.seed)
  if mesh is not None:
    matrices = place(matrices, named_shardings(matrices, mesh))
  return matrices, weights


def _batches(settings: DistillSettings, examples: ExampleSet, mesh: Mesh | None):
  """The input, and the batches of a validation."""
  every = [e for group in examples.train for e in group] + list(examples.validation)
  row_multiple = 1 if mesh is None else mesh.shape[DATA]
  in_part = settings.batch_size // settings.num_parts
  width = packed_width([len(example) for example in every], in_part, row_multiple)
  data = training_batches(
    examples.train,
    batch_size=settings.batch_size,
    width=width,
    seed=settings.seed,
    num_parts=settings.num_parts,
    row_multiple=row_multiple,
  )
  held_out = validation_batches(
    examples.validation,
    batch_size=in_part,
    width=width,
    row_multiple=row_multiple,
  )
  return data, held_out


def _stalled(settings: DistillSettings, progress: TrainProgress) -> bool:
  return bool(settings.patience) and progress.stalled >= settings.patience


def _validate(
  evaluate: Evaluate, trained: Params, frozen: Params, batches: list[Batch], mesh: Mesh | None
) -> float | None:
  """Mean NLL of held-out completions, nats per token; None if there are none."""
  if not batches:
    return None
  sums = [
    float(evaluate(trained, frozen, place_rows(batch.rows, mesh, axis=1))) for batch in batches
  ]
  return math.fsum(sums) / sum(batch.num_scored for batch in batches)


class _Reporter:
  """Reads what a step found once it is there, checks it and writes it down."""

  def __init__(
    self, log: MetricsLog, bar: tqdm, student: Student, rates: np.ndarray, passes_a_step: float
  ):
    self._log, self._bar, self._student, self._rates = log, bar, student, rates
    self._passes_a_step = passes_a_step
    self._pending: tuple[int, Batch, StepMetrics] | None = None
    self._since = time.perf_counter()
    self.loss: float | None = None

  def started(self, step: int, batch: Batch, metrics: StepMetrics) -> None:
    """Takes a step that the device has been given."""
    self._pending = (step, batch, metrics)

  def resumed(self) -> None:
    """Begins the time of the next step: what came since the last one was none."""
    self._since = time.perf_counter()

  def finished(self) -> None:
    """Waits for the step that was started last, if it is not reported yet.

    Raises:
      UserError: its loss, its gradient or its update is not finite.
    """
    if self._pending is None:
      return
    step, batch, metrics = self._pending
    self._pending = None
    loss, norm, update = map(float, metrics)
    now = time.perf_counter()
    seconds, self._since = now - self._since, now
    if not all(map(math.isfinite, (loss, norm, update))):
      raise UserError(
        f"step {step}: the loss is {loss}, the gradient's norm {norm} and the update's {update}, "
        f"on the examples {', '.join(batch.ids)}. Checkpoints before it are whole; try a lower "
        f"learning_rate, more warmup_steps, or compute_dtype=float32 in another workdir"
      )
    student = self._student
    peak = peak_flops(1 if student.mesh is None else student.mesh.size)
    flops = train_step_flops(student.model.config, batch, all_weights=student.lora is None)
    self._log.write(
      step,
      {
        "loss": loss,
        "grad_norm": norm,
        "learning_rate": float(self._rates[step - 1]),
        "passes": step * self._passes_a_step,
        "tokens_per_second": batch.num_tokens / seconds,
        "scored_tokens": batch.num_scored,
        "padding": 1 - batch.num_tokens / batch.rows.token_ids.size,
        "flops_per_second": flops / seconds,
        "utilisation": None if peak is None else flops / seconds / peak,
      },
    )
    self.loss = loss
    self._bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
    self._bar.update()
