"""The comparison of rankings, on runs whose numbers are made up."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from benchmarks.rankings import compare, ratios_in_steps
from greedy_prune_jax.errors import UserError
from tests.helpers.jsonl_files import new_writer
from tests.helpers.planted import pruned_chain

TOKENS = ["a", " b", " c", " d"]


def nll_of(level, slope, deletions):
  joint = tuple(level + slope * k for k in range(deletions + 1))
  return {"joint": joint, "answer": tuple(2 * x for x in joint), "reasoning": joint}


def write_run(folder, ranking, slope, levels=(1.0, 2.0), deletions=4, unit_sizes=None, **changes):
  """A prune run whose joint NLL grows by `slope` with each deletion, and answer NLL twice that."""
  with new_writer(folder / "pruned" / "process-00000.jsonl") as writer:
    for i, level in enumerate(levels):
      nll = nll_of(level, slope, len(unit_sizes or ()) or deletions)
      chain = pruned_chain(TOKENS, range(deletions), f"c/{i}", nll=nll, unit_sizes=unit_sizes)
      writer.write(dataclasses.replace(chain, ranking=ranking, **changes).to_record())
  (folder / "config.json").write_text("{}")
  return str(folder)


def write_evaluation(folder, right, ids=("c/0", "c/1"), runs=None):
  """An evaluation; `right` has, for each ranking, whether each chain is right at 1 and 0.5.

  `runs` has, for each key of `right`, the ranking that it is of.
  """
  with new_writer(folder / "answers" / "process-00000.jsonl") as writer:
    for ranking, verdicts in right.items():
      for i, (whole, half) in zip(ids, verdicts, strict=True):
        answer = {"text": "4", "value": "4", "finish_reason": "stop"}
        answers = {"1.0": answer | {"correct": whole}, "0.5": answer | {"correct": half}}
        writer.write(
          {
            "id": f"{ranking}/{i}",
            "run": ranking if runs else "r",
            "target": "4",
            "ranking": (runs or {}).get(ranking, ranking),
            "objective": "joint",
            "chain": i,
            "answers": answers,
          }
        )
  return str(folder)


def rows_of(path):
  with path.open() as file:
    return list(csv.DictReader(file))


def test_tables_and_plot(tmp_path):
  workdirs = [
    write_run(tmp_path / "g", "greedy", 0.1, positions_scored=70),
    # The third chain is not compared.
    write_run(tmp_path / "r", "random", 0.3, levels=(1.0, 2.0, 9.0), positions_scored=20),
  ]
  right = {"greedy": [(True, True), (True, False)], "random": [(True, False), (True, False)]}
  evaluation = write_evaluation(tmp_path / "e", right)
  out = tmp_path / "out"
  printed = compare(workdirs, out, ratios_in_steps(0.25), evaluation)

  rows = rows_of(out / "rankings.csv")
  assert [(row["ranking"], row["keep ratio"]) for row in rows[:5]] == [
    ("greedy joint", ratio) for ratio in ("1.0", "0.75", "0.5", "0.25", "0.0")
  ]
  assert len(rows) == 10
  greedy, random = (
    {float(r["keep ratio"]): r for r in rows if r["ranking"].startswith(name)}
    for name in ("greedy", "random")
  )
  # Levels 1 and 2, and two of four deletions.
  assert float(greedy[0.5]["joint NLL"]) == pytest.approx(1.5 + 2 * 0.1)
  assert float(random[0.5]["joint NLL"]) == pytest.approx(1.5 + 2 * 0.3)
  assert float(random[0.5]["answer NLL"]) == pytest.approx(2 * (1.5 + 2 * 0.3))
  assert random[0.5]["joint low"] == greedy[0.5]["joint difference high"] == "", "of two chains"
  assert float(random[0.5]["joint difference"]) == pytest.approx(0.4)

  costs = {row["ranking"]: float(row["positions"]) for row in rows_of(out / "cost.csv")}
  assert costs == {"greedy joint": 70, "random": 20}

  accuracies = {(r["ranking"], r["keep ratio"]): r for r in rows_of(out / "accuracy.csv")}
  assert len(accuracies) == 4
  assert float(accuracies["greedy joint", "0.5"]["accuracy"]) == 0.5
  assert float(accuracies["random", "0.5"]["accuracy"]) == 0
  assert float(accuracies["random", "0.5"]["high"]) > 0.5  # two chains say little
  assert float(accuracies["random", "0.5"]["difference"]) == -0.5
  assert float(accuracies["random", "1.0"]["difference"]) == 0
  low, high = (float(accuracies["random", "1.0"][f"difference {end}"]) for end in ("low", "high"))
  assert low < 0 < high, "no difference in two chains is not certain"

  assert "2 chains, tiny" in printed
  assert "greedy joint, mean joint NLL: lowest at every keep ratio" in printed
  svg = (out / "rankings.svg").read_text()
  for text in ("greedy joint", "mean answer NLL", "share of chains with the right answer"):
    assert text in svg
  assert (out / "rankings.png").stat().st_size > 10_000
  assert json.loads((out / "rankings.json").read_text())["caption"].startswith("2 chains")


def test_what_chains_have_in_common_drops_out_of_differences(tmp_path):
  levels = (1.0, 2.0) * 4
  workdirs = [
    write_run(tmp_path / "g", "greedy", 0.1, levels),
    write_run(tmp_path / "r", "random", 0.3, levels),
  ]
  compare(workdirs, tmp_path / "out", ratios_in_steps(0.25))
  half = [r for r in rows_of(tmp_path / "out" / "rankings.csv") if r["keep ratio"] == "0.5"]
  greedy, random = half
  assert float(random["joint low"]) < 2.1 < float(random["joint high"])
  for bound in ("", " low", " high"):
    assert float(random["joint difference" + bound]) == pytest.approx(0.4)
    assert float(greedy["joint difference" + bound]) == 0


def test_what_all_orders_leave_alike_beats_none(tmp_path):
  # The whole chain and no reasoning at all, which rounding may tell apart.
  ends = {"levels": (1.0 - 1e-9, 2.0), "deletions": 4}
  workdirs = [
    write_run(tmp_path / "g", "greedy", 0.1),
    write_run(tmp_path / "r", "random", 0.3, **ends),
  ]
  printed = compare(workdirs, tmp_path / "out", ratios_in_steps(0.25))
  assert "greedy joint, mean joint NLL: lowest at every keep ratio" in printed


def test_nlls_of_longer_units_are_those_after_whole_deletions(tmp_path):
  workdir = write_run(tmp_path / "w", "greedy", 0.1, unit_sizes=(3, 1))
  compare([workdir], tmp_path / "out", ratios_in_steps(0.25))
  rows = rows_of(tmp_path / "out" / "rankings.csv")
  nlls = {float(row["keep ratio"]): float(row["joint NLL"]) for row in rows}
  # One deletion leaves 1 of 4 tokens, at most 3; the second leaves none.
  assert nlls == pytest.approx({1.0: 1.5, 0.75: 1.6, 0.5: 1.6, 0.25: 1.6, 0.0: 1.7})


def test_without_an_evaluation_there_is_no_third_panel(tmp_path):
  compare([write_run(tmp_path / "g", "greedy", 0.1)], tmp_path / "out", ratios_in_steps(0.5))
  assert "right answer" not in (tmp_path / "out" / "rankings.svg").read_text()
  assert not (tmp_path / "out" / "accuracy.csv").exists()


def test_where_greedy_search_is_beaten_is_said(tmp_path):
  workdirs = [write_run(tmp_path / "g", "greedy", 0.1), write_run(tmp_path / "k", "keep_last", 0.0)]
  printed = compare(workdirs, tmp_path / "out", ratios_in_steps(0.5))
  expected = "greedy joint, mean joint NLL: beaten at 0.5 by keep_last (1.500 < 1.700)"
  assert expected in printed.splitlines()


def test_ratios_go_as_far_as_all_runs_went(tmp_path):
  workdirs = [
    write_run(tmp_path / "g", "greedy", 0.1, deletions=2),
    write_run(tmp_path / "r", "random", 0.3),
  ]
  compare(workdirs, tmp_path / "out", ratios_in_steps(0.25))
  ratios = {float(row["keep ratio"]) for row in rows_of(tmp_path / "out" / "rankings.csv")}
  assert ratios == {1.0, 0.75, 0.5}


def test_objectives_are_told_apart_where_they_matter(tmp_path):
  workdirs = [
    write_run(tmp_path / name, "greedy", slope, objective=name)
    for name, slope in (("joint", 0.1), ("answer", 0.2))
  ]
  compare(workdirs, tmp_path / "out", ratios_in_steps(0.5))
  names = {row["ranking"] for row in rows_of(tmp_path / "out" / "rankings.csv")}
  assert names == {"greedy joint", "greedy answer"}


def test_runs_of_one_ranking_go_by_the_names_of_their_folders_or_by_those_given(tmp_path):
  exact = write_run(tmp_path / "exact", "greedy", 0.1)
  screened = write_run(tmp_path / "screened", "greedy", 0.2)
  random = write_run(tmp_path / "random", "random", 0.3)
  out, ratios = tmp_path / "out", ratios_in_steps(0.5)

  def names(*workdirs, evaluation=None):
    printed = compare(workdirs, out, ratios, evaluation)
    return printed, list(dict.fromkeys(row["ranking"] for row in rows_of(out / "rankings.csv")))

  printed, found = names(exact, screened, random)
  assert found == ["exact", "screened", "random"]
  assert "exact, mean joint NLL: lowest at every keep ratio" in printed
  assert "screened, mean joint NLL: beaten at 0.5 by exact (1.700 < 1.900)" in printed
  assert names(exact, random)[1] == ["greedy joint", "random"]
  assert names(f"a={exact}", screened)[1] == ["a", "greedy joint"]

  right = {"exact": [(True, True)] * 2, "b": [(True, False)] * 2, "random": [(False, False)] * 2}
  runs = {"exact": "greedy", "b": "greedy", "random": "random"}
  evaluation = write_evaluation(tmp_path / "e", right, runs=runs)

  def accuracy():
    return [float(row["accuracy"]) for row in rows_of(out / "accuracy.csv")]

  names(exact, f"b={screened}", random, evaluation=evaluation)
  assert accuracy() == [1, 1, 1, 0, 0, 0]
  names(exact, random, evaluation=evaluation)
  assert accuracy() == [1, 1, 0, 0]
  with pytest.raises(UserError, match=r"c/0 by screened; name all .* by the names that they have"):
    names(exact, screened, evaluation=evaluation)
  with pytest.raises(
    UserError, match="no answers for 2 of the chains, such as c/0 by greedy joint"
  ):
    names(screened, random, evaluation=evaluation)


def test_what_cannot_be_compared(tmp_path):
  greedy = write_run(tmp_path / "g", "greedy", 0.1)
  other = write_run(tmp_path / "o", "random", 0.1, pruner="another")
  alone = write_run(tmp_path / "a", "random", 0.1)
  with pytest.raises(
    UserError, match="several workdirs go by the name g; name them apart, as NAME=DIR"
  ):
    compare([greedy, greedy], tmp_path / "out", ratios_in_steps(0.5))
  with pytest.raises(UserError, match=r"did not all come down to any of the keep ratios \[90\.0\]"):
    compare([greedy, alone], tmp_path / "out", [90.0])
  with pytest.raises(UserError, match="chain c/0 differs between the workdirs"):
    compare([greedy, other], tmp_path / "out", ratios_in_steps(0.5))
  evaluation = write_evaluation(tmp_path / "e", {"greedy": [(True, True)] * 2})
  with pytest.raises(UserError, match="no answers for 2 of the chains, such as c/0 by random"):
    compare([greedy, alone], tmp_path / "out", ratios_in_steps(0.5), evaluation)


def test_intervals_are_in_order(tmp_path):
  levels = tuple(np.random.default_rng(0).uniform(1, 3, 20))
  workdirs = [write_run(tmp_path / "g", "greedy", 0.1, levels=levels)]
  compare(workdirs, tmp_path / "out", ratios_in_steps(0.5))
  for row in rows_of(tmp_path / "out" / "rankings.csv"):
    assert float(row["joint low"]) < float(row["joint NLL"]) < float(row["joint high"])


def test_an_nll_that_was_never_scored_is_named(tmp_path):
  open_nll = nll_of(1.0, 0.5, 4)
  open_nll["joint"] = (1.0, 1.5, None, 2.5, 3.0)
  run = write_run(tmp_path / "run", "greedy", 0.5, levels=(1.0,), nll=open_nll)
  other = write_run(tmp_path / "other", "random", 0.5, levels=(1.0,))
  with pytest.raises(UserError, match=r"chain c/0: its joint NLL at keep ratio 0\.5 was never"):
    compare([run, other], tmp_path, ratios_in_steps(0.5))
  compare([run, other], tmp_path, [0.75, 0.25])
  rows = [row for row in rows_of(tmp_path / "rankings.csv") if row["ranking"] == "greedy joint"]
  assert [(row["keep ratio"], float(row["joint NLL"])) for row in rows] == [
    ("0.75", 1.5),
    ("0.25", 2.5),
  ]
