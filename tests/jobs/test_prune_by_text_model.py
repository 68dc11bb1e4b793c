"""The prune job with a ranking by a text model at an endpoint."""

import json

import pytest

from tests.helpers.chat_server import completion, serving
from tests.helpers.tiny_runs import CHAINS, records, skipped


def asking(server):
  return {
    "ranking": "text_model",
    "text_model": "openai",
    "endpoint.base_url": server.url,
    "endpoint.model": "m",
  }


@pytest.mark.slow
def test_a_text_models_choice_is_what_stays(run, tmp_path):
  pytest.importorskip("openai")
  # Keeps the last word of each reasoning, whatever the ratio.
  last = {chain["reasoning"].strip().rsplit(" ", 1)[1] for chain in CHAINS}

  def respond(request, count):
    return completion(request["messages"][-1]["content"].rsplit(" ", 1)[1])

  with serving(respond) as server:
    run(**asking(server), keep_ratios="(0.75,0.5)")
    assert len(server.requests) == 2 * len(CHAINS)
  found = records(tmp_path / "run")
  assert len(found) == len(CHAINS)
  for record in found.values():
    assert (record["ranking"], record["search"]) == ("text_model", "none")
    tokens = record["reasoning_tokens"]
    gone = record["deletion_order"]
    left = "".join(token for i, token in enumerate(tokens) if i not in gone)
    assert any(left.strip().endswith(word) for word in last)
    assert len(record["nll"]["joint"]) == len(gone) + 1
  lines = (tmp_path / "run" / "compressions" / "process-00000.jsonl").read_text().splitlines()
  assert {(x["chain"], x["asked"]) for x in map(json.loads, lines)} == {
    (chain["id"], ratio) for chain in CHAINS for ratio in (0.75, 0.5)
  }
  assert all(0 < json.loads(line)["achieved"] < 0.75 for line in lines)


@pytest.mark.slow
def test_a_chain_that_is_not_compressed_is_left_out_and_the_others_are_not(start, tmp_path):
  pytest.importorskip("openai")

  def respond(request, count):
    asked = request["messages"][-1]["content"]
    reason = "content_filter" if "Step by step" in asked else "stop"
    return completion(asked.rsplit(" ", 1)[1], finish_reason=reason)

  with serving(respond) as server:
    settings = asking(server) | {"endpoint.max_attempts": 2}
    job = start(**settings, keep_ratios="(0.75,0.0)", on_bad_chain="skip")
    assert job.wait() == 0, job.stderr
    # One is asked for again; nothing is compressed to nothing.
    assert len(server.requests) == len(CHAINS) + 1
  assert set(records(tmp_path / "run")) == {"chain 0", "chain 2"}
  (left_out,) = skipped(tmp_path / "run")
  assert left_out["id"] == "chain 1"
  assert "the reply ended with 'content_filter' (2 attempts)" in left_out["reason"]


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    (
      {"ranking": "text_model"},
      "text_model='': the ranking text_model, and no other, needs the name",
    ),
    ({"ranking": "llmlingua"}, "llmlingua_model='': the ranking llmlingua, and no other, needs"),
    ({"text_model": "openai"}, "ranking=greedy, text_model='openai': the ranking text_model"),
    ({"endpoint.concurrency": 0}, "concurrency=0; expected 1 or more"),
  ],
)
def test_what_these_rankings_need_is_said(start, settings, message):
  job = start(**settings)
  assert job.wait() == 1
  assert message in job.stderr
