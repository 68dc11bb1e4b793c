"""Budgets read off stored paths, and asked for by bisection."""

import math
import random

import pytest

from configs import prune
from greedy_prune_jax.chains.chain import PrunedChain
from greedy_prune_jax.chains.pruned_answers import read_budgets, read_right_budgets
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.pruning.budget import (
  Spent,
  format_budgets,
  furthest_right,
  most_deletions,
  parse_budgets,
  write_budgets,
)
from greedy_prune_jax.pruning.run_budgets import right_deletions, run_budgets
from greedy_prune_jax.pruning.settings import PruneSettings
from greedy_prune_jax.teachers.local import LocalTeacher
from greedy_prune_jax.teachers.teacher import Reply
from tests.chains.test_reading import OWN, RESULTS
from tests.helpers.tiny_runs import make_model, write_chains

TOKENS = [f"{i} " for i in range(6)]
ORDER = [3, 0, 5, 1, 4, 2]


def pruned(chain_id="a", joint=(1.0,) * 7, answer=(0.1,) * 7, **changes):
  record = OWN | RESULTS | {
    "id": chain_id,
    "reasoning": "".join(TOKENS),
    "reasoning_ids": list(range(6)),
    "reasoning_tokens": TOKENS,
    "deletion_order": ORDER,
    "nll": {"joint": list(joint), "answer": list(answer), "reasoning": [1.0] * 7},
  }  # fmt: skip
  return PrunedChain.from_record(record | changes)


def within(text, chain, num_answer=4):
  (budget,) = parse_budgets(text)
  return most_deletions(chain, budget, num_answer)


def test_the_nll_of_the_objective_may_rise_by_so_much():
  chain = pruned(joint=(1.0, 1.05, 1.2, 1.09, 1.3, 1.1, 2.0), answer=(0.1, 0.1, 0.1, 0.3, 1, 1, 1))
  assert within("nll:+0.1", chain) == 5  # the last that holds, not the first that does not
  assert within("nll:+0.05", chain) == 1
  assert within("nll:+0", chain) == 0
  assert within("nll:+5", chain) == 6
  assert within("nll:+0.1", pruned(objective="answer", answer=chain.nll["answer"])) == 2


def test_the_probability_of_the_whole_answer_stays_above():
  probabilities = (0.95, 0.97, 0.9, 0.5, 0.91, 0.2, 0.1)
  chain = pruned(answer=[-math.log(p) / 4 for p in probabilities])  # of 4 tokens
  assert within("answer:0.905", chain) == 4
  assert within("answer:0.96", chain) == 1
  assert within("answer:0.99", chain) is None
  assert within("answer:0.905", chain, num_answer=40) is None


def test_budgets_that_were_not_asked_for_again_stay(tmp_path):
  chains = [pruned("a"), pruned("b")]
  write_budgets(tmp_path, [Spent("right", chain, 2) for chain in chains])
  write_budgets(tmp_path, [Spent("nll:+0.1", chain, 3) for chain in chains])
  write_budgets(tmp_path, [Spent("nll:+0.1", chain, 4) for chain in chains])
  found = [(x["id"], x["budget"], x["deletions"]) for x in read_budgets(tmp_path)]
  assert found == [("a", "right", 2), ("b", "right", 2), ("a", "nll:+0.1", 4), ("b", "nll:+0.1", 4)]
  assert list(read_right_budgets(tmp_path)) == ["a", "b"]


def test_points_that_were_not_scored_do_not_hold():
  assert within("nll:+1", pruned(joint=(1.0, None, 1.5, None, 9.0, None, None))) == 2
  assert pruned().kept_after(2) == [1, 2, 4, 5]
  nll = {name: [1.0] * 3 for name in ("joint", "answer", "reasoning")}
  units = pruned(unit="word", unit_sizes=[2, 2, 2], deletion_order=[4, 5, 0, 1], nll=nll)
  assert units.kept_after(1) == [0, 1, 2, 3]


@pytest.mark.parametrize(
  "text", ["nll:0.1", "nll:+", "nll:-0.1", "answer:1.1", "answer:0", "rights", "right,right", "nll"]
)
def test_what_is_no_budget_is_refused(text):
  with pytest.raises(UserError, match=r"budget='.*'"):
    parse_budgets(text)


def test_several_budgets_stand_behind_commas():
  assert [b.name for b in parse_budgets("nll:+0.1, answer:0.9,right")] == [
    "nll:+0.1",
    "answer:0.9",
    "right",
  ]
  assert parse_budgets("") == ()


def test_bisection_finds_the_last_right_answer_in_few_rounds():
  rng = random.Random(0)
  most = {str(i): rng.randrange(0, 200) for i in range(100)}
  last = {key: rng.randrange(-1, n + 1) for key, n in most.items()}
  last["0"], last["1"], last["2"] = -1, most["1"], 0
  rounds = []

  def is_right(deletions):
    rounds.append(deletions)
    return {key: number <= last[key] for key, number in deletions.items()}

  found = furthest_right(most, is_right)
  assert found == {key: None if n < 0 else n for key, n in last.items()}
  assert len(rounds) <= 2 + 8
  assert "0" not in rounds[1]  # wrong from the beginning: not asked again
  assert "1" not in {key for asked in rounds[2:] for key in asked}


