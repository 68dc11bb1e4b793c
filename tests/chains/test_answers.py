import json
from pathlib import Path

import pytest

from greedy_prune_jax.chains.answers import BOXED, LETTER, NUMBER, last_boxed, split_response

DATA = Path(__file__).parents[3] / "shared" / "data"


def rows_of(name):
  path = DATA / name
  if not path.exists():
    pytest.skip(f"needs {path}")
  return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
  ("form", "target"), [(NUMBER, "72"), (NUMBER, "-0.5"), (BOXED, r"\frac{1}{2}"), (LETTER, "B")]
)
def test_what_is_written_is_found_and_right(form, target):
  reasoning = "First this.\nThen that.\n"
  split = split_response(reasoning + form.write(target) + "\n", form)
  assert split == (reasoning, form.write(target), target)
  assert form.is_right(split.value, target)


@pytest.mark.parametrize(
  ("response", "answer", "value"),
  [
    ('So 72.\n{"answer": "72"}', '{"answer": "72"}', "72"),
    ('So 72.\n{\n  "answer": 72\n}\n', '{\n  "answer": 72\n}', "72"),
    ('{"steps": 3, "answer": "$72.50"}', '"answer": "$72.50"}', "$72.50"),
    ("{'answer': '72'}", "{'answer': '72'}", "72"),
    ('```json\n{"answer": "72"}\n```', '{"answer": "72"}\n```', "72"),
    ('The final answer is {"answer": "72"}', 'The final answer is {"answer": "72"}', "72"),
    ("So 72.\n#### 72 apples", "#### 72 apples", "72 apples"),
    ("So 72.\nA: 72", "A: 72", "72"),
    ("The answer is 72.\n\n#### Explanation\nI added.", None, "72"),
    ("Add.\n\n#### Final Answer\n72", "#### Final Answer\n72", "72"),
    ("Add.\n\n### **The final answer**\n\n**72**", "### **The final answer**\n\n**72**", "72**"),
    ("The answer is 72.\n#### Step 3: why\nSo it is.", None, "72"),
    ("The answer is 72.\n#### 3. Look back\nSo it is.", None, "72"),
    ("So 72. Therefore, the final answer is: $72. Good!", None, "$72"),
    ('{"answer": 1,072}', '{"answer": 1,072}', "1,072"),
    ('{"answer": 72, "steps": 3}', '{"answer": 72, "steps": 3}', "72"),
    ("So it is.\n**Final Answer:**\n72 apples", "Final Answer:**\n72 apples", "72 apples"),
    ("So it is.\nThe answer is:\n\n**$72**", "The answer is:\n\n**$72**", "$72**"),
    ("So 72. Therefore, the answer is \\boxed{72}.", "Therefore, the answer is \\boxed{72}.", "72"),
    ("So it is $\\boxed{72}$.", "$\\boxed{72}$.", "72"),
    ("**Answer:** 72", "Answer:** 72", "72"),
    ('{"answer": "71"}\nNo: {"answer": "72"}', '{"answer": "72"}', "72"),
    ("The answer is 72. That answer is easy.", "The answer is 72. That answer is easy.", "72"),
    ("#### 10+John's age", "#### 10+John's age", "10+John's age"),
  ],
)
def test_number_markers(response, answer, value):
  split = split_response(response, NUMBER)
  assert split.value == value
  assert split.reasoning + split.answer == response.rstrip()
  if answer is not None:
    assert split.answer == answer


@pytest.mark.parametrize(
  "response",
  [
    "",
    "It is 72.",
    "The answer is:\nFirst, 2 of 3 stay.",
    "25",
    "The answer is left to you.",
    '{"answer": ""}',
    "So 72.\n####",
    "#### Step 3: Add up\nSo she has 12 eggs in all.",
    "B: 72",
  ],
)
def test_responses_without_a_number_marker_are_unparsed(response):
  assert split_response(response, NUMBER) is None


@pytest.mark.parametrize(
  ("value", "right"),
  [
    ("1,072", True),
    ("1072.00", True),
    ("$1072", True),
    ("1072 cups", True),
    ("1073", False),
    ("1072 or 1073", False),
    ("", False),
    ("one", False),
  ],
)
def test_numbers_are_compared_as_numbers(value, right):
  assert NUMBER.is_right(value, "1072") is right


@pytest.mark.parametrize(
  ("response", "answer", "value"),
  [
    ("So.\nThus, the final answer is: \\boxed{\\frac{1}{2}}", None, "\\frac{1}{2}"),
    ("so \\[\n\\boxed{x^{2}}\n\\]", None, "x^{2}"),
    ("so $x = \\boxed{5}$, not $\\boxed{6}$.", "$\\boxed{6}$.", "6"),
    ("so $\\boxed 5$.", "$\\boxed 5$.", "5"),
    ("\\boxed{5} but then \\boxed{6", "\\boxed{5} but then \\boxed{6", "5"),
  ],
)
def test_boxed_markers(response, answer, value):
  split = split_response(response, BOXED)
  assert split.value == value
  assert split.reasoning + split.answer == response
  if answer is not None:
    assert split.answer == answer


