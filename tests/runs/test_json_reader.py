import json

import pytest

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.json_reader import MOST_DEPTH, parse_json, read_json


def nested(depth):
  return b'{"a":' * (depth - 1) + b"[]" + b"}" * (depth - 1)


@pytest.mark.parametrize(
  "value",
  [{"a": [1, -2.5, None, True, "\u20ac \U0001f600"], "b": {}}, [], 10**299, 1.7e308, -0.0, "\0"],
)
def test_what_json_can_hold_reads_back(value):
  assert parse_json(json.dumps(value).encode()) == value
  assert parse_json(json.dumps(value, ensure_ascii=False)) == value
  assert parse_json(nested(MOST_DEPTH)) is not None


@pytest.mark.parametrize(
  ("text", "reason"),
  [
    (b'{"a": 1e999}', "number 1e999, which is beyond"),
    (b'{"a": -1e999}', "number -1e999, which is beyond"),
    (b'{"a": ' + b"9" * 301 + b"}", "a whole number of 301 digits"),
    (b'{"a": Infinity}', "Infinity is no JSON number"),
    (b'{"a": 1, "b": 2, "a": 3}', 'the key "a" twice'),
    (b'{"x": {"a": 1, "a": 1}}', 'the key "a" twice'),
    (nested(MOST_DEPTH + 1), "nested more than 100 deep"),
    (nested(100_000), "nested more than 100 deep"),
    (b'"\\ud800"', "half of a surrogate pair"),
    (b"\xff", "is not UTF-8"),
    (b"", "is not JSON"),
  ],
)
def test_what_nothing_could_write_again_is_refused(text, reason):
  with pytest.raises(UserError, match=reason):
    parse_json(text)


def test_the_message_names_the_file(tmp_path):
  path = tmp_path / "x.json"
  path.write_text("[1]")
  with pytest.raises(UserError, match=r"x.json is a JSON list; expected an object"):
    read_json(path)
