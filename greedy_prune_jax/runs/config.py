"""The config that a workdir's outputs were made with."""

import contextlib
import json
import math
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.files import user_path, write_json
from greedy_prune_jax.runs.json_reader import read_json
from greedy_prune_jax.runs.records import Record

_ABSENT = "(absent)"


class OtherConfigError(UserError):
  """A folder whose outputs were made with another config.

  Attributes:
    folder: the folder.
  """

  def __init__(self, message: str, folder: Path):
    super().__init__(message)
    self.folder = folder


def write_or_check_config(
  path: Path,
  config: Mapping[str, Any],
  may_change: Collection[str] = (),
  *,
  may_grow: Mapping[str, float] = MappingProxyType({}),
  begun: bool = True,
) -> None:
  """Writes the config of a new run, or refuses one that its earlier outputs do not fit.

  Args:
    path: the file, which holds the config of the latest run.
    config: nested mappings of what JSON can hold.
    may_change: dotted keys (`batch_size`, `log.every`) that do not decide what is computed.
    may_grow: dotted keys of numbers of inputs, of which a larger one has those of a smaller one and
      more behind them, each with the number that 0 stands for: infinity for all.
    begun: False where an earlier run failed before it made anything: its config binds nobody.

  Raises:
    OtherConfigError: a key that may not change did; the message names all such keys and values.
    UserError: the file cannot be read or written.
  """
  new = json.loads(json.dumps(config))  # tuples become lists, as they will be when read back
  if begun and path.exists():
    old = read_json(path)
    differences = _differences(_flat(old), _flat(new))
    refused = {
      key: values
      for key, values in differences.items()
      if key not in may_change and not (key in may_grow and _grew(*values, may_grow[key]))
    }
    if refused:
      lines = [
        f"  {key}: was {was}, is {now}{_growth(may_grow[key]) if key in may_grow else ''}"
        for key, (was, now) in refused.items()
      ]
      raise OtherConfigError(
        "\n".join(
          [
            f"{path.parent} belongs to another config. These keys differ:",
            *lines,
            "Go on with the old values, or choose another workdir.",
            *_links(_flat(old), _flat(new), refused),
          ]
        ),
        path.parent,
      )
    if not differences:
      return
  write_json(path, new)


def config_of(workdir: Path) -> Record:
  """The config of a workdir's latest run, empty without one; a UserError if it cannot be read."""
  path = workdir / "config.json"
  return read_json(path) if path.is_file() else {}


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Nested mappings as one with dotted keys."""
  flat = {}
  for key, value in config.items():
    if isinstance(value, Mapping) and value:
      flat |= _flat(value, f"{prefix}{key}.")
    else:
      flat[f"{prefix}{key}"] = value
  return flat


def _links(old: Record, new: Record, keys: Iterable[str]) -> Iterator[str]:
  """Says how a run goes on whose model or chains were moved; nothing of other differences."""
  for was, now in ((old.get(key), new.get(key)) for key in keys):
    if not (isinstance(was, str) and isinstance(now, str) and "/" in was + now):
      continue
    with contextlib.suppress(UserError):  # a text that cannot be a path
      before, after = user_path(was), user_path(now)
      if after.exists() and not before.exists():
        parent, place = (shlex.quote(str(path)) for path in (before.parent, before))
        yield (
          f"If {now} is what was at {was}, a link there lets the run go on with the old value: "
          f"mkdir -p {parent} && ln -s {shlex.quote(str(after.resolve()))} {place}"
        )


def _grew(was: str, now: str, zero: float) -> bool:
  """Tells whether a number of inputs, as JSON, is no lower than before; 0 stands for `zero`."""
  if not (was.isdecimal() and now.isdecimal()):
    return False  # there was no such setting, or what is there is no number
  before, after = (int(value) or zero for value in (was, now))
  return before <= after


def _growth(zero: float) -> str:
  return f" (it may only grow; 0: {'all' if math.isinf(zero) else int(zero)})"


def _differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[str, str]]:
  keys = [*old, *(key for key in new if key not in old)]
  shown = {
    key: tuple(json.dumps(config[key]) if key in config else _ABSENT for config in (old, new))
    for key in keys
  }
  return {key: (was, now) for key, (was, now) in shown.items() if was != now}
