"""Copies of steps against the text: slips aligned back, anything larger refused."""

import pytest

from greedy_prune_jax.drp.checks import RefusedReplyError, align
from tests.helpers.teacher_forms import REASONING, STEPS

TEXTS = [text for text, _ in STEPS]


@pytest.fixture(autouse=True)
def _needs_rapidfuzz():
  pytest.importorskip("rapidfuzz")


def test_exact_copies_are_the_parts():
  assert align(REASONING, TEXTS) == [*TEXTS[:3], TEXTS[3] + "\n"]


@pytest.mark.parametrize(
  "change",
  [
    lambda text: "  " + text.strip() + "\n",
    lambda text: text.replace(" ", "\n  "),
    lambda text: text.replace(" ", ""),
    lambda text: text.replace("Let me check:", "Let me check\N{EN DASH}"),
    lambda text: text.replace("clips", "clip"),
    lambda text: text.replace("24", "\N{RIGHT SINGLE QUOTATION MARK}24"),
  ],
)
def test_slips_are_aligned_back_to_the_text(change):
  parts = align(REASONING, [change(text) for text in TEXTS[:3]] + TEXTS[3:])
  assert parts == [*TEXTS[:3], TEXTS[3] + "\n"]


def test_curly_quotes_are_no_slips_however_many():
  text = "'a' 'b' 'c' 'd' 'e' 'f' 'g'. 'h' 'i' 'j'."
  curly = text.replace("'", "\N{RIGHT SINGLE QUOTATION MARK}")
  assert align(curly, [text[:28], text[28:]]) == [curly[:29], curly[29:]]


def test_a_border_within_a_word_or_a_sum_is_kept():
  assert align("So 3+4=7 now", ["So 3+", "4", "=7 now"]) == ["So 3+", "4", "=7 now"]


@pytest.mark.parametrize(
  ("copies", "reason", "message"),
  [
    ([TEXTS[0], *TEXTS[2:]], "text_left_out", 'leave out "In May she sold half .* in April."'),
    ([*TEXTS[1:]], "text_left_out", 'leave out "Natalia sold 48 .*, at its beginning'),
    ([*TEXTS[:3]], "text_left_out", 'leave out "Altogether she sold .*"'),
    ([*TEXTS, "So 72 is it."], "text_changed", 'has nothing, behind .*"So72isit."'),
    ([TEXTS[0], TEXTS[1].replace("half as", "twice as"), *TEXTS[2:]], "text_changed", "twice"),
    ([TEXTS[1], TEXTS[0], *TEXTS[2:]], "text_", "solution"),
    ([*TEXTS[:3], TEXTS[3].replace("48 + 24", "24")], "text_left_out", 'leave out ".*48 \\+.*"'),
    ([TEXTS[0].replace("48", "43"), *TEXTS[1:]], "text_changed", 'it has "8".*the steps have "3"'),
    ([], "text_left_out", "leave out"),
  ],
)
def test_more_than_slips_is_refused_and_quoted(copies, reason, message):
  with pytest.raises(RefusedReplyError, match=message) as error:
    align(REASONING, copies)
  assert error.value.reason.startswith(reason)


def test_many_slips_are_more_than_slips():
  text = "one two three four five six seven eight nine ten. " * 3
  copy = text.replace("t", "T")
  with pytest.raises(RefusedReplyError):
    align(text, [copy])
  assert align(text, [copy.replace("T", "t", 16)]) == [text]


def test_a_short_sentence_is_no_slip():
  text = "Tom has 5 eggs. So 5 it is. " + "Eggs are round. " * 40
  with pytest.raises(RefusedReplyError, match='leave out "So 5'):
    align(text, [text.replace("So 5 ", "")])