def test_a_box_that_is_cut_off_is_none():
  assert split_response("Thus, the final answer is: \\boxed{\\frac{1}{2", BOXED) is None
  assert last_boxed("no box") is None


@pytest.mark.parametrize(
  ("value", "target", "right"),
  [("033", "33", True), ("34", "33", False), ("\\text{no}", "\\text{ no}", True)],
)
def test_plain_integers_and_equal_texts_need_no_worker(monkeypatch, value, target, right):
  monkeypatch.setattr("greedy_prune_jax.chains.math_check.MATH_CHECKER", None)
  assert BOXED.is_right(value, target) is right


def test_other_expressions_are_compared_by_their_meaning():
  pytest.importorskip("math_verify")
  assert BOXED.is_right("0.5", r"\frac{1}{2}")
  assert not BOXED.is_right("0.4", r"\frac{1}{2}")


@pytest.mark.parametrize(
  ("response", "answer", "value"),
  [
    ("So B.\nThus, the final answer is: B", "Thus, the final answer is: B", "B"),
    ("So B. The answer is (B).", "The answer is (B).", "B"),
    ("Statement I, so\nthe answer is (C).", "the answer is (C).", "C"),
    ("The correct answer is **B**.", None, "B"),
    ("Answer: option J because", None, "J"),
    ("The answer is A", None, "A"),
    ("The answer is A good one: B. The answer is B: 3", "The answer is B: 3", "B"),
    ("the answer is $\\boxed{\\text{(D)}}$", None, "D"),
    ("the answer is $\\boxed{C. four}$", None, "C"),
    ("the answer is \\boxed{\\text{A) four}}", None, "A"),
    *((f"The answer is B. Thus, the answer is: {i} - four", None, i) for i in "ABI"),
    *((f"The answer is B. Thus, the answer is: {i} \N{EN DASH} four", None, i) for i in "ABI"),
    *((f"The answer is B. Thus, the answer is: {i} (four)", None, i) for i in "ABI"),
    (
      "The answer is (B). Is the answer a surprise?",
      "The answer is (B). Is the answer a surprise?",
      "B",
    ),
  ],
)
def test_letter_markers(response, answer, value):
  split = split_response(response, LETTER)
  assert split.value == value
  assert split.reasoning + split.answer == response
  if answer is not None:
    assert split.answer == answer


@pytest.mark.parametrize(
  "response", ["B", "The answer is I think unclear", "The answer is 7", "The answer is K", "A or B"]
)
def test_responses_without_a_letter_marker_are_unparsed(response):
  assert split_response(response, LETTER) is None


@pytest.mark.slow
def test_the_published_verdicts_on_gsm8k_solutions():
  """Every one of the 5,276; the 11 without an answer marker were cut off, and are all wrong."""
  verdicts = {}
  for row in rows_of("gsm8k_model_solutions.jsonl"):
    target = split_response(row["ground_truth"], NUMBER).value
    for solution in (value for value in row.values() if isinstance(value, dict)):
      split = split_response(solution["solution"], NUMBER)
      ours = split and NUMBER.is_right(split.value, target)
      verdict = (ours, solution["is_correct"])
      verdicts[verdict] = verdicts.get(verdict, 0) + 1
  assert verdicts == {(False, False): 3264, (True, True): 2001, (None, False): 11}


def test_the_gold_solutions_of_math_reach_their_gold_answers():
  for row in rows_of("math500.jsonl"):
    assert BOXED.is_right(split_response(row["solution"], BOXED).value, row["answer"])


@pytest.mark.parametrize(
  "frame",
  ["\\boxed{%s}", "\\boxed{%s.}", "\\boxed{%s},", "\\[\n\\boxed{%s}\n\\]", "**\\boxed{ %s ;}**"],
)
def test_the_gold_answers_of_math_are_right_in_every_frame(frame):
  for row in rows_of("math500.jsonl"):
    split = split_response(frame % row["answer"], BOXED)
    assert BOXED.is_right(split.value, row["answer"])


@pytest.mark.slow
def test_chains_of_mmlu_pro_split_where_they_were_split():
  rows = rows_of("mmlu_pro_llama31_8b_chains.jsonl")
  wrong = 0
  for row in rows:
    split = split_response(row["reasoning"] + row["answer"], LETTER)
    # One answer in 2,619 begins with a comma.
    assert split.answer == row["answer"].removeprefix(", ")
    wrong += not LETTER.is_right(split.value, row["target"])
  assert wrong == 4  # read by eye: the chains do say another letter
