"""viewer.html: one file in which a person moves through the deletions of pruned chains."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from greedy_prune_jax.analysis.patterns import LabelledRun
from greedy_prune_jax.chains.categories import GUIDE, Category
from greedy_prune_jax.chains.chain import PrunedChain
from greedy_prune_jax.runs.files import replace_file

_TEMPLATES = Path(__file__).parent / "templates"


def write_viewer(path: Path, runs: Sequence[LabelledRun]) -> None:
  """Writes the viewer of these runs.

  Texts are embedded as JSON whose `<`, `>`, `&` and `'` are escaped, and reach the page as text
  nodes: markup in them is shown, never interpreted.

  Raises:
    UserError: the place cannot be written.
  """
  replace_file(path, render("viewer.html.j2", data=viewer_data(runs)))


def render(template: str, **values: Any) -> str:
  """A page from one of the package's templates, with values escaped."""
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
  )
  return environment.get_template(template).render(**values)


def viewer_data(runs: Sequence[LabelledRun]) -> dict[str, Any]:
  """Makes the page's data; categories of tokens are indices into `categories`, or None."""
  return {
    "categories": [{"name": str(name), "meaning": meaning} for name, meaning in GUIDE.items()],
    "runs": [_run_data(run) for run in runs],
  }


def _run_data(run: LabelledRun) -> dict[str, Any]:
  first = run.chains[0]
  index_of = {category: i for i, category in enumerate(Category)}
  return {
    "name": run.name,
    "about": (
      f"{first.pruner}, objective {first.objective}, search {first.search}, unit {first.unit}, "
      f"{len(run.chains)} chains"
    ),
    "chains": [
      _chain_data(chain) | {"labels": [None if x is None else index_of[x] for x in labels]}
      for chain, labels in zip(run.chains, run.labels, strict=True)
    ],
  }


def _chain_data(chain: PrunedChain) -> dict[str, Any]:
  return {
    "id": chain.chain.id,
    "question": chain.chain.question,
    "answer": chain.chain.answer,
    "tokens": chain.reasoning_tokens,
    "deletions": chain.deletions,
    "nll": {
      name: [None if value is None else round(value, 5) for value in chain.nll[name]]
      for name in ("joint", "answer")
      if name in chain.nll
    },
  }
