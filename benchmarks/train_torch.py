"""PyTorch's side of `train_speed`: the step as a careful user of PyTorch writes it."""

import time
from collections.abc import Callable
from typing import Any

import peft
import torch
import transformers

from benchmarks.train_sides import BETAS, LEARNING_RATE, MAX_GRAD_NORM, Task, serve


def prepare(task: Task) -> tuple[int, Callable[[], tuple[float, float]]]:
  """Loads the model; see `train_sides.serve`."""
  # Any: pyright does not see the methods that transformers mixes in.
  model: Any = transformers.AutoModelForCausalLM.from_pretrained(task.model, dtype=torch.float32)
  body, head = model.model, model.lm_head
  if task.adapter:
    peft.PeftModel.from_pretrained(model, task.adapter, is_trainable=True)  # adapts it in place
  model.train()
  trained = [p for p in model.parameters() if p.requires_grad]
  optimizer = torch.optim.AdamW(
    trained, LEARNING_RATE, BETAS, eps=1e-8, weight_decay=0.0, fused=True
  )
  ids, scored, targets = _padded(task.examples)

  def train() -> tuple[float, float]:
    started = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=task.dtype == "bfloat16"):
      # Behind a text nothing is masked: causal attention never looks there.
      hidden = body(ids, use_cache=False).last_hidden_state
      logits = head(hidden[scored])
    loss = torch.nn.functional.cross_entropy(logits.float(), targets)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, MAX_GRAD_NORM)
    optimizer.step()
    return loss.item(), time.perf_counter() - started

  return ids.numel(), train


def _padded(examples: list[tuple[list[int], int]]) -> tuple[torch.Tensor, ...]:
  """A batch padded on the right, which of its positions are scored, and their next tokens."""
  width = max(len(ids) for ids, _ in examples)
  ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in examples])
  scored = torch.zeros_like(ids, dtype=torch.bool)
  for row, (tokens, num_prompt) in enumerate(examples):
    scored[row, num_prompt - 1 : len(tokens) - 1] = True
  return ids, scored, ids.roll(-1, dims=1)[scored]


if __name__ == "__main__":
  serve(prepare)
