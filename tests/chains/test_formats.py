"""Each format's rows become chains; `EXAMPLES` has one of each, made up."""

import contextlib
import copy
from pathlib import Path

import pytest

from greedy_prune_jax.chains.chain import RECORD_KEYS
from greedy_prune_jax.chains.formats import FORMATS, ColumnSettings, chains_of_row
from greedy_prune_jax.chains.formats_reply import split_reply
from greedy_prune_jax.chains.reading import describe_first, read_chains
from greedy_prune_jax.chains.thinking import FORMS as FORMS_OF_THINKING
from greedy_prune_jax.errors import UserError
from tests.chains.test_reading import OWN, write_jsonl
from tests.helpers.format_examples import EXAMPLES, THOUGHT
from tests.helpers.published_cards import CARDS
from tests.helpers.real_chains import DATA

REAL = DATA / "thinking_chains"


def chains(row, **columns):
  return chains_of_row(row, "rows/0", ColumnSettings(**columns))[1]


def chain(row, **columns):
  (one,) = chains(row, **columns)
  return one


@pytest.mark.parametrize("name", FORMATS)
def test_every_example_is_known_and_read(name):
  row = copy.deepcopy(EXAMPLES[name])
  found, read = chains_of_row(row, "rows/0")
  assert found == name
  assert row == EXAMPLES[name]  # reading changes nothing
  for one in read:
    assert "6 * 7" in one.question or "6 and 7" in one.question
    assert "even" in one.reasoning
    assert any(value in one.answer for value in ("42", "(A)"))
    assert one.target in ("42", "A", None)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("wrong", [5, [], {}, "", [{}], [None], {"steps": 5}, [[]]], ids=repr)
def test_a_wrong_value_at_any_key_is_named_or_harmless(name, wrong):
  for key in EXAMPLES[name]:
    row = EXAMPLES[name] | {key: wrong}
    with contextlib.suppress(UserError):  # and no other error
      chains_of_row(row, "rows/0")


@pytest.mark.parametrize(
  ("text", "parts"),
  [
    (THOUGHT, ("<think>\nSix sevens.", "\n</think>\n\nThe answer is \\boxed{42}.")),
    ("Six sevens.\n</think>\n42", ("Six sevens.", "\n</think>\n42")),
    (
      "<|begin_of_thought|>Six.\n\n<|end_of_thought|>\n\n<|begin_of_solution|>6<|end_of_solution|>",
      (
        "<|begin_of_thought|>Six.",
        "\n\n<|end_of_thought|>\n\n<|begin_of_solution|>6<|end_of_solution|>",
      ),
    ),
    ("[THINK]Six.[/THINK]42", ("[THINK]Six.", "[/THINK]42")),
    *(
      (f"{form.opening}Six.{form.closing}42", (f"{form.opening}Six.", f"{form.closing}42"))
      for form in FORMS_OF_THINKING
    ),
    ("Six sevens.\nSo $\\boxed{42}$.", ("Six sevens.\nSo ", "$\\boxed{42}$.")),
    ("Six sevens.\n#### 42", ("Six sevens.\n", "#### 42")),
    ("Six sevens.\n\nThat makes\nforty-two.", ("Six sevens.\n\n", "That makes\nforty-two.")),
    ("Six.\r\n\r\nThat makes\r\n42.", ("Six.\r\n\r\n", "That makes\r\n42.")),
    ("Six.\n \nThat makes\n42.", ("Six.\n \n", "That makes\n42.")),
    ("Six sevens.\nForty-two.", ("Six sevens.\n", "Forty-two.")),
    # Neither code nor formulas are cut, but before a marker, which may end all of the reasoning.
    ("Six.\n\nSo:\n\n```c\nf();\n\ng();\n```", ("Six.\n\nSo:\n\n", "```c\nf();\n\ng();\n```")),
    ("Six.\n\nSo:\n\n```c\nf();\n\ng();", ("Six.\n\nSo:\n\n", "```c\nf();\n\ng();")),
    *(
      ("".join(parts), parts)
      for parts in (
        ("Six.\n", "$$x\n\n= 42$$"),
        ("Six.\n", "\\[\nx = 42\n\\]"),
        ("Six.\n\n", "\\begin{align*}\nx\n\n&= 42\n\\end{align*}"),
        ("Six sevens.\n", '```json\n{"answer": 42}\n```'),
        ("Run ", "```\nprint('The answer is 42')\n\n```\nDone."),
        ("```\nSix sevens.\n", "#### 42\n```"),
        ("\\begin{align*}\nx &= 6 * 7 \\\\\n&= ", "\\boxed{42}.\n\\end{align*}"),
      )
    ),
  ],
)
def test_a_reply_is_cut_before_its_answer(text, parts):
  assert split_reply(text) == parts
  assert "".join(parts) == text


