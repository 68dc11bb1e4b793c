"""Orders of deletion against what interventions or people say of sentences and steps, by chain.

Early and short parts may matter more by themselves, so each correlation stands beside what is left
of it when position, length and surprisal are held fixed.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

from greedy_prune_jax.analysis.needed import ranked_above
from greedy_prune_jax.analysis.orders import character_ranks
from greedy_prune_jax.analysis.patterns import DEPTH, LabelledRun, text_of
from greedy_prune_jax.analysis.report import Section
from greedy_prune_jax.chains import judgements
from greedy_prune_jax.chains.chain import Chain, PrunedChain
from greedy_prune_jax.reports.intervals import CORRELATION, SHARE, column_intervals
from greedy_prune_jax.reports.questions import COUNT_AS_ONE
from greedy_prune_jax.reports.tables import Cell, Table, interval_columns

TOP_SHARE = 0.1  # of the sentences: the most important ones, which AUC tells from the rest
LEAST = 8  # judged parts of a chain, below which nothing is told with controls held fixed
_SURPRISAL = "surprisal"  # the ranking whose run is a control


@dataclasses.dataclass(frozen=True)
class Judgement:
  """A kind of judgement of parts of chains.

  Attributes:
    table: name of its table.
    title: heading of its section.
    parts: name of what is judged, in the table.
    of: reader of a chain's judged parts; None where the chain has no such judgement.
    good: the parts that should leave late, for the caption.
    top_share: share of a chain's parts that are good; None: all that have the highest value.
  """

  table: str
  title: str
  parts: str
  of: Callable[[Chain], list[judgements.Part] | None]
  good: str
  top_share: float | None = None


FIRST_ERRORS = Judgement(
  table="first_errors",
  title="Agreement with first errors",
  parts="steps",
  of=judgements.right_steps,
  good="all but the first wrong one",
)
KINDS = (
  Judgement(
    table="importances",
    title="Agreement with importances by intervention",
    parts="sentences",
    of=judgements.importances,
    good=f"the most important {TOP_SHARE:.0%} of each chain",
    top_share=TOP_SHARE,
  ),
  Judgement(
    table="ratings",
    title="Agreement with ratings of steps",
    parts="steps",
    of=judgements.ratings,
    good="the best rated of each chain",
  ),
  FIRST_ERRORS,
)


@dataclasses.dataclass(frozen=True)
class Parts:
  """The judged parts of one chain.

  Attributes:
    value: the judgement, high where the part should leave late.
    position: characters before the part.
    length: characters of the part.
    rank: twice the mean prune rank of the part's characters; high ones left late.
  """

  value: Float[np.ndarray, "U"]
  position: Float[np.ndarray, "U"]
  length: Float[np.ndarray, "U"]
  rank: Float[np.ndarray, "U"]


def parts_of(chain: PrunedChain, kind: Judgement) -> Parts | None:
  """The judged parts of a chain; None where the kind says nothing of it.

  Raises:
    UserError: a judgement does not fit the chain.
  """
  found = kind.of(chain.chain)
  if found is None:
    return None
  ranks = character_ranks(chain)  # whole: rounding of fractions would break ties of their means
  start, end, value = np.array(found, float).reshape(-1, 3).T
  rank = [ranks[first:last].mean() for first, last, _ in found]
  return Parts(value, start, end - start, np.array(rank, float))


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
  value: Float[np.ndarray, "U"],
  controls: Sequence[Float[np.ndarray, "U"]] = (),
  top_share: float | None = None,
) -> tuple[float, float, float]:
  """AUC of the good parts, Spearman, and Spearman with controls, of one chain.

  Each is NaN where it cannot be told: where no value differs from another, the last with fewer than
  `LEAST` parts, and the first where all parts are good.

  Args:
    scores: one per part; a high one should go with a high value.
    value: one per part: the judgement.
    controls: held fixed in the last.
    top_share: share of the parts that are good, with all that tie with the last of them; None: all
      of the highest value. Their order in the chain must not decide between equal ones.
  """
  if not len(value) or value.min() == value.max():
    return float("nan"), float("nan"), float("nan")
  num_good = 1 if top_share is None else max(1, round(top_share * len(value)))
  good = value >= np.sort(value)[-num_good]
  auc = float("nan") if good.all() else ranked_above(scores, good, ~good)
  held = partial_spearman(scores, value, controls) if len(value) >= LEAST else float("nan")
  return auc, partial_spearman(scores, value, ()), held


def judgement_sections(runs: Sequence[LabelledRun]) -> list[Section]:
  """Agreement of the orders of runs with each kind of judgement that all their chains carry."""
  sections = []
  for kind in KINDS:
    judged = []
    for run in runs:
      found = [parts for chain in run.chains if (parts := parts_of(chain, kind)) is not None]
      if len(found) == len(run.chains):
        judged.append((run, found))
    if judged:
      sections.append(Section(kind.title, tables=[_table(kind, judged)]))
  return sections


def _table(kind: Judgement, runs: Sequence[tuple[LabelledRun, Sequence[Parts]]]) -> Table:
  """Agreement of the runs with one kind of judgement, a row a run."""
  by_chain = {
    text_of(chain): parts
    for run, found in reversed(runs)
    for chain, parts in zip(run.chains, found, strict=True)
  }
  surprisal = {  # of its own pruner each
    (chain.pruner, *text_of(chain)): parts.rank
    for run, found in runs
    for chain, parts in zip(run.chains, found, strict=True)
    if chain.ranking == _SURPRISAL
  }
  share = kind.top_share
  questions = [question for _, question, _ in by_chain]
  by_place = [compare(-p.position, p.value, top_share=share) for p in by_chain.values()]
  by_length = [compare(p.length, p.value, top_share=share) for p in by_chain.values()]
  rows = [
    _row(f"earlier {kind.parts}", by_place, (), questions),
    _row(f"longer {kind.parts}", by_length, (), questions),
  ]
  for run, found in runs:
    is_control = all(chain.ranking == _SURPRISAL for chain in run.chains)
    keys = [(chain.pruner, *text_of(chain)) for chain in run.chains]
    held = ("position", "length")
    if not is_control and all(key in surprisal for key in keys):
      held = (*held, _SURPRISAL)
    agreement = []
    for key, parts in zip(keys, found, strict=True):
      controls = {"position": parts.position, "length": parts.length}
      if _SURPRISAL in held:
        controls[_SURPRISAL] = surprisal[key]
      agreement.append(compare(parts.rank, parts.value, list(controls.values()), share))
    rows.append(_row(run.name, agreement, held, run.questions))
  ties = "" if share is None else ", and all as important as the last of these"
  caption = (
    f"Orders of deletion against {kind.table.replace('_', ' ')}: AUC of {kind.parts} "
    f"({kind.good}{ties}) against the rest, Spearman's rho, and rho with the controls held fixed: "
    f"surprisal where all chains of a run have that of its own pruner. A high "
    f"value: good {kind.parts} leave late. Means over chains with 95% intervals (Student's t; "
    f"{COUNT_AS_ONE}); chains whose {kind.parts} are all judged the same are left out, and of "
    f"fewer than {LEAST} {kind.parts} nothing is told with controls. {DEPTH}."
  )
  measures = interval_columns("AUC", "Spearman", "with controls")
  columns = ("run", *measures, "controls", "chains", "chains with AUC", "chains with controls")
  return Table(kind.table, caption, columns, rows)


def _row(
  name: str,
  agreement: Sequence[tuple[float, float, float]],
  controls: Sequence[str],
  questions: Sequence[str],
) -> tuple[Cell, ...]:
  """Means over chains of what `compare` says; with controls only where there are any."""
  found = np.array(agreement)
  if not controls:
    found[:, 2] = np.nan
  num_told = [int((~np.isnan(column)).sum()) for column in found.T[[1, 0, 2]]]
  intervals = column_intervals(found, questions, SHARE, CORRELATION, CORRELATION)
  return (name, *intervals, ", ".join(controls) or "none", *num_told)
