"""Judged replies: what each counts as, the chain that it makes, and the summary of a run."""

import itertools

import pytest

from greedy_prune_jax.chains.question_sets import QUESTION_SETS
from greedy_prune_jax.chains.thinking_chains import find_thinking
from greedy_prune_jax.sample.run import first_correct
from greedy_prune_jax.sample.summary import format_summary, pass_at_k, summarise
from greedy_prune_jax.teachers.questions import judged_sample
from greedy_prune_jax.teachers.teacher import Reply
from tests.sample.test_run import RIGHT


def record_of(*replies, target="3"):
  """A question's record with samples of these replies."""
  form = QUESTION_SETS["gsm8k"].form
  samples = [judged_sample(Reply(id="q", **reply), form, target) for reply in replies]
  about = {"question": "What is 3?", "system": None, "extra": {}, "teacher": "m"}
  return {"id": "q", "target": target, "samples": samples} | about


def test_every_sample_counts_in_one_outcome():
  right, wrong = RIGHT.format(3), RIGHT.format(4)
  records = [
    record_of(
      {"text": wrong, "finish_reason": "stop"},
      {"text": right, "finish_reason": "refusal"},
      {"text": wrong, "finish_reason": "length", "num_thinking_tokens": 7},
      {"text": "It is", "finish_reason": "not_finite"},
      {"text": "It is", "finish_reason": "stop", "num_thinking_tokens": 8},
      {"text": right, "finish_reason": "length"},
      {"text": "", "finish_reason": "tool_calls"},
      {"text": "<think>\nHm.\n</think>", "finish_reason": "stop"},
    )
  ]
  summary = summarise(records)
  outcomes = ("wrong", "refused", "cut off", "broken down", "no answer", "right")
  outcomes += ("tool call", "empty")
  assert summary.outcomes == dict.fromkeys(outcomes, 1)
  assert summary.unknown_ends == {}
  assert (summary.chains, summary.not_kept) == (0, {"cut off": 1})
  assert summary.mean_thinking_tokens == 7.5
  assert "right, but not kept: cut off 1" in format_summary(summary)


def test_thinking_that_comes_apart_is_the_chain():
  thought = {"thinking": " 1 + 2 = 3.\n", "thinking_end": "own", "num_thinking_tokens": 9}
  right = thought | {"text": '\nIt is 3.\n{"answer": "3"}', "num_tokens": 15}
  cut_off = thought | {"text": "", "thinking_end": "never", "num_tokens": 9}
  forced = right | {"thinking_end": "forced"}
  records = [
    record_of(right | {"finish_reason": "stop"}),
    record_of(cut_off | {"finish_reason": "length"}, cut_off | {"finish_reason": "stop"}),
    record_of(forced | {"finish_reason": "stop"}),
    record_of({"text": "", "finish_reason": "stop"}),
    record_of({"text": "<think>\nHm, 3", "finish_reason": "length"}),
  ]
  tags = record_of(right | {"thinking": "<think>\n1 + 2 = 3.\n</think>", "finish_reason": "stop"})
  chain = first_correct(records[0])
  assert chain == first_correct(tags)
  assert (chain.reasoning, chain.thinking_form) == ("1 + 2 = 3.", "think")
  assert chain.answer == '\n</think>\n\nIt is 3.\n{"answer": "3"}'
  assert find_thinking(chain) == chain
  summary = summarise(records)
  assert summary.outcomes == {"still thinking": 3, "right": 2, "empty": 1}
  assert summary.not_kept == {"its thinking was cut off": 1}
  assert summary.never_stopped == 4 / 5
  assert (summary.mean_thinking_tokens, summary.mean_answer_tokens) == (9, 6)
  assert "thinking never ends 80.0%" in format_summary(summary)
  assert "; thinking: mean 9; answer: mean 6" in format_summary(summary)


@pytest.mark.parametrize("thought", ["So 3.", ""])
def test_tags_in_a_reply_are_those_of_its_chain(thought):
  text = f"<think>\n{thought}\n</think>\n\n" + RIGHT.format(3)
  chain = first_correct(record_of({"text": text, "finish_reason": "stop"}))
  assert chain.thinking_form == ("think" if thought else None)
  assert chain.reasoning == (thought or "It is what it is.\n")


@pytest.mark.parametrize(
  "before",
  [
    *(
      "```json\n",
      "```\n",
      "**",
      "### ",
      "1. ",
      "> ",
      "\\[\n",
      "\\begin{align*}\n",
      "```json\n1. ",
    ),
    *("<think>\n</think>\n", "<reasoning></reasoning>\n", "<|im_start|>\n"),
  ],
)
def test_a_sample_that_says_nothing_before_its_answer_makes_no_chain(before):
  record = record_of({"text": before + "The answer is 3.", "finish_reason": "stop"})
  assert record["samples"][0]["correct"]
  assert first_correct(record) is None
  assert summarise([record]).not_kept == {"no reasoning before the answer": 1}


@pytest.mark.parametrize(
  "before",
  [
    *("2 + 1\n", "1. Add: 3\n", "```python\nx = 3\n```\n", "\u4e8c\u52a0\u4e00\n"),
    *("<think>2 + 1</think>\n", "<Think>So.</Think>\n", "<reasoning>\n2 + 1\n</reasoning>\n"),
  ],
)
def test_a_sample_that_says_something_or_thought_makes_a_chain(before):
  record = record_of({"text": before + "The answer is 3.", "finish_reason": "stop"})
  assert first_correct(record).reasoning


@pytest.mark.parametrize("ended", ["<think>\nSo 3.\n</think>\n", "So 3.\n</think>\n"])
@pytest.mark.parametrize("stored", [True, False])
def test_thinking_in_the_text_that_ends_counts_among_all_that_thinks(ended, stored):
  right = {"text": ended + RIGHT.format(3), "finish_reason": "stop"}
  endless = {"text": "<think>\nSo 3, but", "finish_reason": "length"}
  plain = {"text": "<think>\n\n</think>\n\n" + RIGHT.format(3), "finish_reason": "stop"}
  record = record_of(*[right] * 9, endless, plain, plain)
  if not stored:  # as versions wrote it that knew the end only of thinking that comes apart
    for sample in record["samples"]:
      sample["thinking_end"] = "never" if sample["thinking_end"] == "never" else None
  summary = summarise([record])
  assert summary.never_stopped == 1 / 10
  assert summary.outcomes == {"right": 11, "still thinking": 1}
  assert summarise([record_of(right)]).never_stopped == 0
  assert summarise([record_of(plain)]).never_stopped is None


def test_an_end_that_nobody_knows_is_shown_and_its_chain_kept():
  record = record_of({"text": RIGHT.format(3), "finish_reason": "\x1bmeteor"})
  summary = summarise([record])
  assert (summary.accuracy, summary.chains) == (1.0, 1)
  assert r"unknown finish reasons, taken as ends: \x1bmeteor 1" in format_summary(summary)


def test_pass_at_k_counts_the_choices_that_have_a_right_one():
  right = [True, True, False, False, False]
  for k in range(1, 6):
    choices = list(itertools.combinations(right, k))
    assert pass_at_k(5, 2, k) == pytest.approx(sum(map(any, choices)) / len(choices))
