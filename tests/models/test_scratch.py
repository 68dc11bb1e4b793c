"""Models from nothing: tokenizers that spell every chain, random weights of a seed."""

import jax
import numpy as np
import pytest

from greedy_prune_jax.chains.chat_template import load_chat_template
from greedy_prune_jax.chains.reading import read_chains
from greedy_prune_jax.chains.segments import segment
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models import pretrained
from greedy_prune_jax.models.pretrained import load_model, load_tokenizer
from greedy_prune_jax.models.scratch import RandomInit, random_model


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setattr(pretrained, "_cache_folder", lambda: tmp_path)


@pytest.mark.parametrize(
  ("name", "vocabulary", "one"),
  [
    ("planted-characters", "letters", "k"),
    ("planted-words", "words", "kettle"),
    ("planted-words", "english", " kettle"),
  ],
)
def test_a_tokenizer_spells_every_chain(name, vocabulary, one):
  tokenizer = load_tokenizer(name)
  template = load_chat_template("tokenizer", tokenizer)
  lengths = []
  for chain in read_chains(f"planted@{vocabulary},length=100", num_chains=30):
    segments = segment(chain, tokenizer, template)
    texts = [tokenizer.decode([id_]) for id_ in segments.reasoning]
    assert "".join(texts) == tokenizer.decode(segments.reasoning) == chain.reasoning
    assert tokenizer.decode(segments.answer) == chain.answer + "</s>"
    lengths.append(len(texts))
  assert max(lengths) < 130, "words that are not known fall into characters"
  assert len(tokenizer(one)["input_ids"]) == 1
  assert tokenizer.decode(tokenizer("Zyx, 42!")["input_ids"]) == "Zyx, 42!"


def test_a_tokenizer_is_written_once(tmp_path):
  load_tokenizer("planted-words")
  (folder,) = tmp_path.iterdir()
  before = (folder / "tokenizer.json").stat().st_mtime_ns
  load_tokenizer("planted-words")
  assert (folder / "tokenizer.json").stat().st_mtime_ns == before


def test_a_tokenizer_is_no_model():
  with pytest.raises(UserError, match=r"planted-words is a tokenizer without a model; .*init="):
    load_model("planted-words", "float32")


def test_random_weights_are_the_seeds():
  init = RandomInit.parse("random:layers=2,width=64,context=128")
  one, same, other = (random_model(init, 50, seed, "float32") for seed in (0, 0, 1))
  leaves = [jax.tree.leaves(model.params) for model in (one, same, other)]
  for a, b in zip(leaves[0], leaves[1], strict=True):
    np.testing.assert_array_equal(a, b)
  assert any((a != b).any() for a, b in zip(leaves[0], leaves[2], strict=True))
  assert (one.config.num_layers, one.config.num_heads, one.config.max_positions) == (2, 2, 128)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("random", "expected random:layers=3,width=128"),
    ("random:layers=3", "expected random:layers=3,width=128"),
    ("random:layers=3,width=128,depth=1", "expected random:layers=3,width=128"),
    ("random:layers=three,width=128", "expected random:layers=3,width=128"),
    ("random:layers=3,width=100", "width=100; expected a multiple of 32"),
    ("random:layers=0,width=64", "num_layers=0; expected a whole number from 1"),
  ],
)
def test_shapes_that_cannot_be(text, message):
  with pytest.raises(UserError, match=message):
    RandomInit.parse(text)
