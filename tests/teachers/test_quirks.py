"""The quirks of endpoints, one by one, against a server that has each of them."""

import datetime
import email.utils
import gzip
import json
import re
import time

import pytest

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.teachers import failures
from greedy_prune_jax.teachers.completions import most_bytes
from greedy_prune_jax.teachers.openai_endpoint import OpenAITeacher
from greedy_prune_jax.teachers.settings import EndpointSettings, WritingSettings
from greedy_prune_jax.teachers.teacher import Reply
from tests.helpers.asking import PROMPT, WRITING, ask
from tests.helpers.chat_server import Answer, completion, refusal, reply, serving

pytest.importorskip("openai")

FAILURES = {
  "an error as the end": (completion("4", "error"), "the reply ended with 'error'"),
  "an error in the choice": (
    Answer({"choices": [{"message": {"content": "4"}, "error": {"message": "upstream is down"}}]}),
    "upstream is down",
  ),
  "a network error": (completion("4", "network_error"), "'network_error'"),
  "a filter": (completion("4", "content_filter"), "'content_filter'"),
  "a filter in capitals": (completion("4", "SAFETY"), "'safety'"),
  "nothing written": (completion("", "stop", tokens=(10, 0)), "the reply is empty"),
  "null written": (completion(None, "stop", tokens=(10, 0)), "the reply is empty"),
  "an error under 200": (
    Answer({"error": {"message": "no capacity", "code": 502}}),
    "no capacity",
  ),
  "an error's text under 200": (Answer({"error": "no capacity"}), "no capacity"),
  "an error beside a reply": (
    reply({"content": "4"}, error={"message": "no capacity"}),
    "no capacity",
  ),
  "an error of the provider's own": (completion("4", "UPSTREAM_ERROR"), "'upstream_error'"),
  "a filter of another name": (completion("4", "content-filtered"), "'content-filtered'"),
  "a guardrail": (completion("4", "guardrail_intervened"), "'guardrail_intervened'"),
  "white space of no tokens": (completion(" \n", tokens=(10, 0)), "the reply is empty"),
  "white space and no usage": (completion("\n", tokens=None), "the reply is empty"),
  "a detail under 200": (Answer({"detail": "no capacity"}), "no capacity"),
  "no choices": (Answer({"id": "x", "choices": []}), "the reply has no choices (2 attempts)"),
  "no choices but words": (Answer({"choices": [], "detail": "no capacity"}), "no capacity"),
  "no message": (Answer({"choices": [{"text": "4"}]}), "the reply's choice has no message (2"),
  "a page under 200": (
    Answer("<html><style>b {}</style><b>Sorry</b>, we&#39;re busy</html>"),
    "Sorry , we're busy",
  ),
  "no words at all": (Answer(""), "the answer is not JSON, but empty"),
  "a list": (Answer([]), "the answer is no JSON object"),
  "a number for a reason": (completion("4", 7), "finish_reason is 7"),
  "a number in the content": (reply({"content": [1]}), "a part of the reply is 1"),
  "no known part": (reply({"content": {"a": 1}}), r'a part of the reply is {"a": 1}'),
  "deep JSON": (Answer('{"choices":' + "[" * 10_000), "the answer is not JSON"),
  "not UTF-8": (Answer(b"\xff\xfe{}"), "the answer is not JSON"),
  "packed otherwise": (
    Answer("x", headers={"Content-Encoding": "br"}),
    "packed in a way that was not asked for",
  ),
  "not packed at all": (
    Answer("xyz" * 9, headers={"Content-Encoding": "gzip"}),
    "the connection broke off",
  ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_is_no_answer_but_tried_again_and_told_in_its_own_words(case):
  answer, words = FAILURES[case]
  with serving(lambda *_: answer) as server:
    failed = ask(server)
  assert len(server.requests) == 2
  assert failed.error is not None
  assert words in failed.error
  assert failed.error.endswith("(2 attempts)")
  assert "Error" not in failed.error.replace("an error", "")


@pytest.mark.parametrize(
  ("reason", "known"),
  [
    *[(x, "stop") for x in ("stop", "eos", "eos_token", "end_turn", "stop_sequence", "STOP", None)],
    *[(x, "length") for x in ("length", "max_tokens", "MAX_TOKENS", "model_length", "token_limit")],
    ("Meteor", "meteor"),
  ],
)
def test_ends_are_known_by_many_words_and_unknown_ones_stay(reason, known):
  with serving(lambda *_: completion("4", reason)) as server:
    assert ask(server).finish_reason == known


THINKING = {
  "reasoning_content": reply({"content": "4", "reasoning_content": "Two and two."}),
  "reasoning": reply({"content": "4", "reasoning": "Two and two."}),
  "both": reply({"content": "4", "reasoning": "Two and two.", "reasoning_content": "Two and two."}),
  "details": reply(
    {"content": "4", "reasoning_details": [{"type": "reasoning.text", "text": "Two and two."}]}
  ),
  "parts": reply(
    {
      "content": [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Two and "}]},
        {"type": "thinking", "thinking": "two."},
        {"type": "text", "text": "4"},
        {"type": "redacted", "data": "zzz"},
      ]
    }
  ),
}


@pytest.mark.parametrize("form", THINKING)
def test_thinking_is_kept_apart_in_whatever_form_it_comes(form):
  with serving(lambda *_: THINKING[form]) as server:
    found = ask(server)
  assert (found.text, found.thinking) == ("4", "Two and two.")
  assert Reply.from_record(found.to_record()) == found


def test_thinking_without_an_answer_is_a_reply():
  answer = reply({"content": "", "reasoning": "Hm."}, "length", usage={"completion_tokens": 20})
  with serving(lambda *_: answer) as server:
    found = ask(server)
  assert (found.text, found.thinking, found.finish_reason) == ("", "Hm.", "length")


@pytest.mark.parametrize(
  "message",
  [
    {"content": None, "refusal": "I cannot."},
    {"content": [{"type": "refusal", "refusal": "I cannot."}]},
  ],
)
def test_a_refusal_is_kept_as_one(message):
  with serving(lambda *_: reply(message)) as server:
    found = ask(server)
  assert (found.text, found.finish_reason, found.error) == ("I cannot.", "refusal", None)


@pytest.mark.parametrize("key", ["tool_calls", "function_call"])
@pytest.mark.parametrize("usage", [None, {"completion_tokens": 9}])
@pytest.mark.parametrize(
  ("content", "finish_reason", "end"),
  [
    *((None, reason, "tool_calls") for reason in ("tool_calls", "stop", "tool_use")),
    (None, "length", "length"),
    ("4", "stop", "stop"),
  ],
)
def test_a_tool_call_is_a_reply_without_text(key, usage, content, finish_reason, end):
  message = {"content": content, key: [{"id": "c", "type": "function"}]}
  with serving(lambda *_: reply(message, finish_reason, usage=usage)) as server:
    found = ask(server)
  assert (found.text, found.finish_reason, found.error) == (content or "", end, None)


@pytest.mark.parametrize(("model", "served"), [("m-2", "m-2"), (None, None), (7, None)])
def test_the_model_that_the_endpoint_names_is_kept(model, served):
  with serving(lambda *_: reply({"content": "4"}, model=model)) as server:
    assert ask(server).served == served


USAGES = (
  *(None, [], "x", {}, {"completion_tokens": 5}, {"prompt_tokens": 5}, {"completion_tokens": "5"}),
  *({"completion_tokens": -1, "prompt_tokens": 1}, {"completion_tokens": True}),
  {"completion_tokens": 10**30, "prompt_tokens": 1, "completion_tokens_details": [1]},
)


@pytest.mark.parametrize("usage", USAGES)
def test_a_usage_with_missing_fields_costs_no_reply(usage):
  answer = reply({"content": "4"}, usage=usage)
  with serving(lambda *_: answer) as server:
    teacher = OpenAITeacher(EndpointSettings(base_url=server.url, model="m"), WRITING)
    (found,) = teacher.write([PROMPT])
  assert (found.text, found.error) == ("4", None)
  assert found.num_tokens in (None, 5)
  assert teacher.budget.tokens == len("2 + 2?Be brief.") + 100 + 20  # all that it may have been


def test_a_usage_that_is_no_number_costs_no_reply():
  body = json.dumps(completion("4").body).replace(
    '"completion_tokens": 5', '"completion_tokens": NaN'
  )
  with serving(lambda *_: Answer(body)) as server:
    assert ask(server).text == "4"


def test_tokens_of_thinking_are_counted_apart():
  usage = {"prompt_tokens": 1, "completion_tokens": 9}
  usage |= {"completion_tokens_details": {"reasoning_tokens": 7}}
  with serving(lambda *_: reply({"content": "4"}, usage=usage)) as server:
    found = ask(server)
  assert (found.num_tokens, found.num_thinking_tokens) == (9, 7)


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize(
  ("content", "finish_reason", "end"),
  [("4", "stop", "own"), ("4", "length", "own"), ("", "length", "never"), (None, "stop", "own")],
)
def test_thinking_has_an_end_or_none(key, content, finish_reason, end):
  message = {"content": content, key: "2 and 2"}
  with serving(lambda *_: reply(message, finish_reason)) as server:
    found = ask(server)
  assert (found.thinking, found.thinking_form, found.thinking_end) == ("2 and 2", "think", end)


@pytest.mark.parametrize(("mode", "limit"), [("on", 50), ("off", 20)])
def test_thinking_is_asked_for_through_the_chat_template(mode, limit):
  writing = WritingSettings(max_new_tokens=20, thinking=mode, max_thinking_tokens=30)

  def respond(request, count):
    if "chat_template_kwargs" in request and count:
      return refusal(400, "Unrecognized request argument supplied: chat_template_kwargs")
    return completion("4")

  with serving(respond) as server:
    assert ask(server, writing).text == "4"
    (request,) = server.requests
    thinks = mode == "on"
    assert request["chat_template_kwargs"] == {"enable_thinking": thinks, "thinking": thinks}
    assert request["max_tokens"] == limit
    failed = ask(server, writing)
    assert "endpoint.omit=('chat_template_kwargs',)" in failed.error
    assert ask(server, writing, omit=("chat_template_kwargs",)).text == "4"


def test_settings_are_sent_also_where_they_mean_all():
  with serving(lambda *_: completion("4")) as server:
    ask(server)
  (request,) = server.requests
  assert (request["top_p"], request["top_k"], request["seed"]) == (1.0, 0, 7)


@pytest.mark.parametrize("name", ["top_p", "top_k"])
def test_what_means_all_is_left_out_where_it_is_refused(name):
  def respond(request, count):
    return refusal(400, f"unknown argument: {name}") if name in request else completion("4")

  with serving(respond) as server:
    assert ask(server).text == "4"
  assert len(server.requests) == 2


def test_servers_that_have_another_word_for_all():
  def respond(request, count):
    bad = request["top_k"] == 0
    return refusal(422, "top_k must be -1 (disable) or at least 1") if bad else completion("4")

  with serving(respond) as server:
    assert ask(server).text == "4"
  assert [request["top_k"] for request in server.requests] == [0, -1]


@pytest.mark.parametrize(
  ("message", "name"),
  [
    ("Unsupported parameter: seed", "seed"),
    ("System role not supported", "system"),
    ("Extra inputs are not permitted: body.top_k", "top_k"),
    ("'temperature' does not support 0.7", "temperature"),
  ],
)
def test_what_a_server_refuses_is_named_by_its_setting_and_can_be_left_out(message, name):
  def respond(request, count):
    asked = name in request or (name == "system" and len(request["messages"]) > 1)
    return refusal(400, message) if asked else completion("4")

  writing = WritingSettings(max_new_tokens=20, temperature=0.7, top_k=3)
  with serving(respond) as server:
    failed = ask(server, writing)
    assert failed.error is not None
    assert message in failed.error
    assert f"endpoint.omit=('{name}',)" in failed.error
    assert ask(server, writing, omit=(name,)).text == "4"
  if name == "system":
    assert server.questions()[-1] == "Be brief.\n\n2 + 2?"


def test_the_time_to_wait_is_read_in_all_its_forms(monkeypatch):
  monkeypatch.setenv("TZ", "Asia/Tokyo")  # a date without a zone is UTC's wherever it is read
  time.tzset()

  def wait(**headers):
    return failures.retry_after({name.replace("_", "-"): value for name, value in headers.items()})

  later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=60)
  assert 50 < wait(retry_after=email.utils.format_datetime(later, usegmt=True)) <= 60
  assert wait(retry_after="Wed, 21 Oct 2015 07:28:00 GMT") == 0
  assert 50 < wait(retry_after=later.strftime("%A, %d-%b-%y %H:%M:%S GMT")) <= 60
  assert 50 < wait(retry_after=later.strftime("%a %b %d %H:%M:%S %Y")) <= 60
  assert 50 < wait(retry_after=later.strftime("%a, %d %b %Y %H:%M:%S -0000")) <= 60
  assert 50 < wait(retry_after=later.isoformat()) <= 60
  assert 50 < wait(retry_after=later.strftime("%Y-%m-%dT%H:%M:%SZ")) <= 60
  assert wait(retry_after="2.5") == 2.5
  assert wait(retry_after_ms="1500", retry_after="9") == 1.5
  assert [wait(retry_after=x) for x in ("soon", "nan", "inf", "-3", "")] == [0] * 5
  monkeypatch.undo()
  time.tzset()


def test_waits_have_a_limit():
  assert failures.wait_before(10**6, 1e6, 1e9, 1.0) == 120
  assert failures.wait_before(0, 1.0, 0.0, 0.5) == 0.5


@pytest.mark.parametrize("text", ["It is 4.<end>", "It is 4.<end> And so on.", "It is 4."])
def test_stop_strings_are_cut_off(text):
  writing = WritingSettings(max_new_tokens=20, stop_strings=("<end>", "And"))
  with serving(lambda *_: completion(text, "length")) as server:
    found = ask(server, writing)
  assert found.text == "It is 4."
  assert found.finish_reason == ("stop" if "<" in text else "length")


def test_an_answer_that_is_too_long_is_no_answer():
  body = json.dumps(completion("4" * most_bytes(WRITING)).body)
  packed = Answer(gzip.compress(body.encode()), headers={"Content-Encoding": "gzip"})
  for answer in (Answer(body), packed):
    with serving(lambda *_, answer=answer: answer) as server:
      assert "longer than" in (ask(server).error or "")


def test_packed_answers_are_read():
  body = gzip.compress(json.dumps(completion("4").body).encode())
  with serving(lambda *_: Answer(body, headers={"Content-Encoding": "gzip"})) as server:
    assert ask(server).text == "4"


def test_an_answer_that_drips_has_an_end():
  dripping = Answer(json.dumps(completion("4" * 10_000).body), drip=0.02)
  with serving(lambda *_: dripping) as server:
    begun = time.monotonic()
    failed = ask(server, max_seconds=0.5, max_attempts=1)
    assert time.monotonic() - begun < 30  # of some 200 s
  assert "more than 0.5 s (endpoint.max_seconds)" in (failed.error or "")


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
  "chunks": (CHUNKED, b"1\r\n \r\n"),
  "a chunk's size": (CHUNKED, b"0"),
  "trailers": (CHUNKED + b"0\r\n", b"X: y\r\n"),
  "headers": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
  "a header": (b"HTTP/1.1 200 OK\r\nX: ", b"y"),
  "a status": (b"HTTP/1.1 200 ", b"O"),
  "not yet": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
  "early hints": (b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"),
  "signs of life": (b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n", b": ping\n\n"),
  "white space": (b"HTTP/1.1 200 OK\r\n\r\n", b" "),
  "white space of an error": (b"HTTP/1.1 500 Oh\r\n\r\n", b" "),
  "nothing": (b"", b"\r\n"),
}


@pytest.mark.slow
@pytest.mark.parametrize("drip", [0.01, 0.0])
@pytest.mark.parametrize("case", ENDLESS)
def test_an_answer_without_an_end_is_left(case, drip):
  body, endless = ENDLESS[case]
  if not drip:
    endless *= 100
  with serving(lambda *_: Answer(body, drip=drip, endless=endless)) as server:
    begun = time.monotonic()
    failed = ask(server, max_seconds=1.0, max_attempts=1)
    assert time.monotonic() - begun < 30
  assert failed.error is not None
  assert "Error" not in failed.error


def test_redirects_are_named_and_not_followed():
  away = Answer("", 307, {"Location": "http://localhost:9/v1"})
  with (
    serving(lambda *_: away) as server,
    pytest.raises(UserError, match=r"redirects to http://localhost:9/v1; set endpoint\.base_url"),
  ):
    ask(server)


@pytest.mark.parametrize("base_url", ["nowhere", "http://[::1", "ftp://x/v1", "http://a b/"])
def test_an_address_that_is_none_is_named(base_url):
  settings = EndpointSettings(model="m", base_url=base_url, max_attempts=1)
  try:
    (reply,) = OpenAITeacher(settings, WRITING).write([PROMPT])
    words = reply.error or ""
  except UserError as error:
    words = str(error)
  assert "base_url" in words or "the request could not be sent" in words or "connection" in words


def test_characters_that_command_a_terminal_are_escaped():
  with serving(lambda *_: refusal(400, "\x1b[2J\u202eevil\x00")) as server:
    error = ask(server).error or ""
  assert error.isprintable()
  assert "evil" in error


@pytest.mark.parametrize("name", ["backoff", "timeout", "max_seconds", "poll", "batch_hours"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 1e300])
def test_times_that_cannot_be_are_refused(name, value):
  with pytest.raises(UserError, match=re.escape(f"endpoint.{name}={value}; expected a number ")):
    EndpointSettings(**{name: value})
