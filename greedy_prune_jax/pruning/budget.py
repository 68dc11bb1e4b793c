"""Budgets other than a keep ratio: as few tokens as hold a bound, read off the stored paths.

A workdir's `budgets.jsonl` holds a line for each chain and budget that was asked for last.
"""

import math
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from greedy_prune_jax.chains.chain import PrunedChain
from greedy_prune_jax.chains.pruned_answers import BUDGETS
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.files import replace_file
from greedy_prune_jax.runs.jsonl import encode_line
from greedy_prune_jax.runs.records import Record

_BOUND = re.compile(r"nll:\+\d*\.?\d+|answer:\d*\.?\d+|right")


class Budget(NamedTuple):
  """Condition that must still hold of a pruned chain.

  Attributes:
    name: name in the settings, such as `nll:+0.1`.
    kind: `nll`: of the run's objective, in nats per token, at most `bound` above the whole chain's;
      `answer`: the answer's probability, of all its tokens together, at least `bound`; `right`: the
      pruner still writes the right answer.
    bound: 0 for `right`.
  """

  name: str
  kind: str
  bound: float


class Spent(NamedTuple):
  """Most deletions of a chain that a budget allows.

  Attributes:
    budget: name of the budget.
    pruned: the chain.
    deletions: the most that hold the bound; None where not even the whole chain does.
  """

  budget: str
  pruned: PrunedChain
  deletions: int | None

  @property
  def kept(self) -> list[int]:
    """Reasoning positions that are left: all of them where the bound does not hold."""
    return kept_after(self.pruned, self.deletions or 0)


def parse_budgets(text: str) -> tuple[Budget, ...]:
  """The budgets of a text such as `nll:+0.1,answer:0.9,right`.

  Raises:
    UserError: one is of no known form, or comes twice.
  """
  budgets = []
  for name in filter(None, (part.strip() for part in text.split(","))):
    kind, _, value = name.partition(":")
    bound = float(value.removeprefix("+")) if _BOUND.fullmatch(name) and value else 0.0
    if not _BOUND.fullmatch(name) or (kind == "answer" and not 0 < bound <= 1):
      raise UserError(
        f"budget={text!r} has {name!r}; expected nll:+NATS, such as nll:+0.1, answer:PROBABILITY, "
        f"such as answer:0.9, or right"
      )
    budgets.append(Budget(name, kind, bound))
  if len({budget.name for budget in budgets}) < len(budgets):
    raise UserError(f"budget={text!r} repeats one")
  return tuple(budgets)


def most_deletions(pruned: PrunedChain, budget: Budget, num_answer: int) -> int | None:
  """The furthest point of a chain's path at which the bound holds; None where nowhere.

  NLLs do not rise at every step: what counts is the last point that holds, not the first that
  does not. Points that were not scored count as not holding.

  Args:
    pruned: the chain.
    budget: a budget of the kind `nll` or `answer`.
    num_answer: tokens of the answer, what the template writes behind it included.
  """
  if budget.kind == "nll":
    values = pruned.nll[pruned.objective]
    most = math.inf if values[0] is None else values[0] + budget.bound
  else:
    values = pruned.nll["answer"]
    most = -math.log(budget.bound) / num_answer
  holding = [k for k, value in enumerate(values) if value is not None and value <= most]
  return holding[-1] if holding else None


def kept_after(pruned: PrunedChain, deletions: int) -> list[int]:
  """Reasoning positions that are left after so many deletions, ascending."""
  gone = {position for unit in pruned.deletions[:deletions] for position in unit}
  return [position for position in range(len(pruned.reasoning_ids)) if position not in gone]


def furthest_right(
  most: dict[str, int], is_right: Callable[[dict[str, int]], dict[str, bool]]
) -> dict[str, int | None]:
  """Bisects each chain's path for the furthest deletion after which the answer is right.

  As if an answer that was lost never came back: points behind a wrong one are not looked at.

  Args:
    most: deletions of each chain's path, by id.
    is_right: tells of each of some chains whether its answer is right after so many deletions.

  Returns:
    By id; None where the answer is wrong from the whole chain.
  """
  whole = is_right(dict.fromkeys(most, 0))
  furthest: dict[str, int | None] = {key: 0 if whole[key] else None for key in most}
  wrong = {key: most[key] + 1 for key in most if whole[key] and most[key]}
  ask = {key: most[key] for key in wrong}  # the end first: many chains hold to it
  while ask:
    for key, right in is_right(ask).items():
      if right:
        furthest[key] = ask[key]
      else:
        wrong[key] = ask[key]
    middles = {key: ((furthest[key] or 0) + bound) // 2 for key, bound in wrong.items()}
    ask = {key: middle for key, middle in middles.items() if middle > (furthest[key] or 0)}
  return furthest


def write_budgets(workdir: Path, spent: Sequence[Spent]) -> None:
  """Writes `budgets.jsonl`; a UserError if the workdir cannot be written."""
  lines = [encode_line(_record(one)) for one in spent]
  replace_file(workdir / BUDGETS, b"".join(lines))


def _record(spent: Spent) -> Record:
  pruned, deletions, kept = spent.pruned, spent.deletions or 0, spent.kept
  return {
    "id": pruned.chain.id,
    "budget": spent.budget,
    "holds": spent.deletions is not None,
    "deletions": deletions,
    "tokens": len(kept),
    "reasoning_tokens": len(pruned.reasoning_ids),
    "nll": {name: values[deletions] for name, values in pruned.nll.items()},
    "text": pruned.spell(kept),
  }


def format_budgets(spent: Sequence[Spent]) -> str:
  """Tokens left per chain, and their spread, as a table with a row a budget."""
  lines = [
    "tokens left per chain by budget (sd: over chains; share: of the reasoning, mean over chains)",
    "      budget  chains  hold    mean      sd   least  median    most  share",
  ]
  for budget in dict.fromkeys(one.budget for one in spent):
    those = [one for one in spent if one.budget == budget]
    left = [len(one.kept) for one in those]
    shares = [n / len(one.pruned.reasoning_ids) for n, one in zip(left, those, strict=True)]
    holding = sum(one.deletions is not None for one in those)
    spread = statistics.stdev(left) if len(left) > 1 else 0.0
    lines.append(
      f"{budget:>12}  {len(those):>6}  {holding:>4}  {statistics.fmean(left):>6.1f}  {spread:>6.1f}"
      f"  {min(left):>6}  {statistics.median(left):>6.1f}  {max(left):>6}"
      f"  {statistics.fmean(shares):>5.1%}"
    )
  return "\n".join(lines)
