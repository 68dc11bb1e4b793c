"""The console command `greedy-prune`, and the configs that the package carries, by name."""

import pkgutil
import runpy
import sys
from pathlib import Path

from greedy_prune_jax.jobs import startup

_JOBS = Path(__file__).parent
_CONFIGS = _JOBS.parent / "configs"  # in a clone a link to the folder beside the package
_NO_JOBS = ("command", "entry", "startup")


def main() -> None:
  """Runs `greedy-prune JOB FLAGS` as `python -m greedy_prune_jax.jobs.JOB FLAGS`."""
  startup.prepare_process()
  job = sys.argv[1] if len(sys.argv) > 1 else ""
  if job not in job_names():
    wants_help = job in ("help", "-h", "--help", "-help", "--helpshort")
    print(usage(), file=sys.stdout if wants_help else sys.stderr)
    sys.exit(0 if wants_help else 1)
  sys.argv = [f"{sys.argv[0]} {job}", *sys.argv[2:]]
  runpy.run_module(f"greedy_prune_jax.jobs.{job}", run_name="__main__", alter_sys=True)


def usage() -> str:
  """The form of the command, with all jobs and configs."""
  return (
    "usage: greedy-prune JOB --config=NAME_OR_FILE --workdir=DIR [--config.SETTING=VALUE ...]\n"
    f"jobs: {', '.join(job_names())}\n"
    f"configs: {', '.join(config_names())}; or the path of a Python file with get_config()"
  )


def job_names() -> list[str]:
  """All jobs."""
  return sorted({module.name for module in pkgutil.iter_modules([str(_JOBS)])} - {*_NO_JOBS})


def config_names() -> list[str]:
  """Configs that come with the package."""
  return sorted(path.stem for path in _CONFIGS.glob("*.py"))


def find_config(value: str) -> str:
  """The value of `--config` with the path of a file: `study_cpu:smoke` is `.../study_cpu.py:smoke`.

  A file of that name in the current folder comes first; other names are left as they are.
  """
  name, colon, argument = value.partition(":")
  if Path(name).is_file() or name not in config_names():
    return value
  return f"{_CONFIGS / name}.py{colon}{argument}"
