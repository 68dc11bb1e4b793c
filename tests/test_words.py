"""Docstrings put subject, verb or noun first, and so do the lines of arguments."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("greedy_prune_jax", "benchmarks", "configs", "examples", "launch", "tests")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
QUESTIONS = re.compile(r"(What|Which|Where|Whether|How)\b")
ARGUMENT = re.compile(r"  \*{0,2}([\w, /]+): (.*)")
NO_NAME = re.compile(
  r"(of|in|for|from|to|at|as|by|with|without|likewise|that|has|is|what|which|where|whether|how|who"
  r"|whose)\b",
  re.IGNORECASE,
)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def docstrings(source: str) -> list[tuple[str, str]]:
  """Name and docstring of a module and of everything in it that has one."""
  nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, DOCUMENTED)]
  texts = [(getattr(node, "name", "module"), ast.get_docstring(node)) for node in nodes]
  return [(name, text) for name, text in texts if text]


def questions(source: str) -> list[str]:
  """Names of what has a docstring that begins as a question does."""
  return [name for name, text in docstrings(source) if QUESTIONS.match(text)]


def fragments(source: str) -> list[str]:
  """Arguments and attributes whose line goes on from the name instead of naming a thing."""
  found = []
  for _, text in docstrings(source):
    for part in re.findall(r"^(?:Args|Attributes):\n((?:  .*\n|\n)*)", text + "\n", re.MULTILINE):
      lines = (ARGUMENT.match(line) for line in part.splitlines())
      found += [line[1] for line in lines if line and NO_NAME.match(line[2])]
  return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_docstring_begins_as_a_question(path):
  assert questions(path.read_text()) == []


def test_a_docstring_that_begins_as_a_question_is_found():
  functions = 'def f():\n  """How it is."""\n\nclass A:\n  """\n  Which one.\n  """\n'
  assert questions('"""Whatever."""\n\n' + functions) == ["f", "A"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_of_arguments_name_a_thing(path):
  assert fragments(path.read_text()) == []


def test_a_fragment_is_found():
  lines = "  a: of it,\n    of: all.\n  b: tokens.\n\n  **c: likewise.\n"
  text = f"One.\n\nArgs:\n{lines}\nReturns:\n  d: of it.\n"
  assert fragments(f'"""{text}"""') == ["a", "c"]
