"""The drp job as a process: a dry run, steps by rules into prune, an endpoint, a local teacher."""

import json

import pytest

from tests.helpers import teacher_forms as forms
from tests.helpers.chat_server import completion, refusal, serving
from tests.helpers.tiny_runs import CHAINS, make_model, records, skipped


def endpoint(server, **settings):
  group = {"base_url": server.url, "model": "m", "backoff": 0.01}
  return {"teacher": "openai", **{f"endpoint.{k}": v for k, v in (group | settings).items()}}


@pytest.fixture
def chains(tmp_path):
  path = tmp_path / "chains.jsonl"
  path.write_text("".join(json.dumps(forms.chain(i)) + "\n" for i in range(2)))
  return {"chains": path, "num_chains": 0}


@pytest.mark.slow
def test_a_dry_run_asks_nothing_and_binds_nobody(run, tmp_path, chains):
  pytest.importorskip("openai")
  with serving(forms.good) as server:
    settings = {**endpoint(server, max_tokens=500), **chains}
    job = run(job="drp", dry_run=True, **settings)
    assert not server.requests
    assert "all         6" in job.stdout
    assert "endpoint.max_tokens=500 will not be enough for this" in job.stdout
    job = run(job="drp", **{**endpoint(server), **chains, "seed": 1})
    assert len(server.requests) == 6
  assert "Left to ask for on 2 chains" in job.stdout
  assert "-- merge: division" in job.stdout
  summary = json.loads((tmp_path / "run" / "summary.json").read_text())
  assert [row["passed at once"] for row in summary["stages"]] == [2, 2, 2]
  assert (tmp_path / "run" / "tables" / "skills.csv").exists()
  assert not (tmp_path / "run" / "unfinished").exists()


@pytest.mark.slow
def test_chains_without_a_reply_end_it_with_an_error(start, tmp_path, chains):
  pytest.importorskip("openai")

  def respond(request, count):
    return refusal(400, "too long") if forms.number_of(request) else completion(forms.GOOD["edit"])

  with serving(respond) as server:
    job = start(job="drp", max_attempts=1, **endpoint(server), **chains)
    assert job.wait() == 1
  assert "error: there is no reply on 1 chains; " in job.stderr
  assert skipped(tmp_path / "run")[0]["reason"].endswith("too long")
  assert "decompose  bad_form " in job.stdout  # edits where steps were asked for


@pytest.mark.slow
def test_steps_by_rules_are_the_units_of_prune(run, tmp_path):
  path = tmp_path / "short.jsonl"
  reasoning = "3 + 4 = 7 clips.\nThen 7 - 2 = 5. So 5.\n"
  path.write_text(json.dumps(CHAINS[0] | {"reasoning": reasoning}) + "\n")
  chains = {"chains": path, "num_chains": 0}
  run(job="drp", workdir="steps", stages="('decompose',)", splitter="rules", **chains)
  stored = {"unit": "skill_step", "steps": tmp_path / "steps"}
  for ranking in ("greedy", "answer_perplexity"):
    run(workdir=ranking, ranking=ranking, **stored, **chains)
  run(workdir="rules", unit="skill_step", **chains)
  found = {name: records(tmp_path / name) for name in ("greedy", "answer_perplexity", "rules")}
  assert found["rules"] == found["greedy"]  # the same rules
  for of_run in found.values():
    (record,) = of_run.values()
    assert record["unit"] == "skill_step"
    assert len(record["unit_sizes"]) == 3
    assert sum(_units_gone(record)) == len(record["deletion_order"])
    assert len(record["nll"]["joint"]) == 1 + len(_units_gone(record))


@pytest.mark.slow
def test_an_ended_run_goes_on_with_more_chains(run, tmp_path, chains):
  settings = {"job": "drp", "stages": "('decompose',)", "splitter": "rules"} | chains
  run(**settings, workdir="whole")
  for num_chains, found in ((1, 1), (2, 2)):
    run(**settings | {"num_chains": num_chains})
    assert len(_lines(tmp_path / "run")) == found
  assert sorted(_lines(tmp_path / "run")) == sorted(_lines(tmp_path / "whole"))


def _lines(workdir):
  return (workdir / "decomposed" / "process-00000.jsonl").read_text().splitlines()


def _units_gone(record):
  """Sizes of the units that left, the first first."""
  starts, place = {}, 0
  for size in record["unit_sizes"]:
    starts[place] = size
    place += size
  gone, place = [], 0
  while place < len(record["deletion_order"]):
    gone.append(starts[record["deletion_order"][place]])
    place += gone[-1]
  return gone


@pytest.mark.slow
def test_a_local_teacher_that_cannot_do_it_leaves_chains_as_they_are(run, tmp_path):
  pytest.importorskip("rapidfuzz")
  make_model(tmp_path / "teacher", max_position_embeddings=4096)
  path = tmp_path / "one.jsonl"
  path.write_text(json.dumps(forms.chain(0)) + "\n")
  settings = {"chains": path, "teacher": tmp_path / "teacher", "max_new_tokens": 8}
  job = run(job="drp", max_attempts=2, **settings)
  assert "stays as it was: decompose failed, cut_off" in job.stdout
  (line,) = (tmp_path / "run" / "chains" / "process-00000.jsonl").read_text().splitlines()
  assert json.loads(line)["reasoning"] == forms.REASONING


@pytest.mark.parametrize(
  ("job", "settings", "message"),
  [
    ("prune", {"steps": "x"}, "steps='x' is read by unit=skill_step alone, not token"),
    ("drp", {"splitter": "me"}, "splitter='me'; expected one of teacher, rules"),
  ],
)
def test_what_does_not_fit_is_refused(start, job, settings, message):
  started = start(job=job, **settings)
  assert started.wait() == 1
  assert message in started.stderr
