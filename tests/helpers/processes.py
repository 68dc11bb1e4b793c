"""Jobs as processes of their own, for tests of their exit status, output and death.

They are forked from a server that has imported all that the prune and distill jobs import (and this
module, which is why it imports nothing else), so that each costs a second instead of five.
"""

import dataclasses
import multiprocessing
import os
import resource
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Job:
  """A job's process, begun; what it prints goes to files."""

  process: multiprocessing.process.BaseProcess
  folder: Path

  @property
  def stdout(self) -> str:
    return (self.folder / "stdout").read_text()

  @property
  def stderr(self) -> str:
    return (self.folder / "stderr").read_text()

  def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
    os.kill(self.process.pid, number)

  def wait(self) -> int:
    """Its exit status; minus the signal if one ended it."""
    self.process.join(300)
    assert self.process.exitcode is not None
    return self.process.exitcode


_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
  [
    "greedy_prune_jax.jobs.entry",
    "greedy_prune_jax.pruning.run",
    "greedy_prune_jax.distill.run",
    "tests.helpers.processes",
  ]
)


def start(
  folder: Path,
  *argv: str,
  job: str = "prune",
  num_devices: int = 1,
  most_bytes: int | None = None,
  **env: str,
) -> Job:
  """Starts `python -m greedy_prune_jax.jobs.JOB ARGV` and returns at once.

  Args:
    folder: folder of its stdout and stderr.
    *argv: arguments of the program.
    job: the job's name.
    num_devices: number of simulated devices.
    most_bytes: size to which any file may grow, as on a disk that is full.
    **env: environment variables to set.
  """
  folder.mkdir(exist_ok=True)
  process = _SERVER.Process(target=_run, args=(folder, job, argv, num_devices, most_bytes, env))
  process.start()
  return Job(process, folder)


def wait_for_handlers(process: "subprocess.Popen[str]") -> None:
  """Waits until a program catches Ctrl-C itself: that is long before its imports are done."""
  caught = 0
  while not caught & 1 << signal.SIGTERM - 1 and process.poll() is None:
    status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    caught = int(next(line for line in status if line.startswith("SigCgt")).split()[1], 16)
    time.sleep(0.01)


def _run(
  folder: Path,
  job: str,
  argv: tuple[str, ...],
  num_devices: int,
  most_bytes: int | None,
  env: dict[str, str],
) -> None:
  for number, name in ((1, "stdout"), (2, "stderr")):
    os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
  os.environ.update(env)
  devices = f"device_count={num_devices}"
  os.environ["XLA_FLAGS"] = os.environ["XLA_FLAGS"].replace("device_count=8", devices)
  if most_bytes is not None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
  sys.argv = [f"{job}.py", *argv]
  runpy.run_module(f"greedy_prune_jax.jobs.{job}", run_name="__main__", alter_sys=True)
