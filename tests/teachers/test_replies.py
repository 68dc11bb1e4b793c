"""Warnings of the models that an endpoint says wrote a workdir's replies."""

import pytest

from greedy_prune_jax.teachers.replies import watch_served
from greedy_prune_jax.teachers.teacher import Reply


@pytest.mark.parametrize(
  ("models", "num_warnings"),
  [
    ([None, "m", None, "m"], 0),
    (["gpt-4o", "gpt-4o-2024-05-13", "gpt-4o"], 0),
    (["gpt-4-0613", "gpt-4"], 0),
    (["c@20250929", "c"], 0),
    (["gpt-4o", "gpt-4o-2024-05-13", "gpt-4o-2024-08-06", "gpt-4o-2024-05-13"], 1),
    (["gpt-4", "gpt-4.1"], 1),
    (["c-4", "c-4-5", "c-4"], 1),
    (["a", "b", "a", "c", "b"], 2),
  ],
)
def test_a_change_of_the_model_is_warned_of_once(models, num_warnings, caplog):
  replies = [Reply(id="x", text="", finish_reason="stop", served=model) for model in models]
  assert list(watch_served(replies, set())) == replies
  assert caplog.text.count("it may serve another model now") == num_warnings


def test_a_reply_of_former_versions_has_no_model():
  record = Reply(id="x", text="", finish_reason="stop").to_record()
  del record["served"]
  assert Reply.from_record(record).served is None
