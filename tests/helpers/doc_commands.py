"""The commands of README and docs, read as a shell and absl read them."""

import ast
import dataclasses
import functools
import importlib
import re
import shlex

from ml_collections import config_dict

_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Command:
  """A `python` command of a code block in sh.

  Attributes:
    line: the command on one line.
    needs: the end of a comment `# needs ...` on the line before it; or nothing.
    program: a module, or the path of a script.
    config: name of the config file; or nothing.
    mode: the word behind the config file's colon; or nothing.
    changes: settings by name, as written.
    flags: further flags by name, as written.
    paths: further words behind the program.
  """

  line: str
  needs: str
  program: str
  config: str
  mode: str
  changes: dict[str, str]
  flags: dict[str, str]
  paths: tuple[str, ...]

  @property
  def job(self) -> str:
    return self.program.rpartition(".")[2]

  def settings(self) -> config_dict.ConfigDict:
    """The config file's settings, changed as the command line changes them."""
    return config_of(self.config, self.changes, self.mode)


def commands_of(text: str) -> list[Command]:
  """The commands of a page."""
  found = []
  for block in _BLOCK.findall(text):
    needs = ""
    for line in re.split(r"\n|&&", block.replace("\\\n", " ")):
      if mark := re.match(r"# needs (.+)", line):
        needs = mark[1]
      elif command := re.match(r"\s*(?:\.venv/bin/)?python (-m )?(.+)", line):
        program, *words = shlex.split(command[2], comments=True)
        found.append(_command(line.strip(), needs, program, words))
        needs = ""
  return found


def _command(line: str, needs: str, program: str, words: list[str]) -> Command:
  flags = {w[2:].partition("=")[0]: w.partition("=")[2] for w in words if w.startswith("--")}
  settings = {
    key.removeprefix("config."): value for key, value in flags.items() if key.startswith("config.")
  }
  config, _, mode = flags.get("config", "").partition(":")
  name = re.fullmatch(r"(?:configs/)?(\w*)(?:\.py)?", config)
  return Command(
    line=line,
    needs=needs,
    program=program,
    config=name[1] if name else config,
    mode=mode,
    changes=settings,
    flags={key: value for key, value in flags.items() if not key.startswith("config")},
    paths=tuple(word for word in words if not word.startswith("-")),
  )


def config_of(name: str, changes: dict[str, str], mode: str = "") -> config_dict.ConfigDict:
  """A config file's settings, changed as a command line changes them."""
  config = importlib.import_module(f"configs.{name}").get_config(*([mode] if mode else []))
  for key, value in changes.items():
    *groups, last = key.split(".")
    group = functools.reduce(lambda part, name: part[name], groups, config)
    old = group[last]  # a KeyError names a setting that there is not
    group[last] = value if isinstance(old, str) else type(old)(ast.literal_eval(value))
  return config
