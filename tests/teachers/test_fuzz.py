"""Endpoints that answer anything: no traceback, no hang, and nothing stored that a rerun chokes on.

Seeded: a case is named by its number. The first test says that what is mutated is accepted before.
"""

import json
import random

import pytest

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.workdir import Workdir
from greedy_prune_jax.teachers.openai_batches import OpenAIBatchTeacher
from greedy_prune_jax.teachers.openai_endpoint import OpenAITeacher
from greedy_prune_jax.teachers.replies import collect_replies
from greedy_prune_jax.teachers.settings import EndpointSettings, WritingSettings
from greedy_prune_jax.teachers.teacher import ChatPrompt
from tests.helpers.attacks import BASE_SEED, to_run
from tests.helpers.chat_server import Answer, completion, refusal, reply, serving

pytest.importorskip("openai")

WRITING = WritingSettings(max_new_tokens=20, temperature=0.5, stop_strings=("END",))
SEEDS = (
  completion("It is 4."),
  completion("It is 4.END and more", "length"),
  reply({"content": "4", "reasoning_content": "Hm."}, usage={"completion_tokens": 3}),
  reply({"content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "4"}]}),
  reply({"content": None, "refusal": "No."}),
  refusal(429, "slow down", Retry_After="0.001"),
  refusal(400, "unknown parameter: seed"),
  refusal(503, "overloaded"),
)
VALUES = (
  *(None, True, 0, -1, 10**25, 0.5, "", "x", "stop", [], {}, [[]], [None], {"a": None}),
  *("\ud800", "\x00\x1b[2J", "x" * 5000, {"message": ["no"]}, {"type": "text"}, [1, "a"]),
)
STATUSES = (200, 200, 200, 201, 204, 299, 302, 400, 404, 408, 418, 422, 429, 500, 503, 599)
HEADERS = (
  {"Retry-After": "x"},
  {"Retry-After": "-5"},
  {"Retry-After": "nan"},
  {"retry-after-ms": "1e999"},
  {"Content-Type": "text/html; charset=nope"},
  {"Content-Encoding": "gzip"},
  {"Content-Encoding": "zstd"},
  {"Content-Length": "7"},
  {"Location": "http://127.0.0.1:1/\u00e9"},
  {"X-Request-Id": "\x07"},
)


def mutated(value, rng):
  """The JSON value with something in it replaced, dropped, doubled or wrapped."""
  if isinstance(value, dict) and value and rng.random() < 0.85:
    key = rng.choice(list(value))
    kind = rng.random()
    if kind < 0.15:
      return {k: v for k, v in value.items() if k != key}
    if kind < 0.2:
      return value | {key[:-1]: value[key]}
    return value | {key: mutated(value[key], rng)}
  if isinstance(value, list) and value and rng.random() < 0.7:
    i = rng.randrange(len(value))
    return [*value[:i], mutated(value[i], rng), *value[i : i + rng.randrange(2)]]
  return rng.choice((*VALUES, [value], {"a": value}, str(value)))


def mutated_text(text, rng):
  """The text with bytes replaced, cut off, repeated, or nested."""
  kind = rng.randrange(6)
  if kind == 0:
    return text[: rng.randrange(len(text) + 1)]
  if kind == 1:
    data = bytearray(text.encode())
    for _ in range(1 + rng.randrange(4)):
      data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)
  if kind == 2:
    return rng.choice(("<html>", "\ufeff", "data: ", ")]}'")) + text
  if kind == 3:
    return text + text
  if kind == 4:
    return rng.choice(("[", '{"a":', '{"choices":[')) * rng.randrange(1, 5000)
  return text.replace("5", rng.choice(("1e999", "NaN", "-Infinity", "5" * 5000)))


def hostile(seed: int) -> Answer:
  """An answer made from one of the good ones."""
  rng = random.Random(seed)
  answer = rng.choice(SEEDS)
  body = answer.body
  for _ in range(rng.randrange(3)):
    body = mutated(body, rng)
  text = json.dumps(body, ensure_ascii=rng.random() < 0.9).encode("utf-8", "surrogatepass")
  if rng.random() < 0.3:
    text = mutated_text(text.decode(errors="replace"), rng)
  headers = rng.choice(HEADERS) if rng.random() < 0.2 else answer.headers
  status = rng.choice(STATUSES) if rng.random() < 0.3 else answer.status
  return Answer(text, status, headers, send=rng.choice((None, None, None, None, 0, 9)))


def settings_for(server, **further):
  known = {"base_url": server.url, "model": "m", "backoff": 0.0, "max_attempts": 2}
  limits = {"timeout": 0.5, "max_seconds": 5.0, "poll": 0.001, "batch_hours": 1e-6}
  return EndpointSettings(**(known | limits | further))


def run(teacher, folder):
  """A run as the jobs make it, and its replies."""
  replies, message = {}, ""
  prompts = {"a": [ChatPrompt(id="a", question="2 + 2?", seed=1)]}
  with Workdir(folder, {"a": 1}, output="out") as workdir:
    try:
      collect_replies(prompts, workdir, lambda: teacher, replies.__setitem__)
    except UserError as error:
      message = str(error)
    workdir.keep_unfinished()
  assert len(message) < 2000
  return replies


def check_stored(folder, replies):
  """Stored replies are read again, without asking, as they came."""

  class Nobody:
    def write(self, prompts):
      return iter(())

  assert run(Nobody(), folder) == replies


@pytest.mark.parametrize("seed", range(len(SEEDS)))
def test_what_is_mutated_is_accepted_or_refused_rightly_before(tmp_path, seed):
  with serving(lambda *_: SEEDS[seed]) as server:
    replies = run(OpenAITeacher(settings_for(server), WRITING), tmp_path)
  assert bool(replies) == (SEEDS[seed].status == 200)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_chat_endpoints_that_answer_anything(tmp_path, block):
  first = BASE_SEED + 60 * block
  for seed in range(first, first + to_run(60)):
    answer = hostile(seed)
    with serving(lambda *_, answer=answer: answer) as server:
      replies = run(OpenAITeacher(settings_for(server), WRITING), tmp_path / str(seed))
    check_stored(tmp_path / str(seed), replies)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_batch_endpoints_that_answer_anything(tmp_path, block):
  first = BASE_SEED + 30 * block + 500_000
  for seed in range(first, first + to_run(30)):
    rng = random.Random(seed)
    with serving(lambda *_: completion("It is 4.")) as server:
      spoil_batches(server, rng)
      settings = settings_for(server, batch=2)
      teacher = OpenAIBatchTeacher(settings, WRITING, tmp_path / str(seed))
      replies = run(teacher, tmp_path / str(seed))
    check_stored(tmp_path / str(seed), replies)


def spoil_batches(server, rng):
  """Makes one of the answers of a batch interface a hostile one."""
  place = rng.choice(("_take_file", "_make_batch", "_look", "lines", "lines"))
  if place != "lines":
    answer = getattr(server, place)

    def spoilt(argument):
      body = mutated(answer(argument).body, rng)
      text = json.dumps(body)
      return Answer(mutated_text(text, rng) if rng.random() < 0.3 else text)

    setattr(server, place, spoilt)
    return
  finish = server._finish

  def spoil(batch):
    finish(batch)
    name = batch.get("output_file_id")
    line = json.loads(server.files[name])
    body = (
      mutated(line, rng)
      if rng.random() < 0.5
      else line | {"response": mutated(line["response"], rng)}
    )
    text = json.dumps(body)
    server.files[name] = mutated_text(text, rng) if rng.random() < 0.3 else text

  server._finish = spoil
