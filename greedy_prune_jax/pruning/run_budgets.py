"""Answers the budgets of a finished run: nothing is scored again, but `right` is asked for."""

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
from greedy_prune_jax.teachers.answer_request import AnswerRequest
from greedy_prune_jax.teachers.local import LocalTeacher
from greedy_prune_jax.teachers.settings import WritingSettings
from greedy_prune_jax.teachers.teacher import Teacher


def run_budgets(settings: BudgetSettings, workdir: Path) -> str:
  """Writes how far each budget lets each chain of a workdir be pruned, and tells it in a table.

  Raises:
    UserError: the workdir holds no pruned chains, or, for `right`, a chain has no answer that we
      can tell right from wrong, or the pruner cannot be loaded.
  """
  tokenizer = load_tokenizer(settings.pruner)
  template = load_chat_template(settings.chat_template, tokenizer)
  chains = sorted(read_pruned(workdir), key=lambda pruned: pruned.chain.id)
  spent = []
  for budget in parse_budgets(settings.budget):
    if budget.kind == "right":
      teacher = LocalTeacher.load(
        settings.pruner,
        WritingSettings(max_new_tokens=settings.budget_new_tokens),
        chat_template=settings.chat_template,
        dtype=settings.dtype,
        mesh=make_mesh(settings.mesh),
      )
      furthest = right_deletions(chains, teacher)
      spent += [Spent(budget.name, pruned, furthest[pruned.chain.id]) for pruned in chains]
      continue
    for pruned in chains:
      num_answer = len(segment(pruned.chain, tokenizer, template).answer)
      spent.append(Spent(budget.name, pruned, most_deletions(pruned, budget, num_answer)))
  write_budgets(workdir, spent)
  return format_budgets(spent)


def right_deletions(chains: list[PrunedChain], teacher: Teacher) -> dict[str, int | None]:
  """The furthest deletion of each chain from which a teacher still writes the right answer.

  Args:
    chains: the chains; those without a gold answer are to reach their own.
    teacher: writes on from what is left.
  """
  by_id = {pruned.chain.id: pruned for pruned in chains}
  requests = {key: AnswerRequest.of(pruned.chain) for key, pruned in by_id.items()}

  def is_right(deletions: dict[str, int]) -> dict[str, bool]:
    prompts = [
      requests[key].prompt(key, by_id[key].spell(by_id[key].kept_after(number)))
      for key, number in deletions.items()
    ]
    replies = {reply.id: reply for reply in teacher.write(prompts)}
    return {key: requests[key].judge(replies[key].text).correct for key in deletions}

  return furthest_right({key: len(pruned.deletions) for key, pruned in by_id.items()}, is_right)
