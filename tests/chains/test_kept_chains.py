import dataclasses

import pytest

from greedy_prune_jax.chains.chain import Chain, PrunedChain
from greedy_prune_jax.chains.kept_chains import describe_kept, kept_chain, read_kept
from greedy_prune_jax.errors import UserError
from tests.chains.test_reading import OWN, RESULTS, write_jsonl

TOKENS = ("One ", "two ", "", "\N{GRINNING FACE} ", "four ", "five")


def pruned(chain, tokens, order, unit="token"):
  results = RESULTS | {
    "reasoning_ids": list(range(len(tokens))),
    "reasoning_tokens": list(tokens),
    "deletion_order": list(order),
    "nll": dict.fromkeys(("joint", "answer", "reasoning"), [1.0] * (len(order) + 1)),
    "pruned": {},
    "unit": unit,
  }
  return PrunedChain.from_record(chain.to_record() | results)


@pytest.fixture
def first():
  return pruned(Chain(**OWN | {"reasoning": "".join(TOKENS)}), TOKENS, (1, 4, 0), "sentence")


def told(chain):
  """Text that is left, found anew from the record's fields."""
  source = chain.extra["pruned_from"]
  return "".join(source["reasoning"][start:end] for start, end in source["kept_spans"])


def test_what_is_left_is_a_chain_that_tells_what_it_is_left_of(first):
  chain = kept_chain(first, 0.7, "runs/first")
  assert chain.reasoning == "One \N{GRINNING FACE} five" == told(chain)
  source = chain.extra["pruned_from"]
  assert source["reasoning"] == first.chain.reasoning
  assert source["kept_spans"] == [[0, 4], [8, 10], [15, 19]]
  (run,) = source["runs"]
  assert (run["source"], run["keep_ratio"], run["unit"]) == ("runs/first", 0.7, "sentence")
  assert dataclasses.replace(chain, reasoning="", extra={}) == dataclasses.replace(
    first.chain, reasoning=""
  )


def test_the_first_chain_that_is_left_is_described(first, tmp_path):
  empty = dataclasses.replace(first.chain, id="empty", reasoning="x")
  nothing = pruned(empty, ("x",), (0,))
  lines = [nothing.to_record(), first.to_record()]
  source = write_jsonl(tmp_path / "first.jsonl", *lines)
  text = describe_kept(source, 0.7, on_bad=lambda _: None)
  assert text.startswith(f"first chain of {source}, as chains_ratio=0.7 leaves it\n")
  assert f"{'reasoning':>18}  'One \N{GRINNING FACE} five'\n" in text
  assert f"{'carried along':>18}  pruned_from" in text
  with pytest.raises(UserError, match=r"chain empty: nothing of its reasoning is left at 0\.7"):
    describe_kept(source, 0.7)
  source = write_jsonl(tmp_path / "nothing.jsonl", nothing.to_record())
  with pytest.raises(UserError, match=r"no chain of it can be used at chains_ratio=0\.7"):
    describe_kept(source, 0.7, on_bad=lambda _: None)


def test_a_chain_that_is_pruned_again_tells_of_the_first(first):
  second = kept_chain(first, 0.7, "runs/first")  # "One (emoji) five"
  again = pruned(second, ("On", "e \N{GRINNING FACE}", " fi", "ve"), (0, 2))
  third = kept_chain(again, 0.5, "runs/second")
  assert third.reasoning == "e \N{GRINNING FACE}ve" == told(third)
  source = third.extra["pruned_from"]
  assert source["reasoning"] == first.chain.reasoning
  assert [run["source"] for run in source["runs"]] == ["runs/first", "runs/second"]
  assert source["kept_spans"] == [[2, 4], [8, 9], [17, 19]]


def test_too_little_is_named_or_left_out(first, tmp_path):
  with pytest.raises(UserError, match=r"was not pruned to 0.4: 3 of its 6 reasoning tokens"):
    kept_chain(first, 0.4, "x")
  blank = pruned(Chain(**OWN | {"reasoning": "One \n"}), ("One ", "\n"), (0,))
  with pytest.raises(UserError, match=r"nothing of its reasoning is left at 0\.5"):
    kept_chain(blank, 0.5, "x")
  path = write_jsonl(tmp_path / "x.jsonl", blank.to_record(), first.to_record() | {"id": "b"})
  bad = []
  assert [chain.id for chain in read_kept(path, 0.5, on_bad=bad.append)] == ["b"]
  assert [one.id for one in bad] == ["a"]
  with pytest.raises(UserError, match="nothing of its reasoning"):
    list(read_kept(path, 0.5))


@pytest.mark.parametrize("left", [2, 3])
def test_parts_of_a_character_are_no_chain(first, left):
  torn = pruned(first.chain, TOKENS, (5 - left, 4, 0))
  with pytest.raises(UserError, match=r"parts of characters are left at 0\.5.*unit=word"):
    kept_chain(torn, 0.5, "x")


def test_parts_of_a_replacement_character_are_not_that_character():
  """Byte-level tokenizers write U+FFFD as three tokens; the last one alone is a leftover byte."""
  tokens = ("One ", "", "", "\N{REPLACEMENT CHARACTER}", " two")
  chain = Chain(**OWN | {"reasoning": "".join(tokens)})
  assert "\N{REPLACEMENT CHARACTER}" in kept_chain(pruned(chain, tokens, (0,)), 0.8, "x").reasoning
  with pytest.raises(UserError, match="parts of characters are left"):
    kept_chain(pruned(chain, tokens, (1, 2)), 0.6, "x")
