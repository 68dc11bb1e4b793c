"""From chains to what a student is to write."""

import dataclasses
import json

import numpy as np
import pytest

from greedy_prune_jax.chains.chain import Chain, PrunedChain
from greedy_prune_jax.chains.chat_template import load_chat_template
from greedy_prune_jax.chains.ratio_form import told_question
from greedy_prune_jax.chains.segments import token_texts
from greedy_prune_jax.distill.examples import (
  ExampleSettings,
  make_example,
  make_examples,
  read_texts,
)
from greedy_prune_jax.errors import UserError
from tests.helpers.tiny_runs import TEMPLATE
from tests.helpers.tokenizers_for_tests import byte_level

TOKENS = ("Add", " 3", " and", " 4", ".\n")


@pytest.fixture(scope="module")
def tokenizer():
  return byte_level(TEMPLATE)


@pytest.fixture(scope="module")
def template(tokenizer):
  return load_chat_template("tokenizer", tokenizer)


def chain(chain_id="a"):
  return Chain(id=chain_id, question="3 + 4?", reasoning="".join(TOKENS), answer='{"answer": "7"}')


def pruned_record(chain_id="a", pruned=None, order=(2, 0, 4)):
  return PrunedChain(
    chain=chain(chain_id),
    pruner="tiny",
    objective="joint",
    search="exact",
    unit="token",
    reasoning_ids=tuple(range(len(TOKENS))),
    reasoning_tokens=TOKENS,
    deletion_order=order,
    nll=dict.fromkeys(("joint", "answer", "reasoning"), (1.0,) * 4),
    pruned=pruned or {},
    positions_scored=1,
    seconds=0.0,
  )


def form(**changes):
  settings = {"keep_ratios": (1.0,), "ratio_form": "", "max_length": 500, "thinking": "auto"}
  return ExampleSettings(**settings | changes)


def texts(*ids, ratios=(1.0,)):
  chains = [dataclasses.replace(chain(i), question=f"{i}: 3 + 4?") for i in ids]
  return iter([(c, dict.fromkeys(ratios, "7.")) for c in chains])


def test_an_example_is_the_students_chat_and_the_loss_is_on_its_reply(tokenizer, template):
  example = make_example(chain(), "Add 3.", 0.5, tokenizer, template)
  prompt = tokenizer.decode(example.token_ids[: example.num_prompt])
  completion = tokenizer.decode(example.token_ids[example.num_prompt :])
  assert prompt == "<|start|>user\n3 + 4?<|end|>\n<|start|>assistant\n"
  assert completion == 'Add 3.{"answer": "7"}<|end|>\n'
  assert example.id == "a@0.5"


@pytest.mark.parametrize(
  ("ratio", "text"),
  [
    (1, "Add 3 and 4.\n"),
    (0.8, "stored"),
    (0.6, " 3 4.\n"),  # int(5 * 0.6) tokens: "and" and "Add" left first
    (0.4, " 3 4"),
  ],
)
def test_the_text_at_a_ratio(ratio, text):
  assert pruned_record(pruned={"0.8": "stored"}).text_at(ratio) == text


def test_a_ratio_that_was_not_pruned_to():
  with pytest.raises(UserError, match=r"chain a was not pruned to 0.2: 3 of its 5 reasoning"):
    pruned_record().text_at(0.2)


def test_reading_a_prune_workdir_or_any_chains(tmp_path):
  path = tmp_path / "pruned.jsonl"
  path.write_text(json.dumps(pruned_record().to_record()) + "\n")
  texts = {0.0: "", 0.4: " 3 4", 1.0: "".join(TOKENS)}  # 0 though it was not pruned so far
  assert [t for _, t in read_texts(str(path), (0.0, 0.4, 1.0))] == [texts]
  path.write_text("".join(json.dumps(chain(i).to_record()) + "\n" for i in "abc"))
  found = read_texts(str(path), (0.0, 1.0), num_chains=2)
  assert [c.id for c, _ in found] == ["a", "b"]
  assert found[0][1] == {0.0: "", 1.0: "".join(TOKENS)}
  with pytest.raises(
    UserError, match=r'lacks the key "reasoning_ids".*not pruned.*keep_ratios other'
  ):
    read_texts(str(path), (0.5,))