class Reader:
  """Writes the right value as long as the reasoning still holds a token."""

  def __init__(self, token, right, wrong):
    self.token, self.right, self.wrong = token, right, wrong
    self.starts = []

  def write(self, prompts):
    for prompt in prompts:
      self.starts.append(prompt.reply_start)
      right = self.token in (prompt.reply_start or ("",))[0]
      yield Reply(id=prompt.id, text=self.right if right else self.wrong, finish_reason="stop")


def test_right_asks_what_follows_the_words_before_the_value():
  reader = Reader("4", '42"}', '43"}')
  assert right_deletions([pruned()], reader) == {"a": 4}  # 4 leaves fifth
  assert {start[-1] for start in reader.starts} == {'{"answer": "'}


def test_right_is_asked_after_whole_runs_alone():
  chain = pruned(deletion_order=[0, 1, 3, 4, 5, 2], move_sizes=[2, 3, 1], search="runs")
  reader = Reader("4", '42"}', '43"}')
  assert right_deletions([chain], reader) == {"a": 2}  # after 3 it would be right, too
  texts = {start[0].count(" ") for start in reader.starts}
  assert texts <= {6, 4, 1, 0}


def with_answer(chain, answer):
  return PrunedChain.from_record(chain.to_record() | {"answer": answer})


def test_a_chain_whose_answer_is_of_no_form_does_not_hold(caplog):
  unknown = with_answer(pruned("b"), "blue and green")
  reader = Reader("4", '42"}', '43"}')
  assert right_deletions([pruned(), unknown], reader) == {"a": 4, "b": None}
  (warning,) = caplog.messages
  assert "budget=right: 1 of 2 chains have no answer" in warning
  assert "left out: b. Begin their answers with a marker, such as ####" in warning
  assert right_deletions([unknown], Reader("4", "", "")) == {"b": None}


def test_other_budgets_are_written_where_right_cannot_be_asked_for(tmp_path, monkeypatch):
  make_model(tmp_path / "model")
  (tmp_path / "run" / "pruned").mkdir(parents=True)
  (tmp_path / "run" / "config.json").write_text("{}")
  chain = with_answer(pruned("b"), "blue and green")
  write_chains(tmp_path / "run" / "pruned" / "process-00000.jsonl", [chain.to_record()])
  config = prune.get_config().to_dict() | {"pruner": str(tmp_path / "model")}
  settings = PruneSettings.from_config(config | {"budget": "right,nll:+0.5"})

  def fail(*args, **kwargs):
    raise UserError("no such model")

  with monkeypatch.context() as changed:
    changed.setattr(LocalTeacher, "load", fail)
    with pytest.raises(UserError, match="no such model"):
      run_budgets(settings, tmp_path / "run")
  assert [record["budget"] for record in read_budgets(tmp_path / "run")] == ["nll:+0.5"]
  table = run_budgets(settings, tmp_path / "run")
  assert [line.split()[:3] for line in table.splitlines()[3:]] == [
    ["right", "1", "0"],
    ["nll:+0.5", "1", "1"],
  ]
  held = {record["budget"]: record["holds"] for record in read_budgets(tmp_path / "run")}
  assert held == {"right": False, "nll:+0.5": True}


def thinking_chain():
  record = pruned().to_record()
  return PrunedChain.from_record(
    record
    | {"answer": "\n</think>\n\nSix sevens, so \\boxed{42}."}
    | {"target": "42", "thinking_form": "think"}
  )


def test_right_behind_thinking_begins_at_the_closing_tag():
  chain = thinking_chain()
  reader = Reader("0", "It is \\boxed{42}.", "It is \\boxed{4}. Or")
  assert right_deletions([chain], reader) == {"a": 1}
  assert {start[-1] for start in reader.starts} == {"\n</think>\n\n"}


def test_the_table_is_of_the_chains_that_hold_and_counts_those_at_the_lowest_ratio(tmp_path):
  spent = [
    Spent("right", pruned("a"), 4),
    Spent("right", pruned("b"), 2),
    Spent("right", pruned("c"), None),
    Spent("nll:+1", pruned("a"), 6),
    Spent("answer:1", pruned("a"), None),
  ]
  *_, first, second, third = format_budgets(spent).splitlines()
  assert first.split() == ["right", "3", "2", "0", "3.0", "1.4", "2", "3.0", "4", "50.0%"]
  assert second.split() == ["nll:+1", "1", "1", "1", "0.0", "0.0", "0", "0.0", "0", "0.0%"]
  assert third.split() == ["answer:1", "1", "0", "0"]
  write_budgets(tmp_path, spent)
  lowest = [record["at_lowest_ratio"] for record in read_budgets(tmp_path)]
  assert lowest == [False, False, False, True, False]
