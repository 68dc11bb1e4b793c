"""Budgets: the fewest tokens of a chain that still meet a condition, found on its stored path.

A workdir's `budgets.jsonl` has a line for each chain and budget that was asked for.
"""

import math
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from greedy_prune_jax.chains.chain import PrunedChain
from greedy_prune_jax.chains.pruned_answers import BUDGETS, read_budgets
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.files import replace_file
from greedy_prune_jax.runs.jsonl import encode_line
from greedy_prune_jax.runs.records import Record

_BOUND = re.compile(r"nll:\+\d*\.?\d+|answer:\d*\.?\d+|right")


class Budget(NamedTuple):
  """Condition that a pruned chain must meet.

  Attributes:
    name: name in the settings, such as `nll:+0.1`.
    kind: `nll`: the NLL of the run's objective exceeds the whole chain's by at most `bound` nats
      per token; `answer`: the probability of the whole answer is at least `bound`; `right`: the
      pruner still writes the right answer.
    bound: bound of `nll` or `answer`; 0 for `right`.
  """

  name: str
  kind: str
  bound: float


class Spent(NamedTuple):
  """Furthest point of a chain's path that meets a budget's condition.

  Attributes:
    budget: name of the budget.
    deletions: number of deletions there; None where not even the whole chain meets the condition.
  """

  budget: str
  pruned: PrunedChain
  deletions: int | None

  @property
  def kept(self) -> list[int]:
    """Reasoning positions that are left there; all of them where nothing meets the condition."""
    return self.pruned.kept_after(self.deletions or 0)

  @property
  def at_end(self) -> bool:
    """True where the whole path meets the condition: a shorter text might, too."""
    return self.deletions == len(self.pruned.deletions)


def parse_budgets(text: str) -> tuple[Budget, ...]:
  """Reads budgets from a text such as `nll:+0.1,answer:0.9,right`.

  Raises:
    UserError: a budget has no known form, or comes twice.
  """
  budgets = []
  for name in filter(None, (part.strip() for part in text.split(","))):
    kind, _, value = name.partition(":")
    bound = float(value.removeprefix("+")) if _BOUND.fullmatch(name) and value else 0.0
    if not _BOUND.fullmatch(name) or (kind == "answer" and not 0 < bound <= 1):
      raise UserError(
        f"budget={text!r} has {name!r}; expected nll:+NATS (such as nll:+0.1), answer:PROBABILITY "
        f"(such as answer:0.9), or right"
      )
    budgets.append(Budget(name, kind, bound))
  if len({budget.name for budget in budgets}) < len(budgets):
    raise UserError(f"budget={text!r} names a budget twice; name each once")
  return tuple(budgets)


def most_deletions(pruned: PrunedChain, budget: Budget, num_answer: int) -> int | None:
  """Deletions to the furthest point of a chain's path that meets a budget; None if none does.

  NLLs can fall again behind a point that fails, so the last point that meets the condition counts.
  Points that were not scored do not meet it.

  Args:
    budget: budget of the kind `nll` or `answer`.
    num_answer: number of answer tokens, with those that the template writes behind the answer.
  """
  if budget.kind == "nll":
    values = pruned.nll[pruned.objective]
    most = math.inf if values[0] is None else values[0] + budget.bound
  else:
    values = pruned.nll["answer"]
    most = -math.log(budget.bound) / num_answer
  holding = [k for k, value in enumerate(values) if value is not None and value <= most]
  return holding[-1] if holding else None


def furthest_right(
  most: dict[str, int], is_right: Callable[[dict[str, int]], dict[str, bool]]
) -> dict[str, int | None]:
  """Bisects each chain's path for the furthest deletion after which the answer is right.

  Bisection assumes that a lost answer stays lost: it asks for no point behind a wrong one.

  Args:
    most: number of deletions of each chain's whole path, by id.
    is_right: function of the deletions made of some chains, by id; tells by id whether the answer
      is right after them.

  Returns:
    Number of deletions, by id; None where the answer is wrong from the whole chain.
  """
  whole = is_right(dict.fromkeys(most, 0))
  furthest: dict[str, int | None] = {key: 0 if whole[key] else None for key in most}
  wrong = {key: most[key] + 1 for key in most if whole[key] and most[key]}
  ask = {key: most[key] for key in wrong}  # the end first: many chains are right even there
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
  """Writes `budgets.jsonl`, behind what it has of other budgets: `right` cost many generations.

  Raises:
    UserError: the file cannot be read or written.
  """
  new = {one.budget for one in spent}
  records = [record for record in read_budgets(workdir) if record["budget"] not in new]
  records += map(_record, spent)
  replace_file(workdir / BUDGETS, b"".join(map(encode_line, records)))


def _record(spent: Spent) -> Record:
  pruned, deletions, kept = spent.pruned, spent.deletions or 0, spent.kept
  return {
    "id": pruned.chain.id,
    "budget": spent.budget,
    "holds": spent.deletions is not None,
    "at_lowest_ratio": spent.at_end,
    "deletions": deletions,
    "tokens": len(kept),
    "reasoning_tokens": len(pruned.reasoning_ids),
    "nll": {name: values[deletions] for name, values in pruned.nll.items()},
    "text": pruned.spell(kept),
  }


def format_budgets(spent: Sequence[Spent]) -> str:
  """Formats the tokens left of the chains that hold, as a table with a row for each budget."""
  lines = [
    "tokens left per chain by budget, over the chains that hold (sd: over these; share: of the "
    "reasoning, their mean)",
    "lowest: of these, chains that still hold at the lowest keep ratio, where no shorter text was "
    "tried: their tokens are an upper bound",
    "      budget  chains  hold  lowest    mean      sd   least  median    most  share",
  ]
  for budget in dict.fromkeys(one.budget for one in spent):
    those = [one for one in spent if one.budget == budget]
    holding = [one for one in those if one.deletions is not None]
    lowest = sum(one.at_end for one in holding)
    line = f"{budget:>12}  {len(those):>6}  {len(holding):>4}  {lowest:>6}"
    if holding:
      left = [len(one.kept) for one in holding]
      shares = [n / len(one.pruned.reasoning_ids) for n, one in zip(left, holding, strict=True)]
      spread = statistics.stdev(left) if len(left) > 1 else 0.0
      line += (
        f"  {statistics.fmean(left):>6.1f}  {spread:>6.1f}  {min(left):>6}"
        f"  {statistics.median(left):>6.1f}  {max(left):>6}  {statistics.fmean(shares):>5.1%}"
      )
    lines.append(line)
  return "\n".join(lines)
