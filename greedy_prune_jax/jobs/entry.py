"""Shared parts of jobs' entry points: flags, the log's first lines, errors, the compile cache."""

import ast
import contextlib
import hashlib
import logging as python_logging
import numbers
import os
import platform
import re
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import jax
import jaxlib
from absl import app, flags, logging
from ml_collections import config_dict, config_flags

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.jobs.command import config_names, find_config
from greedy_prune_jax.jobs.startup import output_error, tell_done
from greedy_prune_jax.parallel import leave_processes, meet, start_processes
from greedy_prune_jax.reports.printing import printable
from greedy_prune_jax.runs.files import held_folder, os_error_advice
from greedy_prune_jax.runs.workdir import Workdir

flags.disclaim_key_flags()  # --helpshort lists them as the job's own

Job = Callable[[Mapping[str, Any], str], None]  # takes config and workdir

Failed = TypeVar("Failed", int, list[str])  # how many items failed, or which

_MOST_SHOWN = 4000  # characters of a message
_MOST_OF_FAULT = 500  # characters of the text of an error that was not expected
_PACKAGE = str(Path(__file__).parents[1])

_MOST_PROCESSES = 2**20  # beyond any machine: the others would be waited for
_PROCESS_FLAGS = ("coordinator", "num_processes", "process_id")


def _define_flags() -> None:
  about = "Config file of the run, or the name of one that comes with the package."
  config_flags.DEFINE_config_file("config", None, about, lock_config=True)
  flags.DEFINE_string("workdir", None, "Folder of the run: its config, log and outputs.")
  flags.DEFINE_bool("debug", False, "Show the traceback of an error that was not expected.")
  flags.DEFINE_bool("distributed", False, "Be one of several processes that share the work.")
  flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0; found out on SLURM and TPUs.")
  flags.DEFINE_integer("num_processes", None, "Their number; found out like the coordinator.")
  flags.DEFINE_integer("process_id", None, "Which of them this is, from 0; found out likewise.")


def define_paths(
  name: str, about: str, flag_values: flags.FlagValues = flags.FLAGS
) -> Callable[[], list[str]]:
  """Defines a flag of paths, separated by commas or each with a flag of its own; gives its reader.

  A plain list flag would take the last of several flags alone, without a word.
  """
  holder = flags.DEFINE_multi(
    flags.ListParser(),
    flags.ListSerializer(","),
    name,
    None,
    f"{about}, separated by commas.",
    flag_values=flag_values,
    required=True,
  )
  return lambda: [path for paths in holder.value for path in paths]


def run_job(job: Job, *, saves_on_sigterm: bool = False) -> None:
  """Runs a job as a program: its flags in, its exit status out.

  A `UserError` is printed last, without a traceback, and ends with status 1; Ctrl-C ends with
  status 130. See `parallel.start_processes` for `saves_on_sigterm`.
  """
  _define_flags()
  app.run(lambda _: _run(job, saves_on_sigterm), flags_parser=_parse_flags)


def run_in_workdir(
  work: Callable[[Workdir], Failed], workdir: str, config: Mapping[str, Any], **options: Any
) -> Failed:
  """Opens the workdir, does this process's share of the work, and waits for the others'.

  Args:
    work: does it and returns what failed; where that is nothing in all processes, partial results
      are removed.
    options: further arguments of `Workdir`: names of its outputs, and the keys of `config` that a
      later run may set differently.

  Returns:
    What failed in this process.
  """
  first = jax.process_index() == 0
  options |= {"process_index": jax.process_index(), "num_processes": jax.process_count()}
  with Workdir(workdir, config, **options) as run:
    meet("the workdir is open")  # none may write before all are here
    with held_folder(run.path):  # a file that cannot be read went with it
      failed = work(run)
    if failed:
      run.keep_unfinished()
    if first:
      leave_processes()  # by now the others have closed their files
      run.remove_unfinished()
  if not first:
    leave_processes()
  return failed


def print_result(text: str) -> None:
  """Prints what a job found to standard output; see `startup` for one that cannot be written."""
  print(printable(text), flush=True)


def _parse_flags(argv: list[str]) -> list[str]:
  """Parses flags, so that a mistake in them is one message like any other of the user's."""
  try:
    argv = flags.FLAGS([_with_config_path(*pair) for pair in zip(["", *argv], argv, strict=False)])
  except Exception as error:  # the config file is a program, which can raise anything
    _fail(_explain(error))
  if argv[1:]:
    _fail(f"stray arguments: {' '.join(argv[1:])}; settings are passed as --config.NAME=VALUE")
  for name in ("config", "workdir"):
    if flags.FLAGS[name].value in (None, ""):
      _fail(f"--{name} is missing; expected --config=FILE --workdir=DIR")
  for name in _PROCESS_FLAGS:
    if flags.FLAGS[name].value is not None and not flags.FLAGS.distributed:
      _fail(f"--{name} says which of several processes this is; pass --distributed too")
  _check_processes()
  _check_config()
  return argv


