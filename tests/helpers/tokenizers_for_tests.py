"""Tiny tokenizers of all kinds that models have, of one small vocabulary."""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<s>", "</s>", "<|start|>", "<|end|>")
TEXTS = (
  "Natalia sold 48/2 = 24 clips in May. How many clips did Natalia sell in April and May?",
  "The reasoning goes step by step, and the answer follows on a line of its own.\n",
)


def byte_level(chat_template=None) -> PreTrainedTokenizerFast:
  tokenizer = Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=400,
    special_tokens=list(SPECIAL),
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  tokenizer.train_from_iterator(TEXTS, trainer)
  return PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", chat_template=chat_template
  )


def sentence_piece(chat_template=None) -> PreTrainedTokenizerFast:
  """Begins every text with a space of its own, and falls back to bytes, as Llama 2's does."""
  space = "\N{LOWER ONE EIGHTH BLOCK}"
  pieces = [*SPECIAL, "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), space]
  pieces += sorted(set("".join(TEXTS)) - set(" \n"))
  merges = [(space, "t"), (space + "t", "h"), (space, "a"), ("i", "n"), (space, "i")]
  pieces += ["".join(pair) for pair in merges]
  tokenizer = Tokenizer(
    models.BPE(
      {piece: i for i, piece in enumerate(pieces)},
      merges,
      unk_token="<unk>",
      byte_fallback=True,
      fuse_unk=True,
    )
  )
  tokenizer.normalizer = normalizers.Sequence(
    [normalizers.Prepend(space), normalizers.Replace(" ", space)]
  )
  tokenizer.decoder = decoders.Sequence(
    [decoders.Replace(space, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1)]
  )
  tokenizer.add_special_tokens(list(SPECIAL))
  return PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", chat_template=chat_template
  )


_WORDS = (
  "The",
  "Then",
  "In",
  "all",
  "step",
  "steps",
  "by",
  "is",
  "answer",
  "24",
  "2",
  "4",
  "{",
  "}",
)
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


def metaspace(prepend_scheme: str, chat_template=None) -> PreTrainedTokenizerFast:
  """SentencePiece's BPE as its newer conversions have it; the scheme says where a space is added.

  It has words with and without their space, and, as Gemma's, tokens of several line breaks.
  """
  pieces = [*SPECIAL, "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), _SPACE, "\n"]
  pieces += sorted(set("".join(_WORDS)))
  merges = [(_SPACE, _SPACE), ("\n", "\n"), (".", "\n")]
  pieces.append(".")
  for word in _WORDS:
    merges += [(word[:cut], word[cut]) for cut in range(1, len(word))]
  merges = list(dict.fromkeys([*merges, *((_SPACE, word) for word in _WORDS)]))
  pieces = list(dict.fromkeys([*pieces, *map("".join, merges)]))
  vocabulary = {piece: i for i, piece in enumerate(pieces)}
  model = models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
  return _metaspace(model, prepend_scheme, chat_template)


def unigram(chat_template=None) -> PreTrainedTokenizerFast:
  """SentencePiece's other model, which chooses the likeliest pieces."""
  letters = sorted(set("".join(_WORDS)) | {".", "\n", _SPACE})
  pieces = [(text, 0.0) for text in SPECIAL] + [("<unk>", 0.0)]
  pieces += [(letter, -10.0) for letter in letters]
  pieces += [(text, -3.0) for word in _WORDS if word[1:] for text in (word, _SPACE + word)]
  pieces += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
  model = models.Unigram(pieces, unk_id=len(SPECIAL), byte_fallback=True)
  return _metaspace(model, "first", chat_template)


def _metaspace(model, prepend_scheme: str, chat_template) -> PreTrainedTokenizerFast:
  tokenizer = Tokenizer(model)
  tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend_scheme, split=False)
  tokenizer.decoder = decoders.Sequence(
    [
      decoders.Replace(_SPACE, " "),
      decoders.ByteFallback(),
      decoders.Fuse(),
      *([] if prepend_scheme == "never" else [decoders.Strip(" ", 1)]),
    ]
  )
  tokenizer.add_special_tokens(list(SPECIAL))
  return PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", chat_template=chat_template
  )


def wordpiece(chat_template=None) -> PreTrainedTokenizerFast:
  """BERT's: words by their beginnings, all white space the same."""
  letters = sorted(set("".join(_WORDS)) | {".", ":", "[", "]", "/"})
  pieces = [*SPECIAL, "[UNK]", *letters, *(f"##{letter}" for letter in letters), *_WORDS]
  tokenizer = Tokenizer(
    models.WordPiece({p: i for i, p in enumerate(dict.fromkeys(pieces))}, unk_token="[UNK]")
  )
  tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  tokenizer.decoder = decoders.WordPiece()
  tokenizer.add_special_tokens(list(SPECIAL))
  return PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", chat_template=chat_template
  )
