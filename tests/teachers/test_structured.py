import pytest

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.teachers.structured import mend_object, read_object, schema_in_words
from greedy_prune_jax.teachers.teacher import ChatPrompt


@pytest.mark.parametrize(
  "text",
  [
    '{"a": {"b": [1, 2]}}',
    'Here it is:\n```json\n{"a": {"b": [1, 2]}}\n```\nAnything else?',
    'Of {sets} and {"small": 1} I take {"a": {"b": [1, 2]}}.',
    '<think>{"a":</think>{"a": {"b": [1, 2]}}',
  ],
)
def test_objects_are_found_among_words(text):
  assert read_object(text) == {"a": {"b": [1, 2]}}


@pytest.mark.parametrize("text", ["", "[1, 2]", '{"a": ', "no {braces} here" * 9])
def test_a_reply_without_one_is_quoted(text):
  with pytest.raises(UserError, match="no JSON object is in the reply"):
    read_object(text)


def test_a_schema_is_put_into_words_beside_what_was_asked():
  prompt = ChatPrompt(id="p", question="q", schema={"type": "object"})
  assert schema_in_words(prompt).system.endswith('\n{"type": "object"}')
  assert schema_in_words(ChatPrompt(id="p", question="q")).system is None


def test_half_of_a_surrogate_pair_is_refused():
  with pytest.raises(UserError, match="half of a surrogate pair"):
    mend_object('{"text": "so \\ud835 is 5"}', ["text"])
  assert mend_object('{"text": "\\ud83d\\ude00"}', ["text"]) == {"text": "\N{GRINNING FACE}"}
