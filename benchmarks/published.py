"""The published procedure of greedy pruning, by transformers in PyTorch: the other side to time."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from greedy_prune_jax.chains.segments import Segments
from greedy_prune_jax.scoring.objectives import Objective

_BATCH = 8  # candidates in one call: larger ones were no faster on 2 cores


class Published:
  """The published procedure: one full forward pass for each candidate.

  Attributes:
    model: a model of transformers, on its device.
    batch: candidates in one call.
  """

  def __init__(self, model: Any, batch: int = _BATCH):
    self.model, self.batch = model, batch

  @torch.no_grad()
  def nlls(self, segments: Segments, reasonings: np.ndarray, objective: Objective) -> np.ndarray:
    """The objective for each of several reasonings of one length, [C, n] -> [C]."""
    found = []
    scored = len(segments.answer) + (reasonings.shape[1] if objective == "joint" else 0)
    for start in range(0, len(reasonings), self.batch):
      part = reasonings[start : start + self.batch]
      texts = [np.tile(x, (len(part), 1)) for x in (segments.prompt, segments.answer)]
      ids = np.concatenate([texts[0], part, texts[1]], axis=1)
      ids = torch.tensor(ids, dtype=torch.long, device=self.model.device)
      hidden = self.model.model(ids, use_cache=False).last_hidden_state[:, -scored - 1 : -1]
      for states, targets in zip(hidden, ids[:, -scored:], strict=True):
        logits = self.model.lm_head(states).float()
        log_probs = logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(-1)
        found.append(-log_probs.mean())
    return torch.stack(found).cpu().numpy()

  def delete(
    self,
    segments: Segments,
    objective: Objective,
    deletions: int,
    most: int,
    gone: Sequence[int] = (),
  ) -> tuple[list[int], float]:
    """Positions deleted after those that are gone, and the seconds it took.

    With `most` above 0 only so many candidates of a step are run, evenly spread; the seconds are
    scaled up to all of them, and the deleted positions mean nothing.
    """
    kept = [i for i in range(len(segments.reasoning)) if i not in gone]
    deleted, seconds = [], 0.0
    for _ in range(deletions):
      candidates = np.arange(len(kept))
      if 0 < most < len(kept):
        candidates = np.linspace(0, len(kept) - 1, most).astype(int)
      without = np.stack([np.delete(segments.reasoning[kept], i) for i in candidates])
      started = time.perf_counter()
      scores = self.nlls(segments, without, objective)
      seconds += (time.perf_counter() - started) * len(kept) / len(candidates)
      deleted.append(kept.pop(int(candidates[np.argmin(scores)])))
    return deleted, seconds
