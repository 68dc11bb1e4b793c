"""The sample job as a process, with a tiny model as teacher: killed, summed up, and pruned."""

import json
import os
import time

import pytest

from tests.helpers.tiny_runs import make_model

NUM_QUESTIONS, NUM_SAMPLES = 4, 3


@pytest.fixture
def settings(tmp_path):
  """A teacher, and questions for it."""
  make_model(tmp_path / "teacher", max_position_embeddings=1024)
  rows = [
    {"question": f"What is {i} + {i}?", "answer": f"It is {2 * i}.\n#### {2 * i}"}
    for i in range(NUM_QUESTIONS)
  ]
  (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  return {
    "questions": f"gsm8k:{tmp_path / 'rows.jsonl'}",
    "teacher": tmp_path / "teacher",
    "num_questions": 0,
    "num_samples": NUM_SAMPLES,
    "max_new_tokens": 24,
    "batch_size": 2,
    "show_samples": 1,
  }


def _records(workdir):
  lines = (workdir / "samples" / "process-00000.jsonl").read_text().splitlines()
  return {record["id"]: record for record in map(json.loads, lines)}


def _replies(workdir):
  path = workdir / "unfinished" / "process-00000.jsonl"
  return [json.loads(x)["id"] for x in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.slow
def test_an_ended_run_goes_on_with_more_questions(run, tmp_path, settings):
  run(job="sample", workdir="whole", **settings)
  for num_questions in (1, NUM_QUESTIONS):
    run(job="sample", **settings | {"num_questions": num_questions})
    assert len(_records(tmp_path / "run")) == num_questions
  assert _records(tmp_path / "run") == _records(tmp_path / "whole")


@pytest.mark.slow
def test_a_killed_run_goes_on_and_asks_nothing_twice(start, run, tmp_path, settings):
  whole = run(job="sample", workdir="whole", **settings)
  expected = _records(tmp_path / "whole")
  assert len(expected) == NUM_QUESTIONS
  assert all(len(record["samples"]) == NUM_SAMPLES for record in expected.values())

  job = start(job="sample", **settings)
  while not _replies(tmp_path / "run") and job.process.is_alive():
    time.sleep(0.005)
  job.kill()
  job.wait()
  stored = _replies(tmp_path / "run")
  assert 0 < len(stored) < NUM_QUESTIONS * NUM_SAMPLES, "killed too early or too late"
  again = run(job="sample", **settings)
  # Other samples beside it may make a text round differently, but a tiny model in float32 does not.
  assert _records(tmp_path / "run") == expected
  assert again.stdout == whole.stdout
  asked = NUM_QUESTIONS * NUM_SAMPLES - len(stored)
  assert f"{asked}/{asked} " in again.stderr

  summary = json.loads((tmp_path / "run" / "summary.json").read_text())
  assert (summary["questions"], summary["samples"]) == (NUM_QUESTIONS, NUM_QUESTIONS * NUM_SAMPLES)
  assert f"{NUM_QUESTIONS} questions, {NUM_QUESTIONS * NUM_SAMPLES} samples" in whole.stdout
  assert whole.stdout.count("=== rows/") == 1
  assert not (tmp_path / "run" / "unfinished").exists()


@pytest.mark.slow
def test_devices_do_not_change_a_run(run, run_program, tmp_path, settings):
  run(job="sample", workdir="one", **settings)
  devices = {"XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=4")}
  settings |= {"batch_size": 6}
  run_program(job="sample", workdir="many", env=devices, **settings)
  assert _records(tmp_path / "many") == _records(tmp_path / "one")
  settings |= {"mesh.data": 2}  # which a later run may set differently
  run_program(job="sample", workdir="many", env=devices, **settings)


def test_a_mesh_that_cannot_be(start, settings):
  job = start(job="sample", **{"mesh.data": 7}, **settings)
  assert job.wait() == 1
  assert "error: mesh.data=7, mesh.model=1 takes 7 devices; this process has 1" in job.stderr
  assert "Traceback" not in job.stderr


@pytest.mark.slow
def test_prompts_that_fill_the_context_are_told(start, tmp_path, settings):
  make_model(tmp_path / "teacher", max_position_embeddings=40)
  job = start(job="sample", **settings)
  assert job.wait() == 1
  assert "Traceback" not in job.stderr
  *_, message = job.stderr.split("error: ")
  assert message.startswith(f"{NUM_QUESTIONS * NUM_SAMPLES} samples have no reply; ")
  lines = (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()
  assert "and the model's context 40" in json.loads(lines[0])["reason"]
