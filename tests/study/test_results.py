"""Tables and plot of a study, from answers that are known."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.evaluation.run import read_evaluation
from greedy_prune_jax.evaluation.scores import score
from greedy_prune_jax.jobs.study_tables import study_tables
from greedy_prune_jax.reports.intervals import paired_difference
from greedy_prune_jax.study.answers import FILE, collect_answers, read_answers, write_answers
from greedy_prune_jax.study.plan import Condition
from greedy_prune_jax.study.plot import plot_study
from greedy_prune_jax.study.results import all_tables
from tests.helpers.answer_records import answer_record
from tests.helpers.jsonl_files import new_writer

CELLS = {
  # By seed, which of 4 questions is right.
  Condition("tiny", "no_pruning", 1.0): ["1111", "1110"],
  Condition("tiny", "answer_only", 0.0): ["0000", "0000"],
  Condition("tiny", "greedy", 0.5): ["1110", "1100"],
  Condition("tiny", "greedy", 0.3): ["1000", "1000"],
  Condition("tiny", "random", 0.5): ["1000", "0100"],
  Condition("tiny", "random", 0.3): ["0000"],  # its second seed is not done
  Condition("tiny", "by_hand", 1.0): ["1100", "1100"],
}


@pytest.fixture
def answers(tmp_path):
  for condition, seeds in CELLS.items():
    for seed, right in enumerate(seeds):
      folder = tmp_path / condition.folder(seed) / "evaluate" / "sums" / "answers"
      with new_writer(folder / "process-00000.jsonl") as writer:
        for question in ((2, 0, 3, 1), (3, 1, 0, 2))[seed]:  # as they happened to be finished
          sample = {
            "correct": right[question] == "1",
            "reasoning_tokens": int(100 * condition.keep_ratio) + question + seed,
          }
          writer.write(answer_record(f"q/{question}", sample))
  rows = [
    row
    for condition, seeds in CELLS.items()
    for row in collect_answers(tmp_path, condition, range(len(seeds)), "sums")
  ]
  write_answers(tmp_path / FILE, rows)
  return read_answers(tmp_path / FILE)


def dicts(table):
  return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def test_the_table(answers, tmp_path):
  rows = dicts(all_tables(answers, "greedy")[0])
  assert answers[2].correct.tolist() == [[1, 1, 1, 0], [1, 1, 0, 0]]
  greedy = rows[2]
  assert (greedy["trained on"], greedy["keep ratio"], greedy["test"]) == ("greedy", 0.5, "sums")
  assert greedy["accuracy"] == pytest.approx(5 / 8)
  assert greedy["low"] < 5 / 8 < greedy["high"]
  assert greedy["reasoning tokens"] == pytest.approx(50 + 1.5 + 0.5)
  assert (greedy["seeds"], greedy["questions"]) == (2, 4)
  assert [row["seeds"] for row in rows] == [2, 2, 2, 2, 2, 1, 2]
  assert (rows[1]["low"], rows[1]["accuracy"]) == (0, 0)
  assert rows[1]["high"] == pytest.approx(0.4899, abs=1e-4), "Wilson's of 0 in 4, not in 8"
  assert collect_answers(tmp_path, Condition("tiny", "greedy", 0.9), (), "sums") == []


def test_differences_are_of_one_arm_at_equal_ratios_seed_by_seed(answers):
  rows = dicts(all_tables(answers, "greedy")[1])
  found = {(r["keep ratio"], r["against"], r["against's ratio"]): r for r in rows}
  assert set(found) == {
    (ratio, *other)
    for ratio in (0.5, 0.3)
    for other in (("no_pruning", 1.0), ("answer_only", 0.0), ("random", ratio), ("by_hand", 1.0))
  }
  against_random = found[0.5, "random", 0.5]
  assert against_random["difference"] == pytest.approx(5 / 8 - 2 / 8)
  assert against_random["tokens' difference"] == 0
  assert found[0.5, "by_hand", 1.0]["tokens' difference"] == -50
  one_seed = found[0.3, "random", 0.3]
  assert (one_seed["seeds"], one_seed["difference"]) == (1, 0.25), "the seed that both have"
  unknown = {name for name, value in one_seed.items() if value is None}
  assert unknown == {"low", "high", "p (Holm)", "tokens low", "tokens high"}
  unknown = {name for row in rows if row["seeds"] > 1 for name in row if row[name] is None}
  assert unknown == {"tokens low", "tokens high"}, "all questions differ by as many tokens"


def test_the_captions_say_what_is_not_compared(answers):
  _, differences, matched = all_tables(answers, "greedy")
  assert "no row" not in differences.caption + matched.caption
  assert matched.caption.endswith(
    "Arms that cannot be compared: by_hand (sums, tiny: it or greedy has no two keep ratios with a "
    "seed in common)."
  )
  alone = [cell for cell in answers if cell.condition.arm == "greedy"]
  for table in all_tables(alone, "greedy")[1:] + all_tables(answers, "")[1:]:
    assert table.rows == []
    assert table.caption.endswith("There is no row, as there are no two arms to compare.")


def test_a_reference_of_one_length_is_compared_at_every_ratio_but_0(answers):
  nothing_left = dataclasses.replace(answers[3], condition=Condition("tiny", "greedy", 0.0))
  table = all_tables([*answers, nothing_left], "by_hand")[1]
  found = [row[table.columns.index("against") :][:2] for row in table.rows]
  assert found == [
    *(("no_pruning", 1.0), ("answer_only", 0.0)),
    *(("greedy", 0.5), ("greedy", 0.3), ("random", 0.5), ("random", 0.3)),
  ]
  table = all_tables([*answers, nothing_left], "greedy")[1]
  against_none = [row[4:6] for row in table.rows if row[3] == 0]
  assert against_none == [("no_pruning", 1.0), ("answer_only", 0.0)]


def test_the_plot_has_every_arm_and_the_ends(answers):
  plot = plot_study(answers)
  (axes,) = plot.figure.axes
  _, labels = axes.get_legend_handles_labels()
  assert labels == ["no pruning", "answer only", "greedy", "random", "by hand"]
  greedy = axes.containers[2].lines[0]
  assert greedy.get_xdata() == pytest.approx([32, 52])
  assert greedy.get_ydata() == pytest.approx([0.25, 0.625])


def test_a_file_that_was_sorted_otherwise_gives_the_same_tables(answers, tmp_path):
  table = pq.read_table(tmp_path / FILE)
  pq.write_table(
    table.sort_by([("question", "descending"), ("seed", "descending")]), tmp_path / "x"
  )
  again = {cell.condition: cell for cell in read_answers(tmp_path / "x")}
  for cell in answers:
    found = again.pop(cell.condition)
    assert found.seeds == cell.seeds
    np.testing.assert_array_equal(found.correct, cell.correct)
    np.testing.assert_array_equal(found.tokens, cell.tokens)
  assert not again


def test_the_legend_names_the_arms_of_all_panels(answers):
  lone = dataclasses.replace(answers[2], condition=Condition("other", "surprisal", 0.5))
  figure = plot_study([answers[0], answers[2], lone]).figure
  named = [text.get_text() for text in figure.legends[0].get_texts()]
  assert named == ["no pruning", "greedy", "surprisal"]


def test_no_panel_of_the_plot_cuts_another(answers):
  low, high = answers[1], answers[0]  # nothing is right in the panel that is drawn first
  plot = plot_study([dataclasses.replace(low, test="hard"), high])
  assert [axes.get_title() for axes in plot.figure.axes] == ["tiny, hard", "tiny, sums"]
  for axes in plot.figure.axes:
    bottom, top = axes.get_ylim()
    assert bottom < 0
    assert top > high.accuracy.high


def test_p_values_are_for_all_differences_at_once(answers):
  _, differences, matched = all_tables(answers, "greedy")
  p = [row["p (Holm)"] for row in (*dicts(differences), *dicts(matched)) if row["seeds"] > 1]
  alone = paired_difference(answers[2].correct, answers[1].correct).p  # the smallest but for ties
  assert len(p) > 5
  assert min(p) == pytest.approx(min(1.0, alone * len(p)))


def test_intervals_of_several_samples_a_question_are_those_of_evaluate(tmp_path):
  """Of 40 questions with 8 samples each there are more answers than questions."""
  rng = np.random.default_rng(0)
  condition = Condition("tiny", "greedy", 0.5)
  for seed in range(3):
    folder = tmp_path / condition.folder(seed) / "evaluate" / "sums" / "answers"
    with new_writer(folder / "process-00000.jsonl") as writer:
      for question in range(40):
        samples = [{"correct": bool(right)} for right in rng.random(8) < 0.5]
        writer.write(answer_record(f"q/{question}", *samples))
  write_answers(tmp_path / FILE, collect_answers(tmp_path, condition, range(3), "sums"))
  [cell] = read_answers(tmp_path / FILE)
  for seed in range(3):
    evaluated = read_evaluation(tmp_path / condition.folder(seed) / "evaluate" / "sums")
    assert cell.of_seeds([seed]).accuracy == pytest.approx(score(list(evaluated)).accuracy)
  assert cell.accuracy.high - cell.accuracy.low < 0.15
  one_each = dataclasses.replace(cell, num_samples=1).of_seeds([0]).accuracy
  assert one_each.high - one_each.low > 0.25


def test_an_answers_file_that_is_none(tmp_path):
  path = tmp_path / FILE
  with pytest.raises(UserError, match=r"answers.parquet cannot be read"):
    read_answers(path)
  pq.write_table(pa.table({"test": ["a"]}), path)
  with pytest.raises(UserError, match=r"answers.parquet has no column student"):
    read_answers(path)


def test_seeds_in_several_files_are_put_together(answers, tmp_path):
  rows = pq.read_table(tmp_path / FILE).to_pylist()
  for seed in (1, 0):
    write_answers(tmp_path / f"seed {seed}", [row for row in rows if row["seed"] == seed])
  merged = read_answers(tmp_path / "seed 1", tmp_path / "seed 0")
  assert {cell.condition: cell.seeds for cell in merged} == {
    cell.condition: cell.seeds for cell in answers
  }
  tables = [sorted(map(str, all_tables(found, "greedy")[0].rows)) for found in (answers, merged)]
  assert tables[0] == tables[1]


def test_tables_go_to_a_new_folder_of_the_users(answers, tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  study_tables([f"~/{FILE}"], "greedy", "~/new/tables")
  assert (tmp_path / "new" / "tables" / "study.csv").exists()


def test_a_student_in_two_files_is_named(answers, tmp_path):
  rows = pq.read_table(tmp_path / FILE).to_pylist()
  write_answers(tmp_path / "other", [row for row in rows if row["arm"] == "random"])
  message = r"other and .*answers.parquet both have .*tiny/random/keep-0.5/seed-0 in sums"
  with pytest.raises(UserError, match=message):
    read_answers(tmp_path / FILE, tmp_path / "other")


def test_students_that_were_asked_other_questions_are_named(answers, tmp_path):
  rows = pq.read_table(tmp_path / FILE).to_pylist()
  own = [row for row in rows if row["seed"] == 1]
  write_answers(tmp_path / "other", [row | {"question": row["question"] + "0"} for row in own])
  write_answers(tmp_path / "own", [row for row in rows if row["seed"] == 0])
  with pytest.raises(
    UserError, match=r"no_pruning/keep-1/seed-1 was asked other questions in sums"
  ):
    read_answers(tmp_path / "own", tmp_path / "other")
