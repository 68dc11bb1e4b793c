"""Rows whose parts the settings `columns` name."""

import pytest

from greedy_prune_jax.chains.formats import ColumnSettings
from greedy_prune_jax.chains.formats_reply import gold
from greedy_prune_jax.errors import UserError
from tests.chains.test_formats import chain, talk
from tests.helpers.format_examples import THOUGHT


def test_columns_name_what_nobody_knows():
  row = {"q": "6 * 7?", "r": THOUGHT, "gold": 42.0, "sys": "Be brief.", "key": 7, "level": 2}
  one = chain(row, question="q", response="r", target="gold", system="sys", id="key")
  assert (one.id, one.target, one.system, one.extra) == ("7", "42", "Be brief.", {"level": 2})
  assert one.reasoning + one.answer == THOUGHT
  apart = {"q": "6 * 7?", "t": "Six sevens.", "a": "The answer is \\boxed{42}."}
  assert chain(apart, question="q", thinking="t", answer="a").reasoning == one.reasoning
  plain = chain(apart, question="q", reasoning="t", answer="a")
  assert plain.reasoning + plain.answer == "Six sevens.\nThe answer is \\boxed{42}."
  with pytest.raises(UserError, match='lacks the key "r"'):
    chain(apart, question="q", response="r")


@pytest.mark.parametrize(
  ("value", "path"),
  [
    ({"r": THOUGHT}, "r"),
    ({"outputs": [{"text": "no"}, {"text": THOUGHT}]}, "outputs.1.text"),
    ({"outputs": [THOUGHT]}, "outputs"),
    ({"outputs": [["no", THOUGHT]]}, "outputs.0.1"),
    ({"choices": [{"message": {"content": THOUGHT}}]}, "choices.0.message.content"),
    ({"chain_0.0": THOUGHT, "chain_0": {"0": "no"}}, "chain_0.0"),
    ({"meta": {"a.b": THOUGHT, "a": {"b": "no"}}}, "meta.a.b"),
  ],
)
def test_a_column_may_be_a_path(value, path):
  row = value | {"about": {"asked": [{"q": "6 * 7?"}], "gold": [["42"]], "key": 7}, "level": 2}
  columns = {"question": "about.asked.0.q", "target": "about.gold.0", "id": "about.key"}
  one = chain(row, response=path, **columns)
  assert one.reasoning + one.answer == THOUGHT
  assert (one.id, one.question, one.target) == ("7", "6 * 7?", "42")
  assert one.extra == {key: x for key, x in row.items() if key != path}


@pytest.mark.parametrize(
  ("path", "reason"),
  [
    ("outputs", r'columns.response: "outputs" is a list, not a text; .*such as outputs.0.text'),
    ("outputs.0", 'columns.response: "outputs.0" is an object, not a text'),
    ("outputs.1.text", 'lacks the key "outputs.1.text"'),
    ("outputs.-1.text", 'lacks the key "outputs.-1.text"'),
    ("outputs.text", 'lacks the key "outputs.text"'),
    ("q.0", 'lacks the key "q.0"'),
    ("outputs.0.text.0", 'lacks the key "outputs.0.text.0"'),
    ("outputs.0.none", 'lacks the key "outputs.0.none"'),
    ("outputs.0.index", '"outputs.0.index" must be a string, not a whole number'),
    (".", 'lacks the key "."'),
  ],
)
def test_a_path_that_leads_to_no_text_is_refused(path, reason):
  row = {"q": "6 * 7?", "outputs": [{"text": THOUGHT, "index": 0, "none": None}]}
  with pytest.raises(UserError, match=reason):
    chain(row, question="q", response=path)


@pytest.mark.parametrize("keys", [("deepseek_thinking_trajectory", "deepseek_attempt"), ("t", "a")])
def test_thinking_that_stands_in_the_answer_too_is_read_once(keys):
  of_row = {"question": "question"} | dict(zip(("thinking", "answer"), keys, strict=True))
  columns = of_row if keys == ("t", "a") else {}
  one = chain({"question": "6 * 7?", keys[0]: "Six sevens.", keys[1]: THOUGHT}, **columns)
  assert one.reasoning + one.answer == THOUGHT
  with pytest.raises(UserError, match="other thinking beside it"):
    chain({"question": "6 * 7?", keys[0]: "Seven sixes.", keys[1]: THOUGHT}, **columns)


def test_raw_outputs_and_problems_are_told_what_reads_them():
  with pytest.raises(UserError, match=r"columns.answer. A KEY may be a path .* outputs.0.text"):
    chain({"prompt": "6 * 7?", "outputs": [{"text": THOUGHT}]})
  with pytest.raises(UserError, match=r"is read from chains=math:PATH. Name its parts"):
    chain({"problem": "6 * 7?", "solution": "Six sevens: \\boxed{42}.", "answer": "42"})


@pytest.mark.parametrize(
  ("value", "target"),
  [
    ("Six sevens.\n#### 42", "42"),
    ("#### 1,042.0\n", "1042"),
    ("6*7=<<6*7=42>>42 #### 42.", "42"),
    ("Six sevens, so $\\boxed{\\frac{1}{2}}$.", "\\frac{1}{2}"),
    ("#### Solution\nSix sevens: \\boxed{42}", "42"),
    ("$\\boxed{42}$", "42"),
    (" 42.\n", "42"),
    ("0.50", "0.50"),  # an answer alone stays as it is written
    ("# 42", "# 42"),
    (["42"], "42"),
    ("####", None),
  ],
)
def test_a_gold_column_may_hold_a_worked_solution(value, target):
  row = {"q": "6 * 7?", "r": THOUGHT, "gold": value}
  assert chain(row, question="q", response="r", target="gold").target == target
  talked = talk({"role": "assistant", "content": THOUGHT}) | {"ground_truth": value}
  assert chain(talked).target == target


@pytest.mark.parametrize(
  ("columns", "reason"),
  [
    ({"response": "r"}, "columns names response; expected columns.question"),
    ({"question": "q"}, "and with it columns.response"),
    ({"question": "q", "reasoning": "r"}, "columns.answer with columns.reasoning"),
    ({"question": "q", "response": "r", "answer": "a"}, "names answer, question, response"),
    ({"format": "sft"}, "columns.format='sft'; expected one of chain, pruner"),
    ({"format": "limo", "question": "q"}, "knows its keys"),
  ],
)
def test_columns_that_make_no_chain_are_refused(columns, reason):
  with pytest.raises(UserError, match=reason):
    ColumnSettings(**columns)


@pytest.mark.parametrize(
  ("text", "target"),
  [('{"answer": "18"}', "18"), ('{"answer": 18}', "18"), ("{1, 2}", "{1, 2}"), ('{"a": 1}',) * 2],
)
def test_a_gold_answer_in_json_is_its_answer(text, target):
  assert gold({"gold": text}, "gold") == target
