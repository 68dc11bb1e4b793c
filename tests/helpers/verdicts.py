"""Verdicts of whole replies, by question set."""

from greedy_prune_jax.chains.answers import BOXED, LETTER, NUMBER, split_response

FORMS = {"gsm8k": NUMBER, "math": BOXED, "mmlu_pro": LETTER}


def right(questions: str, reply: str, target: str) -> bool:
  """Tells whether a reply's answer is the target."""
  form = FORMS[questions]
  split = split_response(reply, form)
  return split is not None and form.is_right(split.value, target)
