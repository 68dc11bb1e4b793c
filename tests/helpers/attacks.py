"""Seeded mutations of JSON, text, bytes and files; and the limits within which a program must end.

`tests/fuzz` gives them to every reader of what users, models and earlier runs give, and to every
job; endpoints are attacked in `tests/teachers/test_fuzz.py`. A case is taken or ends in a
UserError: no other exception, no hang, no memory beyond a limit.

A case is named by its number: the same number makes the same mutation. FUZZ_SEED=7 pytest
tests/fuzz makes others, and three times as many.
"""

import contextlib
import faulthandler
import json
import os
import random
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from greedy_prune_jax.errors import UserError

SECONDS = 40  # of processors' time for a case; the slowest good one takes a few
_WAITS = 10  # times as long it may take by the clock: other tests share the processors
MOST_BYTES = 4 << 30  # of memory beyond that which the process has

_LONGEST_MESSAGE = 20_000  # characters
BASE_SEED = int(os.environ.get("FUZZ_SEED", "0")) * 10**6

VALUES: tuple[Any, ...] = (
  *(None, True, False, 0, 1, -1, 2, 7, 2**31, 2**63, 10**30, 0.0, 0.5, -1.0, 1e-300, 1e300),
  *("", " ", "x", "stop", "\x00", "\x1b[2J\u202e", "a\nb", "../../x", "/dev/zero", "{{", "9" * 400),
  *([], [1], [[]], [None], ["a"], {}, {"a": 1}, {"": None}, {"id": "x", "text": [1]}, "x" * 5000),
)
# Pieces of JSON that only a text can hold.
_TEXTS = ("NaN", "1e999", "-Infinity", "[" * 3000, '{"a":' * 3000, "9" * 5000, '"\\ud800"')
_BYTES = (b"\x00", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\n", b'"', b"{", b"\x1b[2J", b"A" * 999)
_NUMBERS = (0, 1, 2, 31, 255, 2**31, 2**32 - 1, 2**60, 2**63, 2**64 - 1, 10**9)


class HangError(BaseException):
  """A case took too long; no handler of exceptions in the code may catch it."""


def to_run(number: int) -> int:
  """A third of a number of cases, all of it with a seed.

  Without one the cases are those of every run before, which can only find a fault anew.
  """
  return number if "FUZZ_SEED" in os.environ else -(-number // 3)


def cases_of(name: str, number: int) -> Iterator[tuple[int, random.Random]]:
  """The numbers of the cases of an attack of this name, each with its randomness."""
  for case in range(BASE_SEED, BASE_SEED + to_run(number)):
    yield case, random.Random(f"{name} {case}")


def mutated(value: Any, rng: random.Random) -> Any:
  """The JSON value with something in it replaced, dropped, renamed, doubled or wrapped."""
  if isinstance(value, dict) and value and rng.random() < 0.9:
    key = rng.choice(list(value))
    kind = rng.random()
    if kind < 0.15:
      return {k: v for k, v in value.items() if k != key}
    if kind < 0.2:
      return value | {key + "x": value[key]}
    if kind < 0.25:
      return value | {key: rng.choice(list(value.values()))}
    return value | {key: mutated(value[key], rng)}
  if isinstance(value, list) and value and rng.random() < 0.8:
    i = rng.randrange(len(value))
    return [*value[:i], *[mutated(value[i], rng)] * rng.randrange(3), *value[i + 1 :]]
  if isinstance(value, int | float) and rng.random() < 0.3:
    return rng.choice((value + 1, -value, value * 10**9, float(value), str(value)))
  if isinstance(value, str) and rng.random() < 0.4:
    return mutated_text(value, rng)
  return rng.choice((*VALUES, [value], {"a": value}, str(value)))


def mutated_text(text: str, rng: random.Random) -> str:
  """The text cut, doubled, opened otherwise, or with a piece of another kind in it."""
  at = rng.randrange(len(text) + 1)
  kind = rng.randrange(6)
  if kind == 0:
    return text[:at]
  if kind == 1:
    return text + text
  if kind == 2:
    return rng.choice(("\ufeff", "<html>", "data: ", "\x1b]0;x\x07", " " * 99)) + text
  if kind == 3:
    return text[:at] + rng.choice(("\x00", "\u202e", "\n", '"', "\\", "}", "{{ x }}")) + text[at:]
  if kind == 4:
    return text[:at] + text[at + 1 + rng.randrange(20) :]
  return text[:at] + text[at : at + 30] * rng.choice((2, 99)) + text[at:]


def mutated_bytes(data: bytes, rng: random.Random, end: int = 0) -> bytes:
  """The bytes with a few numbers or pieces overwritten before `end`, cut off, or repeated."""
  changed = bytearray(data)
  for _ in range(rng.randint(1, 3)):
    at = rng.randrange((min(end, len(data)) or len(data)) + 1)
    if rng.random() < 0.6:
      width = rng.choice((1, 4, 8))
      piece = (rng.choice(_NUMBERS) % 256**width).to_bytes(width, "little")
    else:
      piece = rng.choice(_BYTES)
    changed[at : at + len(piece) * rng.randrange(2)] = piece
  return bytes(changed[: rng.randrange(len(changed) + 1)] if rng.random() < 0.1 else changed)


def _mutated_json(data: bytes, rng: random.Random) -> bytes:
  """A JSON text with its value changed, or a piece of the text."""
  value = mutated(json.loads(data), rng)
  if rng.random() < 0.3 and isinstance(value, dict):
    value = mutated(value, rng)
  text = json.dumps(value, ensure_ascii=rng.random() < 0.8)
  if rng.random() < 0.15:
    quoted = json.dumps(rng.choice(VALUES[:8]))
    text = (
      text.replace(quoted, rng.choice(_TEXTS), 1) if quoted in text else mutated_text(text, rng)
    )
  return text.encode("utf-8", "surrogatepass")


def _mutated_lines(data: bytes, rng: random.Random) -> bytes:
  """JSON lines with one of them changed, doubled, dropped, torn or moved."""
  lines = data.splitlines(keepends=True)
  at = rng.randrange(len(lines))
  kind = rng.random()
  if kind < 0.75:
    lines[at] = _mutated_json(lines[at], rng) + b"\n"
  elif kind < 0.8:
    lines.append(lines[at])
  elif kind < 0.85:
    del lines[at]
  elif kind < 0.9:
    lines[-1] = lines[-1][: rng.randrange(len(lines[-1]) + 1)]
  else:
    lines[at] = mutated_bytes(lines[at], rng)
  return b"".join(lines)


def mutated_file(path: Path, rng: random.Random) -> None:
  """Changes a file by what its name says that it is, or puts something else in its place."""
  data = path.read_bytes()
  if rng.random() < 0.04:
    path.unlink()
    other = rng.choice(("nothing", "folder", "pipe", "loop", "empty"))
    if other == "folder":
      path.mkdir()
    elif other == "pipe":
      os.mkfifo(path)
    elif other == "loop":
      path.symlink_to(path)
    elif other == "empty":
      path.write_bytes(b"")
    return
  if path.suffix == ".json" and rng.random() < 0.85:
    data = _mutated_json(data, rng)
  elif path.suffix == ".jsonl" and data and rng.random() < 0.95:
    data = _mutated_lines(data, rng)
  elif path.suffix in (".jinja", ".txt", ".csv"):
    data = mutated_text(data.decode(), rng).encode()
  else:
    data = mutated_bytes(data, rng, end=rng.choice((0, 200, 4000)))
  path.write_bytes(data)


def mutate_one(folder: Path, rng: random.Random, pattern: str = "**/*") -> Path:
  """Mutates one file of a folder, and says which."""
  files = [p for p in sorted(folder.glob(pattern)) if p.is_file() and not p.is_symlink()]
  path = rng.choice(files)
  mutated_file(path, rng)
  return path


@contextlib.contextmanager
def limits(seconds: int = SECONDS) -> Iterator[None]:
  """Ends what takes too long by `HangError`, and what takes too much memory by MemoryError."""

  def late(*_: Any) -> None:
    raise HangError(f"still running after {seconds} s of processors' time, or {_WAITS} times that")

  size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
  before, hard = resource.getrlimit(resource.RLIMIT_AS)
  handlers = {number: signal.signal(number, late) for number in (signal.SIGALRM, signal.SIGPROF)}
  signal.alarm(_WAITS * seconds)
  signal.setitimer(signal.ITIMER_PROF, seconds)
  # Where no handler is ever called.
  faulthandler.dump_traceback_later(2 * _WAITS * seconds, exit=True)
  resource.setrlimit(resource.RLIMIT_AS, (size + MOST_BYTES, hard))
  try:
    yield
  finally:
    signal.alarm(0)
    signal.setitimer(signal.ITIMER_PROF, 0)
    faulthandler.cancel_dump_traceback_later()
    for number, handler in handlers.items():
      signal.signal(number, handler)
    resource.setrlimit(resource.RLIMIT_AS, (before, hard))


def refusal(work: Callable[[], object]) -> str:
  """The message of the UserError that a program ends in; empty where it ends well."""
  said = ""
  with limits():
    try:
      work()
    except UserError as error:
      said = str(error) or "nothing is said"
  assert said != "nothing is said"
  assert len(said) < _LONGEST_MESSAGE, said[:500]
  return said


def is_taken(work: Callable[[], object]) -> bool:
  """Tells whether a program takes its input; to refuse, it may only raise a UserError."""
  return not refusal(work)


def attack(
  pristine: Path,
  work: Callable[[Path], object],
  folder: Path,
  *,
  cases: int,
  name: str,
  pattern: str = "**/*",
) -> float:
  """Runs a program on mutations of a folder; the share of them that it refused.

  Args:
    pristine: a folder that is taken; one of its files is mutated in each case.
    work: the program, given the copy.
    folder: folder of the copies.
    cases: number of cases; see `to_run`.
    name: name of the attack, in the names of its cases.
    pattern: pattern of the files that are mutated.

  Raises:
    AssertionError: a case ended otherwise than well or in a UserError; it names the case.
  """
  copy = folder / "copy"
  cases, refused = to_run(cases), 0
  faults = []
  for case in range(BASE_SEED, BASE_SEED + cases + 1):
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(pristine, copy, symlinks=True)
    rng = random.Random(f"{name} {case}")
    first = case == BASE_SEED  # unmutated
    path = copy if first else mutate_one(copy, rng, pattern)
    try:
      said = refusal(lambda: work(copy))
    except (Exception, HangError) as error:
      kept = folder / f"case {case}"
      shutil.copytree(copy, kept, symlinks=True, ignore=_pipes)
      faults.append(f"{name} {case}, {path.relative_to(copy)} (kept in {kept}): {words_of(error)}")
      continue
    assert not (said and first), f"{name} is refused unmutated: {said}"
    refused += bool(said)
  assert not faults, "\n".join([f"{len(faults)} of {cases} cases", *faults])
  return refused / cases


def _pipes(_: str, names: list[str]) -> list[str]:
  return [name for name in names if Path(_, name).is_fifo() or Path(_, name).is_symlink()]


def words_of(error: BaseException) -> str:
  """The error's type, its text, and where it was raised in the package."""
  place, trace = "", error.__traceback__
  while trace is not None:
    file = trace.tb_frame.f_code.co_filename
    if "greedy_prune_jax/" in file and "/tests/" not in file:
      place = f"{file.rpartition('greedy_prune_jax/')[2]}:{trace.tb_lineno}"
    trace = trace.tb_next
  return f"{type(error).__name__}: {' '.join(str(error).split())[:300]} [{place}]"
