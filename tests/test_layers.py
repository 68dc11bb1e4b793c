"""The order in which the package's folders import one another: down, and never in a circle."""

import ast
import collections
from pathlib import Path

import greedy_prune_jax

ROOT = Path(greedy_prune_jax.__file__).parent

# From the ground up. A folder imports folders of the lines above its own, and nothing else.
LAYERS = (
  ("errors", "accelerators", "torch_free"),
  ("parallel",),
  ("runs",),
  ("chains",),
  ("reports",),
  ("models",),
  ("scoring",),
  ("search",),
  ("teachers",),
  ("rankings",),
  ("sample", "drp", "pruning", "distill", "analysis", "publish"),
  ("evaluation",),
  ("study",),
  ("configs",),
  ("api",),
  ("jobs",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

# A job's folder imports no other job's, but for these: students are evaluated from checkpoints.
_CHECKPOINTS = ("checkpoints", "export", "parameters", "workdir")
JOBS = ("sample", "drp", "pruning", "distill", "analysis", "evaluation", "publish")
ALLOWED = {("evaluation", f"distill.{name}") for name in _CHECKPOINTS}

NO_JAX = ("errors", "runs", "chains", "reports")


def module_name(path: Path) -> str:
  parts = path.relative_to(ROOT).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> list[str]:
  """Modules of the package that a file imports, without the package's name."""
  found = []
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
      names = [f"{node.module}.{alias.name}" for alias in node.names]
    elif isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    else:
      continue
    found += [name for name in names if name.split(".")[0] == "greedy_prune_jax"]
  modules = {module_name(file) for file in ROOT.rglob("*.py")}
  targets = [name.partition(".")[2] for name in found]
  return [name if name in modules else name.rpartition(".")[0] for name in targets]


FILES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def wrong(source: str, target: str) -> bool:
  """Tells whether one module must not import another."""
  one, other = source.partition(".")[0], target.partition(".")[0]
  if one == other or not one or not other:
    return False
  if (one, target) in ALLOWED:
    return False
  if one in JOBS and other in JOBS:
    return True
  return LEVEL[other] >= LEVEL[one]


def test_every_folder_has_a_layer():
  assert {name.partition(".")[0] for name in FILES} - {""} <= set(LEVEL)


def test_imports_run_down():
  assert [
    f"{source} imports {target}"
    for source, path in FILES.items()
    for target in imports(path)
    if wrong(source, target)
  ] == []


def test_an_import_upwards_is_found():
  assert wrong("scoring.scorer", "search.host")
  assert wrong("drp.stages", "pruning.run")
  assert wrong("evaluation.run", "distill.step")
  assert not wrong("evaluation.run", "distill.checkpoints")
  assert not wrong("search.host", "scoring.scorer")


def test_no_modules_import_each_other_in_a_circle():
  graph = collections.defaultdict(set)
  for source, path in FILES.items():
    graph[source] |= {target for target in imports(path) if target and target != source}
  state: dict[str, int] = {}

  def visit(module: str, trail: tuple[str, ...]) -> None:
    assert state.get(module) != 1, " -> ".join((*trail, module))
    if state.get(module) == 2:
      return
    state[module] = 1
    for target in graph[module]:
      visit(target, (*trail, module))
    state[module] = 2

  for module in FILES:
    visit(module, ())


def test_folders_without_jax_name_it_nowhere():
  """`tests/chains/test_imports.py` sees the same of what they import in turn."""
  for name, path in FILES.items():
    if name.partition(".")[0] in NO_JAX:
      source = path.read_text()
      assert "import jax\n" not in source, name
      assert "from jax " not in source, name


def public_names(path: Path) -> list[str]:
  """Classes and functions that a module defines, but for `main`, which is where it starts."""
  kinds = ast.ClassDef | ast.FunctionDef
  names = [node.name for node in ast.parse(path.read_text()).body if isinstance(node, kinds)]
  return [name for name in names if not name.startswith("_") and name != "main"]


def test_a_public_name_has_one_meaning():
  """Configs are apart, each has its `get_config`; `api.read_chains` is the reader's as a list."""
  places = collections.defaultdict(list)
  for module, path in FILES.items():
    if not module.startswith("configs."):
      for name in public_names(path):
        places[name].append(module)
  several = {name: modules for name, modules in places.items() if len(modules) > 1}
  assert several == {"read_chains": ["api", "chains.reading"]}
