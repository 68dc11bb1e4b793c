import json

import pytest

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.teachers import structured
from greedy_prune_jax.teachers.structured import mend_object, read_object, schema_in_words
from greedy_prune_jax.teachers.teacher import ChatPrompt


def schema_of(**properties):
  return {"type": "object", "properties": properties, "required": list(properties)}


TEXT_ITEM = {"type": "string"}
STEPS = schema_of(steps={"type": "array", "items": TEXT_ITEM})
TEXT = schema_of(text=TEXT_ITEM)
A = schema_of(a=schema_of(b={"type": "array", "items": {"type": "integer"}}))


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
  assert read_object(text, A) == {"a": {"b": [1, 2]}}


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
  assert mend_object(text, STEPS) == {"steps": ["x"]}


@pytest.mark.parametrize(
  "text",
  [
    '{"steps": ["x"]}\nas in {"steps": "..."}',
    '{"steps": ["x"]} and not {"steps": null}',
    '{"steps": ["x"]}, whose form is {"steps": [{"text": "a"}]}',
    '{"steps": ["a long draft"]} {"steps": ["x"]} {"steps": 1} {"other": []}',
    '<reasoning>{"steps": ["a draft"]}</reasoning>{"steps": ["x"]}',
    '<think>{"steps": ["a draft"]}</thinking>{"steps": ["x"]}',
    '\u25c1think\u25b7{"steps": ["a draft"]}\u25c1/think\u25b7{"steps": ["x"]}',
  ],
)
def test_the_last_object_that_follows_the_schema_is_the_reply(text):
  assert mend_object(text, STEPS) == {"steps": ["x"]}


def test_where_no_object_follows_the_schema_the_last_is_the_reply_for_the_caller_to_refuse():
  assert mend_object('{"steps": "a"} {"steps": null}', STEPS) == {"steps": None}


def test_thinking_within_a_reply_is_its_text():
  text = '{"steps": ["<think> opens it", "</think> ends it"]}'
  assert mend_object(text, STEPS) == json.loads(text)


HOSTILE = ('{"steps":', "{", '{"steps": [{"text": "a", "skill": "x"},', '{"steps": "', '{"a":[')
HOSTILE += ('{"steps":[', '{"steps": /*', '{"steps": (', '{"a":1} ', "<think>", '{"steps": "\\')


@pytest.mark.parametrize("unit", HOSTILE)
def test_replies_that_repeat_a_beginning_are_read_or_refused(unit):
  for size in (16_000, 150_000):
    message = ""
    try:
      assert "steps" in mend_object(unit * (size // len(unit)), STEPS)
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
    read_object('{"a":' * 100_000, A)
  assert len(calls) <= 20 * 5 * 100_000 / 1000


@pytest.mark.parametrize("text", ["", "[1, 2]", '{"a": ', "no {braces} here" * 9])
def test_a_reply_without_one_is_quoted(text):
  with pytest.raises(UserError, match="no JSON object with a is in the reply"):
    read_object(text, A)


def test_a_schema_is_put_into_words_beside_what_was_asked():
  prompt = ChatPrompt(id="p", question="q", schema={"type": "object"})
  assert schema_in_words(prompt).system.endswith('\n{"type": "object"}')
  assert schema_in_words(ChatPrompt(id="p", question="q")).system is None


def test_half_of_a_surrogate_pair_is_refused():
  with pytest.raises(UserError, match="half of a surrogate pair"):
    mend_object('{"text": "so \\ud835 is 5"}', TEXT)
  assert mend_object('{"text": "\\ud83d\\ude00"}', TEXT) == {"text": "\N{GRINNING FACE}"}