@pytest.mark.parametrize(
  ("text", "reason"),
  [
    ("<think>\nSix sevens", "is cut off: <think> has no </think>"),
    ("<think>\n\n</think>\n\n42", "has no reasoning before its answer"),
    ("42", "has no reasoning before its answer: '42'"),
    ('```json\n{"answer": 42}', "has no reasoning before its answer"),
    ("**The answer is 42.**", "has no reasoning before its answer"),
    ("1. The answer is 42.", "has no reasoning before its answer"),
    ("<think>\n...\n</think>\n\n### The answer is 42.", "has no reasoning before its answer"),
  ],
)
def test_a_reply_without_reasoning_or_end_is_refused(text, reason):
  with pytest.raises(UserError, match=reason):
    split_reply(text)


def talk(reply, *before):
  return {"messages": [*before, {"role": "user", "content": "6 * 7?"}, reply], "source": "s"}


@pytest.mark.parametrize(
  "reply",
  [
    {"content": THOUGHT},
    *({"content": "The answer is \\boxed{42}.", key: "Six sevens.\n"} for key in (
      "reasoning_content", "reasoning", "thinking")),
    {"content": THOUGHT, "reasoning_content": "Six sevens."},
    {"content": [
      {"type": "thinking", "thinking": "Six sevens."},
      {"type": "text", "text": "The answer is \\boxed{42}."},
    ]},
    {"content": [
      {"type": "thinking", "thinking": [{"type": "text", "text": "Six sevens."}], "closed": True},
      {"type": "text", "text": "The answer is \\boxed{42}."},
    ]},
    {"content": "The answer is \\boxed{42}.", "thinking": "Six sevens.", "reasoning": None},
  ],
)  # fmt: skip
def test_thinking_in_messages_is_found_wherever_it_is(reply):
  row = talk({"role": "assistant"} | reply, {"role": "system", "content": "Be brief."})
  one = chain(row)
  assert one.reasoning + one.answer == THOUGHT
  assert one.answer.startswith("\n</think>")
  assert (one.question, one.system, one.extra) == ("6 * 7?", "Be brief.", {"source": "s"})


@pytest.mark.parametrize("form", FORMS_OF_THINKING, ids=lambda form: form.name)
def test_tags_of_a_thinking_that_comes_apart_are_not_doubled(form):
  answer = "The answer is \\boxed{42}."
  whole, opened, closed = (
    f" {opening}\nSix sevens.\n{closing}\n"
    for opening in (form.opening, "")
    for closing in (form.closing, "")
    if opening or closing
  )
  for thinking in (whole, opened, closed):
    talked = talk({"role": "assistant", "content": answer, "reasoning_content": thinking})
    columns = {"q": "6 * 7?", "t": thinking, "a": answer}
    s1k = EXAMPLES["s1k"] | {
      "deepseek_thinking_trajectory": thinking,
      "deepseek_attempt": answer,
    }
    for one in (chain(talked), chain(columns, question="q", thinking="t", answer="a"), chain(s1k)):
      assert one.reasoning + one.answer == THOUGHT
  text = f"{form.opening}\nSix sevens.\n{form.closing}\n\n{answer}"
  twice = chain(talk({"role": "assistant", "content": text, "reasoning_content": whole}))
  assert twice.reasoning + twice.answer == text


