"""The fast set, `make test-fast`: tests of every folder of the package that are not marked slow."""

import ast
from pathlib import Path

import pytest

import greedy_prune_jax

TESTS = Path(__file__).parent
PACKAGE = Path(greedy_prune_jax.__file__).parent
FOLDERS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


def fast_tests(source: str) -> list[str]:
  """Names of a file's tests that are not marked slow."""
  body = ast.parse(source).body
  if any(isinstance(node, ast.Assign) and "mark.slow" in ast.unparse(node) for node in body):
    return []
  return [
    node.name
    for node in body
    if isinstance(node, ast.FunctionDef)
    and node.name.startswith("test_")
    and not any("mark.slow" in ast.unparse(mark) for mark in node.decorator_list)
  ]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_has_fast_tests(folder):
  files = sorted((TESTS / folder).glob("test_*.py"))
  assert [name for file in files for name in fast_tests(file.read_text())], folder


def test_marks_are_seen():
  source = "@pytest.mark.slow\ndef test_a():\n  pass\n\ndef test_b():\n  pass\n\ndef c():\n  pass\n"
  assert fast_tests(source) == ["test_b"]
  assert fast_tests("pytestmark = pytest.mark.slow\n" + source) == []
