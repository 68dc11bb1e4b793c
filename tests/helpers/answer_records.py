"""Records of `evaluate` runs, whole as such a run writes them."""

from typing import Any

SAMPLE = {
  "text": "so 4",
  "reasoning": "so ",
  "answer": "4",
  "value": "4",
  "correct": True,
  "finish_reason": "stop",
  "num_tokens": 3,
  "thinking": None,
  "num_thinking_tokens": None,
  "reasoning_tokens": 2,
}


def answer_record(question_id: str, *samples: dict[str, Any], **changes: Any) -> dict[str, Any]:
  """A question with its samples, each given by the keys in which it differs from `SAMPLE`."""
  return {
    "id": question_id,
    "run": "m",
    "model": "m",
    "place": "/m",
    "step": None,
    "keep_ratio": None,
    "question_id": question_id,
    "question": "2 + 2?",
    "target": "4",
    "samples": [SAMPLE | sample for sample in samples or ({},)],
    "weights": None,
  } | changes
