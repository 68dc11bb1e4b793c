"""Tiny tokenizers of the two kinds that matter: byte-level BPE, and SentencePiece's BPE."""

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
