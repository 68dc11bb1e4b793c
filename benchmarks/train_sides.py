"""Shared part of both sides of `train_speed`: the task, and messages between processes.

A side is a process that reads JSON lines: first what to train (`Task`), which it answers when it
is ready, then one line for each step, answered by its loss and its time (`Step`).
"""

import dataclasses
import json
import resource
import subprocess
import sys
from collections.abc import Callable

# Of the optimiser, on both sides: AdamW at a constant rate, clipped.
LEARNING_RATE, BETAS, MAX_GRAD_NORM = 1e-4, (0.9, 0.95), 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """Training to time: the model and its examples.

  Attributes:
    model: a Hugging Face folder.
    adapter: a folder with a PEFT adapter to begin with; empty: all weights are trained.
    lora_rank: the adapter's rank; 0 without one.
    lora_alpha: the adapter's alpha.
    dtype: products' dtype; trained weights are kept in float32.
    examples: every step's batch: token ids, and the number of prompt tokens.
  """

  model: str
  adapter: str
  lora_rank: int
  lora_alpha: float
  dtype: str
  examples: list[tuple[list[int], int]]


@dataclasses.dataclass(frozen=True)
class Step:
  """Measures of a step: the loss before it, nats per token, and its seconds."""

  loss: float
  seconds: float
  memory: float  # GB that the process took at most so far


class Side:
  """One side's process, as the benchmark sees it; a context manager."""

  def __init__(self, module: str, task: Task):
    command = [sys.executable, "-m", module]
    self._process = subprocess.Popen(
      command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    self.positions = self._ask(dataclasses.asdict(task))["positions"]  # with padding

  def __enter__(self) -> "Side":
    return self

  def __exit__(self, *_) -> None:
    self._process.communicate()

  def step(self) -> Step:
    """Trains one step."""
    return Step(**self._ask({}))

  def _ask(self, message: dict) -> dict:
    assert self._process.stdin is not None
    assert self._process.stdout is not None
    self._process.stdin.write(json.dumps(message) + "\n")
    self._process.stdin.flush()
    line = self._process.stdout.readline()
    if not line:
      raise SystemExit(f"{self._process.args} failed; its messages stand above")
    return json.loads(line)


def serve(prepare: Callable[[Task], tuple[int, Callable[[], tuple[float, float]]]]) -> None:
  """Runs a side.

  Args:
    prepare: takes the task; returns positions of the batch with padding, and what trains a step and
      returns its loss and seconds.
  """
  positions, train = prepare(Task(**json.loads(sys.stdin.readline())))
  print(json.dumps({"positions": positions}), flush=True)
  for _ in sys.stdin:
    loss, seconds = train()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps(dataclasses.asdict(Step(loss, seconds, memory))), flush=True)
