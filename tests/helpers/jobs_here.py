"""Jobs in this process, by their flags, as a program runs them but for the process around it.

Programs of one run serve the next; a process of its own would trace them again.
"""

import contextlib
import dataclasses
import importlib
import io
import logging

from absl import flags
from absl import logging as absl_logging
from ml_collections import config_flags

from greedy_prune_jax.jobs.command import find_config


@dataclasses.dataclass(frozen=True)
class Run:
  """Standard output, and log, of a run that ended well."""

  stdout: str
  stderr: str


def run(job: str, *argv: str) -> Run:
  """Runs `JOB ARGV` on one device.

  Raises:
    Exception: whatever ends the run; a program would make a message of it.
  """
  values = flags.FlagValues()
  command = [job, f"--config={find_config(argv[0].removeprefix('--config='))}", *argv[1:]]
  config_flags.DEFINE_config_file(
    "config", None, "", flag_values=values, lock_config=True, sys_argv=command
  )
  for name in ("workdir", "pruned"):
    flags.DEFINE_string(name, "", "", flag_values=values)
  values(command)
  config = values.config.to_dict()
  if config.get("mesh", {}).get("data") == 0 and config["mesh"]["model"] == 1:
    config["mesh"]["data"] = 1  # a program of these tests has one device, this process 8
  function = getattr(importlib.import_module(f"greedy_prune_jax.jobs.{job}"), job)
  further = [values.pruned.split(",")] if job == "analyze" else []
  stdout, stderr = io.StringIO(), io.StringIO()
  handler = logging.StreamHandler(stderr)
  handler.setFormatter(absl_logging.PythonFormatter())
  root, verbosity = logging.getLogger(), absl_logging.get_verbosity()
  root.addHandler(handler)
  absl_logging.set_verbosity(absl_logging.INFO)
  try:
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
      function(config, values.workdir, *further)
  finally:
    root.removeHandler(handler)
    absl_logging.set_verbosity(verbosity)
  return Run(stdout.getvalue(), stderr.getvalue())
