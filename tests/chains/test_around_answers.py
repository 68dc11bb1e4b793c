"""Around the answer of a reply: thinking before it, turns behind it, long texts without one."""

import dataclasses

import pytest

from greedy_prune_jax.chains.answers import LETTER, first_value, split_response
from greedy_prune_jax.chains.formats import ColumnSettings, chains_of_row
from greedy_prune_jax.chains.formats_reply import split_reply
from greedy_prune_jax.chains.thinking import hide_thinking, never_stops
from greedy_prune_jax.errors import UserError
from tests.helpers.attacks import limits
from tests.helpers.verdicts import FORMS, right

THINKING = [
  "<think>\n{}\n</think>\n\n",
  "{}\n</think>\n\n",
  "<THINK>{}</THINK>",
  "<thinking>{}</thinking>",
  "<|begin_of_thought|>{}<|end_of_thought|>",
  "[THINK]{}[/THINK]",
  "{}[/THINK]",
  "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>",
  "analysisWell, {}assistantfinal",
  "<seed:think>{}</seed:think>",
  "<think>a</think>no{}</think>",
  "<reasoning>{}</reasoning>",
  "<|START_THINKING|>{}<|END_THINKING|>",
  "{}<|END_THINKING|>",
  "{}</reasoning>",
  "<thoughts>{}</thoughts>",
  "<scratchpad>{}</scratchpad>",
  "<|think|>{}<|/think|>",
  "< think >{}</ think >",
  "<think budget=9>{}</think>",
  "&lt;think&gt;{}&lt;/think&gt;",
  "\u25c1think\u25b7{}\u25c1/think\u25b7",
  "<\uff5cbegin\u2581of\u2581thinking\uff5c>{}<\uff5cend\u2581of\u2581thinking\uff5c>",
  "<unused94>thought\n{}<unused95>",
  "<antthinking>{}</antthinking>",
  "<think>{}</thinking>",
  "<thinking>{}</think>",
  "<|start|>assistant<|channel|>analysis<|message|>{}<|end|><|channel|>final<|message|>",
  "<think>Is it {}? <think> yes</think>",
]
WRONG = {
  "gsm8k": ('so {"answer": "12"}', "The answer is 12.", "#### 12", "\\boxed{12}"),
  "math": ("\\boxed{12}", "The final answer is: 12", '{"answer": "12"}'),
  "mmlu_pro": ("The answer is (B).", "\\boxed{B}", '{"answer": "B"}'),
}


@pytest.mark.parametrize("form", THINKING)
@pytest.mark.parametrize("questions", WRONG)
def test_thinking_is_never_searched(form, questions):
  for wrong in WRONG[questions]:
    thought = wrong.replace("\n", " ")
    target = "B" if questions == "mmlu_pro" else "12"
    assert split_response(form.replace("{}", thought) + "There are 13.", FORMS[questions]) is None
    answered = form.replace("{}", "no") + wrong
    assert right(questions, answered, target)
    assert split_response(answered, FORMS[questions]).reasoning.startswith(
      form[:3].replace("{}", "no")
    )


@pytest.mark.parametrize(
  "opening",
  [
    *(
      "<think>",
      "[THINK]",
      "<|channel|>analysis<|message|>",
      "<|begin_of_thought|>",
      "<Reasoning>",
    ),
    *("\u25c1think\u25b7", "<think x='1'>", "<|START_THINKING|>", "<|think|>", "<unused94>"),
  ],
)
@pytest.mark.parametrize("questions", WRONG)
def test_thinking_that_never_ends_holds_no_answer(opening, questions):
  for wrong in WRONG[questions]:
    assert split_response(f"{opening}\n{wrong} Hmm, wait", FORMS[questions]) is None
    visible = f"{wrong}\n{opening} Let me check again"
    assert split_response(visible, FORMS[questions]) is not None


