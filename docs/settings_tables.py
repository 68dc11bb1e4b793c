"""Tables of all settings for the pages of the jobs, made from settings classes and config files.

`python -m docs.settings_tables` writes them anew. A setting's type comes from its settings class,
its default and meaning from the config file: the comment behind it, or else above it. A comment
behind an empty line begins with a title, up to the first full stop.
"""

import ast
import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast, get_args, get_origin

from greedy_prune_jax.analysis.settings import AnalyzeSettings
from greedy_prune_jax.distill.settings import DistillSettings
from greedy_prune_jax.drp.settings import DrpSettings
from greedy_prune_jax.evaluation.pruned.settings import EvaluatePrunedSettings
from greedy_prune_jax.evaluation.settings import EvaluateSettings
from greedy_prune_jax.pruning.settings import PruneSettings
from greedy_prune_jax.publish.settings import PublishSettings
from greedy_prune_jax.runs.settings import JobSettings
from greedy_prune_jax.sample.settings import SampleSettings
from greedy_prune_jax.study.settings import StudySettings

ROOT = Path(__file__).parent.parent
CLASSES: tuple[type[JobSettings], ...] = (
  PruneSettings,
  SampleSettings,
  DrpSettings,
  DistillSettings,
  EvaluateSettings,
  EvaluatePrunedSettings,
  PublishSettings,
  StudySettings,
  AnalyzeSettings,
)
_TABLE = re.compile(r"<!-- settings of (\w+) -->\n.*?<!-- end of settings -->\n", re.DOTALL)
_HEAD = "| setting | type | default | meaning |\n| --- | --- | --- | --- |\n"


@dataclasses.dataclass(frozen=True)
class Row:
  """One setting.

  Attributes:
    key: dotted name, as behind `--config.`.
    kind: type of the value.
    default: value in the config file.
    meaning: explanation.
  """

  key: str
  kind: str
  default: str
  meaning: str


@dataclasses.dataclass(frozen=True)
class Comment:
  """The comments beside one setting of a config file.

  Attributes:
    title: title of the settings that begin here; empty for others.
    note: text on all of these settings.
    meaning: text on this setting.
  """

  title: str = ""
  note: str = ""
  meaning: str = ""


def comments_of(source: str) -> dict[str, Comment]:
  """The comments of each `config.KEY = ...` in a config file's `get_config`, by dotted key."""
  lines = source.splitlines()
  found = {}
  for node in ast.walk(ast.parse(source)):
    if not isinstance(node, ast.Assign):
      continue
    name = ast.unparse(node.targets[0])
    if name.startswith("config."):
      place, last = node.lineno - 1, node.end_lineno or node.lineno
      found.setdefault(name.removeprefix("config."), _comment(lines, place, last))
  return found


def _comment(lines: list[str], place: int, last: int) -> Comment:
  """The comments around the statement of lines `place` to `last`, the second not included."""
  behind = [part[1] for line in lines[place:last] if (part := re.split(r"\s\s#\s", line))[1:]]
  first = place
  while lines[first - 1].lstrip().startswith("# "):
    first -= 1
  above = " ".join(line.strip().removeprefix("# ") for line in lines[first:place])
  title = ""
  if above and not lines[first - 1].strip():
    title, _, above = above.partition(". ")
    title = title.rstrip(".")
  if behind:
    return Comment(title, above, " ".join(behind))
  return Comment(title, "", above)


def attributes_of(cls: type) -> dict[str, str]:
  """The lines of a class's docstring on its attributes."""
  part = (inspect.getdoc(cls) or "").partition("Attributes:\n")[2]
  items = re.findall(r"^  (\w+): (.*(?:\n    .*)*)", part, flags=re.MULTILINE)
  return {name: " ".join(text.split()) for name, text in items}


def rows(key: str, kind: Any, value: Any, meaning: str, comments: Mapping[str, Comment]):
  """Yields a row for a setting, or one for each setting of a group."""
  if not dataclasses.is_dataclass(kind):
    default = "" if isinstance(value, Mapping) else f"`{value!r}`"
    yield Row(key, _kind_name(kind), default, meaning)
    return
  attributes = attributes_of(cast(type, kind))
  for field in dataclasses.fields(kind):
    inner = f"{key}.{field.name}"
    text = comments.get(inner, Comment()).meaning or attributes.get(field.name, "")
    yield from rows(inner, field.type, value[field.name], text, comments)


def _kind_name(kind: Any) -> str:
  """The name of a type, such as `str` or `tuple of float`."""
  if get_origin(kind) is tuple:
    return f"tuple of {get_args(kind)[0].__name__}"
  return "group" if get_origin(kind) is dict else kind.__name__


def _cell(text: str) -> str:
  """A text that is safe within a cell: `|` would end it, and `<...>` would be HTML."""
  parts = re.split(r"(`[^`]*`)", text.replace("|", "\\|"))
  return "".join(p if p.startswith("`") else p.replace("<", "&lt;") for p in parts)


def settings_of(cls: type[JobSettings]) -> Iterator[tuple[Comment, list[Row]]]:
  """Yields each setting of a job, or group of them, in the config file's order."""
  module = cls.config_file.removesuffix(".py").replace("/", ".")
  config = importlib.import_module(module).get_config().to_dict()
  comments = comments_of((ROOT / cls.config_file).read_text())
  kinds = {field.name: field.type for field in dataclasses.fields(cast(Any, cls))}
  for name in sorted(kinds, key=list(comments).index):
    comment = comments[name]
    yield comment, list(rows(name, kinds[name], config[name], comment.meaning, comments))


def table(cls: type[JobSettings]) -> str:
  """The table of a job's settings, under the titles of its config file."""
  lines = [_HEAD]
  for comment, found in settings_of(cls):
    if comment.title:
      lines.append(f"| **{_cell(comment.title)}** | | | {_cell(comment.note)} |\n")
    lines += [
      f"| `{row.key}` | {row.kind} | {_cell(row.default)} | {_cell(row.meaning)} |\n"
      for row in found
    ]
  return "".join(lines)


def with_tables(page: str) -> str:
  """A page with the tables of now between its marks `settings of NAME`."""
  classes = {Path(cls.config_file).stem: cls for cls in CLASSES}

  def marked(match: re.Match[str]) -> str:
    body = table(classes[match[1]])
    return f"<!-- settings of {match[1]} -->\n\n{body}\n<!-- end of settings -->\n"

  return _TABLE.sub(marked, page)


if __name__ == "__main__":
  for path in sorted((ROOT / "docs").glob("*.md")):
    path.write_text(with_tables(path.read_text()))
