"""Replies beside their verdicts, by kind: question set, reply, target, right or not."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greedy_prune_jax.chains.answers import last_boxed
from tests.helpers.verdicts import right

# Our own cases, and those that lie beside a checkout.
FILES = (
  Path(__file__).with_name("verdicts.jsonl"),
  Path(__file__).parents[3] / "shared" / "cases" / "verdicts.jsonl",
)
CASES = [
  json.loads(line) for file in FILES if file.exists() for line in file.read_text().splitlines()
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['reply'][:40]} ({case['target']})")
def test_replies_and_their_verdicts(case):
  if case["questions"] == "math":
    pytest.importorskip("math_verify")
  assert right(case["questions"], case["reply"], case["target"]) is case["correct"]


LAYOUT = [
  ("The answer is:\n$$\n42\n$$", "42"),
  ("The final answer is\n\\[\n1,234\n\\]", "1234"),
  ("Answer:\n\n\\(\n7\n\\)", "7"),
  ("####\n\n-3", "-3"),
  ("__Final Answer__\n\n**96**", "96"),
  ("Final Answer\n\n96", "96"),
  ("## Answer\n$96$", "96"),
  ("### Final Answer\n\\[ 96 \\]", "96"),
  ("**Answer:**\n\n$$96$$", "96"),
  ("#### \N{NO-BREAK SPACE}96", "96"),
  ("ANSWER: 96", "96"),
  ('{"answer": "\\u200996\\u00b0"}', "96"),
  ('{"ANSWER": 96}', "96"),
  ("{'Final Answer': '96'}", "96"),
  ('{"final_answer": "96."}', "96"),
  ('{\\"answer\\": \\"96\\"}', "96"),
  ("\N{LEFT DOUBLE QUOTATION MARK}answer\N{RIGHT DOUBLE QUOTATION MARK}: 96", "96"),
  ("So \\boxed{96.}", "96"),
  ("So \\boxed{96},", "96"),
  ("So \\boxed 96.", "96"),
  ("So **\\boxed{96\\text{ apples}}**", "96"),
]
NUMBERS = [
  ("13\\,535", "13535"),
  ("13\N{THIN SPACE}535", "13535"),
  ("13\N{NARROW NO-BREAK SPACE}535", "13535"),
  ("13 535 000", "13535000"),
  ("1'234'567", "1234567"),
  ("1\N{RIGHT SINGLE QUOTATION MARK}234", "1234"),
  ("1_000", "1000"),
  ("1{,}000", "1000"),
  ("12,34,567", "1234567"),
  ("1,50,000.50", "150000.5"),
  ("0xAB", "171"),
  ("10,\\!080", "10080"),
  ("12 500 m", "12500"),
  ("3\N{VULGAR FRACTION ONE QUARTER}", "3.25"),
  ("\N{VULGAR FRACTION TWO THIRDS}", "2/3"),
  ("1\N{FRACTION SLASH}8", "0.125"),
  ("1\\frac{4}{5}", "1.8"),
  ("\N{EM DASH}17", "-17"),
  ("\N{MINUS SIGN}$17", "-17"),
  ("\N{NON-BREAKING HYPHEN}17.5", "-17.5"),
  ("3.5E+2", "350"),
  ("2e-3", "0.002"),
  ("1.2 \\times 10^{6}", "1200000"),
  ("1.2\N{MULTIPLICATION SIGN}10\N{SUPERSCRIPT SIX}", "1200000"),
  ("90\N{DEGREE SIGN}", "90"),
  ("72\\text{ cm}^{2}", "72"),
  ("72 m\N{SUPERSCRIPT THREE}", "72"),
  ("18 30-minute walks", "18"),
  ("4 2-liter bottles", "4"),
  ("48/2 + 48 = 72", "72"),
  ("total = 72", "72"),
  ("x_1 = 72", "72"),
  ("f(2) = 72", "72"),
  ("10 / 3 \N{ALMOST EQUAL TO} 3.33", "3.33"),
  ("\N{FULLWIDTH DIGIT ONE}\N{FULLWIDTH DIGIT EIGHT}", "18"),
  ("1\N{ZERO WIDTH SPACE}8", "18"),
]
SEVERAL = [
  ("x = 4, y = 6", "6"),
  ("a = 4; b = 6", "6"),
  ("Tom: 4 and Sue: 6", "6"),
  ("either 4 or 6", "6"),
  ("4 or 6", "4"),
  ("20 != 6", "6"),
  ("20 \\neq 6", "6"),
  ("20 \N{NOT EQUAL TO} 6", "6"),
  ("9 >= 6", "6"),
  ("x \N{GREATER-THAN OR EQUAL TO} 6", "6"),
  ("x \\le 6", "6"),
  ("x < 6", "6"),
  ("\N{PLUS-MINUS SIGN}6", "6"),
  ("6:15 = 375", "375"),
  ("2 hours = 120", "120"),
  ("3 + 4 = 6", "6"),
  ("6\\pi", "6"),
  ("\\sqrt{6}", "6"),
  ("\N{SQUARE ROOT}6", "6"),
  ("6x", "6"),
  ("x - 6", "-6"),
  ("12 500", "512"),
]


@pytest.mark.parametrize(("reply", "target"), LAYOUT)
def test_layout_changes_no_verdict(reply, target):
  assert right("gsm8k", reply, target)
  assert not right("gsm8k", reply, target + "1")


@pytest.mark.parametrize("frame", ["#### {}", '{{"answer": "{}"}}', "So \\boxed{{{}}}."])
@pytest.mark.parametrize(("value", "target"), NUMBERS)
def test_numbers_in_every_frame(frame, value, target):
  assert right("gsm8k", frame.format(value), target)


@pytest.mark.parametrize(
  "frame", ["#### {}", "The answer is {}.", '{{"answer": "{}"}}', "\\boxed{{{}}}"]
)
@pytest.mark.parametrize(("value", "target"), SEVERAL)
def test_several_values_are_not_one_of_them(frame, value, target):
  assert not right("gsm8k", frame.format(value), target)


@pytest.mark.parametrize(
  ("reply", "target", "correct"),
  [
    ('{"answer": [4, 6]}', "6", False),
    ('{"answer": [4, 6]}', "4", False),
    ("The answer is not 6.", "6", False),
    ("\\boxed{4} or \\boxed{6}", "6", False),
    ("\\boxed{4}. No: \\boxed{6}", "6", True),
    ("\\boxed{4}, wait, \\boxed{6}", "6", True),
    ("\\boxed{6} and again \\boxed{6}", "6", True),
    ("The answer isn't 6", "6", False),
    ("\\boxed{6", "6", False),
    ("The answer is Rs.500", "500", True),
  ],
)
def test_lists_boxes_and_negations_of_numbers(reply, target, correct):
  assert right("gsm8k", reply, target) is correct


def typed(sign, groups, separator):
  return sign + separator.join([groups[0].lstrip("0") or "1", *groups[1:]])


@settings(max_examples=300, deadline=None)
@given(
  sign=st.sampled_from(["", "-", "\N{MINUS SIGN}", "\N{EN DASH}", "+"]),
  groups=st.lists(st.from_regex(r"\A[0-9]{3}\Z"), min_size=1, max_size=6),
  separator=st.sampled_from(
    ["", ",", " ", "\\,", "{,}", "\N{THIN SPACE}", "\N{NO-BREAK SPACE}", "'", "_", "~"]
  ),
  frame=st.sampled_from(
    [
      "#### {}",
      "A: {}",
      "The answer is {}.",
      "**Answer:** ${}$",
      "\\boxed{{{}}}.",
      "\\[\n\\boxed{{{}.}}\n\\]",
    ]
  ),
)
def test_a_number_is_itself_in_every_spelling(sign, groups, separator, frame):
  value = typed("", groups, "")
  target = ("-" if sign not in ("", "+") else "") + value
  reply = frame.format(typed(sign, groups, separator))
  assert right("gsm8k", reply, target)
  assert not right("gsm8k", reply, target + "7")
  if "boxed" in frame:
    assert right("math", reply, target)
    assert not right("math", reply, target + "7")


LETTERS = [
  ("The answer is d", "D", True),
  ("the answer is c.", "C", True),
  ("Answer: (b)", "B", True),
  ("The best option is (H).", "H", True),
  ("The correct choice is J", "J", True),
  ("Option E is correct.", "E", True),
  ("option (E) is the right one. So option (E) is the answer", "E", True),
  ('{"Answer": "c"}', "C", True),
  ('{"answer": "(C) four"}', "C", True),
  ("{'answer': 'option C'}", "C", True),
  ("**Final Answer**\n\n(C)", "C", True),
  ("#### C", "C", True),
  ("The answer is **C**: four", "C", True),
  ("\\boxed{c}", "C", True),
  ("\\boxed{\\text{(C)}.}", "C", True),
  ("\\boxed{\\textbf{C}}", "C", True),
  ("The answer is G = 9.8, so option B.", "B", True),
  ("The answer is V = 5, i.e. (D)", "D", True),
  ("The answer is 3.2 m, which is choice (F).", "F", True),
  ("The answer is C. elegans, (D)", "D", True),
  ("The answer is B. subtilis (option J).", "J", True),
  ("The answer is A since the others fail.", "A", True),
  ("The answer is I because it holds.", "I", True),
  ("The answer is B because it holds.", "B", True),
  ("The answer is D which holds.", "D", True),
  ("The answer is \N{FULLWIDTH LATIN CAPITAL LETTER D}.", "D", True),
  ("The answer is D\N{IDEOGRAPHIC FULL STOP}", "D", True),
  ("The answer is I think unclear.", "I", False),
  ("The answer is a good one.", "A", False),
  ("The answer is A good one.", "A", False),
  ("The answer is Boron.", "B", False),
  ("The answer is B-cells.", "B", False),
  ("The answer is E = 5.", "E", False),
  ("The answer is H cells.", "H", False),
  ("The answer is vitamin C deficiency.", "C", False),
  ("The answer is B or C.", "C", False),
  ("The answer is B or C.", "B", False),
  ("The answer is (B) and (C).", "C", False),
  ("\\boxed{B} or \\boxed{C}", "C", False),
  ("The answer is not (B).", "B", False),
  ("The answer is unclear. Option (A) is weak", "A", False),
  ("The answer is I'm not sure", "I", False),
  ("The answer is (B), not (C).", "B", True),
]


@pytest.mark.parametrize(("reply", "target", "correct"), LETTERS)
def test_letters(reply, target, correct):
  assert right("mmlu_pro", reply, target) is correct


EXPRESSIONS = [
  ("\\boxed{x^2 - 1.}", "x^2-1", True),
  ("\\boxed{\\frac{1}{2},}", "\\frac{1}{2}", True),
  ("**\\boxed{42}**.", "42", True),
  ("\\boxed{1\N{NO-BREAK SPACE}000}", "1000", True),
  ("\\boxed{45\N{DEGREE SIGN}}", "45^{\\circ}", True),
  ("\\boxed{45}", "45^\\circ", True),
  ("\\boxed{2\N{VULGAR FRACTION ONE HALF}}", "\\frac{5}{2}", True),
  ("\\boxed{2\N{GREEK SMALL LETTER PI}}", "2\\pi", True),
  ("\\boxed{\N{SQUARE ROOT}2}", "\\sqrt{2}", True),
  ("\\boxed{x\N{SUPERSCRIPT TWO}}", "x^2", True),
  ("\\boxed{.5}", "\\frac{1}{2}", True),
  ("\\boxed{0.333333}", "\\frac{1}{3}", True),
  ("\\boxed{0.3333}", "\\frac{1}{3}", False),
  ("\\boxed{1.41421356}", "\\sqrt{2}", True),
  ("\\boxed{1.41431356}", "\\sqrt{2}", False),
  ("\\boxed{3.1\\times10^{-20}}", "3.2\\times10^{-20}", False),
  ("\\boxed{3.10\\times10^{-20}}", "3.1\\times10^{-20}", True),
  ("\\boxed{6.02e23}", "6.02\\times 10^{23}", True),
  ("\\boxed{1234567}", "1234568", False),
  ("\\boxed{0.00000001 \\sqrt{2}}", "0.00000003 \\sqrt{2}", False),
  ("\\boxed{10^{-9}}", "10^{-8}", False),
  ("\\boxed{(0.0000001, 1)}", "(0.0000002, 1)", False),
  ("\\boxed{0.0000001 x}", "0.0000002 x", False),
  ("\\boxed{1011_2}", "1011_3", False),
  ("\\boxed{1011_{2}}", "1011_2", True),
  ("\\boxed{1011}", "1011_2", True),
  ("\\boxed{2A_{12}}", "2A_{13}", False),
  ("\\boxed{7 \\text{ kg}}", "7\\text{ g}", False),
  ("\\boxed{7000 \\text{ g}}", "7\\mbox{ kg}", True),
  ("\\boxed{15 \\text{ cm}}", "15\\mbox{ cm}^2", False),
  ("\\boxed{15 \\text{ square centimeters}}", "15\\mbox{ cm}^2", True),
  ("\\boxed{15\\text{ cm}^2}", "15", True),
  ("\\boxed{15}", "15\\mbox{ cm}^2", True),
  ("\\boxed{3 \\text{ hours}}", "3\\text{ minutes}", False),
  ("\\boxed{180 \\text{ minutes}}", "3\\text{ hours}", True),
  ("\\boxed{\\$18.90}", "\\$18.9", True),
  ("\\boxed{5.4 \\text{ dollars}}", "5.4 \\text{ cents}", False),
  ("\\boxed{3 \\text{ or } 5}", "5", False),
  ("\\boxed{3 \\text{ or } 5}", "3,5", True),
  ("\\boxed{3, 5}", "5", False),
  ("\\boxed{2\\frac{1}{2}}, or \\boxed{\\frac{5}{2}}", "2.5", True),
  ("\\boxed{(3, 3)}", "3", False),
  ("\\boxed{1+\\sqrt{19}, 1-\\sqrt{19}}", "1 \\pm \\sqrt{19}", True),
  ("\\boxed{x=3, y=5}", "5", False),
  ("\\boxed{10 \\ne 5}", "5", False),
  ("\\boxed{10 = 5}", "5", False),
  ("\\boxed{x \\ge 5}", "5", False),
  ("\\boxed{x = 5}", "5", True),
  ("\\boxed{2 + 3 = 5}", "5", True),
  ("$\\boxed{-2}$ and $\\boxed{1}$", "-2,1", True),
  ("$\\boxed{-2} \\text{ or } \\boxed{1}$", "1", False),
  ("$\\boxed{-2}$. Wait: $\\boxed{1}$", "1", True),
  ("The final answer is: $\\frac{1}{2}$.", "0.5", True),
  ("**Answer:** $x^2$", "x^2", True),
  ("The answer is Evelyn.", "\\text{Evelyn}", True),
  ("\\[\n\\boxed{42}\n\\]", "42", True),
  ("\\boxed{1/0}", "1", False),
  ("\\boxed{1e999}", "1e998", False),
  ("\\boxed{NaN}", "5", False),
  ("\\boxed{(2,4)}", "(2,\\infty)", False),
  ("\\boxed{180^\\circ}", "\\pi \\text{ rad}", True),
  ("\\boxed{\\pi\\text{ radians}}", "180^\\circ", True),
  ("\\boxed{90^\\circ}", "\\frac{\\pi}{2}\\text{ rad}", True),
  ("\\boxed{90^\\circ}", "\\pi\\text{ rad}", False),
  ("\\boxed{2\\text{ rad}}", "2^\\circ", False),
  ("\\boxed{2\\pi\\text{ rad/s}}", "360\\text{ deg/s}", True),
  ("\\boxed{180^\\circ}", "\\pi", False),
  ("\\boxed{0xAB}", "171", True),
  ("\\boxed{0xab}", "AB_{16}", True),
  ("\\boxed{0xAB}", "AB_{15}", False),
  ("\\boxed{0b101}", "101_2", True),
  ("\\boxed{0b101}", "5", True),
  ("\\boxed{0xAB}", "172", False),
]


@pytest.mark.parametrize(("reply", "target", "correct"), EXPRESSIONS)
def test_expressions(reply, target, correct):
  pytest.importorskip("math_verify")
  assert right("math", reply, target) is correct


@pytest.mark.parametrize(
  ("solution", "target"),
  [
    ("so \\boxed 2.", "2"),
    ("so $\\boxed 2$.", "2"),
    ("so \\(\\boxed 2\\)", "2"),
    ("so \\boxed{2}.", "2"),
    ("$x=\\boxed{3}$ or $x=\\boxed{5}$", "3, 5"),
  ],
)
def test_gold_boxes_of_rows(solution, target):
  assert last_boxed(solution) == target
