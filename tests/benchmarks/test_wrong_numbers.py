"""Solutions with one changed result: where it is, and that nothing else is changed."""

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest

from benchmarks.wrong_numbers import _rows, changeable_steps, score_table
from greedy_prune_jax.chains.judgements import right_steps
from greedy_prune_jax.chains.reading import read_chains
from tests.chains.test_reading import write_jsonl
from tests.helpers.planted import pruned_chain

STEPS = [f"He has {i} + 1 = <<{i}+1={i + 1}>>{i + 1} pens." for i in range(6)]
SOLUTION = {"question": "How many?", "answer": "\n".join([*STEPS, "#### 6"])}
SHORT = {"question": "How many?", "answer": "\n".join([*STEPS[:2], "#### 2"])}


def test_one_result_is_changed_and_labelled(tmp_path):
  path = Path(write_jsonl(tmp_path / "gsm8k.jsonl", *[SOLUTION, SHORT] * 40))
  rows = list(_rows(path, 30, random.Random(0)))
  assert [row["id"] for row in rows] == [f"gsm8k-{i}" for i in range(30)]
  right = [f"He has {i} + 1 = {i + 1} pens." for i in range(6)] + ["The answer is 6."]
  labels = [row["label"] for row in rows]
  assert set(labels) == {-1, 1, 2, 3, 4}
  for row in rows:
    changed = [
      i for i, (one, other) in enumerate(zip(row["steps"], right, strict=True)) if one != other
    ]
    assert changed == [row["label"]] * (row["label"] >= 0)
    for place in changed:
      one, other = row["steps"][place].split(" = "), right[place].split(" = ")
      assert one[0] == other[0]
      assert int(one[1].removesuffix(" pens.")) >= 0
  chains = list(read_chains(write_jsonl(tmp_path / "rows.jsonl", *rows)))
  for row, chain in zip(rows, chains, strict=True):
    parts = right_steps(chain)
    assert [value for *_, value in parts] == [float(i != row["label"]) for i in range(6)]
    assert chain.answer == "The answer is 6."
  again = list(_rows(path, 30, random.Random(0)))
  other = list(_rows(path, 30, random.Random(1)))
  assert again == rows != other


def test_an_order_that_keeps_the_ends_finds_no_wrong_step(tmp_path):
  """The first and the last step never are the wrong one, so they are not held against it."""
  solutions = [SOLUTION | {"question": f"How many? {i}"} for i in range(200)]
  path = Path(write_jsonl(tmp_path / "gsm8k.jsonl", *solutions))
  rows = list(_rows(path, 200, random.Random(0)))
  chains = list(read_chains(write_jsonl(tmp_path / "rows.jsonl", *rows)))
  rng = np.random.default_rng(0)

  def ordered(score_of):
    pruned = []
    for chain, row in zip(chains, rows, strict=True):
      tokens = [text + "\n\n" for text in chain.reasoning.split("\n\n")[:-1]]
      order = np.argsort([score_of(i, row["label"]) for i in range(6)])
      whole = pruned_chain(tokens, order, chain.id)
      pruned.append(dataclasses.replace(whole, chain=chain))
    return pruned

  runs = {
    "ends": ordered(lambda i, _: 2 * (i in (0, 5)) + rng.random()),
    "finds": ordered(lambda i, wrong: 2 * (i != wrong) + rng.random()),
  }
  assert changeable_steps(path)["How many? 0"] == [1, 2, 3, 4]
  table = score_table(runs, changeable_steps(path))
  found = {row[0]: row[1:] for row in table.rows}
  assert found["ends"][1] < 0.5 < found["ends"][2]
  assert found["earlier steps"][1] < 0.5 < found["earlier steps"][2]
  assert found["finds"][0] == pytest.approx(1)
  assert found["finds"][3] == sum(row["label"] >= 0 for row in rows)
