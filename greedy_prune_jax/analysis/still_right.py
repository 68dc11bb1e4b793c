"""Lengths at which a model still answers a chain right, from stored answers to the same chains."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from greedy_prune_jax.chains.chain import PrunedChain, ratio_key
from greedy_prune_jax.chains.expected import expected_answer
from greedy_prune_jax.chains.pruned_answers import BUDGETS, read_pruned_answers, read_right_budgets
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.config import config_of
from greedy_prune_jax.runs.files import user_path
from greedy_prune_jax.runs.records import Record

_WHOLE = ratio_key(1.0)


@dataclasses.dataclass(frozen=True)
class Verdicts:
  """Verdicts on a model's answers from what pruning left of a chain.

  Attributes:
    model: name of the model that `evaluate_pruned` asked; empty where it did not.
    answers: verdict on that model's answer at each keep ratio, true where it was right.
    pruner_right: most deletions after which the pruner's answer was right, by prune's budget
      `right`; -1 where it was wrong from the whole chain, None where it was not asked.
  """

  model: str = ""
  answers: Mapping[str, bool] = dataclasses.field(default_factory=dict, hash=False)
  pruner_right: int | None = None


def read_verdicts(
  answers: Sequence[str], runs: Mapping[str, tuple[Path, Sequence[PrunedChain]]]
) -> dict[str, list[Verdicts]]:
  """Verdicts on the chains of each run, in their order.

  Args:
    answers: workdirs of `evaluate_pruned`; runs go by the same names there as here.
    runs: prune workdir, whose results of the budget `right` are read too, and chains, by name.

  Raises:
    UserError: a workdir holds no answers to these runs, answers to other chains than theirs, or
      answers to a run that another has answers to.
  """
  answered: dict[str, dict[str, Verdicts]] = {name: {} for name in runs}
  for folder in map(user_path, answers):
    for name, verdicts in _read_answers(folder, runs).items():
      if answered[name]:
        raise UserError(
          f"answers={tuple(answers)}: two of them answer run {name}; name one of them"
        )
      answered[name] = verdicts
  return {
    name: _with_budgets(path, chains, answered[name]) for name, (path, chains) in runs.items()
  }


def _read_answers(
  folder: Path, runs: Mapping[str, tuple[Path, Sequence[PrunedChain]]]
) -> dict[str, dict[str, Verdicts]]:
  """Verdicts of one workdir, by run and chain id."""
  records = read_pruned_answers(folder)
  if not records:
    raise UserError(f"{folder} holds no answers; expected a workdir of evaluate_pruned")
  model = str(config_of(folder).get("model", ""))
  chains = {name: {chain.chain.id: chain for chain in run} for name, (_, run) in runs.items()}
  found: dict[str, dict[str, Verdicts]] = {}
  for record in records:
    chain = chains.get(record["run"], {}).get(record["chain"])
    if chain is not None:
      _check_belongs(record, chain, folder)
      verdicts = {ratio: answer["correct"] for ratio, answer in record["answers"].items()}
      found.setdefault(record["run"], {})[record["chain"]] = Verdicts(model, verdicts)
  if not found:
    theirs = ", ".join(dict.fromkeys(record["run"] for record in records))
    raise UserError(
      f"{folder} has answers to chains of the runs {theirs}, and to none of {', '.join(runs)}; "
      f"give runs their names there by --config.names, or name another workdir in answers"
    )
  return found


def _check_belongs(record: Record, chain: PrunedChain, folder: Path) -> None:
  """A UserError unless a record is on this chain, pruned as it is here."""
  ratios = [ratio for ratio in record["answers"] if ratio not in {_WHOLE, *chain.pruned}]
  pairs = [
    ("ranking", record["ranking"], chain.ranking),
    ("objective", record["objective"], chain.objective),
    ("question", record.get("question", chain.chain.question), chain.chain.question),
    ("gold answer", record["target"], expected_answer(chain.chain).target),
    ("keep ratios", ratios and sorted(record["answers"]), ratios and sorted(chain.pruned)),
  ]
  for what, theirs, ours in pairs:
    if theirs != ours:
      raise UserError(
        f"{folder} answers chain {chain.chain.id} of another run called {record['run']}: {what} "
        f"{theirs} there, {ours} here; run evaluate_pruned on this run"
      )


def _with_budgets(
  path: Path, chains: Sequence[PrunedChain], answered: Mapping[str, Verdicts]
) -> list[Verdicts]:
  budgets = read_right_budgets(path)
  verdicts = []
  for chain in chains:
    of_chain = answered.get(chain.chain.id, Verdicts())
    if record := budgets.get(chain.chain.id):
      _check_budget(record, chain, path)
      right = record["deletions"] if record["holds"] else -1
      of_chain = dataclasses.replace(of_chain, pruner_right=right)
    verdicts.append(of_chain)
  return verdicts


def _check_budget(record: Record, chain: PrunedChain, path: Path) -> None:
  """A UserError unless a budget's text is what these deletions leave."""
  fits = 0 <= record["deletions"] <= len(chain.deletions)
  if not fits or record["text"] != chain.spell(chain.kept_after(record["deletions"])):
    raise UserError(
      f"{path / BUDGETS} tells of other deletions of chain {chain.chain.id} than {path} has now; "
      f"run prune again with budget=right, or remove the file"
    )
