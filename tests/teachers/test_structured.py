import json

import pytest

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.teachers import structured
from greedy_prune_jax.teachers.structured import mend_object, read_object, schema_in_words
from greedy_prune_jax.teachers.teacher import ChatPrompt


@pytest.mark.parametrize(
  "text",
  [
    '{"a": {"b": [1, 2]}}',
    'Here it is:\n```json\n{"a": {"b": [1, 2]}}\n```\nAnything else?',
    'Of {sets} and {"small": 1} I take {"a": {"b": [1, 2]}}.',
    'Not {"a": {"b": [1, 2, 3, 4, 5]}}, but {"a": {"b": [1, 2]}}.',
    '{"a": {"b": [1, 2]}} is the answer {"c": "to all"}.',
    '<think>{"a":</think>{"a": {"b": [1, 2]}}',
  ],
)
def test_objects_are_found_among_words(text):
  assert read_object(text, ["a"]) == {"a": {"b": [1, 2]}}


@pytest.mark.parametrize(
  "text",
  [
    '<think>{"steps": ["a draft that is long"]}</think>{"steps": ["x"]}',
    'I try {"steps": ["a draft"]}.</think>\n```json\n{"steps": ["x"]}\n```',
    '<think>First.</think>{"steps": ["x"]}\n<think>But {"steps": ["y"]}',
    '<think>{"steps": ["a draft"]}</think>{"steps": ["x"',
  ],
)
def test_drafts_in_thinking_are_no_reply(text):
  assert mend_object(text, ["steps"]) == {"steps": ["x"]}


def test_thinking_within_a_reply_is_its_text():
  text = '{"steps": ["<think> opens it", "</think> ends it"]}'
  assert mend_object(text, ["steps"]) == json.loads(text)


HOSTILE = ('{"steps":', "{", '{"steps": [{"text": "a", "skill": "x"},', '{"steps": "', '{"a":[')
HOSTILE += ('{"steps":[', '{"steps": /*', '{"steps": (', '{"a":1} ', "<think>", '{"steps": "\\')


@pytest.mark.parametrize("unit", HOSTILE)
def test_replies_that_repeat_a_beginning_are_read_or_refused(unit):
  for size in (16_000, 150_000):
    message = ""
    try:
      assert "steps" in mend_object(unit * (size // len(unit)), ["steps"])
    except UserError as error:
      message = str(error)
    assert len(message) < 300


def test_work_on_a_reply_is_bounded(monkeypatch):
  """The decoder is called no more often than the reply's length allows."""
  calls = []

  class Counting(json.JSONDecoder):
    def raw_decode(self, s, idx=0):
      calls.append(idx)
      return super().raw_decode(s, idx)

  monkeypatch.setattr(structured, "_DECODER", Counting())
  monkeypatch.setattr(structured, "_RECURSION", 1000)
  with pytest.raises(UserError):
    read_object('{"a":' * 100_000)
  assert len(calls) <= 20 * 5 * 100_000 / 1000


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
