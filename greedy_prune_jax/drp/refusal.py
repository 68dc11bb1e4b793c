"""What can be wrong with a teacher's reply."""

# By these names refused replies are counted.
REASONS = (
  "cut_off",  # longer than max_new_tokens
  "not_json",
  "bad_form",  # JSON, but not of the form asked for
  "unknown_skill",
  "unknown_action",
  "text_left_out",  # steps that skip a part of the chain
  "text_changed",  # steps that are not the chain's text
  "steps_not_covered",  # edits that skip, repeat or reorder steps
  "not_shorter",  # a new text that is no shorter than what it replaces
  "nothing_left",
  "no_answer",
  "answer_changed",
)


class RefusedReplyError(Exception):
  """A reply fails a check.

  Attributes:
    reason: one of `REASONS`.
    complaint: what was wrong, as the teacher is told.
  """

  def __init__(self, reason: str, complaint: str):
    super().__init__(f"{reason}: {complaint}")
    assert reason in REASONS
    self.reason = reason
    self.complaint = complaint
