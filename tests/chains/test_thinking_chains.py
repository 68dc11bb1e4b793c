"""Thinking chains as segments, held against the conversation as the template writes it."""

import dataclasses
import re

import numpy as np
import pytest

from greedy_prune_jax.chains.chain import Chain
from greedy_prune_jax.chains.chat_template import load_chat_template
from greedy_prune_jax.chains.reading import read_chains
from greedy_prune_jax.chains.segments import encode, segment
from greedy_prune_jax.chains.thinking import FORMS, split_thinking
from greedy_prune_jax.chains.thinking_chains import find_thinking, fit_chain
from greedy_prune_jax.errors import UserError
from tests.helpers import thinking_templates as forms
from tests.helpers.real_chains import DATA
from tests.helpers.tokenizers_for_tests import byte_level, sentence_piece

QUESTION, SYSTEM = "How many clips?", "Be brief."
THOUGHT, SAID = "24 in May.\n\nSo 48 + 24 = 72.", 'In all 72.\n{"answer": "72"}'
PARTS = {"id": "a", "question": QUESTION, "system": SYSTEM}
TAGGED = Chain(**PARTS, reasoning=f"<think>\n{THOUGHT}\n</think>\n\nIn all 72.\n", answer=SAID[11:])
VISIBLE = Chain(**PARTS, reasoning="48 + 24 = 72.\n", answer='{"answer": "72"}')

BEGINNING = "<|start|>system\nBe brief.<|end|>\n<|start|>user\nHow many clips?<|end|>\n"


def load(source):
  tokenizer = byte_level(source)
  return tokenizer, load_chat_template("tokenizer", tokenizer)


def conversation(tokenizer, **reply):
  messages = [
    {"role": "system", "content": SYSTEM},
    {"role": "user", "content": QUESTION},
    {"role": "assistant", "content": SAID} | reply,
  ]
  return tokenizer.apply_chat_template(messages, tokenize=False)


def texts_of(chain, source, mode="auto"):
  """The text of each segment."""
  tokenizer, template = load(source)
  parts = segment(fit_chain(chain, template, mode), tokenizer, template)
  return [tokenizer.decode(ids) for ids in parts.parts]


@pytest.mark.parametrize(
  ("source", "reply"),
  [
    (forms.QWEN3, {"reasoning_content": THOUGHT}),
    (forms.QWEN3_5, {"reasoning_content": THOUGHT}),
    (forms.HARMONY, {"thinking": THOUGHT}),
    (forms.SMOLLM3, {"content": f"<think>\n{THOUGHT}\n</think>\n\n{SAID}"}),
    (forms.OLMO_THINK, {"content": f"<think>{THOUGHT}\n</think>\n\n{SAID}"}),
    (forms.CHATML, {"content": f"<think>\n{THOUGHT}\n</think>\n\n{SAID}"}),
  ],
)
def test_the_segments_are_the_conversation_as_the_template_writes_it(source, reply):
  tokenizer, template = load(source)
  parts = segment(fit_chain(TAGGED, template), tokenizer, template)
  whole = conversation(tokenizer, **reply)
  assert "".join(tokenizer.decode(ids) for ids in parts.parts) == whole
  # The borders stand between lines or behind tags, where this tokenizer has no token across.
  np.testing.assert_array_equal(np.concatenate(parts.parts), encode(tokenizer, whole).ids)
  assert tokenizer.decode(parts.reasoning) == THOUGHT


