"""The teacher at an endpoint, against a real server that does all that servers do."""

import dataclasses
import json
import threading
import time

import pytest

from configs.sample import get_config as sample_config
from greedy_prune_jax.chains.reading import read_chains
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.settings import read_settings
from greedy_prune_jax.runs.workdir import Workdir
from greedy_prune_jax.sample.run import OUTPUT, run_sample
from greedy_prune_jax.sample.settings import SampleSettings
from greedy_prune_jax.teachers.endpoint import RequestBudget
from greedy_prune_jax.teachers.openai_endpoint import OpenAITeacher
from greedy_prune_jax.teachers.settings import EndpointSettings, WritingSettings
from greedy_prune_jax.teachers.teacher import ChatPrompt
from tests.helpers.chat_server import Answer, completion, refusal, serving

pytest.importorskip("openai")

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def make_teacher(server, writing=None, **endpoint):
  defaults = {"base_url": server.url, "model": "m", "backoff": 0.01, "timeout": 30.0}
  settings = EndpointSettings(**(defaults | endpoint))
  return OpenAITeacher(settings, writing or WritingSettings(max_new_tokens=20))


def prompts(count, **changes):
  return [ChatPrompt(id=f"p{i}", question=f"question {i}", **changes) for i in range(count)]


def write(teacher, asked):
  return {reply.id: reply for reply in teacher.write(asked)}


def test_what_is_sent_and_what_comes_back(monkeypatch):
  monkeypatch.setenv("MY_KEY", "secret")
  writing = WritingSettings(
    max_new_tokens=20, temperature=0.7, top_p=0.9, top_k=40, stop_strings=("\n\n",)
  )
  with serving(lambda *_: completion("It is 4.", "length")) as server:
    teacher = make_teacher(server, writing, api_key_env="MY_KEY")
    (reply,) = teacher.write([ChatPrompt(id="p", question="2 + 2?", system="Be brief.", seed=7)])
  assert (reply.id, reply.text, reply.finish_reason, reply.num_tokens, reply.error) == (
    *("p", "It is 4.", "length", 5, None),
  )
  assert server.requests == [
    {
      "model": "m",
      "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "2 + 2?"},
      ],
      "max_tokens": 20,
      "temperature": 0.7,
      "top_p": 0.9,
      "top_k": 40,
      "seed": 7,
      "stop": ["\n\n"],
    }
  ]
  assert server.keys == ["Bearer secret"]


def test_as_many_requests_at_once_as_are_allowed():
  together = threading.Barrier(3)

  def respond(*_):
    together.wait(20)  # broken unless three are here at once
    return completion("yes")

  with serving(respond) as server:
    replies = write(make_teacher(server, concurrency=3), prompts(6))
  assert {reply.text for reply in replies.values()} == {"yes"}
  assert len(replies) == 6
  assert server.most_at_once == 3


