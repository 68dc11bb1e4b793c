"""The teacher at a batch interface, against a real server: whole, in part, and gone on with."""

import json

import pytest

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.teachers.load import load_teacher
from greedy_prune_jax.teachers.openai_batches import OpenAIBatchTeacher
from greedy_prune_jax.teachers.settings import EndpointSettings, WritingSettings
from greedy_prune_jax.teachers.teacher import ChatPrompt
from tests.helpers.chat_server import Answer, completion, refusal, serving

pytest.importorskip("openai")

WRITING = WritingSettings(max_new_tokens=20, temperature=0.5, top_k=4)
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def make_teacher(server, folder, **endpoint):
  defaults = {"base_url": server.url, "model": "m", "backoff": 0.01, "poll": 0.01, "batch": 3}
  return OpenAIBatchTeacher(EndpointSettings(**(defaults | endpoint)), WRITING, folder)


def prompts(count, **changes):
  return [ChatPrompt(id=f"p{i}", question=f"question {i}", **changes) for i in range(count)]


def write(teacher, asked):
  return {reply.id: reply for reply in teacher.write(asked)}


def notes(folder):
  lines = (folder / "batches" / "process-00000.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def echo(request, count):
  return completion(f"on {request['messages'][-1]['content']}")


def test_what_is_sent_and_what_comes_back(tmp_path):
  with serving(echo) as server:
    server.looks = 2
    teacher = make_teacher(server, tmp_path)
    replies = write(teacher, prompts(4, seed=7))
  assert {key: reply.text for key, reply in replies.items()} == {
    f"p{i}": f"on question {i}" for i in range(4)
  }
  assert {(r.finish_reason, r.num_tokens, r.error) for r in replies.values()} == {("stop", 5, None)}
  assert server.requests[0] == {
    "model": "m",
    "messages": [{"role": "user", "content": "question 0"}],
    "max_tokens": 20,
    "temperature": 0.5,
    "seed": 7,
    "top_p": 1.0,
    "top_k": 4,
  }
  assert len(server.batches) == 2  # of 3 and 1
  assert (teacher.budget.requests, teacher.budget.tokens) == (4, 4 * 15)


def test_a_batch_that_fails_in_part_is_asked_again_for_the_rest(tmp_path):
  def respond(request, count):
    question = request["messages"][-1]["content"]
    if question == "question 0" and count < 1:
      return refusal(500, "down")
    if question == "question 1" and count < 2:
      return Answer("", stall=True)  # the batch ends without it
    if question == "question 2":
      return refusal(400, "too many tokens")
    return completion("at last")

  with serving(respond) as server:
    replies = write(make_teacher(server, tmp_path, batch=10), prompts(4))
    sizes = [len(server.files[b["input_file_id"]].splitlines()) for b in server.batches.values()]
  assert sizes == [4, 2, 1]
  assert [replies[f"p{i}"].text for i in (0, 1, 3)] == ["at last"] * 3
  assert replies["p2"].error == "400: too many tokens"


def test_what_never_comes_fails_alone(tmp_path):
  def respond(request, count):
    bad = request["messages"][-1]["content"] == "question 1"
    return refusal(429, "slow down") if bad else completion("yes")

  with serving(respond) as server:
    replies = write(make_teacher(server, tmp_path, max_attempts=2), prompts(2))
  assert replies["p0"].text == "yes"
  assert replies["p1"].error == "429: slow down (2 attempts)"
  assert len(server.batches) == 2


def test_a_batch_that_fails_as_a_whole_is_made_again(tmp_path):
  with serving(echo) as server:
    server.refuse_batch = lambda number: "no room" if number == 0 else None
    replies = write(make_teacher(server, tmp_path), prompts(2))
    assert [replies[f"p{i}"].error for i in range(2)] == [None, None]
    server.refuse_batch = lambda number: "no room"
    replies = write(make_teacher(server, tmp_path, max_attempts=2), prompts(1, seed=1))
  assert replies["p0"].error == "no room (2 attempts)"


class KilledError(Exception):
  pass


def killed_while_waiting(teacher, asked):
  """Writes until batches are made; as if the run had been killed then."""

  def die(batch_id):
    raise KilledError

  teacher._wait = die
  with pytest.raises(KilledError):
    write(teacher, asked)


def test_a_run_that_goes_on_waits_for_its_batch_and_asks_nothing_twice(tmp_path):
  with serving(echo) as server:
    killed_while_waiting(make_teacher(server, tmp_path), prompts(5))
    assert [len(note["requests"]) for note in notes(tmp_path)] == [3, 2]
    # One has got its reply meanwhile, and one was never asked for.
    replies = write(make_teacher(server, tmp_path), prompts(6)[1:])
  assert {key: reply.text for key, reply in replies.items()} == {
    f"p{i}": f"on question {i}" for i in range(1, 6)
  }
  assert len(server.batches) == 3
  assert server.questions().count("question 3") == 1
  assert sum(note.get("done", False) for note in notes(tmp_path)) == 3


def test_several_processes_go_on_with_a_batch_of_one(tmp_path):
  with serving(echo) as server:
    killed_while_waiting(make_teacher(server, tmp_path), prompts(3))
    replies = write(make_teacher(server, tmp_path), prompts(3)[:1])
    replies |= write(make_teacher(server, tmp_path), prompts(3)[1:])
  assert {key: reply.text for key, reply in replies.items()} == {
    f"p{i}": f"on question {i}" for i in range(3)
  }
  assert len(server.batches) == 1


def test_a_prompt_that_has_changed_is_asked_again(tmp_path):
  with serving(echo) as server:
    killed_while_waiting(make_teacher(server, tmp_path), prompts(1))
    (reply,) = make_teacher(server, tmp_path).write(prompts(1, system="Be brief."))
  assert reply.text == "on question 0"
  assert len(server.batches) == 2
  assert len(server.requests) == 1  # nobody looked at the first batch


def test_looks_that_fail_are_made_again(tmp_path):
  with serving(echo) as server:
    server.broken_looks = 2
    assert len(write(make_teacher(server, tmp_path), prompts(2))) == 2
    server.broken_looks = 10
    with pytest.raises(UserError, match=r"503: .*overloaded.* Batches that were made are noted in"):
      write(make_teacher(server, tmp_path, max_attempts=3), prompts(2, seed=1))


def test_the_budget_of_requests_ends_what_is_asked_and_keeps_what_came(tmp_path):
  with serving(echo) as server:
    teacher = make_teacher(server, tmp_path, max_requests=4)
    replies = []
    with pytest.raises(UserError, match=r"endpoint\.max_requests=4 requests were made"):
      replies.extend(teacher.write(prompts(6)))
  assert [reply.id for reply in replies] == ["p0", "p1", "p2", "p3"]


def test_the_budget_of_tokens_lets_in_what_fits(tmp_path):
  # A prompt counts as up to 110 tokens, a reply as up to 20; each uses 110.
  with serving(lambda *_: completion("yes", tokens=(90, 20))) as server:
    teacher = make_teacher(server, tmp_path, max_tokens=360)
    replies = []
    with pytest.raises(UserError, match=r"of endpoint.max_tokens=360, 330 were used.* take 130\. "):
      replies.extend(teacher.write(prompts(6)))
  assert len(replies) == 3
  sizes = [len(server.files[b["input_file_id"]].splitlines()) for b in server.batches.values()]
  assert sizes == [2, 1]


def test_a_key_that_is_refused_ends_it(tmp_path):
  with (
    serving(lambda *_: refusal(401, "no such key")) as server,
    pytest.raises(UserError, match=r"m at http.* refuses: 401: no such key"),
  ):
    write(make_teacher(server, tmp_path), prompts(2))


def test_a_run_goes_on_once_it_may_ask_again(tmp_path):
  def respond(request, count):
    barred = count == 0 and request["messages"][-1]["content"] != "question 1"
    return refusal(403, "not yours") if barred else completion("yes")

  replies = []
  with serving(respond) as server:
    with pytest.raises(UserError, match="refuses: 403: not yours"):
      replies.extend(make_teacher(server, tmp_path, batch=2).write(prompts(4)))
    assert [reply.id for reply in replies] == ["p1"]
    again = write(make_teacher(server, tmp_path, batch=2), [prompts(4)[i] for i in (0, 2, 3)])
  assert [reply.text for reply in again.values()] == ["yes"] * 3


def test_texts_may_hold_other_ends_of_lines(tmp_path):
  text = "one\u2028two\u0085three\r\nfour"
  with serving(lambda *_: completion(text)) as server:
    (reply,) = make_teacher(server, tmp_path).write([ChatPrompt(id="p", question=text)])
  assert reply.text == text
  assert server.questions() == [text]


def test_an_endpoint_without_schemas_is_asked_in_words(tmp_path):
  def respond(request, count):
    if "response_format" in request:
      return refusal(400, "unknown response_format")
    return completion('{"a": 1}')

  with serving(respond) as server:
    teacher = make_teacher(server, tmp_path, max_attempts=1)
    assert write(teacher, prompts(2, schema=SCHEMA))["p1"].text == '{"a": 1}'
    before = len(server.requests)
    write(teacher, prompts(1, schema=SCHEMA, seed=9))
  assert before == 2 * 3  # json_schema, json_object, words
  assert len(server.requests) == before + 1


def test_jobs_that_ask_for_a_few_replies_at_a_time_make_no_batches():
  with pytest.raises(
    UserError, match=r"endpoint\.batch=5: this job asks for a few replies at a time"
  ):
    load_teacher("openai", WRITING, EndpointSettings(model="m", batch=5))


def test_a_status_that_never_ends_has_a_limit(tmp_path):
  with serving(echo) as server:
    server.looks = 10**9
    with pytest.raises(UserError, match=r"status 'in_progress' after endpoint\.batch_hours=1e-05"):
      write(make_teacher(server, tmp_path, batch_hours=1e-5), prompts(1))
    server.batches["batch-0"]["looks"] = 0
    assert write(make_teacher(server, tmp_path), prompts(1))["p0"].text == "on question 0"
  assert len(server.batches) == 1


@pytest.mark.parametrize("gone", ["batch", "results"])
def test_what_to_do_about_a_batch_that_the_server_no_longer_has(tmp_path, gone):
  with serving(echo) as server:
    killed_while_waiting(make_teacher(server, tmp_path), prompts(2))
    look = server._look

    def expired(name):
      if gone == "batch":
        return refusal(404, "no such batch")
      answer = look(name)
      server.files.clear()
      return answer

    server._look = expired
    words = (
      r"batch-0 or its results .*404.*its 2 requests anew, and pay .*remove the line of this id"
    )
    for _ in range(2):  # the same again: nothing is marked as read
      with pytest.raises(UserError, match=words):
        write(make_teacher(server, tmp_path), prompts(2))
    server._look = look
    (tmp_path / "batches" / "process-00000.jsonl").write_text("")
    assert write(make_teacher(server, tmp_path), prompts(2))["p0"].text == "on question 0"
  assert len(server.batches) == 2


ODD_BATCHES = {
  "a list": [],
  "null": None,
  "text": "in progress",
  "no status": {"id": "b"},
  "status a list": {"status": []},
  "a path for an id": {"status": "completed", "output_file_id": "../../files"},
  "a number for an id": {"status": "completed", "output_file_id": 7},
}


@pytest.mark.parametrize("case", ODD_BATCHES)
def test_a_batch_that_is_none_is_named(tmp_path, case):
  with serving(echo) as server:
    server._look = lambda name: Answer(json.dumps(ODD_BATCHES[case]))
    with pytest.raises(UserError, match=r"refuses: .*Batches that were made are noted in"):
      write(make_teacher(server, tmp_path, max_attempts=2), prompts(1))


@pytest.mark.parametrize(
  "errors", ["no room", ["no room"], {"data": [{"message": "no room"}]}, {"message": "no room"}]
)
def test_the_errors_of_a_failed_batch_are_told_in_whatever_form(tmp_path, errors):
  with serving(echo) as server:
    server._look = lambda name: Answer({"status": "failed", "errors": errors, "request_counts": 7})
    replies = write(make_teacher(server, tmp_path, max_attempts=2), prompts(1))
  assert replies["p0"].error == "no room (2 attempts)"


ODD_LINES = ("{nope", "[1]", "null", "7", "[" * 100_000, '{"custom_id": []}', '{"custom_id": null}')
ODD_LINES += ('{"custom_id": KEY}', '{"custom_id": KEY, "response": [1]}')
ODD_LINES += ('{"custom_id": KEY, "response": {"status_code": "200", "body": "x"}}',)
ODD_LINES += ('{"custom_id": KEY, "response": {"status_code": 200, "body": [1]}}',)
ODD_LINES += ('{"custom_id": KEY, "error": "boom"}', '{"custom_id": KEY, "error": [1]}')


@pytest.mark.parametrize("line", ODD_LINES)
def test_results_of_other_forms_are_failures_of_their_own_requests(tmp_path, line):
  with serving(echo) as server:
    finish = server._finish

    def spoil(batch):
      finish(batch)
      name = batch["output_file_id"]
      first, *rest = server.files[name].splitlines()
      server.files[name] = "\n".join(
        [line.replace("KEY", json.dumps(json.loads(first)["custom_id"])), *rest]
      )

    server._finish = spoil
    replies = write(make_teacher(server, tmp_path, max_attempts=1), prompts(3))
  assert [replies[f"p{i}"].error is None for i in range(3)] == [False, True, True]
  assert "Error" not in replies["p0"].error
