import dataclasses
import json

import pytest

from greedy_prune_jax.chains.chain import Chain, PrunedChain, ratio_key, share_of
from greedy_prune_jax.errors import UserError
from tests.helpers.planted import pruned_chain

CHAIN = {
  "id": "gsm8k/0",
  "question": "What is 6 times 7?",
  "reasoning": "6 * 7 = 42\n",
  "answer": '{"answer": "42"}',
  "system": "Be brief.",
  "target": "42",
  "teacher": {"name": "someone", "temperature": 0.5},
}
PRUNED = CHAIN | {
  "pruner": "tiny",
  "objective": "joint",
  "ranking": "random",
  "search": "exact",
  "unit": "token",
  "reasoning_ids": [5, 6, 7, 8],
  "reasoning_tokens": ["6 *", " 7", " =", " 42\n"],
  "deletion_order": [2, 0, 1, 3],
  "nll": {
    "joint": [1.0, 1.5, 1.25, 2.0, 2.5],
    "answer": [0.5, 0.25, 0.5, 0.5, 0.5],
    "reasoning": [2.0, 2.5, 3.0, 3.5, None],
  },
  "pruned": {"0.5": " 7 42\n", "0.0": ""},
  "positions_scored": 1234,
  "seconds": 2.5,
}


def without(record, key):
  return {k: v for k, v in record.items() if k != key}


def test_chain_round_trip_keeps_every_key():
  chain = Chain.from_record(CHAIN)
  assert chain.system == "Be brief."
  assert chain.extra == {"teacher": {"name": "someone", "temperature": 0.5}}
  assert chain.to_record() == CHAIN


def test_optional_texts_are_left_out_when_absent():
  record = without(CHAIN, "target") | {"system": ""}
  chain = Chain.from_record(record)
  assert chain.system is None
  assert chain.to_record() == without(without(CHAIN, "target"), "system")


@pytest.mark.parametrize("key", ["id", "question", "reasoning", "answer"])
@pytest.mark.parametrize(
  ("value", "reason"),
  [(7, "must be a string, not a whole number"), (None, "not null"), (" \n", "is empty")],
)
def test_chain_names_the_key_it_cannot_use(key, value, reason):
  with pytest.raises(UserError, match=f'"{key}" {reason}|"{key}" .*{reason}'):
    Chain.from_record(CHAIN | {key: value})


def test_chain_names_the_key_it_lacks_and_those_it_has():
  with pytest.raises(UserError, match=r'lacks the key "answer" .*reasoning, system, target'):
    Chain.from_record(without(CHAIN, "answer"))


@pytest.mark.parametrize("key", ["system", "target"])
def test_optional_texts_must_be_strings(key):
  with pytest.raises(UserError, match=f'"{key}" must be a string'):
    Chain.from_record(CHAIN | {key: 42})


def test_pruned_chain_round_trip_through_json():
  pruned = PrunedChain.from_record(json.loads(json.dumps(PRUNED)))
  assert pruned.chain == Chain.from_record(CHAIN)
  assert pruned.ranking == "random"
  assert pruned.deletion_order == (2, 0, 1, 3)
  assert pruned.nll["reasoning"] == (2.0, 2.5, 3.0, 3.5, None)
  assert json.loads(json.dumps(pruned.to_record())) == PRUNED


def test_a_pruned_record_that_names_no_ranking_is_of_greedy_search():
  assert PrunedChain.from_record(without(PRUNED, "ranking")).ranking == "greedy"


def test_a_pruned_record_is_an_input_chain_without_its_results():
  assert Chain.from_record(PRUNED).to_record() == CHAIN


@pytest.mark.parametrize(
  ("change", "reason"),
  [
    ({"reasoning_tokens": ["6"]}, '"reasoning_tokens" has 1 items, "reasoning_ids" 4'),
    ({"reasoning_ids": [5, 6, 7, "8"]}, 'item 3 of "reasoning_ids" must be a whole number'),
    ({"reasoning_ids": [5, 6, 7, True]}, 'item 3 of "reasoning_ids" must be a whole number'),
    ({"deletion_order": [2, 2]}, '"deletion_order" repeats'),
    ({"deletion_order": [4]}, "outside 0 to 3"),
    ({"nll": [1.0]}, '"nll" must be an object, not a list'),
    ({"nll": {"joint": ["x"]}}, 'item 0 of "joint" must be a number'),
    ({"nll": PRUNED["nll"] | {"answer": [1.0]}}, '5 items of "answer", for 4 deletions; it has 1'),
    ({"nll": {"joint": PRUNED["nll"]["joint"]}}, '"nll" must have 5 items of "answer"'),
    ({"pruned": {"1.5": ""}}, "expected keep ratios below 1"),
    ({"pruned": {"half": ""}}, "expected keep ratios below 1"),
    ({"pruned": {"0.5": 1}}, '"0.5" must be a string'),
    ({"seconds": "fast"}, '"seconds" must be a number'),
  ],
)
def test_pruned_chain_names_what_is_wrong(change, reason):
  with pytest.raises(UserError, match=reason):
    PrunedChain.from_record(PRUNED | change)


