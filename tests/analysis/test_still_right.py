"""Stored answers are read to the chains that they belong to, and refused with any others."""

import dataclasses
import json

import pytest

from greedy_prune_jax.analysis.still_right import Verdicts, read_verdicts
from greedy_prune_jax.chains.pruned_answers import read_pruned_answers
from greedy_prune_jax.errors import UserError
from tests.helpers.planted import pruned_chain

TOKENS = [" 4", " plus", " 3", " is", " 7"]


def chain(chain_id, order=(1, 3, 0)):
  made = pruned_chain(TOKENS, order, chain_id, answer='{"answer": "7"}')
  return dataclasses.replace(made, pruned={"0.5": made.spell(made.kept_positions(2))})


def write(path, *records):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(json.dumps(record) + "\n" for record in records))


def answers(chain_id, right=(True, False), **changes):
  written = [
    {"text": "", "value": "7" if r else None, "correct": r, "finish_reason": "stop"} for r in right
  ]
  return {
    "id": f"r/{chain_id}",
    "run": "r",
    "ranking": "greedy",
    "objective": "joint",
    "chain": chain_id,
    "target": "7",
    "answers": dict(zip(("1.0", "0.5"), written, strict=True)),
  } | changes


def budget(made, deletions, /, **changes):
  gone = made.deletion_order[:deletions]
  text = made.spell([p for p in range(len(TOKENS)) if p not in gone])
  line = {"id": made.chain.id, "budget": "right", "holds": True, "deletions": deletions}
  return line | {"text": text} | changes


@pytest.fixture
def evaluation(tmp_path):
  """Writes a workdir of evaluate_pruned that holds some records."""

  def written(*records, name="evaluation"):
    write(tmp_path / name / "answers" / "process-00000.jsonl", *records)
    (tmp_path / name / "config.json").write_text(json.dumps({"model": "asked"}))
    return str(tmp_path / name)

  return written


def test_answers_and_budgets_come_to_their_chains(tmp_path, evaluation):
  chains = [chain("a"), chain("b"), chain("c")]
  lost = budget(chains[2], 0, holds=False)
  write(
    tmp_path / "budgets.jsonl", budget(chains[0], 2, budget="nll:+0.1"), budget(chains[1], 3), lost
  )
  folder = evaluation(answers("b", (True, True)), answers("a"), answers("other"))
  assert read_verdicts([folder], {"r": (tmp_path, chains)}) == {
    "r": [
      Verdicts("asked", {"1.0": True, "0.5": False}),
      Verdicts("asked", {"1.0": True, "0.5": True}, 3),
      Verdicts("", {}, -1),
    ]
  }
  assert read_verdicts([], {"r": (tmp_path / "nothing", chains[:1])}) == {"r": [Verdicts()]}


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    ({"run": "s"}, "of the runs s, and to none of r.*--config.names"),
    ({"chain": "x"}, "to none of r"),
    ({"ranking": "random"}, "ranking random there, greedy here"),
    ({"objective": "answer"}, "objective answer there, joint here"),
    ({"target": "8"}, "gold answer 8 there, 7 here"),
    ({"question": "Another?"}, "question Another\\? there, "),
    ({"answers": answers("a")["answers"] | {"0.3": answers("a")["answers"]["0.5"]}}, "keep ratios"),
  ],
)
def test_answers_to_other_chains_are_refused(tmp_path, evaluation, changes, says):
  folder = evaluation(answers("a", **changes))
  with pytest.raises(UserError, match=says):
    read_verdicts([folder], {"r": (tmp_path, [chain("a")])})


def test_a_run_is_answered_once(tmp_path, evaluation):
  folders = [evaluation(answers("a"), name=name) for name in ("one", "two")]
  with pytest.raises(UserError, match="two of them answer run r"):
    read_verdicts(folders, {"r": (tmp_path, [chain("a")])})
  with pytest.raises(UserError, match="holds no answers; expected a workdir of evaluate_pruned"):
    read_verdicts([str(tmp_path)], {"r": (tmp_path, [chain("a")])})
  assert read_pruned_answers(tmp_path) == []


@pytest.mark.parametrize("changes", [{"text": " 4 plus"}, {"deletions": 4}, {"deletions": -1}])
def test_budgets_of_another_pruning_are_refused(tmp_path, changes):
  made = chain("a")
  write(tmp_path / "budgets.jsonl", budget(made, 2, **changes))
  with pytest.raises(UserError, match="tells of other deletions of chain a"):
    read_verdicts([], {"r": (tmp_path, [made])})
