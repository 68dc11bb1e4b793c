"""Every job as a real program whose standard output or error is full, or read no further."""

import json
import os

import pytest

from tests.helpers import tiny_jobs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
  return tiny_jobs.make_inputs(tmp_path_factory.mktemp("inputs"))


def end_of(process):
  """The status and the last line of the log; no traceback is in it."""
  _, said = process.communicate(timeout=1200)
  assert "Traceback" not in said
  assert "Exception" not in said
  return process.returncode, said.splitlines()[-1]


@pytest.mark.parametrize("job", tiny_jobs.JOBS)
def test_a_full_standard_output_is_a_message_at_the_end(job, inputs, tmp_path):
  with tiny_jobs.config_of(job, inputs) as config, open("/dev/full", "w") as full:
    status, last = end_of(tiny_jobs.start(job, config, tmp_path / "run", inputs, stdout=full))
  assert status == 1
  assert last == (
    "error: cannot write to standard output: No space left on device. The workdir has all results"
  )


def test_a_reader_that_left_is_a_message_at_the_end(inputs, tmp_path):
  reader, writer = os.pipe()
  os.close(reader)
  config = tiny_jobs.prune(inputs)
  status, last = end_of(tiny_jobs.start("prune", config, tmp_path / "run", inputs, stdout=writer))
  assert (status, last.partition(". ")[0]) == (
    1,
    "error: cannot write to standard output: Broken pipe",
  )


@pytest.mark.parametrize("job", ["prune", "sample"])
def test_a_log_that_cannot_be_written_ends_no_run(job, inputs, tmp_path):
  with open("/dev/full", "w") as full:
    config = tiny_jobs.CONFIGS[job](inputs)
    process = tiny_jobs.start(job, config, tmp_path / "run", inputs, stderr=full)
    out, _ = process.communicate(timeout=1200)
  assert process.returncode == 0
  assert out
  for path in (tmp_path / "run").glob("*/process-*.jsonl"):
    assert all(json.loads(line) for line in path.read_text().splitlines())