FAILURES = {
  "an error of the server": refusal(503, "overloaded"),
  "a rate limit": refusal(429, "slow down", Retry_After="0.01"),
  "a reply that breaks off": Answer(completion("a long reply").body, send=30),
  "JSON that breaks off": Answer('{"id": "x", "choices": [{"mess'),
  "another form of JSON": Answer({"choices": []}),
  "a page": Answer("<html>busy</html>", headers={"Content-Type": "text/html"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("failure", FAILURES)
def test_what_may_pass_is_tried_again(failure):
  def respond(request, count):
    return FAILURES[failure] if count < 2 else completion("at last")

  with serving(respond) as server:
    replies = write(make_teacher(server), prompts(2))
    assert {reply.text for reply in replies.values()} == {"at last"}
    assert len(server.requests) == 6

    tired = make_teacher(server, max_attempts=2)
    server._respond = lambda *_: FAILURES[failure]
    (reply,) = tired.write([ChatPrompt(id="x", question="x")])
  assert "(2 attempts)" in reply.error
  assert server.questions().count("x") == 2


def test_a_server_that_stalls_is_left_and_asked_again():
  def respond(request, count):
    return Answer("", stall=True) if count == 0 else completion("awake")

  with serving(respond) as server:
    teacher = make_teacher(server, timeout=0.3)
    (reply,) = teacher.write(prompts(1))
  assert reply.text == "awake"
  assert teacher.budget.tokens == 130 + 15  # the first may have cost all that it could


def test_a_prompt_that_is_refused_fails_alone():
  def respond(request, count):
    if request["messages"][-1]["content"] == "question 1":
      return refusal(400, "too many tokens")
    return completion("yes")

  with serving(respond) as server:
    replies = write(make_teacher(server), prompts(3))
  assert [replies[f"p{i}"].error is None for i in range(3)] == [True, False, True]
  assert "400: " in replies["p1"].error
  assert "too many tokens" in replies["p1"].error
  assert len(server.requests) == 3


def test_a_question_that_is_refused_at_once_ends_nothing_however_often_it_is_asked():
  def respond(request, count):
    if request["messages"][-1]["content"] == "question 1":
      return refusal(400, "too many tokens")
    time.sleep(0.05)  # a refusal is faster than a reply
    return completion("yes")

  asked = [
    dataclasses.replace(prompt, id=f"{prompt.id}#{i}") for prompt in prompts(4) for i in range(8)
  ]
  with serving(respond) as server:
    replies = write(make_teacher(server), asked)
  failed = {key for key, reply in replies.items() if reply.error}
  assert len(replies) == 32
  assert failed == {f"p1#{i}" for i in range(8)}


@pytest.mark.slow
@pytest.mark.parametrize(
  "answer",
  [
    refusal(401, "no such key"),
    refusal(404, "no such model"),
    refusal(429, "pay", "insufficient_quota"),
  ],
)
def test_what_cannot_pass_ends_it_at_once(answer):
  with (
    serving(lambda *_: answer) as server,
    pytest.raises(UserError, match=f"m at http.* refuses: {answer.status}: .*"),
  ):
    write(make_teacher(server, concurrency=1), prompts(50))
  assert len(server.requests) == 1


def test_it_gives_up_where_nothing_comes_and_keeps_what_came():
  def respond(request, count):
    return (
      completion("yes")
      if request["messages"][-1]["content"] == "question 0"
      else (refusal(500, "down"))
    )

  with serving(respond) as server:
    teacher = make_teacher(server, concurrency=1, max_attempts=2)
    replies = []
    with pytest.raises(UserError, match=r"gave no reply to 5 questions in a row, .* 500: .*down"):
      replies.extend(teacher.write(prompts(40)))
  assert replies[0].text == "yes"
  assert len(server.requests) < 1 + 2 * 39


def test_refused_prompts_end_nothing_even_if_a_resumed_run_has_no_others_left():
  def respond(request, count):
    if count:  # the first attempt
      return refusal(400, "no", "content_filter")
    return completion("", "content_filter")

  with serving(respond) as server:
    replies = write(make_teacher(server, max_attempts=2), prompts(20))
  assert len(replies) == 20
  assert all("400: no" in reply.error for reply in replies.values())
  with serving(lambda *_: completion("4", "content_filter")) as server:
    replies = write(make_teacher(server, max_attempts=2), prompts(20))
  assert all("'content_filter' (2 attempts)" in reply.error for reply in replies.values())


def test_failures_between_which_others_are_answered_end_nothing():
  def respond(request, count):
    number = int(request["messages"][-1]["content"].split()[-1])
    return completion("yes") if number % 5 == 4 else refusal(500, "down")

  with serving(respond) as server:
    replies = write(make_teacher(server, max_attempts=1, concurrency=1), prompts(40))
  assert sum(reply.error is None for reply in replies.values()) == 8


def test_nobody_there():
  with serving(lambda *_: completion("yes")) as server:
    teacher = make_teacher(server, max_attempts=1)
  with pytest.raises(UserError, match=r"gave no reply to 5 questions in a row.*Connection refused"):
    write(teacher, prompts(10))


def test_the_budget_of_requests_counts_attempts():
  def respond(request, count):
    return refusal(503, "busy") if count == 0 else completion("yes")

  with serving(respond) as server:
    teacher = make_teacher(server, concurrency=1, max_requests=5)
    replies = []
    with pytest.raises(UserError, match=r"endpoint\.max_requests=5 requests were made"):
      replies.extend(teacher.write(prompts(10)))
  assert [reply.id for reply in replies] == ["p0", "p1"]
  assert len(server.requests) == 5


@pytest.mark.parametrize("concurrency", [1, 8])
def test_the_budget_of_tokens_is_never_exceeded(concurrency):
  # The endpoint counts a token a byte, puts the schema and 30 tokens of its own into the prompt,
  # and writes all it may.
  used = len("question 0") + len(json.dumps(SCHEMA)) + 30 + 20
  with serving(lambda *_: completion("{}", tokens=(used - 20, 20))) as server:
    teacher = make_teacher(server, concurrency=concurrency, max_tokens=10 * used - 1)
    replies = []
    with pytest.raises(UserError, match=r"of endpoint\.max_tokens=.* were used, and the next"):
      replies.extend(teacher.write(prompts(10, schema=SCHEMA)))
  assert len(replies) >= 8
  assert teacher.budget.tokens == len(replies) * used <= 10 * used - 1


def test_the_budget_of_tokens_counts_what_was_used():
  # A prompt of 10 bytes counts as up to 110 tokens, a reply as up to 20: with 15 used by each, the
  # 13th would still end within 310 (12 * 15 + 130), and the 14th not.
  with serving(lambda *_: completion("yes")) as server:
    teacher = make_teacher(server, max_tokens=310)
    replies = []
    with pytest.raises(UserError, match=r"of endpoint.max_tokens=310, 195 were used.* take 130\. "):
      replies.extend(teacher.write(prompts(10) + prompts(10)))
  assert len(replies) == 13


def test_replies_without_counts_cost_what_they_may_have_cost():
  with serving(lambda *_: completion("yes", tokens=None)) as server:
    teacher = make_teacher(server)
    (reply,) = teacher.write(prompts(1))
  assert reply.num_tokens is None
  assert teacher.budget.tokens == 130


def test_a_budget_waits_for_what_is_under_way():
  budget = RequestBudget(0, 30)
  budget.take(20)
  taken = threading.Event()

  def take():
    budget.take(20)
    taken.set()

  threading.Thread(target=take, daemon=True).start()
  assert not taken.wait(0.05)
  budget.settle(20, 10)
  assert taken.wait(20)


def test_a_sample_run_whose_budget_is_spent_goes_on_and_asks_nothing_twice(tmp_path):
  rows = [{"question": f"{i} + {i}?", "answer": f"Twice {i}.\n#### {2 * i}"} for i in range(4)]
  (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

  def respond(request, count):
    number = int(request["messages"][-1]["content"][0])
    return completion(f'It is twice {number}.\n{{"answer": "{2 * number}"}}')

  with serving(respond) as server:
    endpoint = {"base_url": server.url, "model": "m", "concurrency": 1, "max_requests": 5}
    config = sample_config().to_dict() | {
      "questions": f"gsm8k:{tmp_path / 'rows.jsonl'}",
      "num_questions": 0,
      "num_samples": 2,
      "teacher": "openai",
      "endpoint": EndpointSettings.defaults() | endpoint,
    }

    def run():
      with Workdir(tmp_path / "run", config, output=OUTPUT) as workdir:
        return run_sample(SampleSettings.from_config(config), workdir)

    with pytest.raises(UserError, match=r"max_requests=5 requests were made"):
      run()
    assert len(list(read_chains(str(tmp_path / "run")))) == 2
    assert run() == 0
  chains = list(read_chains(str(tmp_path / "run")))
  assert len(chains) == 4
  assert {chain.extra["teacher"] for chain in chains} == {"m"}
  asked = [(r["messages"][-1]["content"], r["seed"]) for r in server.requests]
  assert len(asked) == len(set(asked)) == 8


def test_replies_are_held_to_a_schema():
  with serving(lambda *_: completion('{"a": 1}')) as server:
    write(make_teacher(server), prompts(1, schema=SCHEMA))
  (request,) = server.requests
  assert request["response_format"] == {
    "type": "json_schema",
    "json_schema": {"name": "reply", "schema": SCHEMA, "strict": True},
  }
  assert len(request["messages"]) == 1


@pytest.mark.parametrize("offered", [("json_object",), ()])
def test_an_endpoint_without_schemas_is_asked_by_what_it_has(offered):
  def respond(request, count):
    wanted = request.get("response_format", {}).get("type")
    if wanted not in (None, *offered):
      return refusal(400, "unknown response_format")
    return completion('{"a": 1}')

  with serving(respond) as server:
    teacher = make_teacher(server, concurrency=1)
    replies = write(teacher, prompts(2, schema=SCHEMA, system="Be brief."))
  assert {reply.text for reply in replies.values()} == {'{"a": 1}'}
  assert len(server.requests) == 2 + 2 - len(offered)  # the second prompt knows
  system = server.requests[-1]["messages"][0]["content"]
  assert system.startswith("Be brief.\n\nReply with one JSON object")
  assert json.dumps(SCHEMA) in system


def test_a_prompt_that_is_refused_anyway_does_not_lower_what_others_are_asked_by():
  def respond(request, count):
    question = request["messages"][-1]["content"]
    return refusal(400, "too long") if question == "question 0" else completion('{"a": 1}')

  with serving(respond) as server:
    replies = write(make_teacher(server, concurrency=1), prompts(2, schema=SCHEMA))
  assert "too long" in replies["p0"].error
  assert server.requests[-1]["response_format"]["type"] == "json_schema"


def test_models_that_name_the_limit_otherwise():
  def respond(request, count):
    if "max_tokens" in request:
      return refusal(400, "Unsupported parameter; use 'max_completion_tokens' instead.")
    return completion("yes")

  with serving(respond) as server:
    write(make_teacher(server, concurrency=1), prompts(2))
  assert [request.get("max_completion_tokens") for request in server.requests] == [None, 20, 20]


def test_a_reply_that_is_begun_cannot_be_asked_for():
  with serving(lambda *_: completion("yes")) as server:
    (reply,) = make_teacher(server).write(prompts(1, reply_start=("It is",)))
  assert "cannot go on with a reply that is begun" in reply.error
  assert not server.requests


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({}, "endpoint.model is empty"),
    ({"model": "m"}, "the environment variable NO_KEY_HERE is not set"),
  ],
)
def test_what_is_missing_is_said(settings, message):
  endpoint = EndpointSettings(api_key_env="NO_KEY_HERE", **settings)
  with pytest.raises(UserError, match=message):
    OpenAITeacher(endpoint, WritingSettings(max_new_tokens=1))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"concurrency": 0}, "concurrency=0; expected 1 or more"),
    ({"timeout": 0.0}, "endpoint.timeout=0.0; expected a number above 0"),
    ({"structured": "xml"}, "endpoint.structured='xml'; expected one of json_schema"),
    ({"max_token": 5}, "unknown keys: max_token; see here"),
  ],
)
def test_settings_that_cannot_be_are_refused(change, message):
  with pytest.raises(UserError, match=message):
    read_settings(EndpointSettings, EndpointSettings.defaults() | change, "here")
