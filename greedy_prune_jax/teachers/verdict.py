"""Whether a reply reaches the answer."""

import dataclasses

from greedy_prune_jax.chains.answers import AnswerForm, SplitResponse, split_response


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What a reply's answer is, and whether it is right.

  Attributes:
    split: reasoning and answer; None if no answer is found in the reply, which then is wrong.
    is_correct: whether the answer equals the target.
  """

  split: SplitResponse | None
  is_correct: bool


def judge(response: str, form: AnswerForm, target: str) -> Verdict:
  """Checks a response, as a whole text, against the gold answer."""
  split = split_response(response, form)
  return Verdict(split, split is not None and form.is_right(split.value, target))
