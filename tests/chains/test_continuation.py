"""Tokens of a chain's parts against those of the whole text, for every kind of tokenizer."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from greedy_prune_jax.chains.chain import Chain
from greedy_prune_jax.chains.chat_template import load_chat_template
from greedy_prune_jax.chains.segments import encode_parts, segment, token_texts
from greedy_prune_jax.models.gguf_tokenizer import load_gguf_tokenizer
from tests.helpers.gguf_files import write_tokenizer_gguf
from tests.helpers.tokenizers_for_tests import (
  byte_level,
  metaspace,
  sentence_piece,
  unigram,
  wordpiece,
)

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
KINDS = {
  "byte_level": byte_level,
  "prepend": sentence_piece,
  "always": lambda template=None: metaspace("always", template),
  "first": lambda template=None: metaspace("first", template),
  "never": lambda template=None: metaspace("never", template),
  "unigram": unigram,
  "wordpiece": wordpiece,
}
LLAMA2 = (
  "{% for m in messages %}{% if m.role == 'user' %}<s>[INST] {{ m.content }} [/INST]"
  "{% else %} {{ m.content }} </s>{% endif %}{% endfor %}"
)
GEMMA = (
  "<s>{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
  "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
SPECIAL_LAST = GEMMA.replace("{{ m.role }}\n", "").replace("assistant\n", "")
CHAIN = Chain(id="a", question="In all", reasoning="The steps.\n", answer='{"answer": "24"}')

# Words, line breaks and spaces in every neighbourhood; what a tokenizer does not know is bytes.
fragments = st.sampled_from(["The", "steps", "is", "24", " ", "\n", ".", "{", "é", "🙂", "<|end|>"])
texts = st.lists(fragments, min_size=1, max_size=4).map("".join)


def whole(tokenizer, text):
  found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
  return found["input_ids"], found["offset_mapping"]


@pytest.fixture(scope="module", params=[*KINDS, "gguf", "gguf without space"])
def tokenizer(request, tmp_path_factory):
  if request.param in KINDS:
    return KINDS[request.param]()
  path = tmp_path_factory.mktemp("gguf") / "model.gguf"
  vocabulary = metaspace("never").get_vocab()
  tokens = sorted(vocabulary, key=vocabulary.get)
  metadata = {
    "ggml.model": "llama",
    "ggml.tokens": tokens,
    "ggml.scores": [-float(i) for i in range(len(tokens))],
    "ggml.token_type": [
      6 if token.startswith("<0x") else 2 if token == "<unk>" else 3 if token[:1] == "<" else 1
      for token in tokens
    ],
    "ggml.unknown_token_id": tokens.index("<unk>"),
    "ggml.add_space_prefix": request.param == "gguf",
  }
  write_tokenizer_gguf(path, metadata)
  return load_gguf_tokenizer(path)


@hypothesis.given(prompt=texts, reasoning=texts, answer=texts)
@hypothesis.settings(deadline=None, max_examples=150)
def test_each_part_has_the_tokens_of_the_whole_text(tokenizer, prompt, reasoning, answer):
  hypothesis.assume(not prompt.endswith(" "))
  parts = encode_parts(tokenizer, prompt, reasoning, answer)
  for i, before in ((1, prompt), (2, prompt + reasoning)):
    ids, spans = whole(tokenizer, before + (reasoning, answer)[i - 1])
    if not any(start < len(before) < end for start, end in spans):
      inside = [id_ for id_, (start, _) in zip(ids, spans, strict=True) if start >= len(before)]
      assert parts[i].ids.tolist() == inside
  assert parts[0].ids.tolist() == whole(tokenizer, prompt)[0]


@hypothesis.given(prompt=texts, reasoning=texts, answer=texts)
@hypothesis.settings(deadline=None, max_examples=150)
def test_no_token_spans_a_border_and_nobody_adds_a_space(tokenizer, prompt, reasoning, answer):
  if "WordPiece" in str(tokenizer.backend_tokenizer.decoder):
    return  # it knows no white space
  prompt = "In" + prompt.rstrip(" ")
  parts = encode_parts(tokenizer, prompt, reasoning, answer)
  ids = np.concatenate([part.ids for part in parts])
  text = prompt + reasoning + answer
  alone = tokenizer.decode(encode_parts(tokenizer, "", text)[1].ids)
  assert tokenizer.decode(ids) == alone
  for part, its in zip(parts[1:], (reasoning, answer), strict=True):
    assert min(start for start, _ in part.spans) >= 0
    assert max(end for _, end in part.spans) <= len(its)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", ["plain", GEMMA, LLAMA2, SPECIAL_LAST])
def test_a_chain_in_a_template_is_the_whole_text(kind, template, tmp_path):
  (tmp_path / "chat.jinja").write_text(template)
  tokenizer = KINDS[kind]()
  name = "plain" if template == "plain" else str(tmp_path / "chat.jinja")
  loaded = load_chat_template(name, tokenizer)
  parts = segment(CHAIN, tokenizer, loaded)
  text = loaded.prompt(CHAIN.question) + CHAIN.reasoning + CHAIN.answer + loaded.tail
  joined = np.concatenate(parts.parts)
  assert joined.tolist() == whole(tokenizer, text)[0]
  first = tokenizer.convert_ids_to_tokens(parts.reasoning.tolist())[0]
  if kind in ("always", "first", "never", "unigram") and template in ("plain", GEMMA):
    assert first == "The"
  if kind in ("always", "first", "never", "unigram") and template == LLAMA2:
    assert first == SPACE + "The"


@pytest.mark.parametrize("kind", ["always", "first", "never"])
def test_a_prompts_last_space_is_that_of_the_first_word(kind):
  tokenizer = metaspace(kind)
  prompt = "[/INST] "
  before, reasoning, answer = encode_parts(tokenizer, prompt, "The steps", " is 24")
  tokens = tokenizer.convert_ids_to_tokens(reasoning.ids.tolist())
  assert tokens == [SPACE + "The", SPACE + "steps"]
  assert token_texts(tokenizer, "The steps", prompt) == ["The", " steps"]
  assert tokenizer.decode(before.ids).endswith("]")
  # After the first word's deletion its space is the next one's, and no second one is left.
  [same, pruned] = encode_parts(tokenizer, prompt, " steps")
  assert same.ids.tolist() == before.ids.tolist()
  assert pruned.ids.tolist() == reasoning.ids[1:].tolist()
  # Of a chain without reasoning it is the answer's.
  [_, none, only] = encode_parts(tokenizer, prompt, "", "is 24")
  assert not len(none.ids)
  assert only.ids.tolist() == answer.ids.tolist()


def test_a_border_that_merges_is_a_border_of_tokens():
  tokenizer = metaspace("first")
  merged = tokenizer("In\n\nThe", add_special_tokens=False)["input_ids"]
  assert tokenizer.convert_ids_to_tokens(merged) == [SPACE + "In", "\n\n", "The"]
  parts = [part.ids.tolist() for part in encode_parts(tokenizer, "In\n", "\nThe")]
  assert [tokenizer.convert_ids_to_tokens(part) for part in parts] == [
    [SPACE + "In", "\n"],
    ["\n", "The"],
  ]