@pytest.mark.parametrize("held_out", [0, 1])
def test_examples_are_known_by_their_tokens(tokenizer, template, held_out):
  """Chains that were pruned again to the same lengths are others."""

  def fingerprint(text):
    chains = [(c, {0.5: text}) for c, _ in texts("a", "b")]
    return make_examples(
      chains, form(keep_ratios=(0.5,)), tokenizer, template, num_validation=held_out
    ).fingerprint

  assert len(tokenizer("Add 3.")["input_ids"]) == len(tokenizer("Add 4.")["input_ids"])
  assert fingerprint("Add 3.") == fingerprint("Add 3.")
  assert fingerprint("Add 3.") != fingerprint("Add 4.")


def test_which_chains_are_taken_does_not_depend_on_the_order_of_files(tmp_path):
  for name, ids in (("one", "abc"), ("other", "cab")):
    records = [pruned_record(chain_id).to_record() for chain_id in ids]
    (tmp_path / name).write_text("".join(json.dumps(record) + "\n" for record in records))
  for ratios in ((0.4,), (1.0,)):
    for name in ("one", "other"):
      taken = read_texts(str(tmp_path / name), ratios, num_chains=2)
      assert [chain.id for chain, _ in taken] == ["a", "b"]


def test_of_a_question_set_the_seed_decides_which_chains_are_taken():
  taken = [read_texts("gsm_symbolic", (1.0,), num_chains=3, seed=seed) for seed in (0, 0, 1)]
  ids = [[chain.id for chain, _ in chains] for chains in taken]
  assert ids[0] == ids[1] != ids[2]
  assert list(map(len, ids)) == [3, 3, 3]


def test_the_text_at_a_ratio_of_longer_units_has_whole_ones_of_at_most_so_many_tokens():
  pruned = dataclasses.replace(pruned_record(order=(1, 2, 0)), unit="word", unit_sizes=(1, 2, 2))
  assert pruned.text_at(0.9) == "Add 4.\n"
  assert pruned.text_at(0.6) == "Add 4.\n"
  assert pruned.text_at(0.4) == " 4.\n"
  with pytest.raises(UserError, match=r"pruned to 0.2: 3 of its 5 reasoning tokens were deleted"):
    pruned.text_at(0.2)


def test_the_ratio_in_the_prompt(tokenizer, template):
  ratio_form = "{question}\nKeep {ratio}."
  assert told_question("What is {ratio}?", 0.5, ratio_form) == "What is {ratio}?\nKeep 0.5."
  assert told_question("3 + 4?", 0.5, "") == "3 + 4?"
  groups = make_examples(
    texts("a", ratios=(0.5, 1.0)), form(ratio_form=ratio_form), tokenizer, template
  ).train
  prompts = [tokenizer.decode(e.token_ids[: e.num_prompt]) for e in groups[0]]
  assert "3 + 4?\nKeep 0.5.<|end|>" in prompts[0]
  assert "3 + 4?\nKeep 1.0.<|end|>" in prompts[1]


def test_held_out_chains_depend_on_ids_and_seed_alone(tokenizer, template):
  def held_out(*ids, seed=0, ratios=(1.0,)):
    made = make_examples(
      texts(*ids, ratios=ratios), form(), tokenizer, template, num_validation=2, seed=seed
    )
    trained = {e.id.split("@")[0] for group in made.train for e in group}
    validated = {e.id.split("@")[0] for e in made.validation}
    assert trained | validated == set(ids)
    assert not trained & validated
    return validated

  ids = [f"chain {i}" for i in range(9)]
  first = held_out(*ids)
  assert len(first) == 2
  assert held_out(*reversed(ids)) == first
  assert held_out(*ids, ratios=(0.5, 1.0)) == first
  assert len({frozenset(held_out(*ids, seed=seed)) for seed in range(8)}) > 1


