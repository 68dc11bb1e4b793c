"""Small models from nothing: random weights of a given shape, and tokenizers made for `planted`.

A tokenizer is a folder in the cache, named like a model: `planted-characters` has every printable
ASCII character, `planted-words` the words of the vocabularies besides.
"""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from greedy_prune_jax.chains.planted_words import VOCABULARIES, Vocabulary
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.decoder import Decoder, Model
from greedy_prune_jax.models.fields import FieldError
from greedy_prune_jax.models.parameters import ChooseShardings

RANDOM = "random:"

_END = "</s>"
_CHARACTERS = ["\n", *map(chr, range(ord(" "), 127))]
_WORD = r" ?[A-Za-z]+| ?\d|[^A-Za-z\d]"
# A line of question, and the reply behind it: nothing that a model would first have to learn.
_TEMPLATE = (
  "{% for message in messages %}{{ message.content }}"
  "{% if message.role == 'assistant' %}{{ eos_token }}{% else %}{{ '\n' }}{% endif %}{% endfor %}"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomInit:
  """The shape of a Llama with random weights; heads are 32 wide."""

  layers: int
  width: int  # width of the residual stream, a multiple of 32
  context: int = 4096  # longest text, in tokens

  @classmethod
  def parse(cls, text: str) -> "RandomInit":
    """Reads `random:layers=3,width=128`.

    Raises:
      UserError: it is of another form, or no such model can be.
    """
    names = [field.name for field in dataclasses.fields(cls)]
    pairs = [part.partition("=")[::2] for part in text.removeprefix(RANDOM).split(",")]
    values = {name: int(value) for name, value in pairs if value.isdecimal()}
    wrong = len(values) < len(pairs) or not {"layers", "width"} <= set(values) <= set(names)
    if not text.startswith(RANDOM) or wrong:
      raise UserError(
        f"init={text!r}; expected random:layers=3,width=128 and perhaps ,context=4096"
      )
    if values["width"] % 32 or not values["width"]:
      raise UserError(f"init={text!r}: width={values['width']}; expected a multiple of 32")
    init = cls(**values)
    try:
      init.config(1)
    except FieldError as error:
      raise UserError(f"init={text!r}: {error}") from error
    return init

  def config(self, vocab_size: int) -> ModelConfig:
    """The model's config."""
    return ModelConfig(
      family="llama",
      vocab_size=vocab_size,
      model_dim=self.width,
      num_layers=self.layers,
      num_heads=self.width // 32,
      num_kv_heads=self.width // 32,
      head_dim=32,
      mlp_dim=2 * self.width,
      max_positions=self.context,
      norm_eps=1e-5,
      tied_head=True,
    )


def random_model(
  init: RandomInit, vocab_size: int, seed: int, dtype: Any, shardings: ChooseShardings | None = None
) -> Model:
  """A model with random weights; equal seeds give equal ones.

  Args:
    init: shape of the model.
    vocab_size: tokens of its tokenizer.
    seed: seed of the weights.
    dtype: dtype of the weights.
  """
  model = Model.from_decoder(Decoder(init.config(vocab_size), nnx.Rngs(seed), dtype))
  if shardings is None:
    return model
  return dataclasses.replace(model, params=jax.device_put(model.params, shardings(model.params)))


def make_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
  """A tokenizer that knows every printable ASCII character, and words beside them.

  Args:
    words: those that are one token, each with its leading space where it has one.
  """
  pieces = list(dict.fromkeys([_END, *_CHARACTERS, *words]))
  vocab = {piece: i for i, piece in enumerate(pieces)}
  # A piece of the text that is in the vocabulary is one token; others fall into characters.
  tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
  tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_WORD), behavior="isolated")
  tokenizer.decoder = decoders.Fuse()
  return PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, eos_token=_END, pad_token=_END, chat_template=_TEMPLATE
  )


def vocabulary_words(vocabulary: Vocabulary) -> list[str]:
  """All words that chains of a vocabulary have, with and without a leading space; digits too."""
  fields = dataclasses.astuple(vocabulary)
  found = re.findall(r"[A-Za-z]{2,}", re.sub(r"\{\w+\}", " ", str(fields)))
  digits = list(map(str, range(10)))
  return [form for word in [*dict.fromkeys(found), *digits] for form in (word, f" {word}")]


def _words() -> list[str]:
  return [word for name in ("words", "english") for word in vocabulary_words(VOCABULARIES[name])]


TOKENIZERS: dict[str, Callable[[], list[str]]] = {
  "planted-characters": list,
  "planted-words": _words,
}


def tokenizer_folder(name: str, cache: Path) -> Path:
  """The folder of one of `TOKENIZERS`, written once."""
  words = TOKENIZERS[name]()
  digest = hashlib.sha256(json.dumps([_CHARACTERS, words, _TEMPLATE, _WORD]).encode()).hexdigest()
  folder = cache / f"{name}-{digest[:12]}"
  if folder.is_dir():
    return folder
  cache.mkdir(parents=True, exist_ok=True)
  made = Path(tempfile.mkdtemp(dir=cache))
  make_tokenizer(words).save_pretrained(made)
  try:
    os.replace(made, folder)
  except OSError:  # another process was faster
    shutil.rmtree(made)
  return folder
