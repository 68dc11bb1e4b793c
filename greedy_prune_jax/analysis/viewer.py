"""viewer.html: one file in which a person moves through the deletions of pruned chains."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from greedy_prune_jax.analysis.patterns import LabelledRun
from greedy_prune_jax.analysis.still_right import Verdicts
from greedy_prune_jax.chains.categories import GUIDE, Category
from greedy_prune_jax.chains.chain import Chain, PrunedChain, ratio_of, share_of
from greedy_prune_jax.chains.expected import expected_answer
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.files import replace_file
from greedy_prune_jax.search.units import unit_sizes

_TEMPLATES = Path(__file__).parent / "templates"


def write_viewer(path: Path, runs: Sequence[LabelledRun]) -> None:
  """Writes the viewer of these runs.

  Texts are embedded as JSON whose `<`, `>`, `&` and `'` are escaped, and reach the page as text
  nodes: markup in them is shown, never interpreted.
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
  missing = [None] * len(run.chains)
  index_of = {category: i for i, category in enumerate(Category)}
  return {
    "name": run.name,
    "about": (
      f"{first.pruner}, ranking {first.ranking}, objective {first.objective}, "
      f"search {first.search}, unit {first.unit}, {len(run.chains)} chains"
    ),
    "chains": [
      _chain_data(chain)
      | {
        "labels": [None if x is None else index_of[x] for x in labels],
        "surprisal": None if surprisal is None else [round(float(x), 3) for x in surprisal],
        "attention": None if attention is None else [float(f"{x:.3g}") for x in attention],
      }
      | _verdict_data(chain, verdicts or Verdicts())
      for chain, labels, surprisal, attention, verdicts in zip(
        run.chains,
        run.labels,
        run.surprisals or missing,
        run.attention or missing,
        run.verdicts or missing,
        strict=True,
      )
    ],
  }


def _chain_data(chain: PrunedChain) -> dict[str, Any]:
  return {
    "id": chain.chain.id,
    "question": chain.chain.question,
    "answer": chain.chain.answer,
    "target": chain.chain.target,
    "right": _is_right(chain.chain),
    "tokens": chain.reasoning_tokens,
    "deletions": chain.deletions,
    "sentences": unit_sizes("sentence", chain.reasoning_tokens),
    "nll": {
      name: [None if value is None else round(value, 5) for value in chain.nll[name]]
      for name in ("joint", "answer")
      if name in chain.nll
    },
  }


def _verdict_data(chain: PrunedChain, verdicts: Verdicts) -> dict[str, Any]:
  whole = {ratio: 0 for ratio in verdicts.answers if ratio not in chain.pruned}
  return {
    "ratios": whole | _ratios(chain),
    "model": verdicts.model,
    "answered": dict(verdicts.answers),
    "pruner_right": verdicts.pruner_right,
  }


def _ratios(chain: PrunedChain) -> dict[str, int]:
  """Deletions at each keep ratio that the chain was pruned to."""
  total = len(chain.reasoning_ids)
  ratios = {key: ratio for key in chain.pruned if (ratio := ratio_of(key)) is not None}
  kept = {key: share_of(total, ratio) for key, ratio in ratios.items()}
  least = total - len(chain.deletion_order)
  return {key: chain.deletions_to(number) for key, number in kept.items() if number >= least}


def _is_right(chain: Chain) -> bool | None:
  """Tells whether a chain's own answer is the gold answer; None where either is not known."""
  if chain.target is None:
    return None
  try:
    expected = expected_answer(chain)
  except UserError:
    return None
  return expected.form.is_right(expected.found, chain.target)