def test_no_question_is_both_trained_on_and_validated_with(tokenizer, template):
  chains = [
    dataclasses.replace(chain(f"{question}/{i}"), question=f"{question} + 4?")
    for question in range(4)
    for i in range(3)
  ]
  for wanted, held in ((1, 3), (3, 3), (4, 6)):
    both = [(c, {1.0: "7."}) for c in chains]
    made = make_examples(both, form(), tokenizer, template, num_validation=wanted)
    validated = {e.id.split("/")[0] for e in made.validation}
    assert len(made.validation) == held
    assert not validated & {e.id.split("/")[0] for group in made.train for e in group}
    assert len(made.train) == 12 - held


def test_too_long_ones_are_left_out_and_named(tokenizer, template):
  lengths = [
    len(make_example(chain(), text, 1.0, tokenizer, template)) for text in ("7.", "7." * 50)
  ]
  both = [(chain(), {0.5: "7.", 1.0: "7." * 50})]
  made = make_examples(iter(both), form(max_length=lengths[0]), tokenizer, template)
  assert [[e.id for e in group] for group in made.train] == [["a@0.5"]]
  [left_out] = made.left_out
  assert left_out.id == "a@1.0"
  assert f"it has {lengths[1]} tokens, more than the max_length of {lengths[0]}" in left_out.reason
  with pytest.raises(UserError, match=rf"nothing to train on: .*a@0.5: it has {lengths[0]} tokens"):
    make_examples(iter(both), form(max_length=5), tokenizer, template)
  with pytest.raises(UserError, match="of 1 chains 1 are held out"):
    make_examples(texts("a"), form(), tokenizer, template, num_validation=1)


@pytest.mark.parametrize("deleted", ["rocket", "rocket and mark"])
def test_no_student_learns_parts_of_characters(tokenizer, template, tmp_path, deleted):
  """Bytes that a deletion left over are no text: what spells them has other tokens.

  Nor do they become one where the teacher wrote as many U+FFFD, which were deleted.
  """
  reasoning = "So \N{ROCKET} goes. \N{REPLACEMENT CHARACTER}\n"
  tokens = token_texts(tokenizer, reasoning)
  rocket, mark = (tokens.index(c) for c in ("\N{ROCKET}", "\N{REPLACEMENT CHARACTER}"))
  firsts = [rocket - 3, rocket, rocket - 2, rocket - 1]  # one byte is left, then the others are not
  order = firsts if deleted == "rocket" else [mark - 2, mark - 1, mark, *firsts]
  flies = dataclasses.replace(chain(), reasoning=reasoning)
  record = pruned_record().to_record() | flies.to_record()
  record |= {
    "reasoning_ids": list(range(len(tokens))),
    "reasoning_tokens": list(tokens),
    "deletion_order": order,
    "nll": dict.fromkeys(("joint", "answer", "reasoning"), [1.0] * (len(order) + 1)),
  }
  path = tmp_path / "pruned.jsonl"
  path.write_text(json.dumps(record) + "\n")
  ratios = [(len(tokens) - count + 0.5) / len(tokens) for count in range(1, len(order) + 1)]
  made = make_examples(read_texts(str(path), (1.0, *ratios)), form(), tokenizer, template)
  whole = [len(order)] if deleted == "rocket" else [3, len(order)]
  assert [e.id for e in made.train[0]] == ["a@1.0", *(f"a@{ratios[k - 1]!r}" for k in whole)]
  assert [out.id for out in made.left_out] == [
    f"a@{ratios[k - 1]!r}" for k in range(1, len(order) + 1) if k not in whole
  ]
  assert all("parts of a character" in out.reason for out in made.left_out)


def test_held_out_chains_that_are_all_too_long_are_told(tokenizer, template):
  made = make_examples(texts("a", "b"), form(), tokenizer, template, num_validation=1)
  (held_out,) = made.validation
  longer = [
    (c, {1.0: "7." * (50 if held_out.id == f"{c.id}@1.0" else 1)}) for c, _ in texts("a", "b")
  ]
  short = form(max_length=len(held_out))
  with pytest.raises(UserError, match=r"nothing to validate on: all .* num_validation=1 chains"):
    make_examples(longer, short, tokenizer, template, num_validation=1)


def test_token_ids_are_int32(tokenizer, template):
  assert make_example(chain(), "", 0.0, tokenizer, template).token_ids.dtype == np.int32