@pytest.mark.parametrize(
  ("row", "reason"),
  [
    (talk({"role": "user", "content": "and?"}), "has the turns user, user; expected one of a user"),
    (talk({"role": "tool", "content": "x"}), "has the role 'tool'"),
    (talk({"role": "assistant", "content": 5}), '"content" must be a string'),
    (
      talk({"role": "assistant", "content": THOUGHT, "reasoning": "Other."}),
      "other thinking beside it",
    ),
    (
      talk({"role": "assistant", "content": "42", "reasoning": "a", "thinking": "b"}),
      "several thinkings, which differ",
    ),
    (talk({"role": "assistant", "content": "", "reasoning": "a"}), "no answer behind it"),
    ({"messages": []}, '"messages" is empty'),
  ],
)
def test_conversations_that_are_no_chain_are_refused(row, reason):
  with pytest.raises(UserError, match=reason):
    chain(row)


@pytest.mark.parametrize("key", ["messages", "conversations", "prompt"])
def test_messages_have_either_pair_of_keys_under_any_name(key):
  user, reply = {"role": "user", "content": "6 * 7?"}, {"role": "assistant", "content": THOUGHT}
  named = {"role": "from", "content": "value"}
  others = [{named[name]: text for name, text in turn.items()} for turn in (user, reply)]
  read = [
    chain({key: [asked], "completion": [said]} if key == "prompt" else {key: [asked, said]})
    for asked, said in ((user, reply), others, (user, others[1]))
  ]
  assert read == read[:1] * 3
  with pytest.raises(UserError, match='lacks the key "role"'):
    chain({"messages": [{"text": "6 * 7?"}]})


def test_sharegpt_takes_the_rows_system_prompt():
  row = EXAMPLES["sharegpt"] | {"system": "Think well."}
  assert chain(row).system == "Think well."
  row["conversations"][0]["from"] = "user"
  row["conversations"][1]["from"] = "assistant"
  assert chain(row).question == "6 * 7?"


def test_openr1_gives_the_verified_generations_and_never_the_human_solution():
  row = EXAMPLES["openr1"]
  wrong, right = row["generations"][1], row["generations"][0]
  row = row | {
    "generations": [wrong, right, right, right],
    "correctness_math_verify": [False, True, None, True],
    "is_reasoning_complete": [True, True, True, False],
  }
  one = chain(row)
  assert (one.id, one.target) == ("u/1", "42")
  assert one.reasoning + one.answer == right
  assert "Known by heart" not in str(one)
  with pytest.raises(UserError, match="none of its 4 generations is verified"):
    chain(row | {"correctness_math_verify": [False] * 4})
  with pytest.raises(UserError, match='4 items and "correctness_math_verify" 1; they must'):
    chain(row | {"correctness_math_verify": [True]})
  judged = row | {"correctness_math_verify": None, "correctness_llama": [False, False, True, True]}
  assert chain(judged).id == "u/2"
  with pytest.raises(UserError, match="neither correctness_math_verify nor correctness_llama"):
    chain(row | {"correctness_math_verify": None})
  human = chain(row | {"solution": "By heart.\n\\boxed{42}"}, question="problem",
                response="solution", target="answer")  # fmt: skip
  assert (human.reasoning, human.answer) == ("By heart.\n", "\\boxed{42}")


