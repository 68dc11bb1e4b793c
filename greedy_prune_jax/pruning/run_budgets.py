"""Answers the budgets of a finished run: nothing is scored again, but `right` is asked for."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from greedy_prune_jax.chains.chain import PrunedChain
from greedy_prune_jax.chains.chat_template import load_chat_template
from greedy_prune_jax.chains.reading import read_pruned
from greedy_prune_jax.chains.segments import segment
from greedy_prune_jax.models.pretrained import load_tokenizer
from greedy_prune_jax.parallel import make_mesh
from greedy_prune_jax.pruning.budget import (
  Spent,
  format_budgets,
  furthest_right,
  most_deletions,
  parse_budgets,
  write_budgets,
)
from greedy_prune_jax.pruning.settings import BudgetSettings
from greedy_prune_jax.teachers.answer_request import requests_of
from greedy_prune_jax.teachers.local import LocalTeacher
from greedy_prune_jax.teachers.settings import WritingSettings
from greedy_prune_jax.teachers.teacher import Teacher


def run_budgets(settings: BudgetSettings, workdir: Path) -> str:
  """Writes how far each budget lets each chain of a workdir be pruned, and tells it in a table.

  What the stored paths say is written before `right` loads the pruner.

  Raises:
    UserError: the workdir holds no pruned chains, or, for `right`, the pruner cannot be loaded.
  """
  tokenizer = load_tokenizer(settings.pruner)
  template = load_chat_template(settings.chat_template, tokenizer)
  chains = sorted(read_pruned(workdir), key=lambda pruned: pruned.chain.id)
  budgets = parse_budgets(settings.budget)
  spent: dict[str, list[Spent]] = {budget.name: [] for budget in budgets}
  for budget in (budget for budget in budgets if budget.kind != "right"):
    for pruned in chains:
      num_answer = len(segment(pruned.chain, tokenizer, template).answer)
      most = most_deletions(pruned, budget, num_answer)
      spent[budget.name].append(Spent(budget.name, pruned, most))
  write_budgets(workdir, _joined(spent))
  for budget in (budget for budget in budgets if budget.kind == "right"):
    teacher = LocalTeacher.load(
      settings.pruner,
      WritingSettings(max_new_tokens=settings.budget_new_tokens),
      chat_template=settings.chat_template,
      dtype=settings.dtype,
      mesh=make_mesh(settings.mesh),
    )
    furthest = right_deletions(chains, teacher)
    spent[budget.name] = [Spent(budget.name, one, furthest[one.chain.id]) for one in chains]
    write_budgets(workdir, _joined(spent))
  return format_budgets(_joined(spent))


def _joined(spent: Mapping[str, Sequence[Spent]]) -> list[Spent]:
  return [one for those in spent.values() for one in those]


def right_deletions(chains: list[PrunedChain], teacher: Teacher) -> dict[str, int | None]:
  """The furthest deletion of each chain from which a teacher still writes the right answer.

  Of a search by runs whole runs count: it never looked at a text within one. Chains whose answer
  has no form that we know are not asked about, and get None.

  Args:
    chains: the chains; those without a gold answer are to reach their own.
  """
  by_id = {pruned.chain.id: pruned for pruned in chains}
  requests = requests_of({key: one.chain for key, one in by_id.items()}, "budget=right")
  ends = {key: _ends_of_moves(by_id[key]) for key in requests}

  def is_right(moves: dict[str, int]) -> dict[str, bool]:
    prompts = [
      requests[key].prompt(key, by_id[key].spell(by_id[key].kept_after(ends[key][number])))
      for key, number in moves.items()
    ]
    replies = {reply.id: reply for reply in teacher.write(prompts)}
    return {key: requests[key].judge(replies[key].text).correct for key in moves}

  most = {key: len(those) - 1 for key, those in ends.items()}
  furthest = furthest_right(most, is_right) if most else {}
  return dict.fromkeys(by_id) | {
    key: None if moves is None else ends[key][moves] for key, moves in furthest.items()
  }


def _ends_of_moves(pruned: PrunedChain) -> list[int]:
  """Numbers of deletions after each move, from 0 on."""
  tokens = itertools.accumulate(map(len, pruned.deletions), initial=0)
  deletions = {gone: number for number, gone in enumerate(tokens)}
  return [deletions[gone] for gone in itertools.accumulate(map(len, pruned.moves), initial=0)]
