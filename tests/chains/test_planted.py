"""Planted chains: their sums by other code, their pieces, their settings."""

import re

import pytest

from greedy_prune_jax.chains.answers import split_response
from greedy_prune_jax.chains.planted import EXTRAS, PIECES, Kind, count_words, kinds_of_tokens
from greedy_prune_jax.chains.planted_words import VOCABULARIES
from greedy_prune_jax.chains.question_sets import QUESTION_SETS, load_questions
from greedy_prune_jax.chains.reading import read_chains
from greedy_prune_jax.errors import UserError


def pieces_of(chain):
  """Texts and kinds of a chain's pieces."""
  start, found = 0, []
  for size, kind in chain.extra[PIECES]:
    found.append((chain.reasoning[start : start + size], Kind(kind)))
    start += size
  assert start == len(chain.reasoning)
  return found


def running_sums(question, modulus=10):
  """Results of the steps of a question in letters, words or English."""
  text = question.replace("minus ", "-").replace("plus ", "+")
  text = text.replace("Subtract ", "-").replace("Add ", "+").partition("After each")[0]
  numbers = [int(n.replace(" ", "")) for n in re.findall(r"[+-]?\d+", text)]
  return [sum(numbers[: i + 1]) % modulus for i in range(1, len(numbers))]


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("options", ["", ",steps=3,length=0,modulus=7", ",steps=13,length=300"])
def test_needed_pieces_are_the_sums_of_the_question(vocabulary, options):
  modulus = 7 if "modulus" in options else 10
  for chain in read_chains(f"planted@{vocabulary}{options}", num_chains=20):
    needed = [int(text) for text, kind in pieces_of(chain) if kind == Kind.NEEDED]
    assert needed == running_sums(chain.question, modulus)
    assert chain.target == str(needed[-1])
    assert split_response(chain.reasoning + chain.answer, QUESTION_SETS["planted"].form) == (
      chain.reasoning,
      chain.answer,
      chain.target,
    )


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_what_nobody_needs_is_of_its_kind(vocabulary):
  """Withdrawn results are wrong, distractors right sums, restatements earlier results."""
  seen = set()
  for chain in read_chains(f"planted@{vocabulary},length=150", num_chains=30):
    results, copied = [], []
    pieces = pieces_of(chain)
    for (text, kind), (after, _) in zip(pieces, [*pieces[1:], ("", None)], strict=True):
      seen.add(kind)
      numbers = list(map(int, re.findall(r"\d", text)))
      if kind == Kind.NEEDED:
        results += numbers
      elif kind == Kind.COPIED:
        copied.append(numbers)
        assert not results or numbers[0] == results[-1]
      elif kind == Kind.CORRECTION:
        assert numbers[0] != int(after)
      elif kind == Kind.RESTATEMENT:
        assert numbers[0] in results
      elif kind == Kind.DISTRACTOR:
        before, operand, result = numbers
        assert result in ((before + operand) % 10, (before - operand) % 10)
      else:
        assert not numbers
    assert len(copied) == len(results)
  assert seen == set(Kind)


@pytest.mark.parametrize("length", [0, 30, 200, 2000])
def test_lengths_are_what_was_asked_for(length):
  for chain in read_chains(f"planted@english,steps=3,length={length}", num_chains=5):
    assert length <= count_words(chain.reasoning) <= max(length, 60) + 20


@pytest.mark.parametrize(("option", "kind"), EXTRAS.items())
def test_a_share_of_0_leaves_a_kind_out(option, kind):
  kinds = {
    kind
    for chain in read_chains(f"planted@words,length=200,{option}=0", num_chains=20)
    for text, kind in pieces_of(chain)
    if kind != Kind.PREDICTABLE or text == VOCABULARIES["words"].phrase
  }
  assert kinds == set(Kind) - {kind}


def test_seeds_and_splits_share_nothing_and_repeat():
  first = load_questions("planted", num_questions=50)
  assert first[:10] == load_questions("planted", num_questions=10)
  for others in (
    load_questions("planted", num_questions=50, seed=1),
    load_questions("planted", num_questions=50, split="test"),
    load_questions("planted@steps=6", num_questions=50),
  ):
    assert not {q.question for q in first} & {q.question for q in others}


@pytest.mark.parametrize(
  ("source", "message"),
  [
    ("planted@french", "vocabulary=french; expected one of letters, words, english"),
    ("planted@steps=0", "steps=0; expected 1 to 500"),
    ("planted@steps=x", "steps='x'; expected a int"),
    ("planted@size=3", "size is no option; expected vocabulary, steps"),
    ("planted@modulus=11", "modulus=11; expected 2 to 10"),
    ("planted@filler=-1", "filler=-1.0; expected a number from 0"),
    ("planted@filler=nan", "filler=nan; expected a number from 0"),
    ("planted@filler=0,phrase=0,restatement=0,distractor=0", "all 0; expected one above 0"),
  ],
)
def test_options_that_there_are_not(source, message):
  with pytest.raises(UserError, match=message):
    load_questions(source, num_questions=1)


def test_a_token_is_of_the_kind_of_most_of_its_characters():
  pieces = [[1, "label"], [4, "needed result"], [1, "copied operand"]]
  tokens = ["a  1", "2", "c"]  # the spaces count for nobody
  assert kinds_of_tokens(pieces, tokens) == [Kind.LABEL, Kind.NEEDED, Kind.COPIED]
  with pytest.raises(UserError, match=r'"pieces" covers 6 characters; the tokens have 5'):
    kinds_of_tokens(pieces, tokens[:2])
