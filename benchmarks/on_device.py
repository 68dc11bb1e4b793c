"""Measurements for a device that is lent for half an hour; started by `on_device.sh`.

Groups run in the order of `GROUPS`, each in a process of its own that has the device's memory to
itself; each row goes to OUT/rows.jsonl as it is measured. A row that fails is recorded with its
error, and so are rows whose process dies or runs out of time; the others go on. At the end, and
after each group, OUT/results.json and OUT/table.txt are written anew.

`check` comes first: searches, a training and greedy texts of a tiny model, against what the CPU
found (`on_device_expected.json`, written on a CPU with --write_expected). Then follow scoring (one
exact step over single tokens, objective joint, bfloat16), transformers' published procedure on the
same device where there is PyTorch, training and sampling, all on random weights of the shapes.

Shares are of the makers' bfloat16 peak where the device is known, else of a large product, and of
the bandwidth of a copy: both are measured in the group `ceilings`.
"""

import argparse
import collections
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from benchmarks import on_device_rows as rows
from benchmarks.shapes import SHAPES


class Row(NamedTuple):
  """One measurement: its name, and what makes it."""

  name: str
  measure: Callable[[], dict[str, Any]]


def scoring(shape: str, lengths: tuple[int, ...]) -> list[Row]:
  """Our search at several lengths, with both kinds of attention."""
  search = rows.Search(SHAPES[shape])
  return [
    Row(f"score {shape} N={n} {attention}", lambda n=n, a=attention: search.measure(n, a))
    for n in lengths
    for attention in ("xla", "pallas")
  ]


def published(shape: str, lengths: tuple[int, ...]) -> list[Row]:
  """The published procedure at several lengths."""
  other = rows.PublishedSearch(SHAPES[shape])
  return [
    Row(f"published {shape} N={n} transformers", lambda n=n: other.measure(n)) for n in lengths
  ]


def training(shape: str) -> list[Row]:
  """A full step, and one of LoRA."""
  config = SHAPES[shape]
  return [
    Row(f"train {shape} full", lambda: rows.train(config, rank=0)),
    Row(f"train {shape} LoRA 16", lambda: rows.train(config, rank=16)),
  ]


def sampling(shape: str, counts: tuple[int, ...]) -> list[Row]:
  """Greedy writing of many texts at once."""
  config = SHAPES[shape]
  return [Row(f"sample {shape} rows={n}", lambda n=n: rows.sample(config, n)) for n in counts]


def checks() -> list[Row]:
  """Results that must come out as on a CPU."""
  return [Row(f"check {name}", lambda name=name: rows.check(name)) for name in rows.CHECKS]


Group = Callable[[], list[Row]]
_LENGTHS = (300, 1000, 150)  # the one that counts most first
GROUPS: dict[str, Group] = {
  "check": checks,
  "ceilings": lambda: [Row("ceilings", rows.ceilings)],
  "score:1.5b": lambda: scoring("1.5b", _LENGTHS),
  "published:1.5b": lambda: published("1.5b", _LENGTHS),
  "score:8b": lambda: scoring("8b", _LENGTHS),
  "train:0.5b": lambda: training("0.5b"),
  "sample:1.5b": lambda: sampling("1.5b", (32, 128)),
  "train:1.5b": lambda: training("1.5b"),
  "score:0.5b": lambda: scoring("0.5b", _LENGTHS),
  "sample:8b": lambda: sampling("8b", (32,)),
  "train:135m": lambda: training("135m"),
  "published:8b": lambda: published("8b", (300,)),
  "published:0.5b": lambda: published("0.5b", _LENGTHS),
  "sample:135m": lambda: sampling("135m", (32, 128)),
}
SMOKE: dict[str, Group] = {
  "check": checks,
  "ceilings": lambda: [Row("ceilings", rows.ceilings)],
  "score:tiny": lambda: scoring("tiny", (12,)),
  "published:tiny": lambda: published("tiny", (12,)),
  "train:tiny": lambda: training("tiny"),
  "sample:tiny": lambda: sampling("tiny", (2,)),
}