def _check_processes() -> None:
  """Ends the program if the flags of several processes cannot be."""
  coordinator, number, own = (flags.FLAGS[name].value for name in _PROCESS_FLAGS)
  if coordinator is not None:
    port = re.fullmatch(r"\S+:([0-9]{1,5})", coordinator)
    if port is None or not 0 < int(port[1]) < 2**16:
      _fail(
        f"--coordinator={coordinator}; expected HOST:PORT, such as node1:12345, and a port from 1 "
        "to 65535"
      )
  if number is not None and not 1 <= number <= _MOST_PROCESSES:
    _fail(f"--num_processes={number}; expected 1 to {_MOST_PROCESSES}")
  if own is not None and not 0 <= own < (number or own + 1):
    _fail(f"--process_id={own}; expected a number from 0 to below --num_processes={number}")


def _with_config_path(before: str, argument: str) -> str:
  """An argument of the command line, behind the one before it; a config's name becomes its path."""
  flag, equals, value = argument.partition("=")
  if equals and flag in ("--config", "-config"):
    return f"{flag}={find_config(value)}"
  return find_config(argument) if before in ("--config", "-config") else argument


def _explain(error: Exception) -> str:
  """Explains an error of parsing the flags and running the config file."""
  cause: BaseException | None = error
  while cause is not None:  # ml_collections and absl wrap what they get
    frames = traceback.extract_tb(cause.__traceback__)
    if within := [frame for frame in frames if frame.name in ("get_config", "<module>")]:
      place = f"{within[-1].filename}, line {within[-1].lineno}"
      return f"the config file fails: {place}: {type(cause).__name__}: {cause}"
    cause = cause.__context__
  if isinstance(error, AttributeError | KeyError):
    detail = str(error.args[0])
    with contextlib.suppress(ValueError, SyntaxError):  # ml_collections gives what repr made of it
      detail = str(ast.literal_eval(detail))
    name = re.match(r"'?(\w+)", detail)
    if name and name[1] in flags.FLAGS:
      return f"--config has no such name: {name[1]}; it is a flag of its own: --{name[1]}=VALUE"
    detail = detail.replace("\n", ". ")
    return f"--config has no such name: {detail}; the config file has all that can be set"
  if isinstance(error, flags.UnrecognizedFlagError) and _is_setting(error.flagname):
    return f"{error}; did you mean --config.{error.flagname}?"
  if isinstance(error, flags.Error):
    return f"{error}; --helpshort lists the flags, the config file has all that can be set"
  return f"--config: {error}"


def _is_setting(name: str) -> bool:
  """Tells whether the config file, if it could be read, has a setting of this dotted name."""
  config = flags.FLAGS["config"].value
  for key in name.split("."):
    if not isinstance(config, config_dict.ConfigDict) or key not in config:
      return False
    config = config[key]
  return True


def _check_config() -> None:
  """Ends the program if the config file could not be read: ml_collections tells only now."""
  name = config_flags.get_config_filename(flags.FLAGS["config"])
  try:
    flags.FLAGS.config.lock()
  except OSError as error:
    _fail(
      f"cannot read --config={name}; expected a Python file that defines get_config(), such as "
      f"configs/prune.py, or one of {', '.join(config_names())} "
      f"({' '.join(str(error.__cause__).split())})"
    )
  except AttributeError:
    kind = type(flags.FLAGS.config).__name__
    _fail(f"--config={name}: its get_config() returns {kind}; expected ConfigDict")


def _fail(message: object) -> NoReturn:
  with contextlib.suppress(OSError):
    most = 0 if _shows_tracebacks() else _MOST_SHOWN
    text = re.sub(
      r"\n(?! )", "\n  ", printable(str(message), most=most)
    )  # none looks like the log's
    sys.stderr.write(f"error: {text}\n")
  _end(1)


def _end(status: int) -> NoReturn:
  """Ends the program without waiting for other processes, or for threads that a full disk holds."""
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(OSError):
      stream.flush()
  os._exit(status)


def _run(job: Job, saves_on_sigterm: bool) -> None:
  _protect_terminal()
  config = flags.FLAGS.config
  workdir = os.path.expanduser(flags.FLAGS.workdir)  # a shell leaves the ~ of --workdir=~/x to us
  try:
    logging.info("config: %s", config.to_json())
    if config.get("compilation_cache", True):
      keep_compilations()
    if flags.FLAGS.distributed:  # before anything asks for a device
      which = (flags.FLAGS[name].value for name in _PROCESS_FLAGS)
      start_processes(*which, saves_on_sigterm=saves_on_sigterm)
    logging.info("devices: %s", jax.local_devices())
    job(config.to_dict(), workdir)
    leave_processes()
    if error := output_error():
      raise UserError(f"cannot write to standard output: {error}. The workdir has all results")
  except UserError as error:
    _fail(f"{error}{_several_advice(str(error), config.to_dict())}")
  except OSError as error:  # whatever was not expected of a disk
    _fail(_describe_os_error(error, Path(workdir)))
  except Exception as error:
    _fail(_describe_fault(error))
  tell_done()


