"""The oracle of every search: delete, lay the text out anew, run a full forward pass.

Written with transformers and PyTorch, one model call for all candidates of a step.
"""

import dataclasses

import numpy as np
import torch
import transformers

from greedy_prune_jax.chains.segments import Segments


@dataclasses.dataclass
class FullPassPath:
  """Deleted original positions, and the NLLs after each number of deleted units."""

  deleted: list[int]
  joint: list[float]
  answer: list[float]
  gaps: list[float]  # how far the second best candidate was behind, at each step


def random_segments(seed: int, vocab_size: int, lengths: tuple[int, int, int]) -> Segments:
  """Random prompt, reasoning and answer; the reasoning has equal neighbours."""
  generator = np.random.default_rng(seed)
  prompt, reasoning, answer = (
    generator.integers(0, vocab_size, length).astype(np.int32) for length in lengths
  )
  repeat = len(reasoning) // 3
  reasoning[repeat + 1 : repeat + 3] = reasoning[repeat]
  return Segments(prompt, reasoning, answer)


def full_pass_nlls(
  model: transformers.PreTrainedModel, segments: Segments, reasonings: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Joint and answer NLLs, nats per token, of candidates [C, n] in place of the reasoning."""
  count = len(reasonings)
  texts = [np.tile(segments.prompt, (count, 1)), reasonings, np.tile(segments.answer, (count, 1))]
  ids = torch.tensor(np.concatenate(texts, axis=1), dtype=torch.long)
  with torch.no_grad():
    log_probs = model(ids, use_cache=False).logits.float().log_softmax(-1)
  picked = log_probs[:, :-1].gather(-1, ids[:, 1:, None])[..., 0].double().numpy()
  scored = picked[:, len(segments.prompt) - 1 :]
  return -scored.mean(1), -scored[:, -len(segments.answer) :].mean(1)


def full_pass_search(
  model: transformers.PreTrainedModel,
  segments: Segments,
  objective: str,
  floor: int,
  unit_sizes: tuple[int, ...] | None = None,
) -> FullPassPath:
  """Greedy search as published: every candidate of every step by a full forward pass."""
  stops = np.cumsum(unit_sizes or (1,) * len(segments.reasoning))
  units = [list(range(start, stop)) for start, stop in zip([0, *stops[:-1]], stops, strict=True)]
  path = FullPassPath([], [], [], [])

  def reasoning(units):
    return segments.reasoning[[position for unit in units for position in unit]]

  def record():
    joint, answer = full_pass_nlls(model, segments, reasoning(units)[None])
    path.joint.append(float(joint[0]))
    path.answer.append(float(answer[0]))

  record()
  while sum(map(len, units)) > floor:
    candidates = [reasoning(units[:unit] + units[unit + 1 :]) for unit in range(len(units))]
    # Units differ in length: run those of one length together.
    scores = np.empty(len(units))
    for length in {len(candidate) for candidate in candidates}:
      which = [i for i, candidate in enumerate(candidates) if len(candidate) == length]
      nlls = full_pass_nlls(model, segments, np.stack([candidates[i] for i in which]))
      scores[which] = nlls[0 if objective == "joint" else 1]
    # What differs by rounding alone is a tie: the same text twice. The lower position goes.
    best = int(np.flatnonzero(scores < scores.min() + 1e-6)[0])
    behind = scores[scores > scores[best] + 1e-6]
    path.gaps.append(float(behind.min() - scores[best]) if len(behind) else np.inf)
    path.deleted.extend(units.pop(best))
    record()
  return path
