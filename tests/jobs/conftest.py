import pytest

from tests.helpers import processes, tiny_runs


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
  """A folder with a tiny model, its chains, and a cache of compiled programs for all runs."""
  folder = tmp_path_factory.mktemp("shared")
  tiny_runs.make_model(folder / "model")
  tiny_runs.write_chains(folder / "chains.jsonl")
  return folder


@pytest.fixture
def start(shared, tmp_path):
  """Starts a job; settings and flags can be replaced by name.

  The prune job gets the shared model and chains unless it is `bare`.
  """
  count = 0

  def start(
    *argv,
    job="prune",
    workdir="run",
    config=None,
    bare=False,
    num_devices=1,
    most_bytes=None,
    env=(),
    **settings,
  ):
    nonlocal count
    count += 1
    if job == "prune" and not bare:
      defaults = {"pruner": shared / "model", "chains": shared / "chains.jsonl", "num_chains": 0}
      settings = defaults | settings
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    return processes.start(
      tmp_path / f"process {count}",
      f"--config={config or f'configs/{job}.py'}",
      f"--workdir={tmp_path / workdir}",
      *flags,
      *argv,
      job=job,
      num_devices=num_devices,
      most_bytes=most_bytes,
      **{"XDG_CACHE_HOME": str(shared / "cache"), **dict(env)},
    )

  return start


@pytest.fixture
def run(start):
  """Runs the job to its end, which must be a good one."""

  def run(*argv, **settings):
    job = start(*argv, **settings)
    status = job.wait()
    assert status == 0, job.stderr
    return job

  return run
