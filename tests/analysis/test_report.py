import csv
import json

import numpy as np
import pytest

from greedy_prune_jax.analysis.agreement import compare_labels
from greedy_prune_jax.analysis.pattern_report import agreement_section, pattern_section
from greedy_prune_jax.analysis.patterns import LabelledRun
from greedy_prune_jax.analysis.report import Section, write_report
from greedy_prune_jax.chains.categories import Category
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.reports.bootstrap import Interval
from greedy_prune_jax.reports.tables import Table, format_cell, interval_cells, write_table
from tests.helpers.browser import browser  # noqa: F401 - a fixture
from tests.helpers.planted import pruned_chain

ALL = list(Category)
NAME = "<img src=x onerror=window.hacked=1> $x^2$ & co"


def labelled_run(name, seed):
  rng = np.random.default_rng(seed)
  chains = [pruned_chain(["x"] * 12, rng.permutation(12), f"c/{i}") for i in range(8)]
  labels = [tuple(ALL[j] for j in rng.integers(5, size=12)) for _ in chains]
  return LabelledRun(name, chains, labels)


def table_section(*names):
  return Section("A section", tables=[Table(name, "", ("a",), [(1,)]) for name in names])


def test_what_an_earlier_report_wrote_and_this_one_has_not_is_removed(tmp_path):
  write_report(tmp_path, provenance={}, sections=[table_section("old", "both")], has_viewer=True)
  (tmp_path / "viewer.html").write_text("of the earlier runs")
  (tmp_path / "tables" / "mine.csv").write_text("a user's")
  known = tmp_path / "report_files.json"
  outside = tmp_path.parent / "outside.csv"
  outside.write_text("a user's")
  known.write_text(
    known.read_text().replace('"tables/old.csv"', '"../outside.csv","tables/old.csv"')
  )
  write_report(tmp_path, provenance={}, sections=[table_section("new", "both")])
  assert {path.name for path in (tmp_path / "tables").iterdir()} == {
    *("both.csv", "both.json", "new.csv", "new.json", "mine.csv")
  }
  assert not (tmp_path / "viewer.html").exists()
  assert outside.exists()
  assert json.loads(known.read_text())["files"] == [
    f"tables/{name}" for name in ("both.csv", "both.json", "new.csv", "new.json")
  ]
  known.write_text("{}")
  with pytest.raises(UserError, match=r"report_files.json: lacks the key .files.*Remove it"):
    write_report(tmp_path, provenance={}, sections=[])


@pytest.mark.slow
def test_a_report_of_fewer_runs_leaves_nothing_of_the_others(tmp_path):
  runs = [labelled_run("first", 0), labelled_run("second", 1)]
  for some in (runs, runs[:1]):
    write_report(tmp_path, provenance={}, sections=[pattern_section(some)])
  assert (tmp_path / "tables" / "ranks.csv").exists()
  assert not list((tmp_path / "tables").glob("rank_differences*"))


@pytest.mark.slow
def test_the_report_folder_is_complete_and_inert(browser, tmp_path):  # noqa: F811
  runs = [labelled_run(NAME, 0), labelled_run("second", 1)]
  agreement = agreement_section(
    {f"{NAME} against second": compare_labels(*[r.labels for r in runs])}
  )
  provenance = {"Devices": {"cpu": NAME}, "Versions": {"jax": "1"}}
  write_report(tmp_path, provenance=provenance, sections=[pattern_section(runs), agreement])
  found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
  plots = {"survival", "ranks", "run_lengths", "positions", "confusion_0"}
  tables = {"survival", "ranks", "rank_differences", "run_lengths", "positions", "agreement"}
  assert found == (
    {"report.html", "report_files.json"}
    | {f"plots/{plot}.{ending}" for plot in plots for ending in ("png", "svg")}
    | {f"tables/{table}.{ending}" for table in tables for ending in ("csv", "json")}
  )
  browser.get_log("browser")
  browser.get((tmp_path / "report.html").as_uri())
  assert browser.execute_script("return window.hacked") is None
  loaded = browser.execute_script(
    "return [...document.images].map(image => image.complete && image.naturalWidth > 0)"
  )
  assert loaded == [True] * len(plots)
  assert NAME in browser.execute_script("return document.body.textContent")
  links = browser.execute_script(
    "return [...document.querySelectorAll('nav a')].map(a => [a.textContent,"
    " document.querySelector(a.getAttribute('href')).firstElementChild.textContent])"
  )
  assert [title for title, head in links if title == head] == [
    "What leaves when",
    "Agreement of annotators",
    "What was run",
  ]
  assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_tables_hold_the_same_in_both_forms(tmp_path):
  table = Table("t", "caption, with comma", ("a", "b"), [["x,\ny", 1.5], ["\u2028", None]])
  write_table(tmp_path, table)
  with (tmp_path / "t.csv").open(newline="") as file:
    assert list(csv.reader(file)) == [["a", "b"], ["x,\ny", "1.5"], ["\u2028", ""]]
  assert json.loads((tmp_path / "t.json").read_text()) == {
    "caption": "caption, with comma",
    "rows": [{"a": "x,\ny", "b": 1.5}, {"a": "\u2028", "b": None}],
  }
  with pytest.raises(ValueError, match="table t: 1 cells under 2 columns"):
    Table("t", "", ("a", "b"), [["x"]])