@pytest.mark.parametrize(
  ("source", "prompt_end", "closing"),
  [
    (forms.QWEN3, "assistant\n<think>\n", "\n</think>\n\n"),
    (forms.QWEN3_5, "assistant\n<think>\n", "\n</think>\n\n"),
    (forms.R1, "assistant<think>\n", "\n</think>\n\n"),
    (forms.NEMOTRON, "assistant\n<think>\n", "\n</think>\n\n"),
    (forms.OLMO_THINK, "assistant\n<think>", "\n</think>\n\n"),
    (forms.SMOLLM3, "assistant\n<think>\n", "\n</think>\n\n"),
    (forms.CHATML, "assistant\n<think>\n", "\n</think>\n\n"),
    (
      forms.HARMONY,
      "assistant<|channel|>analysis<|message|>",
      "<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
  ],
)
def test_tags_are_in_prompt_and_answer_once(source, prompt_end, closing):
  prompt, reasoning, answer = texts_of(TAGGED, source)
  assert prompt == f"{BEGINNING}<|start|>{prompt_end}"
  assert reasoning == THOUGHT
  assert answer.startswith(closing + SAID)
  assert (prompt + reasoning + answer).count("<think>") == (0 if source is forms.HARMONY else 1)


@pytest.mark.parametrize("source", [forms.QWEN3, forms.QWEN3_5, forms.SMOLLM3])
def test_a_chain_without_tags_is_told_not_to_think(source):
  prompt, reasoning, answer = texts_of(VISIBLE, source)
  assert prompt.endswith("assistant\n<think>\n\n</think>\n\n")
  assert (reasoning, answer) == (VISIBLE.reasoning, VISIBLE.answer + "<|end|>\n")


def test_a_visible_chain_stands_in_harmonys_final_channel():
  prompt, _, answer = texts_of(VISIBLE, forms.HARMONY)
  assert prompt.endswith("<|start|>assistant<|channel|>final<|message|>")
  assert answer == VISIBLE.answer + "<|return|>"


@pytest.mark.parametrize("make_tokenizer", [byte_level, sentence_piece])
@pytest.mark.parametrize("source", [forms.QWEN3, forms.HARMONY])
def test_the_closing_tag_is_known_by_its_tokens(source, make_tokenizer):
  tokenizer = make_tokenizer(source)
  template = load_chat_template("tokenizer", tokenizer)
  for chain in (fit_chain(TAGGED, template), dataclasses.replace(TAGGED, thinking_form=None)):
    parts = segment(chain, tokenizer, template)
    start, stop = parts.closing
    tag = tokenizer.decode(parts.answer[start:stop])
    assert tag.replace(" ", "") == (template.layout.form.closing if chain.thinking_form else "")
    assert template.layout.form.closing not in tokenizer.decode(parts.answer[stop:])


def test_an_empty_thinking_before_a_visible_reasoning_is_none():
  chain = dataclasses.replace(TAGGED, reasoning=f"<think>\n\n</think>\n\n{THOUGHT}\n", answer=SAID)
  assert find_thinking(chain) == dataclasses.replace(chain, reasoning=f"{THOUGHT}\n")


def test_on_takes_all_reasoning_for_thinking():
  prompt, reasoning, answer = texts_of(VISIBLE, forms.R1, "on")
  assert prompt.endswith("<think>\n")
  assert reasoning == "48 + 24 = 72."
  assert answer == '\n</think>\n\n{"answer": "72"}<|end|>'


def test_off_leaves_the_tags_out():
  prompt, reasoning, answer = texts_of(TAGGED, forms.QWEN3, "off")
  assert prompt.endswith("<think>\n\n</think>\n\n")
  assert (reasoning, answer) == (THOUGHT, f"\n\n{SAID}<|end|>\n")


@pytest.mark.parametrize("mode", ["auto", "off"])
def test_a_template_that_always_thinks_refuses_a_visible_chain(mode):
  _, template = load(forms.R1)
  with pytest.raises(UserError, match=r"chain a has no thinking.*<think>; set thinking=on"):
    fit_chain(VISIBLE, template, mode)


def test_on_needs_a_form():
  _, template = load(forms.CHATML)
  with pytest.raises(UserError, match=r"thinking=on: chain a has no thinking tags.*thinking=auto"):
    fit_chain(VISIBLE, template, "on")


def test_the_word_that_names_gemmas_channel_stands_on_a_line_of_its_own():
  reply = f"<|channel>thought\n{THOUGHT}<channel|>{SAID}"
  chain = Chain(**PARTS, reasoning=reply[:30], answer=reply[30:])
  for source in (forms.CHATML, forms.CHATML.replace("{%", "{#- <channel|> #}{%", 1)):
    prompt, reasoning, answer = texts_of(chain, source)
    assert prompt + reasoning + answer == BEGINNING + f"<|start|>assistant\n{reply}<|end|>\n"
    assert prompt.endswith("<|channel>thought\n")
    assert reasoning == THOUGHT


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_every_form_is_found_wherever_the_border_to_the_answer_is(form):
  text = f"{form.opening}\n{THOUGHT}\n{form.closing}\n\n{SAID}"
  at = text.index(form.closing)
  for border in (at, at - 1, at + len(form.closing), len(text) - 5):
    for start in (0, len(form.opening)):  # with and without the opening tag
      chain = Chain(**PARTS, reasoning=text[start:border], answer=text[border:])
      found = find_thinking(chain)
      assert found.reasoning == THOUGHT
      assert found.answer == f"\n{form.closing}\n\n{SAID}"
      assert found.thinking_form == form.name
      assert find_thinking(found) == found


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_steps_are_those_of_the_thinking_in_any_form(form):
  for reasoning in (
    f"{form.opening}\n{THOUGHT}\n{form.closing}\n\nSo.",
    f"{form.opening}\n{THOUGHT}",
    f"{THOUGHT}\n{form.closing}",
    THOUGHT,
  ):
    parts = split_thinking(reasoning)
    assert parts.text == THOUGHT
    assert "".join(parts) == reasoning


def test_a_form_becomes_that_of_another_model():
  _, template = load(forms.HARMONY)
  harmony = fit_chain(TAGGED, template)
  assert harmony.thinking_form == "harmony"
  _, template = load(forms.QWEN3)
  assert fit_chain(harmony, template) == fit_chain(TAGGED, template)


def test_the_white_space_of_the_chain_stays_where_the_template_states_none():
  chain = dataclasses.replace(TAGGED, reasoning=f"<think>{THOUGHT}</think> ", answer=SAID)
  assert texts_of(chain, forms.R1)[2].startswith("</think> " + SAID)
  assert texts_of(chain, forms.QWEN3)[2].startswith("\n</think>\n\n" + SAID)


@pytest.mark.parametrize(
  ("reasoning", "message"),
  [("<think>\nso", r"begins with <think> and never ends"), ("<think>\n</think>", "nothing stands")],
)
def test_thinking_without_an_end_or_a_word_is_refused(reasoning, message):
  with pytest.raises(UserError, match=rf"chain a: .*{re.escape(message)}"):
    find_thinking(Chain(**PARTS, reasoning=reasoning, answer="72"))


def test_a_record_keeps_the_form():
  chain = find_thinking(TAGGED)
  assert chain.to_record()["thinking_form"] == "think"
  assert Chain.from_record(chain.to_record()) == chain
  with pytest.raises(UserError, match=r'"thinking_form" is .nothing.; expected one of think'):
    Chain.from_record(chain.to_record() | {"thinking_form": "nothing"})


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "thinking_chains").exists(), reason="needs ../shared/data")
def test_real_thinking_chains_are_segmented():
  tokenizer, template = load(forms.R1)
  chains = list(read_chains(str(DATA / "thinking_chains")))
  assert len(chains) == 32
  for chain in chains:
    fitted = fit_chain(chain, template)
    assert fitted.thinking_form == "think"
    assert not re.search("</?think>", fitted.reasoning)
    assert fitted.reasoning == fitted.reasoning.strip()
    assert fitted.answer.count("</think>") == 1
    parts = segment(fitted, tokenizer, template)
    assert tokenizer.decode(parts.prompt).endswith("<think>\n")
