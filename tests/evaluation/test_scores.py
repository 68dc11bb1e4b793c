"""Tables of an evaluation, from records whose figures are known."""

import pytest

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.evaluation.scores import accuracy_table, outcomes_table, pairs_table, score


def record(question, *samples):
  """Samples are (right, reasoning tokens, cut off)."""
  return {
    "question_id": f"q/{question}",
    "question": f"What is {question}?",
    "samples": [
      {
        "text": "1",
        "correct": right,
        "value": None if cut_off else "1",
        "reasoning_tokens": tokens,
        "finish_reason": "length" if cut_off else "stop",
      }
      for right, tokens, cut_off in samples
    ],
  }


ONE = [record(0, (True, 10, False)), record(1, (False, 50, True)), record(2, (True, 12, False))]
OTHER = [record(0, (False, 3, False)), record(2, (True, 5, False)), record(3, (True, 4, False))]


def test_a_score():
  found = score(ONE)
  assert (found.questions, found.accuracy.share) == (3, pytest.approx(2 / 3))
  assert found.stderr == pytest.approx(1 / 3)
  assert (found.accuracy.low, found.accuracy.high) == pytest.approx((0.2077, 0.9385), abs=1e-4)
  assert (found.mean_tokens, found.median_tokens) == (24, 12)
  assert (found.cut_off, found.unparsed) == (pytest.approx(1 / 3), pytest.approx(1 / 3))


def test_replies_that_think():
  thinking = {"finish_reason": "stop", "value": "1", "text": "1", "reasoning_tokens": 8}
  thinking |= {"correct": True, "num_thinking_tokens": 8, "num_tokens": 11, "thinking_end": "own"}
  unended = thinking | {"correct": False, "value": None, "text": "", "thinking_end": "never"}
  unended |= {"num_tokens": 8, "finish_reason": "length"}
  records = [{"question_id": "q", "question": "1?", "samples": [thinking, unended]}]
  found = score(records)
  assert found.mean_answer_tokens == 3  # one that never comes is no short one
  assert found.never_stopped == 0.5
  counts = dict(
    zip(outcomes_table({"a": records}).columns, outcomes_table({"a": records}).rows[0], strict=True)
  )
  assert (counts["right"], counts["still thinking"], counts["cut off"]) == (1, 1, 0)
  assert sum(count for name, count in counts.items() if name != "model") == 2


def test_samples_of_one_question_are_not_independent():
  samples = [record(i, *[(i == 0, 10, False)] * 10) for i in range(3)]
  found = score(samples)
  assert found.accuracy.share == pytest.approx(1 / 3)
  assert found.stderr == pytest.approx(1 / 3), "over 3 questions, not 30 samples"
  assert found.accuracy.high - found.accuracy.low > 0.7


def test_one_question_has_no_standard_error():
  found = score(ONE[:1])
  assert found.stderr is None
  assert accuracy_table({"a": ONE[:1]}).rows[0][2] is None


def test_pairs_are_made_on_the_questions_that_both_answered():
  (row,) = pairs_table({"one": ONE, "other": OTHER}).rows
  assert row[:3] == ("other", "one", pytest.approx(-1 / 2))
  assert row[6:] == (0, 1, 2)
  assert pairs_table({"one": ONE, "apart": [record(9, (True, 1, False))]}).rows == []


def test_p_values_of_pairs_are_for_all_of_them():
  right = [record(i, (i < 19, 1, False)) for i in range(20)]
  wrong = [record(i, (i > 15, 1, False)) for i in range(20)]
  ((*_, alone, _, _, _),) = pairs_table({"first": right, "second": wrong}).rows
  rows = pairs_table({"first": right, "second": wrong, "third": right, "fourth": right}).rows
  assert rows[0][5] == pytest.approx(3 * alone)
  assert [row[5] for row in rows[1:]] == [1, 1]


def test_different_questions_under_one_id_are_refused():
  changed = [record(0, (True, 1, False)) | {"question": "What else?"}]
  with pytest.raises(UserError, match="other and one cannot be compared: q/0 is another question"):
    pairs_table({"one": ONE, "other": changed})
