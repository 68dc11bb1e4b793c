import itertools

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from greedy_prune_jax.chains.kept_text import kept_positions, nearest_positions, spell_kept
from greedy_prune_jax.chains.segments import token_texts
from greedy_prune_jax.errors import UserError
from tests.helpers.tokenizers_for_tests import byte_level, sentence_piece

TOKENS = ["She", " sold", " 4", "8", " and", " 4", "."]


def join(positions):
  return "".join(TOKENS[position] for position in positions)


def test_every_kept_text_gives_back_tokens_that_spell_it():
  for size in range(len(TOKENS) + 1):
    for kept in itertools.combinations(range(len(TOKENS)), size):
      found = kept_positions(TOKENS, join(kept))
      assert join(found) == join(kept)
      assert len(found) == size
      assert found <= list(kept)  # the earliest of those that spell it


def test_a_token_is_left_out_where_only_a_later_one_fits():
  assert kept_positions(TOKENS, " 4.") == [2, 6]
  assert kept_positions(TOKENS, " and 4") == [4, 5]
  assert kept_positions(["a", "ab", "b"], "ab") == [0, 2]
  assert kept_positions(["a", "ab", "c"], "abc") == [1, 2]


def test_the_first_tokens_space_may_be_missing():
  assert kept_positions(TOKENS, "sold 4") == [1, 2]


def test_what_a_tokenizer_decodes_is_read_back():
  tokenizer = byte_level(None)
  text = "Natalia sold 48/2 = 24 clips \N{SLIGHTLY SMILING FACE} in May.\n"
  tokens = token_texts(tokenizer, text)
  assert "" in tokens  # bytes of the smiley
  whole = [i for i in range(len(tokens)) if tokens[i].isascii() and tokens[i]]
  smiley = [i for i in range(len(tokens)) if i not in whole]
  generator = np.random.default_rng(0)
  for _ in range(50):
    kept = sorted(generator.permutation(whole)[: len(whole) // 2].tolist() + smiley)
    kept_text = spell_kept(tokens, kept)
    found = kept_positions(tokens, kept_text)
    assert spell_kept(tokens, found) == kept_text
    assert set(smiley) <= set(found)


@pytest.mark.parametrize("make", [byte_level, sentence_piece])
def test_no_deletion_makes_a_character_that_nobody_wrote(make):
  text = "a \N{SLIGHTLY SMILING FACE}\N{GREEK SMALL LETTER PI}\u6f22 \u5b57\N{ROCKET}!"
  tokens = token_texts(make(), text)
  generator = np.random.default_rng(0)
  for _ in range(200):
    kept = np.flatnonzero(generator.random(len(tokens)) < 0.6).tolist()
    spelled = spell_kept(tokens, kept)
    assert set(spelled) <= set(text) | {"\N{REPLACEMENT CHARACTER}"}
    groups = np.cumsum([0, *(bool(token) for token in tokens)])[:-1]
    torn = [p for p in kept if not set(np.flatnonzero(groups == groups[p])) <= set(kept)]
    assert spelled.count("\N{REPLACEMENT CHARACTER}") == len(torn)
  assert spell_kept(tokens, range(len(tokens))) == text


def test_leftover_bytes_of_two_characters_do_not_join():
  tokens = token_texts(byte_level(), "\u00e9\u00e8x")  # C3 A9, C3 A8
  assert spell_kept(tokens, [0, 3, 4]) == "\N{REPLACEMENT CHARACTER}" * 2 + "x"


def test_a_token_with_a_space_and_half_a_character_has_its_text_with_the_other_half():
  # GPT-2's has one token for a space and the first bytes of an emoji.
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  vocabulary = {piece: i for i, piece in enumerate([*alphabet, "\u0120\u00f0"])}
  model = Tokenizer(models.BPE(vocabulary, [("\u0120", "\u00f0")]))
  model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokens = token_texts(PreTrainedTokenizerFast(tokenizer_object=model), "a \N{ROCKET}b")
  assert tokens == ["a", "", "", "", " \N{ROCKET}", "b"]


def test_a_text_that_was_rewritten_is_refused_with_its_place():
  with pytest.raises(UserError, match=r"no tokens give ' five.', from its character 8 on"):
    kept_positions(TOKENS, "She sold five.")


@pytest.mark.parametrize(
  ("text", "kept"),
  [
    ("She sold 48.", [0, 1, 2, 3, 6]),  # made of tokens
    ("She, as we know, sold 48!", [0, 1, 2, 3]),  # with words of its own
    ("and 48 sold", [1]),  # in another order: the earliest of the longest parts that are in ours
    ("she SOLD", []),  # words are matched as they are
    ("", []),
  ],
)
def test_texts_that_keep_less_than_they_should_are_matched_word_by_word(text, kept):
  assert nearest_positions(TOKENS, text) == kept


def test_white_space_stays_with_the_token_before_it():
  assert nearest_positions(["a", "\n", " b", "\n", " c"], "a x c") == [0, 1, 4]


def longest(ours, theirs):
  """The earliest longest choice of our words that is in theirs, in order, of all choices."""
  sizes = range(len(ours), -1, -1)
  choices = (c for size in sizes for c in itertools.combinations(range(len(ours)), size))
  return list(next(c for c in choices if is_within([ours[i] for i in c], iter(theirs))))


def is_within(words, others):
  return all(word in others for word in words)


def test_as_many_words_as_can_be_are_matched():
  generator = np.random.default_rng(0)
  for _ in range(300):
    ours = list(generator.choice(list("abc"), generator.integers(8)))
    theirs = list(generator.choice(list("abcd"), generator.integers(8)))
    tokens = [f" {word}" for word in ours]
    assert nearest_positions(tokens, "! " + " ".join(theirs)) == longest(ours, theirs)


def test_words_that_are_kept_in_order_are_all_found_beside_words_of_the_writers_own():
  generator = np.random.default_rng(0)
  words = [f" w{number}" for number in generator.integers(200, size=3000)]
  tokens = [*words, "."]
  kept = np.flatnonzero(generator.random(len(words)) < 0.4)
  text = "Shorter:" + "".join(words[i] for i in kept)
  found = nearest_positions(tokens, text)
  assert "".join(tokens[i] for i in found) == "".join(words[i] for i in kept)