def test_cells():
  interval = Interval(np.array([1.0, np.nan]), np.array([0.5, np.nan]), np.array([2.0, np.nan]))
  assert interval_cells(interval, 0) == (1.0, 0.5, 2.0)
  assert interval_cells(interval, 1) == (None, None, None)
  assert [format_cell(cell) for cell in (None, 3, 0.12345, "a", 999.4, -999.6)] == [
    "\N{EN DASH}",
    "3",
    "0.123",
    "a",
    "999",
    "-999.6",
  ]


def test_the_statement_follows_the_data():
  chains = [pruned_chain(["x"] * 6, [0, 2, 4, 1, 3, 5], f"c/{i}") for i in range(8)]
  stay = [(Category.FUNCTION, Category.SYMBOLIC_MATH) * 3] * 8
  leave = [(Category.SYMBOLIC_MATH, Category.FUNCTION) * 3] * 8
  assert (
    "numbers stay longer than FUNCTION"
    in pattern_section([LabelledRun("r", chains, stay)]).paragraphs[0]
  )
  assert (
    "numbers leave before FUNCTION"
    in pattern_section([LabelledRun("r", chains, leave)]).paragraphs[0]
  )
  assert (
    "nothing can be said of META_DISCOURSE"
    in pattern_section([LabelledRun("r", chains, stay)]).paragraphs[0]
  )


def test_the_legend_of_survival_names_the_categories_of_all_runs():
  chains = [pruned_chain(["x"] * 6, range(6), "c/0")]
  runs = [
    LabelledRun(name, chains, [(category,) * 6])
    for name, category in (("a", Category.FUNCTION), ("b", Category.SYMBOLIC_MATH))
  ]
  survival = pattern_section(runs).plots[0]
  named = [text.get_text() for text in survival.figure.legends[0].get_texts()]
  assert named == ["FUNCTION", "all tokens", "SYMBOLIC_MATH"]


def test_every_run_of_many_is_told_from_the_others(tmp_path):
  """Eight runs, one with a leading underscore, of chains in which one category is rare."""
  rng = np.random.default_rng(0)
  runs = []
  for name in ("_pilot", *"bcdefgh"):
    chains = [pruned_chain(["x"] * 12, rng.permutation(12), f"c/{i}") for i in range(9)]
    labels = [(Category.FUNCTION, Category.SYMBOLIC_MATH) * 6 for _ in chains]
    labels[0] = (Category.COREFERENCE, *labels[0][1:])
    runs.append(LabelledRun(name, chains, labels))
  _, ranks, lengths, positions = pattern_section(runs).plots
  for plot, size in ((ranks, 8), (lengths, 16), (positions, 8)):
    [legend] = plot.figure.legends
    named = [text.get_text().strip() for text in legend.get_texts()]
    assert named[0] == "_pilot"
    assert len(named) == size
  looks = {(line.get_color(), line.get_marker()) for line in positions.figure.axes[0].lines}
  assert len(looks) == 8
  odd = pattern_section(runs[:3]).plots[0]
  assert [axes.get_visible() for axes in odd.figure.axes] == [True] * 3 + [False]
  ticks = odd.figure.axes[1].xaxis.get_tick_params()
  assert ticks["labelbottom"], "no panel is below"
  widths = {line.get_label(): line.get_linewidth() for line in odd.figure.axes[0].lines}
  assert widths["COREFERENCE"] < widths["FUNCTION"] == widths["SYMBOLIC_MATH"]


def test_few_chains_have_points_without_bars():
  chains = [pruned_chain(["x"] * 6, [0, 2, 4, 1, 3, 5], f"c/{i}") for i in range(7)]
  labels = [(Category.FUNCTION, Category.SYMBOLIC_MATH) * 3] * 7
  section = pattern_section([LabelledRun("r", chains, labels)])
  for plot in section.plots:
    assert "nan" not in plot.svg.lower()
    assert "of fewer than 8 there is no interval" in plot.caption
  (ranks,) = (table for table in section.tables if table.name == "ranks")
  assert [row[4:] for row in ranks.rows if row[3] is not None] == [[None, None]] * 2


def test_a_folder_that_cannot_be_written_is_the_users_to_mend(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="cannot write"):
    write_report(tmp_path / "file", provenance={}, sections=[Section("s")])