def run_group(name: str, groups: dict[str, Group], out: Path) -> None:
  """Measures the rows of a group here, each on disk before the next begins."""
  device = jax.devices()[0].device_kind
  for row in groups[name]():
    started = time.monotonic()
    try:
      found = {"ok": True} | row.measure()
    except Exception as error:  # whatever it is, the next row is tried
      found = {"ok": False, "error": f"{type(error).__name__}: {str(error)[:2000]}"}
    seconds = round(time.monotonic() - started, 1)
    line = {"row": row.name, "group": name, "device": device, "jax": jax.__version__, **found}
    _append(out, line | {"wall_seconds": seconds})
    jax.clear_caches()


def run_groups(groups: dict[str, Group], chosen: list[str], out: Path, deadline: float) -> None:
  """Runs groups one after another, each in a process of its own, until the time is over."""
  for name in chosen:
    left = deadline - time.monotonic()
    error = "" if left > 0 else "not begun: the time was over"
    if not error:
      command = [sys.executable, "-m", "benchmarks.on_device", f"--out={out}", f"--child={name}"]
      command += ["--smoke"] if groups is SMOKE else []
      print(f"{name}, {left / 60:.1f} minutes left", flush=True)
      try:
        done = subprocess.run(command, timeout=left, capture_output=True, text=True)
        error = f"exit status {done.returncode}: {done.stderr[-2000:]}" if done.returncode else ""
      except subprocess.TimeoutExpired:
        error = "stopped: the time was over"
    if error:
      _append(
        out,
        {"row": f"{name}: what is missing of it", "group": name, "ok": False} | {"error": error},
      )
    write_report(out)


def _append(out: Path, line: dict[str, Any]) -> None:
  with open(out / "rows.jsonl", "a") as file:
    file.write(json.dumps(line) + "\n")
    file.flush()
    os.fsync(file.fileno())


def read_rows(out: Path) -> list[dict[str, Any]]:
  """Rows measured so far; the last one of each name."""
  path = out / "rows.jsonl"
  lines = [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []
  return list({line["row"]: line for line in lines}.values())


def write_report(out: Path) -> None:
  """OUT/results.json and OUT/table.txt from the rows."""
  found = read_rows(out)
  (out / "results.json").write_text(json.dumps(found, indent=1))
  (out / "table.txt").write_text("\n".join(table(found)) + "\n")


def table(found: list[dict[str, Any]]) -> Iterator[str]:
  """One line a row; what was found of it behind its name."""
  devices = collections.Counter(line["device"] for line in found if "device" in line)
  yield f"measured on {', '.join(devices)}; jax {found[0].get('jax', '?')}" if found else "nothing"
  meta = {"row", "group", "device", "jax", "ok", "wall_seconds", "error"}
  for line in found:
    if line["ok"]:
      parts = [f"{name}={_short(x)}" for name, x in line.items() if name not in meta]
    else:
      parts = ["FAILED", line["error"].strip().splitlines()[-1][:150] if line["error"] else ""]
    yield f"{line['row']:38} {'  '.join(parts)}"


def _short(value: Any) -> str:
  return f"{value:.4g}" if isinstance(value, float) else str(value)


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description="Measures what counts most on a lent device.")
  parser.add_argument("--out", type=Path, help="folder of the results")
  parser.add_argument("--groups", default="", help="groups to run, in this order; default: all")
  parser.add_argument(
    "--budget_minutes", type=float, default=25, help="no group begins or runs on after that"
  )
  parser.add_argument("--smoke", action="store_true", help="a tiny shape, to see that it runs")
  parser.add_argument("--child", help="run this group here, in this process")
  parser.add_argument(
    "--write_expected", action="store_true", help="store what this CPU finds for `check`"
  )
  return parser.parse_args()


def main() -> None:
  """Runs one group, or all in turn."""
  asked = _arguments()
  if asked.write_expected:
    rows.write_expected()
    return
  if asked.out is None:
    sys.exit("--out is missing: the folder of the results")
  groups = SMOKE if asked.smoke else GROUPS
  if asked.child:
    run_group(asked.child, groups, asked.out)
    return
  chosen = asked.groups.split(",") if asked.groups else list(groups)
  if unknown := sorted(set(chosen) - set(groups)):
    sys.exit(f"--groups: {', '.join(unknown)}; expected some of {', '.join(groups)}")
  run_groups(groups, chosen, asked.out, time.monotonic() + 60 * asked.budget_minutes)
  print((asked.out / "table.txt").read_text())


if __name__ == "__main__":
  main()
