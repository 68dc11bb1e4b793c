import csv

import pytest

from greedy_prune_jax.reports.printing import printable
from greedy_prune_jax.reports.tables import Table, format_table, markdown_table, write_table


@pytest.mark.parametrize(
  ("text", "shown"),
  [
    ("\x1b[2J", r"\x1b[2J"),
    ("a\0b\rc\x7f\x9b", r"a\x00b\rc\x7f\x9b"),
    ("\u202eabc\u2066", r"\u202eabc\u2066"),
    ("a\u2028b", r"a\u2028b"),
    ("\ud800", r"\ud800"),
    ("a\u200eb\u200fc\u061cd", r"a\u200eb\u200fc\u061cd"),
    ("a\u200bb\ufeffc\u2060d\u2064", r"a\u200bb\ufeffc\u2060d\u2064"),
    ("\ufff9a\ufffb\U000e0001", r"\ufff9a\ufffb\U000e0001"),
    (
      "\U0001f469\u200d\U0001f680 \u0645\u06cc\u200c\u062e",
      "\U0001f469\u200d\U0001f680 \u0645\u06cc\u200c\u062e",
    ),
    ("tab\tline\n\u00e9 \u05d0 \u6587 \U0001f600", "tab\tline\n\u00e9 \u05d0 \u6587 \U0001f600"),
  ],
)
def test_what_a_terminal_acts_on_is_escaped(text, shown):
  assert printable(text) == shown


def test_a_text_of_one_line_begins_no_other():
  assert printable("id\nI0101 forged", one_line=True) == r"id\nI0101 forged"


def test_long_texts_are_shortened():
  assert printable("x" * 50, most=10) == "xxxxxxxxxx... (50 characters)"


def test_a_cell_breaks_no_line_of_a_table():
  table = Table("t", "c", ("name", "n"), [("a\nI0101 forged\x1b[2J" + "x" * 999, 1)])
  assert len(format_table(table).splitlines()) == 3
  assert "\x1b" not in format_table(table)
  assert max(map(len, format_table(table).splitlines())) < 250
  assert len(markdown_table(table).splitlines()) == 5


@pytest.mark.parametrize("sign", [*"=+-@", *"\uff1d\uff0b\uff0d\uff20\u2212\ufe66"])
@pytest.mark.parametrize(
  "before",
  ["", " ", "\t", "\r", "\n", "\0", "\ufeff", "\u200b", "\u00a0", "a;", "a; ", "a\t", "a\r\n"],
)
def test_a_spreadsheet_runs_no_cell(tmp_path, before, sign):
  rows = [(f"{before}{sign}1+1", -1.5), ("-3.5e-2", 2), ("a-b; c=d", 3)]
  write_table(tmp_path, Table("t", "c", ("name", "n"), rows))
  with (tmp_path / "t.csv").open(newline="") as file:
    cells = list(csv.reader(file))
  assert cells[1:] == [[f"{before}'{sign}1+1", "-1.5"], ["-3.5e-2", "2"], ["a-b; c=d", "3"]]