ENDS = [
  *("<|end|>", "<|im_end|>", "<|eot_id|>", "<|endoftext|>", "</s>", "<eos>", "<end_of_turn>"),
  *("<turn|>", "<\uff5cend\u2581of\u2581sentence\uff5c>", "<|END_OF_TURN_TOKEN|>", "<|return|>"),
  *("[EOS]", "<eod>", "<|eom_id|>", "[/INST]", "<end_of_utterance>", "[end of text]"),
]
ANSWERS = [
  ("gsm8k", "#### 5", "5"),
  ("gsm8k", "The answer is 5", "5"),
  ("gsm8k", '{"answer": "5"}', "5"),
  ("math", "\\boxed{5}", "5"),
  ("math", "The final answer is: $5$", "5"),
  ("mmlu_pro", "The answer is B", "B"),
  ("mmlu_pro", "\\boxed{B}", "B"),
]
NEXT_TURNS = [
  *("<|im_start|>user\n", "<start_of_turn>user\n", "<|start_header_id|>user<|end_header_id|>\n\n"),
  *("<|user|>\n", "<\uff5cUser\uff5c>", "[INST] ", "<|start|>user<|message|>", "<|turn>user\n"),
]


@pytest.mark.parametrize("end", ENDS)
def test_an_end_of_turn_changes_no_verdict(end):
  for questions, reply, target in ANSWERS:
    for text in (reply + end, f"{reply}\n{end}", end + reply, f"So.{end}\n{reply}"):
      assert right(questions, text, target), text


@pytest.mark.parametrize("end", [end for end in ENDS if end != "[/INST]"])
def test_an_end_of_turn_is_left_to_the_template(end):
  for reply in ("6 * 7 = 42\n\n\\boxed{42}", "<think>\nhm\n</think>\n\n42", "So 6.\n\nOr 7"):
    assert split_reply(f"{reply}\n{end}{end}\n") == split_reply(reply)
  for empty in ("<think>\nhm\n</think>\n\n", "<think>\nhm", "\\boxed{42}"):
    with pytest.raises(UserError):
      split_reply(empty + end)


@pytest.mark.parametrize("turn", NEXT_TURNS)
def test_what_follows_the_end_of_a_reply_is_not_its_answer(turn):
  for questions, reply, target in ANSWERS:
    text = (
      f"{reply}<|im_end|>\n{turn}And then?\n{reply.replace(target, 'C' if target == 'B' else '7')}"
    )
    assert right(questions, text, target), text


@pytest.mark.parametrize("turn", NEXT_TURNS)
def test_a_question_in_a_chat_template_is_refused(turn):
  columns = ColumnSettings(question="prompt", response="outputs.0.text")
  row = {"prompt": f"<s>{turn}6 * 7?", "outputs": [{"text": "6 * 7 = 42\n\n\\boxed{42}"}]}
  with pytest.raises(UserError, match=r"is a prompt in a chat template .*columns.question=KEY"):
    chains_of_row(row, "x", columns)
  assert chains_of_row(row | {"prompt": "6 * 7, user?"}, "x", columns)


UNITS_OF_TEXT = [
  *("\\boxed{", "$", "final ", "####", '"answer":}', "answer: ", " ", "the final ", "\\[ ", "{"),
  *("\\boxed{ }", "<think>", "</think>", "<think></think>", "the answer is (", '"answer": [', "\n"),
  *("**", "answer is\n\n", "\\boxed{5} or ", "\\", "the answer is B or "),
]


@pytest.mark.slow
@pytest.mark.parametrize("unit", UNITS_OF_TEXT)
def test_a_long_text_of_one_beginning_is_read(unit):
  text = unit * (30_000 // len(unit))
  for form in FORMS.values():
    split_response(text, form)
    split = split_response(text + "\n" * 600 + form.write("5"), form)
    assert split is None or split.value


@pytest.mark.parametrize("unit", ["####", '{"answer":', "answer: ", "<answer>"])
@pytest.mark.parametrize("questions", FORMS)
def test_of_a_marker_without_end_only_the_last_ones_are_read(questions, unit):
  form = FORMS[questions]
  seen = []

  def read(match):
    seen.append(match.start())
    return form.read(match)

  counted = dataclasses.replace(form, read=read)
  target = "B" if form is LETTER else "5"
  split_response(form.write(target) + ".\nSo " + unit * 3000, counted)
  assert len(seen) <= 1000 * len(form.markers)
  assert first_value(form.write(target) + ".\nSo " + unit * 3000, counted) == target
  split = split_response(unit * 3000 + "\n" * 600 + form.write(target), counted)
  assert split.value == target


@pytest.mark.slow
def test_thinking_that_begins_again_and_again_is_read_in_linear_time():
  text = "<think></think>" * 300_000  # kept in a list that is copied for each, it takes minutes
  with limits(seconds=20):
    assert hide_thinking(text) == "\n" * len(text)
    assert not never_stops(text)