def test_step_labels_stay_with_their_steps():
  steps = [
    {"completions": [{"text": "No.", "rating": -1}, {"text": "Six sevens.", "rating": 1}],
     "chosen_completion": 1},
    {"completions": [{"text": "x", "rating": 0}], "human_completion": {"text": "So."}},
    {"completions": [{"text": "42\n\n# Answer\n\n42", "rating": 1}], "chosen_completion": None},
  ]  # fmt: skip
  row = EXAMPLES["prm800k"] | {"label": {"steps": steps}}
  one = chain(row)
  assert one.extra["steps"] == ["Six sevens.", "So.", "42\n\n# Answer\n\n42"]
  assert one.extra["step_labels"] == [1, None, 1]
  assert one.extra["other_steps"] == [
    [{"text": "No.", "rating": -1}],
    [{"text": "x", "rating": 0}],
    [],
  ]
  assert (one.reasoning, one.answer) == ("Six sevens.\n\nSo.\n\n42", "\n\n# Answer\n\n42")
  question = row["question"] | {"pre_generated_steps": ["a", "b", "c", "d \\boxed{1}"]}
  second = chain(row | {"question": question})
  assert second.extra["steps"] == ["a", "b", "c", "d \\boxed{1}"]
  assert second.extra["step_labels"] == [1, None, 1, None]
  assert chain(EXAMPLES["processbench"]).extra["first_wrong_step"] == -1
  with pytest.raises(UserError, match='"label" is 2; expected -1 to 1'):
    chain(EXAMPLES["processbench"] | {"label": 2})


def test_the_question_of_a_chain_of_thought_anchors():
  row = EXAMPLES["thought_anchors"]
  assert chain(row).question == "6 * 7?"
  prompt = "Solve this.\nProblem: 6 * 7?\nBe brief. Solution: \n<think>\n"
  changed = row | {"base_solution.json": row["base_solution.json"] | {"prompt": prompt}}
  assert chain(changed).question == "6 * 7?\nBe brief."
  prompt = "What is 6 * 7?\n<think>\n"
  changed = row | {"base_solution.json": row["base_solution.json"] | {"prompt": prompt}}
  assert chain(changed).question == "What is 6 * 7?"


@pytest.mark.parametrize("card", CARDS)
def test_rows_with_the_fields_of_a_published_card_are_known(card):
  name, row = CARDS[card]
  found, (one, *_) = chains_of_row(row, "rows/0")
  assert found == name
  assert one.question == "6 * 7?"
  assert "sevens" in one.reasoning
  assert one.answer.rstrip("}. ").endswith("42")
  assert "By heart" not in str(one)


def test_a_question_and_an_answer_of_no_gsm8k_are_told_what_reads_them():
  with pytest.raises(UserError, match=r'no "#### NUMBER" .*Of another row, name .*columns.reason'):
    chain({"question": "6 * 7?", "cot": "Six sevens.", "answer": "42"})


def test_a_system_prompt_that_a_row_tells_twice_is_one():
  row = talk({"role": "assistant", "content": THOUGHT}, {"role": "system", "content": "Be brief."})
  assert chain(row | {"system": "Be brief."}).system == "Be brief."
  assert chain(row | {"system": "Think."}).system == "Think.\n\nBe brief."


def test_a_systems_prompt_has_two_names():
  _, row = CARDS["nvidia/Llama-Nemotron-Post-Training-Dataset"]
  assert chain(row).system == "detailed thinking on"


def test_an_empty_thinking_is_left_out_of_a_reply():
  reply = "<think>\n\n</think>\n\nSix sevens.\n\\boxed{42}"
  assert split_reply(reply) == ("Six sevens.\n", "\\boxed{42}")


@pytest.mark.parametrize("tags", ["</think>", "<think></think>\n", "<think></think>[/THINK]"])
def test_closing_tags_without_end_are_left_out(tags):
  assert split_reply(tags * 3000 + "Six sevens.\n#### 42") == ("Six sevens.\n", "#### 42")
  with pytest.raises(UserError, match="has no reasoning before its answer"):
    split_reply(tags * 3000)


def test_lengths_of_one_question_are_chains_of_their_own():
  long, short = chains(EXAMPLES["s3_cot"])
  assert (long.id, short.id) == ("rows/0/0.0", "rows/0/-0.5")
  assert (long.extra, short.extra) == ({"ratios": 1.0}, {"ratios": 0.5})
  assert len(short.reasoning) < len(long.reasoning)


