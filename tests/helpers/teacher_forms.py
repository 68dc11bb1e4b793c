"""Replies of a teacher to the three stages, good and bad, as a chat server gives them."""

import json
import re
from typing import Any

from tests.helpers.chat_server import Answer, completion, refusal

REASONING = (
  "Natalia sold 48 clips in April. In May she sold half as many, so 48 / 2 = 24 clips. "
  "Let me check: 24 * 2 = 48. Altogether she sold 48 + 24 = 72 clips.\n"
)
STEPS = (
  ("Natalia sold 48 clips in April. ", "reading a quantity"),
  ("In May she sold half as many, so 48 / 2 = 24 clips. ", "division"),
  ("Let me check: 24 * 2 = 48. ", "checking"),
  ("Altogether she sold 48 + 24 = 72 clips.", "addition"),
)
EDITS = (
  ([1, 2], "merge", "48 in April, half of it in May: 48 / 2 = 24. "),
  ([3], "delete", ""),
  ([4], "shorten", "Altogether 48 + 24 = 72."),
)
WRITTEN = "48 in April, half of it in May: 48 / 2 = 24. Altogether 48 + 24 = 72."
ANSWER = '{"answer": "72"}'


def chain(number: int, **changes: Any) -> dict[str, Any]:
  """A chain that is told by its number in the question."""
  return {
    "id": f"chain {number}",
    "question": f"How many clips did Natalia sell? ({number})",
    "reasoning": REASONING,
    "answer": ANSWER,
  } | changes


def steps(texts=STEPS) -> str:
  return json.dumps({"steps": [{"text": text, "skill": skill} for text, skill in texts]})


def edits(items=EDITS) -> str:
  return json.dumps(
    {"edits": [{"steps": s, "action": action, "text": text} for s, action, text in items]}
  )


def written(text=WRITTEN, answer=ANSWER) -> str:
  return json.dumps({"chain": f"{text}\n{answer}"})


GOOD = {"decompose": steps(), "edit": edits(), "write": written()}

# What the stages must refuse, by the reason for which they do.
BAD = {
  ("decompose", "text_left_out"): steps((*STEPS[:2], STEPS[3])),
  ("decompose", "text_changed"): steps((("Natalie bought 84 pins. ", STEPS[0][1]), *STEPS[1:])),
  ("decompose", "unknown_skill"): steps(((STEPS[0][0], "juggling"), *STEPS[1:])),
  ("decompose", "not_json"): "Here are the steps: first April, then May.",
  ("decompose", "bad_form"): json.dumps({"steps": [{"text": 5, "skill": "addition"}]}),
  ("edit", "unknown_action"): edits((*EDITS[:2], ([4], "rewrite", "72."))),
  ("edit", "steps_not_covered"): edits(EDITS[:2]),
  ("edit", "not_shorter"): edits((*EDITS[:2], ([4], "shorten", STEPS[3][0] + " And so on."))),
  ("edit", "nothing_left"): edits([([i], "delete", "") for i in range(1, 5)]),
  ("edit", "bad_form"): edits((([1, 2], "shorten", "48 and 24."), *EDITS[1:])),
  ("write", "not_shorter"): written(text=REASONING + " That is all."),
  ("write", "answer_changed"): written(answer='{"answer": "70"}'),
  ("write", "no_answer"): written(answer=""),
  ("write", "bad_form"): '{"chain": "48 \\times 2\\n{\\"answer\\": \\"72\\"}"}',
  ("write", "nothing_left"): written(text="**"),
  ("write", "not_json"): GOOD["write"][:1],
}
# Half a JSON: a parser that mends it finds what is there, and the checks what is not.
HALF = {stage: reply[: len(reply) // 2] for stage, reply in GOOD.items()}


def stage_of(request: dict[str, Any]) -> str:
  asked = request["messages"][-1]["content"]
  openings = {"Split a": "decompose", "Decide ": "edit", "Write a": "write"}
  return openings[asked[:7]]


def number_of(request: dict[str, Any]) -> int:
  """Of the chain that a request is about."""
  found = re.search(r"sell\? \((\d+)\)", request["messages"][-1]["content"])
  assert found is not None
  return int(found[1])


def complaint_of(request: dict[str, Any]) -> str | None:
  asked = request["messages"][-1]["content"]
  _, found, complaint = asked.partition("Your last reply could not be used: ")
  return complaint if found else None


def good(request: dict[str, Any], count: int) -> Answer:
  return completion(GOOD[stage_of(request)])


RATE_LIMIT = refusal(429, "slow down", Retry_After="0.01")
