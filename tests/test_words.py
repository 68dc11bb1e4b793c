"""Docstrings put subject, verb or noun first."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("greedy_prune_jax", "benchmarks", "configs", "examples", "launch", "tests")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
QUESTIONS = re.compile(r"(What|Which|Where|Whether|How)\b")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def docstrings(source: str) -> list[tuple[str, str]]:
  """Name and docstring of a module and of everything in it that has one."""
  nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, DOCUMENTED)]
  texts = [(getattr(node, "name", "module"), ast.get_docstring(node)) for node in nodes]
  return [(name, text) for name, text in texts if text]


def questions(source: str) -> list[str]:
  """Names of what has a docstring that begins as a question does."""
  return [name for name, text in docstrings(source) if QUESTIONS.match(text)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_docstring_begins_as_a_question(path):
  assert questions(path.read_text()) == []


def test_a_docstring_that_begins_as_a_question_is_found():
  functions = 'def f():\n  """How it is."""\n\nclass A:\n  """\n  Which one.\n  """\n'
  assert questions('"""Whatever."""\n\n' + functions) == ["f", "A"]