def test_rows_that_share_an_id_get_ids_of_their_own(tmp_path):
  rows = [EXAMPLES["openmath"] | {"id": "q"} for _ in range(3)]
  path = write_jsonl(tmp_path / "x.jsonl", *rows)
  assert [one.id for one in read_chains(path)] == ["q", "q/2", "q/3"]


def test_a_row_of_two_forms_is_refused_until_one_is_named():
  row = EXAMPLES["sharegpt"] | talk({"role": "assistant", "content": "a\nb"})
  with pytest.raises(UserError, match=r"looks like messages and sharegpt .*columns.format=NAME"):
    chain(row)
  assert chain(row, format="messages").answer == "b"
  assert chain(row, format="sharegpt").answer.endswith("{42}.")
  assert chain(row | OWN) == chain(OWN | row)  # our own form is never in doubt
  assert chain(row | OWN).reasoning == OWN["reasoning"]


def test_a_row_of_no_form_is_refused_with_its_keys():
  with pytest.raises(
    UserError, match=r"no known form \(its keys: q, r\)\. Name .*columns.question"
  ):
    chain({"q": "6 * 7?", "r": THOUGHT})
  many = {f"k{i}": i for i in range(100)}
  with pytest.raises(UserError, match=r"k19, and 80 more"):
    chain(many)


def test_the_first_row_is_shown_as_it_is_understood(tmp_path):
  rows = [EXAMPLES["s3_cot"] | {"level": 2, "gold_answer": "4" * 500}]
  text = describe_first(write_jsonl(tmp_path / "x.jsonl", *rows), ColumnSettings())
  assert "x.jsonl, line 1) as it is understood" in text
  assert "form  s3_cot" in text
  assert "'6 * 7?'" in text
  assert "(500 characters)" in text
  assert "carried along  level, ratios" in text
  assert "further chains  x/0/-0.5" in text
  assert "left out" not in text
  with pytest.raises(UserError, match=r"x.jsonl, line 1: lacks the key"):
    describe_first(str(tmp_path / "x.jsonl"), ColumnSettings(question="q", response="r"))


def test_the_first_row_is_one_that_is_read_where_bad_ones_are_skipped(tmp_path):
  path, skipped = write_jsonl(tmp_path / "x.jsonl", {"q": "?"}, EXAMPLES["openmath"]), []
  with pytest.raises(UserError, match=r"line 1: is of no known form"):
    describe_first(path, ColumnSettings())
  assert "x.jsonl, line 2)" in describe_first(path, ColumnSettings(), on_bad=skipped.append)
  assert [bad.place for bad in skipped] == [f"{path}, line 1"]
  with pytest.raises(UserError, match=r"no row that can be used"):
    describe_first(path, ColumnSettings(question="no", response="r"), on_bad=skipped.append)


def test_keys_that_outputs_have_themselves_are_left_out_and_shown(tmp_path):
  row = EXAMPLES["openmath"] | {"unit": "km", "seconds": 5, "level": 2}
  path = write_jsonl(tmp_path / "x.jsonl", row)
  (one,) = read_chains(path)
  assert one.extra["level"] == 2
  assert not one.extra.keys() & {"unit", "seconds"}
  assert "left out  unit, seconds" in describe_first(path, ColumnSettings())


def test_the_docs_name_all_keys_that_are_left_out():
  docs = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
  assert [key for key in RECORD_KEYS if f"`{key}`" not in docs] == []


@pytest.mark.skipif(not REAL.exists(), reason="needs the real thinking chains")
def test_the_real_thinking_chains_are_read_whole():
  read = list(read_chains(str(REAL)))
  assert len({one.id for one in read}) == 32
  for one in read:
    assert one.reasoning.startswith("<think>\n")
    assert one.answer.startswith("\n</think>")
    assert "boxed" in one.answer
    chunks = "".join(chunk["chunk"] for chunk in one.extra["chunks"])
    squeezed = ("".join(text.split()) for text in (one.reasoning.removeprefix("<think>"), chunks))
    reasoning, joined = squeezed
    assert joined.startswith(reasoning[:200])
    assert one.target is not None
    assert type(one.extra["is_correct"]) is bool
