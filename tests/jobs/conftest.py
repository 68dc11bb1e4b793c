import pytest

from tests.helpers import jobs_here, processes, tiny_runs


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
  """A folder with a tiny model, and its chains."""
  folder = tmp_path_factory.mktemp("shared")
  tiny_runs.make_model(folder / "model")
  tiny_runs.write_chains(folder / "chains.jsonl")
  return folder


@pytest.fixture
def arguments(shared, tmp_path):
  """Makes a job's flags; settings and flags can be replaced by name.

  The prune job gets the shared model and chains unless it is `bare`.
  """

  def arguments(*argv, job="prune", workdir="run", config=None, bare=False, **settings):
    if job == "prune" and not bare:
      defaults = {"pruner": shared / "model", "chains": shared / "chains.jsonl", "num_chains": 0}
      settings = defaults | settings
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    config = config or f"configs/{job}.py"
    return [f"--config={config}", f"--workdir={tmp_path / workdir}", *flags, *argv]

  return arguments


@pytest.fixture
def start(arguments, shared, tmp_path):
  """Starts a job as a process of its own; see `arguments`."""
  count = 0

  def start(*argv, job="prune", num_devices=1, most_bytes=None, env=(), **settings):
    nonlocal count
    count += 1
    return processes.start(
      tmp_path / f"process {count}",
      *arguments(*argv, job=job, **settings),
      job=job,
      num_devices=num_devices,
      most_bytes=most_bytes,
      **dict(env),
    )

  return start


@pytest.fixture
def run(arguments):
  """Runs a job in this process to its end, which must be a good one; see `arguments`."""
  return lambda *argv, job="prune", **settings: jobs_here.run(
    job, *arguments(*argv, job=job, **settings)
  )


@pytest.fixture
def run_program(start):
  """Runs a job as a process of its own to its end, which must be a good one."""

  def run(*argv, **settings):
    job = start(*argv, **settings)
    status = job.wait()
    assert status == 0, job.stderr
    return job

  return run