def test_kept_positions_follow_the_deletion_order():
  pruned = PrunedChain.from_record(PRUNED)
  assert pruned.kept_positions(4) == [0, 1, 2, 3]
  assert pruned.kept_positions(2) == [1, 3]
  assert pruned.kept_positions(0) == []
  nll = {key: values[:2] for key, values in PRUNED["nll"].items()}
  short = PrunedChain.from_record(PRUNED | {"deletion_order": [2], "nll": nll, "pruned": {}})
  with pytest.raises(ValueError, match=r"num_kept=2: chain gsm8k/0 has 4 .* of which 1 were"):
    short.kept_positions(2)


WORDS = PRUNED | {
  "unit": "word",
  "unit_sizes": [1, 2, 1],
  "deletion_order": [1, 2, 3],
  "nll": {key: [1.0, 1.5, 2.0] for key in ("joint", "answer", "reasoning")},
  "pruned": {"0.5": " 42\n"},
}


def test_a_record_of_longer_units_goes_by_deletions():
  pruned = PrunedChain.from_record(json.loads(json.dumps(WORDS)))
  assert json.loads(json.dumps(pruned.to_record())) == WORDS
  assert pruned.deletions == ((1, 2), (3,))
  assert [pruned.deletions_to(n) for n in (4, 3, 2, 1)] == [0, 1, 1, 2]
  assert [pruned.kept_positions(n) for n in (4, 3, 2, 1)] == [[0, 1, 2, 3], [0, 3], [0, 3], [0]]
  with pytest.raises(ValueError, match=r"num_kept=0: .* has 4 reasoning tokens, of which 3 w"):
    pruned.kept_positions(0)


def test_deletions_of_a_run_are_one_move():
  pruned = PrunedChain.from_record(PRUNED | {"move_sizes": [3, 1]})
  assert pruned.moves == ((2, 0, 1), (3,))
  assert pruned.gone_before == (0, 0, 0, 3)
  assert len(pruned.deletions) == 4
  units = PrunedChain.from_record(WORDS)
  assert units.moves == units.deletions


def test_tokens_are_units_of_one_in_a_record_that_says_nothing_else():
  pruned = PrunedChain.from_record(PRUNED)
  assert pruned.unit_sizes is None
  assert pruned.deletions == ((2,), (0,), (1,), (3,))
  assert [pruned.deletions_to(n) for n in (4, 2, 0)] == [0, 2, 4]


@pytest.mark.parametrize(
  ("change", "reason"),
  [
    ({"unit_sizes": [1, 2]}, "add up to the 4 reasoning tokens; they add up to 3"),
    ({"unit_sizes": [1, 0, 3]}, "must be 1 or more each"),
    ({"unit_sizes": "12"}, '"unit_sizes" must be a list'),
    ({"deletion_order": [3, 2, 1]}, 'item 1 of "deletion_order", 2, does not begin a unit'),
    ({"deletion_order": [3, 1]}, 'item 1 of "deletion_order", 1, does not begin a unit'),
  ],
)
def test_a_record_whose_units_do_not_fit_names_what_is_wrong(change, reason):
  with pytest.raises(UserError, match=reason):
    PrunedChain.from_record(WORDS | change)


def test_ratio_key_is_the_shortest_decimal():
  assert [ratio_key(r) for r in (0.5, 0.9, 0, 1 / 3)] == ["0.5", "0.9", "0.0", "0.3333333333333333"]


def test_a_share_of_tokens_is_that_of_the_number_as_it_is_written():
  for percent in range(101):
    found = [share_of(tokens, percent / 100) for tokens in range(600)]
    assert found == [tokens * percent // 100 for tokens in range(600)]
  assert [share_of(90, share) for share in (1 / 3, 0.7000000000000001, 0.6999)] == [30, 63, 62]


@pytest.mark.parametrize("kept", [62, 63])  # earlier versions kept 62 at 0.7
def test_a_record_of_ninety_tokens_pruned_to_0_7_can_be_read(kept):
  made = pruned_chain(["x"] * 90, range(90 - kept))
  record = dataclasses.replace(made, pruned={"0.7": "x" * kept}).to_record()
  pruned = PrunedChain.from_record(json.loads(json.dumps(record)))
  assert pruned.text_at(0.7) == "x" * kept
  assert len(pruned.positions_at(0.7)) == 63


def test_a_chain_that_changed_is_told_part_by_part():
  then = Chain(id="c", question="q", reasoning="x" * 100 + "old" + "y" * 99, answer="a", target="I")
  then.check_unchanged(then)
  dataclasses.replace(then, extra={"k": 1}).check_unchanged(then)
  with pytest.raises(UserError) as error:
    dataclasses.replace(then, target="J").check_unchanged(then)
  assert str(error.value) == (
    "chain c is not as it was when this workdir was begun: target was 'I', is 'J'. Put the old "
    "value back, or choose another workdir"
  )
  now = dataclasses.replace(then, reasoning="x" * 100 + "new", target=None)
  with pytest.raises(UserError) as error:
    now.check_unchanged(then)
  was, is_now = (f"{'x' * 40}{word}" for word in ("old", "new"))
  assert f"reasoning was ... '{was}{'y' * 37}' ..., is ... '{is_now}'; target was 'I', is None" in (
    str(error.value)
  )