def _several_advice(message: str, config: Mapping[str, Any]) -> str:
  """Says how several texts are passed, where a message is about one that has a comma."""
  for name, value in config.items():
    if isinstance(value, tuple) and len(value) == 1 and isinstance(value[0], str):
      items = tuple(item.strip("()'\" ") for item in value[0].split(","))
      if len(items) > 1 and value[0] in message:
        written = ",".join(map(repr, items))
        return f'. If these are several, pass --config.{name}="({written})"'
  return ""


def _describe_os_error(error: OSError, workdir: Path) -> str:
  """An error of a disk that nothing else has explained; advice is about what the job writes."""
  name = error.filename
  is_ours = name is None or Path(os.path.abspath(str(name))).is_relative_to(workdir.absolute())
  advice = os_error_advice(error) if is_ours else ""
  return f"{name or 'a file'}: {error.strerror or error}. {advice}".strip()


def _describe_fault(error: Exception) -> str:
  """An error that is no user's: in one line, or with `--debug` by its whole traceback."""
  if _shows_tracebacks():
    return "".join(traceback.format_exception(error))
  if "RESOURCE_EXHAUSTED" in str(error):
    said = printable(" ".join(str(error).split()), one_line=True, most=_MOST_OF_FAULT)
    return (
      f"the memory of a device is full: {said}. What is on disk is whole, and the same command "
      "goes on; a smaller batch_size, dtype=bfloat16 or a larger mesh.model take less, in distill "
      "num_parts and remat=full too (docs/devices.md)"
    )
  frames = [f for f in traceback.extract_tb(error.__traceback__) if _PACKAGE in f.filename]
  place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
  said = printable(" ".join(str(error).split()), one_line=True, most=_MOST_OF_FAULT)
  return (
    f"{type(error).__name__}: {said}{place}. That was not expected: what is on disk is whole, and "
    "the same command goes on. With --debug it shows where it happened; please report that"
  )


def _protect_terminal() -> None:
  """Makes the log show any text in one line and act on none, and libraries' faults a line of it."""
  make = python_logging.getLogRecordFactory()  # of the log of every library
  python_logging.setLogRecordFactory(lambda *args, **kwargs: _escaped(make(*args, **kwargs)))
  python_logging.captureWarnings(True)
  # What waits for a thread raises its error too. `sys.excepthook` gets those of callbacks that C++
  # makes, such as tensorstore's after a full disk.
  threading.excepthook = lambda args: _log_fault(args.exc_type, args.exc_value)
  sys.unraisablehook = lambda args: _log_fault(args.exc_type, args.exc_value)
  sys.excepthook = _log_fault


def _log_fault(kind: type[BaseException], error: BaseException | None, *_: Any) -> None:
  """Logs in one line an error beside the run: in a library's thread, callback or destructor."""
  exc_info = (kind, error, error.__traceback__) if error is not None else None
  logging.warning("beside the run: %s: %s", kind.__name__, error, exc_info=exc_info)


def _escaped(record: Any) -> Any:
  """A log record whose texts are escaped: an id with a newline forges no line."""
  if isinstance(record.args, tuple):
    record.args = tuple(
      x if isinstance(x, numbers.Real) else printable(str(x), one_line=True, most=_MOST_SHOWN)
      for x in record.args
    )
  record.msg = printable(str(record.msg))
  if record.exc_info and _shows_tracebacks():
    record.exc_text = printable("".join(traceback.format_exception(*record.exc_info)))
  elif record.exc_info:  # such as Orbax logs of a full disk, beside the error that we explain
    record.exc_info = None
  return record


def _shows_tracebacks() -> bool:
  return flags.FLAGS.is_parsed() and flags.FLAGS.debug


def quiet_orbax() -> None:
  """Leaves out of the log that Orbax tells of every file, and that a folder is only read."""

  def is_worth_showing(record: Any) -> bool:
    if "orbax" not in record.pathname:
      return True
    is_news = record.levelname not in ("DEBUG", "INFO")
    return is_news and "read_only" not in str(record.msg) and "read only" not in str(record.msg)

  logging.get_absl_logger().addFilter(is_worth_showing)


def keep_compilations() -> None:
  """Makes compiled programs persist between runs, under the user's cache folder.

  The folder is named after the versions of JAX and the host's processor: code compiled for one CPU
  does not run on every other. A folder that JAX was given by environment variable is left alone.
  """
  if "JAX_COMPILATION_CACHE_DIR" in os.environ:
    return
  cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
  version = f"jax-{jax.__version__}-jaxlib-{jaxlib.version.__version__}-{_processor()}"
  folder = cache / "greedy_prune_jax" / "compiled" / version
  jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _processor() -> str:
  """A short name for what this host's processor can run."""
  description = platform.machine()
  cpuinfo = Path("/proc/cpuinfo")
  if cpuinfo.exists():
    lines = cpuinfo.read_text().splitlines()
    description += next((line for line in lines if line.startswith(("flags", "Features"))), "")
  return f"{platform.machine()}-{hashlib.sha256(description.encode()).hexdigest()[:8]}"
