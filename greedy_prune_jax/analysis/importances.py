"""Orders of deletion against importances of sentences that interventions gave, chain by chain.

Early and short sentences may matter more by themselves, so each correlation stands beside what is
left of it when position, length and surprisal are held fixed.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

from greedy_prune_jax.analysis.needed import ranked_above
from greedy_prune_jax.analysis.orders import character_ranks
from greedy_prune_jax.analysis.patterns import LabelledRun
from greedy_prune_jax.analysis.report import Section
from greedy_prune_jax.chains.chain import PrunedChain
from greedy_prune_jax.chains.thought_anchors import IMPORTANCES
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.reports.intervals import mean_interval
from greedy_prune_jax.reports.tables import Cell, Table

TOP_SHARE = 0.1  # of the sentences: the most important ones, which AUC tells from the rest
_LEAST = 8  # sentences of a chain, below which nothing is told
_SURPRISAL = "surprisal"  # the ranking whose run is a control


@dataclasses.dataclass(frozen=True)
class Sentences:
  """The sentences of one chain.

  Attributes:
    importance: effect of interventions on the sentence.
    position: index of the sentence, from 0.
    length: characters of the sentence.
  """

  importance: Float[np.ndarray, "U"]
  position: Float[np.ndarray, "U"]
  length: Float[np.ndarray, "U"]


def has_importances(chain: PrunedChain) -> bool:
  """Tells whether a chain says how important its sentences are."""
  return IMPORTANCES in chain.chain.extra


def sentences_of(chain: PrunedChain) -> Sentences:
  """The sentences of a chain.

  Raises:
    UserError: one lies outside of the reasoning.
  """
  spans = _spans(chain)
  values = np.array([value for _, _, value in chain.chain.extra[IMPORTANCES]], float)
  return Sentences(
    values,
    np.arange(len(spans), dtype=float),
    np.array([end - start for start, end in spans], float),
  )


def sentence_ranks(chain: PrunedChain) -> Float[np.ndarray, "U"]:
  """Mean normalised prune rank of each sentence's characters; high ones left late."""
  ranks = character_ranks(chain)
  return np.array([ranks[start:end].mean() for start, end in _spans(chain)])


def _spans(chain: PrunedChain) -> list[tuple[int, int]]:
  spans = [(int(start), int(end)) for start, end, _ in chain.chain.extra[IMPORTANCES]]
  longest = len(chain.chain.reasoning)
  for start, end in spans:
    if not 0 <= start < end <= longest:
      raise UserError(
        f'chain {chain.chain.id}: "{IMPORTANCES}" has the span {start} to {end}; expected one in '
        f"the {longest} characters of the reasoning"
      )
  return spans


def partial_spearman(
  one: Float[np.ndarray, "U"],
  other: Float[np.ndarray, "U"],
  controls: Sequence[Float[np.ndarray, "U"]],
) -> float:
  """Spearman's correlation of two variables with others held fixed; NaN where nothing varies.

  Correlates the residuals of their ranks after a linear fit of the controls' ranks.
  """
  ranks = [stats.rankdata(values) for values in (one, other)]
  design = np.column_stack([np.ones(len(one)), *map(stats.rankdata, controls)])
  rests = [r - design @ np.linalg.lstsq(design, r, rcond=None)[0] for r in ranks]
  if any(rest.std() < 1e-9 * len(one) for rest in rests):
    return float("nan")
  return float(np.corrcoef(*rests)[0, 1])


def compare(
  scores: Float[np.ndarray, "U"],
  sentences: Sentences,
  controls: Mapping[str, Float[np.ndarray, "U"]],
) -> tuple[float, float, float]:
  """AUC of the most important sentences, Spearman, and Spearman with controls, of one chain.

  Args:
    scores: one per sentence; a high one should be important.
    sentences: the chain's sentences.
    controls: held fixed in the last, by name.
  """
  importance = sentences.importance
  num_top = max(1, round(TOP_SHARE * len(importance)))
  top = np.zeros(len(importance), bool)
  top[np.argsort(-importance, kind="stable")[:num_top]] = True
  return (
    ranked_above(scores, top, ~top),
    partial_spearman(scores, importance, ()),
    partial_spearman(scores, importance, list(controls.values())),
  )


def importance_section(runs: Sequence[LabelledRun]) -> Section:
  """Agreement of the orders of runs with the importances that their chains carry."""
  rows: list[tuple[Cell, ...]] = []
  surprisal = {
    chain.chain.id: sentence_ranks(chain)
    for run in runs
    for chain in run.chains
    if chain.ranking == _SURPRISAL
  }
  chains = {chain.chain.id: chain for run in reversed(runs) for chain in run.chains}
  for name, sign in (("position", -1.0), ("length", 1.0)):
    found = [
      compare(sign * getattr(sentences, name), sentences, {})[:2]
      for sentences in map(sentences_of, chains.values())
      if len(sentences.importance) >= _LEAST
    ]
    label = "earlier sentences" if name == "position" else "longer sentences"
    rows.append(_row(label, np.array(found), "none"))
  for run in runs:
    is_control = all(chain.ranking == _SURPRISAL for chain in run.chains)
    found, held = [], "position, length"
    for chain in run.chains:
      sentences = sentences_of(chain)
      if len(sentences.importance) < _LEAST:
        continue
      controls = {"position": sentences.position, "length": sentences.length}
      if not is_control and chain.chain.id in surprisal:
        controls["surprisal"] = surprisal[chain.chain.id]
        held = "position, length, surprisal"
      found.append(compare(sentence_ranks(chain), sentences, controls))
    if found:
      rows.append(_row(run.name, np.array(found), held))
  caption = (
    f"Orders of deletion against the importances of sentences: AUC of the most important "
    f"{TOP_SHARE:.0%} against the rest, Spearman's rho, and rho with the controls held fixed. A "
    f"high value: important sentences leave late. Means over chains with 95% intervals (Student's "
    f"t); chains of fewer than {_LEAST} sentences are left out."
  )
  measures = ("AUC", "Spearman", "with controls")
  columns = [f"{m}{end}" for m in measures for end in ("", " low", " high")]
  table = Table("importances", caption, ("run", *columns, "controls", "chains"), rows)
  return Section("Agreement with importances by intervention", tables=[table])


def _row(name: str, found: Float[np.ndarray, "B M"], controls: str) -> tuple[Cell, ...]:
  cells: list[Cell] = [cell for column in found.T for cell in mean_interval(column)]
  cells += [None] * (9 - len(cells))
  return (name, *cells, controls, len(found))
